"""The check for typed measurements, with planted cases both ways."""

import pytest
from workshop_book import typed_numbers

from workshop import paths

CAUGHT = {
    "plain": "The step takes 12.5 ms on this machine.",
    "attached": "The step takes 0.2s here.",
    "rate": "It trains 119 k tokens/s on two GPUs.",
    "grouped": "It trains 123,456 tokens/s.",
    "bandwidth": "NVLink moves 331 GB/s.",
    "capacity": "The peak is 55.9 GiB.",
    "kilobytes": "A message of 8 KB is slow.",
    "flops": "The GPU reaches 560 TFLOP/s.",
    "factor sign": "Overlap is 1.9× faster.",
    "factor word": "Overlap is 1.9 times faster.",
    "share": "The efficiency is 93 %.",
    "share word": "The efficiency is 93 percent.",
    "micro": "A small message takes 22 µs.",
    "per second": "It does 40 steps per second.",
    "heading": "# Reaching 97 % efficiency",
    "list": "- first\n- the second takes 3 seconds\n",
    "table cell": "| a | b |\n|---|---|\n| x | 3.3 GB/s |\n",
    "emphasis": "It takes **41 ms** in all.",
    "link": "It takes [41 ms](other.md) in all.",
    "image text": "![a bar of 41 ms](picture.svg)",
    "note": "```{note}\nIt takes 41 ms.\n```",
    "note title": "```{admonition} It takes 41 ms\nIndeed.\n```",
    "colon note": ":::{tip}\nIt takes 41 ms.\n:::",
    "nested": "````{note}\n```{tip}\nIt takes 41 ms.\n```\n````",
    "alt": "```{figure} a.svg\n:alt: a bar of 41 ms\nA caption.\n```",
    "caption": "```{figure} a.svg\n:name: x\nA bar of 41 ms.\n```",
    "run-table caption": "```{run-table} It is 93 % here\nrows:\n```",
    "formula": r"So $t = 41\,\text{ms}$ in all.",
    "formula block": "$$\nt = 41 \\; \\mathrm{GB/s}\n$$",
    "math directive": "```{math}\nt = 41 \\, \\text{s}\n```",
    "cited elsewhere": "See {cite}`a`. It takes 41 ms.",
    "cited next line": "It takes 41 ms.\nSee {cite}`a`.",
    "no reason": "A message of {typed}`8 KB` is slow.",
    "empty reason": "A message of {typed}`8 KB | ` is slow.",
    "other role": "See {ref}`there`: it takes 41 ms.",
}
ALLOWED = {
    "role": 'It takes {number}`run("lab1/x").step_time_s | ms | .1f`.',
    "claim": 'It is {claim}`1.9× faster | run("lab1/x").mfu > 0.5`.',
    "cited": "The paper reports 76 % {cite}`shoeybi2019`.",
    "cited before": "{cite:t}`shoeybi2019` report 76 % of linear.",
    "cited row": "| {cite}`a` | 76 % |\n|---|---|\n| {cite}`b` | 3 GB |\n",
    "marked": "A message of {typed}`8 KB | the size that we chose` is slow.",
    "code": "Run `sleep 10 s` first.",
    "fence": "```bash\nsleep 10 s  # 41 ms\n```",
    "cell": "```{code-cell}\nprint('41 ms')\n```",
    "include": "```{literalinclude} a.py\n:lines: 1-3\n```",
    "formula": r"A ring moves $2(n-1)/n \times M$ bytes.",
    "counts": "Two nodes of 2 GPUs run 24 layers with sequence 1024.",
    "product": "The machine has 2 × H200 and a 2 × 3 mesh.",
    "decade": "In the 1990s, and in 2024s terms.",
    "version": "Use Python 3.11 or torch 2.13.",
    "lists": "The sizes are 1, 2, 4 and 8.",
    "comment": "% it took 41 ms\n\ntext",
    "front matter": "---\ntook: 41 ms\n---\ntext",
    "section": "Section 3 says so.",
    "words": "Parameters take 16 bytes each.",
}


@pytest.mark.parametrize("text", CAUGHT.values(), ids=CAUGHT.keys())
def test_a_typed_measurement_is_found(text: str) -> None:
    assert len(typed_numbers.find(text)) == 1


@pytest.mark.parametrize("text", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_may_stand_is_left_alone(text: str) -> None:
    assert typed_numbers.find(text) == []


def test_the_line_is_that_of_the_number() -> None:
    text = "# Title\n\nOne.\nTwo takes 41 ms.\n\n```{note}\nand 3 GB\n```\n"
    assert [f.line for f in typed_numbers.find(text)] == [4, 7]


def test_the_book_and_the_readme_have_none() -> None:
    root = paths.root()
    pages = [root / "README.md", *sorted((root / "book").rglob("*.md"))]
    typed = {
        f"{page.relative_to(root)}:{finding.line}": finding.text
        for page in pages
        for finding in typed_numbers.find(page.read_text())
    }
    assert not typed
