"""Each chapter as a notebook: downloadable, free of roles, and it runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import small_book
from docutils import nodes
from workshop_book import prose

ROLE = re.compile(r"\{[a-z][a-z:-]*\}`|^ *[`:]{3,}\{|\]\([^)]*\.md", re.M)


def notebooks(folder: Path) -> dict[str, Path]:
    """Return the notebooks that pages of a site link to, by page."""
    linked = {}
    for page in folder.rglob("*.html"):
        for address in re.findall(r'href="([^"]*\.ipynb)"', page.read_text()):
            linked[page.name] = (page.parent / address).resolve()
    return linked


def prose_of(notebook: nbformat.NotebookNode) -> str:
    cells = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    return "\n\n".join(cells)


def test_pages_with_cells_offer_a_notebook_without_roles(site) -> None:
    linked = notebooks(site.folder)
    assert "index.html" not in linked and linked
    for page, file in linked.items():
        assert file.is_relative_to(site.folder / "_sources"), page
        notebook = nbformat.read(file, 4)
        nbformat.validate(notebook)
        first = notebook.cells[0]
        assert first.cell_type == "markdown"
        assert "what this notebook needs" in first.source
        assert not (found := ROLE.search(prose_of(notebook))), found
        assert not any(cell.get("outputs") for cell in notebook.cells)


def test_its_text_is_that_of_the_page(small_built) -> None:
    page = small_built.root / "_build/html/_sources/lab1/toy.ipynb"
    text = prose_of(nbformat.read(page, 4))
    rate = re.search(
        r"Note that 0\.\d\dk? ?\S* ?\S*", text.replace("\xa0", "")
    )
    assert rate, text
    for part in ("## A section", "```bash\n#!/bin/bash", "Say why."):
        assert part in text
    assert text.index("A section") < text.index("Another section")


@pytest.mark.long
def test_it_runs_from_a_folder_elsewhere(small_built, tmp_path) -> None:
    page = small_built.root / "_build/html/_sources/lab1/toy.ipynb"
    here = tmp_path / "downloads" / "toy.ipynb"
    here.parent.mkdir()
    shutil.copy2(page, here)
    program = (
        "import sys, nbformat, nbclient; "
        "n = nbformat.read(sys.argv[1], 4); "
        "nbclient.NotebookClient(n, timeout=120).execute(); "
        "print(nbformat.writes(n))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(here)],
        cwd=here.parent, env=small_book.environment(small_built.root),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    executed = json.loads(done.stdout)["cells"]
    assert any(cell.get("outputs") for cell in executed)


def test_without_the_package_its_first_code_says_what_to_do(tmp_path) -> None:
    from workshop_book.notebooks import LOOK

    alone = [sys.executable, "-I", "-S", "-c", LOOK]
    done = subprocess.run(
        alone, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.defpath},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("this kernel has no workshop package")


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (nodes.strong("", "x"), "**x**"),
        (nodes.literal("", "a`b"), "`` a`b ``"),
        (nodes.math("", "x^2"), "$x^2$"),
        (nodes.reference("", "here", refuri="x.html"), "here"),
        (
            nodes.reference("", "there", refuri="https://x"),
            "[there](https://x)",
        ),
        (nodes.image("", alt="a ring", uri="ring.svg"), "(picture: a ring)"),
        (nodes.raw("", "<b>"), ""),
    ],
)
def test_what_stands_in_a_line(node, text) -> None:
    assert prose.inline(node) == text
