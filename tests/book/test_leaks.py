"""No page shows a progress bar, a terminal's controls, a machine's path."""

from pathlib import Path

import pytest
import small_book
from workshop_book import leaks

HEADER = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n"
PLANTED = {
    "escape": (r"print('\x1b7gone')", "control"),
    "cursor": (r"print('?25h')", "control"),
    "rich": ("print('encoding ' + '━' * 40 + ' 100% 0:00:01')", "bar"),
    "tqdm": ("print(' 42%|████      | 42/100')", "bar"),
    "home": ("import pathlib; print(pathlib.Path.home() / 'x')", "path"),
    "temporary": ("import tempfile; print(tempfile.mkdtemp())", "path"),
}
SOUND = r"""import os, sys
print("kept in", os.environ["WORKSHOP_ROOT"] + "/.cache")
!python ../coloured.py
"""
COLOURED = """
from rich.console import Console
print("a terminal:", Console(stderr=True).is_terminal)
Console(stderr=True).print("[bold red]colourful[/]")
"""


def page(title: str, cell: str) -> str:
    """Return a page of one cell."""
    return f"{HEADER}# {title}\n\n```{{code-cell}} python3\n{cell}\n```\n"


def test_each_leak_fails_every_build(small_root: Path, tmp_path) -> None:
    root = small_book.copy(small_root, tmp_path / "root")
    pages = {"index": "# Leaks\n"}
    pages |= {name: page(name, cell) for name, (cell, _) in PLANTED.items()}
    # Again with two of them: a page that failed is not kept for good.
    for names in (list(PLANTED), ["escape", "home"]):
        for name in pages.keys() - {"index", *names}:
            (root / f"book/{name}.md").unlink()
        built = small_book.build(
            root, {n: pages[n] for n in ["index", *names]}
        )
        assert built.returncode != 0
        for name in names:
            said = [
                line for line in built.output.splitlines()
                if f"/{name}.md" in line and "the page shows" in line
            ]  # fmt: skip
            kind = PLANTED[name][1]
            assert any(kind in line for line in said), (name, said)
        assert not list((root / "_build/.jupyter_cache").glob("*/*.db"))


def test_cells_are_on_no_terminal(small_root: Path, tmp_path) -> None:
    root = small_book.copy(small_root, tmp_path / "root")
    (root / "coloured.py").write_text(COLOURED)
    pages = {"index": "# Sound\n", "cells": page("Cells", SOUND)}
    built = small_book.build(root, pages)
    assert built.returncode == 0, built.output
    shown = built.page("cells")
    assert "kept in .cache" in shown and str(root) not in shown
    assert "a terminal: False" in shown and "colourful" in shown
    assert "Color-Red" not in shown


@pytest.mark.parametrize(
    "text", ["a\rb", "\x1b[1A", "a\bb", "[=====>    ] 5/9"]
)
def test_more_that_no_page_may_show(text: str) -> None:
    assert leaks.leaks(f"<pre>{text}</pre>", Path("/nowhere/x"))


def test_what_pages_may_show() -> None:
    root = Path("/nowhere/x & y")
    text = leaks.without_root("see /nowhere/x &amp; y/.cache, é ━━━ 3", root)
    assert text == "see .cache, é ━━━ 3"
    assert not leaks.leaks(text, root)
    assert leaks.leaks("<a href='file:///nowhere/x/y'>", Path("/nowhere/x"))


def test_a_root_behind_a_link_is_private_by_both_names(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("link", "real"):
        shown = f"<pre>{tmp_path / name}/x</pre>"
        assert leaks.leaks(shown, tmp_path / "link")
