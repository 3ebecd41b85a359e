"""Records in pages: what is shown, and every fault that a build must see."""

from pathlib import Path

import pytest
import small_book

PAGE = "# {title}\n\nA line above.\n{text}\n"
TABLE = """```{{run-table}} Caption.
rows:
row | {run}
columns:
rate | tokens/s | row.tokens_per_s
```"""
FIGURE = "```{{run-figure}} lab1/one\n{}\n\nCaption.\n```"
THRICE = (
    '{claim}`thrice | run("lab1/two").tokens_per_s > '
    '3 * run("lab1/one").tokens_per_s`'
)
FAULTS = {
    "false-claim": (
        THRICE,
        ["the claim 'thrice' is false",
         "run('lab1/two').tokens_per_s = 190.5",
         "3 * run('lab1/one').tokens_per_s = 301.5"],
    ),
    "false-claim-on-two-lines": (
        '{claim}`no slower |\nrun("lab1/one").tokens_per_s > 900`',
        ["the claim 'no slower' is false", "tokens_per_s = 100.5"],
    ),
    "claim-of-a-number": (
        '{claim}`fast | run("lab1/two").tokens_per_s`',
        ["the claim 'fast' rests on", "190.5", "needs a comparison"],
    ),
    "missing-record": (
        '{number}`run("lab1/oen").tokens_per_s`',
        ["lab1/oen has no record (did you mean lab1/one"],
    ),
    "missing-metric": (
        '{number}`run("lab1/one").token_per_s`',
        ["lab1/one has no metric 'token_per_s'", "tokens_per_s"],
    ),
    "failed-record": (
        TABLE.format(run="lab1/broken"),
        ["the record of lab1/broken is failed", "exit code"],
    ),
    "edited-record": (
        '{number}`run("lab1/edited").tokens_per_s`',
        ["the record of lab1/edited is altered"],
    ),
    "cell-of-a-failed-record": (
        '```python\nrecorded("lab1/broken")\n```',
        ["the record of lab1/broken is failed"],
    ),
    "bad-format": (
        '{number}`run("lab1/one").tokens_per_s | tokens/s | .0q`',
        ["cannot be shown as '.0q'"],
    ),
    "no-expression": ("{number}`1 +`", ["is not an expression"]),
    "typed-number": ("It takes 41 ms.", ["'41 ms' is a typed measurement"]),
    "figure-without-alt": (
        FIGURE.format(":draw: workshop.figures.charts.bandwidth_curve"),
        ["run-figure needs an :alt: text"],
    ),
    "figure-without-function": (
        FIGURE.format(":draw: workshop.nowhere.draw\n:alt: A."),
        ["'workshop.nowhere.draw' cannot be imported"],
    ),
    "table-without-columns": (
        "```{run-table} Caption.\nrows:\none | lab1/one\n```",
        ["run-table has nothing under `columns:`"],
    ),
}  # fmt: skip
STATUS = "# Runs\n\n```{runs-status}\n```\n"


@pytest.fixture(scope="module")
def faulty(small_root: Path, tmp_path_factory) -> tuple:
    """The faulty book, built twice without a change in between."""
    root = small_book.copy(
        small_root, tmp_path_factory.mktemp("faulty") / "root"
    )
    small_book.add_toys(root, small_book.UNSOUND)
    small_book.edit_record(root, "edited", "70.5", "75.5")
    pages = {"index": "# Faults\n", "status": STATUS}
    pages |= {
        name: PAGE.format(title=name, text=text)
        for name, (text, _) in FAULTS.items()
    }
    return small_book.build(root, pages), small_book.build(root, pages)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_build(faulty, name: str) -> None:
    for built in faulty:
        assert built.returncode != 0
        said = [
            line for line in built.output.splitlines()
            if f"/{name}.md:" in line and "WARNING" in line
        ]  # fmt: skip
        assert said, f"nothing was said of {name}"
        text, expected = FAULTS[name]
        number = 4 + text[: max(0, text.find("recorded("))].count("\n")
        assert any(f"/{name}.md:{number}" in line for line in said), said
        for words in expected:
            assert any(words in line for line in said), (words, said)


def test_the_status_page_reports_failed_and_edited_runs(faulty) -> None:
    for built in faulty:
        said = [x for x in built.output.splitlines() if "/status.md:3" in x]
        assert any("lab1/broken is failed" in line for line in said)
        assert any("lab1/edited is altered" in line for line in said)


def test_nothing_else_is_reported(faulty) -> None:
    for built in faulty:
        known = [f"/{name}.md:" for name in (*FAULTS, "status")]
        for line in built.output.splitlines():
            if "WARNING" in line or "ERROR" in line:
                assert any(name in line for name in known), line


def test_a_number_shows_its_job_and_expression(small_built) -> None:
    page = small_built.page("index")
    assert ">100\u00a0tokens/s</span>" in page  # of 100 and 101
    assert "almost twice as fast" in page
    assert "Slurm job 4700 on toynode" in page
    assert "run(&quot;lab1/one&quot;).tokens_per_s" in page
    assert "100 to 101 over the repeats" in page


def test_a_number_works_in_a_notebook_page(small_built) -> None:
    page = small_built.page("lab1/toy")
    assert ">0.10\u00a0k tokens/s</span>" in page
    assert "executed 42" in page
    assert '<span class="nn">highlighted_as_python</span>' in page


def test_tables_and_figures_show_records(small_built) -> None:
    page = small_built.page("figures")
    assert "rate (tokens/s)" in page
    assert ">0.1\u00a0k tokens/s</span>" in page  # in a table of Markdown
    assert 'role="img" aria-label="Time and bandwidth grow' in page


@pytest.mark.parametrize(
    ("name", "runs"), [("figures", 2), ("index", 2), ("lab1/toy", 1)]
)
def test_a_page_has_one_folded_block_of_provenance(
    small_built, name: str, runs: int
) -> None:
    page = small_built.page(name)
    assert page.count('<details class="provenance">') == 1
    _, _, block = page.partition('<details class="provenance">')
    block, _, after = block.partition("</details>")
    assert f"({runs} run{'s' * (runs > 1)})" in block
    assert block.count("Repeat it with") == runs
    assert "Slurm job 4700 on toynode" in block
    assert "Repeat it with" not in after
    # marked by the page, it stands there; else at the end
    assert ("A formula" in after) == (name == "figures")


def test_a_page_without_records_or_with_all_has_no_block(small_built) -> None:
    assert '<details class="provenance">' not in small_built.page("runs")


def test_the_status_page_lists_every_run(small_built) -> None:
    page = small_built.page("runs")
    for name in (*small_book.SOUND, "four"):
        assert f'<span class="pre">lab1/{name}</span>' in page
    assert page.count('class="state is-fresh"') == 3
    assert page.count('class="state is-planned"') == 1
    assert "Predicted: four toys do the work of four" in page
    assert 'href="lab1/toy.html"' in page


def test_pages_name_no_other_host(small_built) -> None:
    html = small_built.root / "_build" / "html"
    for page in html.rglob("*.html"):
        text = page.read_text()
        for word in ("unpkg.com", "cdn.", "cdnjs", "googleapis"):
            assert word not in text, f"{page.name} names {word}"


def test_a_changed_source_makes_pages_stale(
    small_root: Path, tmp_path: Path
) -> None:
    root = small_book.copy(small_root, tmp_path / "root")
    number = '{number}`run("lab1/old").tokens_per_s | tokens/s | .0f`'
    cell = "```{code-cell} python3\nprint(6 * 7)\n```\n"
    header = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n"
    pages = {
        "index": f"# Old\n\nIt does {number}.\n",
        "table": "# Table\n\n" + TABLE.format(run="lab1/old") + "\n",
        "cell": f"{header}# Cell\n\n{cell}",
    }
    first = small_book.build(root, pages)
    assert first.returncode == 0, first.output
    assert "Stale" not in first.page("index") + first.page("table")
    small_book.edit_source(root, "old")
    second = small_book.build(root, pages)
    assert second.returncode == 0, second.output
    assert "stale: index shows lab1/old" in second.output
    assert "cell.md: Executed notebook" in second.output
    for name in ("index", "table"):
        assert "stale-banner" in second.page(name)
        assert "Stale numbers" in second.page(name)
    assert 'class="stale-note"' in second.page("table")
    assert "stale-banner" not in second.page("cell")
