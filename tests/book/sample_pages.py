"""Pages of the small book that use everything the extension offers."""

INDEX = """# A small book

It trains {number}`run("lab1/one").tokens_per_s | tokens/s | .0f`,
and two are {claim}`almost twice as fast |
run("lab1/two").tokens_per_s > 1.85 * run("lab1/one").tokens_per_s`.

[](figures.md) shows more, and [](lab1/toy.md) runs a cell.
The ring is due to {cite:t}`patarasuk2009`.

```{bibliography}
```
"""

FIGURES = """# Figures

```{run-table} Two toys are almost twice as fast as one.
:name: tab-toys
:stub: toys

rows:
one | lab1/one
two | lab1/two
columns:
rate | tokens/s | row.tokens_per_s | .0f
of one | % | 100 * row.mean / 1 | .0f
```

{numref}`tab-toys` and {numref}`fig-toys` agree.

```{run-figure} lab1/one lab1/two
:draw: workshop.figures.charts.bandwidth_curve
:alt: Time and bandwidth grow with the message.
:name: fig-toys

Two toys move more than {number}`run("lab1/one")["all_reduce_busbw{bytes=1024}"] | GB/s`.
```

```{run-provenance} lab1/one, lab1/two
```

| toy | rate |
|---|---|
| one | {number}`run("lab1/one").tokens_per_s / 1e3 \\| k tokens/s \\| .1f` |

A formula, $\\\\frac{2(n-1)}{n} M$, and a block:

$$
t = \\\\alpha + \\\\frac{M}{\\\\beta}
$$
""".replace("row.mean / 1", 'row.tokens_per_s / run("lab1/one").tokens_per_s')

CHAPTER = """---
file_format: mystnb
kernelspec:
  name: python3
  display_name: Python 3
---

# A toy chapter

The word quokka stands here alone.
Note that {number}`run("lab1/one").tokens_per_s / 1e3 | k tokens/s | .2f` is from a notebook page.

```{code-cell} python3
print("executed", 6 * 7)
```

```{code-cell} python3
:tags: [raises-exception, remove-output]
%%px
import highlighted_as_python
```

## A section

```{literalinclude} ../../slurm/experiment.sbatch
:language: bash
:lines: 1-5
```

```python
# this line of code is seventy-eight columns wide, the widest that we allow x
```

## Another section

````{exercise}
:label: exercise-one
Say why.
````

````{solution} exercise-one
:class: dropdown
Because.
````
"""

RUNS = """# Runs

```{runs-status}
```
"""

GOOD = {
    "index": INDEX,
    "figures": FIGURES.replace("\\\\", "\\"),
    "lab1/toy": CHAPTER,
    "runs": RUNS,
}
