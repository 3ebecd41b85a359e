"""Each chapter as a notebook to download and run elsewhere.

Its code is that of the page, its text the page's as it was built, and its
first cell says what it needs. The theme shows the button.
"""

from collections.abc import Iterator
from pathlib import Path

import nbformat
from docutils import nodes
from nbformat import v4
from sphinx.application import Sphinx

from workshop_book import prose

NEEDS = """\
# {title}: what this notebook needs

It is a chapter of the Model Parallelism Workshop, and runs with the \
workshop's own package:

1. a checkout of the workshop's repository, on Linux or macOS;
2. its environment, Python 3.11 or 3.12: `make environment` in the checkout \
makes one in `.venv`;
3. its Python as the kernel: choose `.venv/bin/python` in your editor, or \
add JupyterLab with `.venv/bin/python -m pip install jupyterlab` and open \
the notebook with `.venv/bin/jupyter lab`.

No GPU and no network is needed. Recorded runs are replayed from the \
checkout, and live cells take two to four processes of this machine. Set \
`WORKSHOP_ROOT` to the checkout's folder if the package is installed \
elsewhere. Pictures are in the published page."""
LOOK = """\
import importlib.util

if importlib.util.find_spec("workshop") is None:
    raise SystemExit(
        "this kernel has no workshop package: choose the environment of "
        "the checkout, as the cell above says"
    )"""
CELL = "cell_code"


def offer(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Write the notebook of a page with cells beside its source."""
    if app.builder.format != "html" or doctree is None:
        return
    if not any(map(is_cell, doctree.findall(nodes.container))):
        return
    executed = Path(app.outdir).parent / "jupyter_execute" / pagename
    source = nbformat.read(executed.with_name(f"{executed.name}.ipynb"), 4)
    name = f"{pagename}.ipynb"
    target = Path(app.outdir) / "_sources" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(doctree, source), target)
    context["ipynb_source"] = name


def notebook(
    doctree: nodes.document, source: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """Return the page as a notebook, its cells in order, without outputs."""
    title = next(doctree.findall(nodes.title)).astext()
    cells = [
        v4.new_markdown_cell(NEEDS.format(title=title)),
        v4.new_code_cell(LOOK),
    ]
    waiting = [
        (number, code(cell))
        for number, cell in enumerate(source.cells)
        if cell.cell_type == "code"
    ]
    for part in parts(doctree):
        if isinstance(part, str):
            if part.strip():
                cells.append(v4.new_markdown_cell(part))
            continue
        # Cells that the page hides altogether come before the next one.
        while waiting and waiting[0][0] <= part:
            cells.append(waiting.pop(0)[1])
    cells += [cell for _, cell in waiting]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same at every build
    kernel = {"display_name": "Python 3", "name": "python3"}
    metadata = {
        "kernelspec": {**kernel, "language": "python"},
        "language_info": {"name": "python"},
    }
    return v4.new_notebook(cells=cells, metadata=metadata)


def code(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a cell that has not run, with its tags."""
    tags = cell.metadata.get("tags")
    metadata = {"tags": tags} if tags else {}
    return v4.new_code_cell(cell.source, metadata=metadata)


def is_cell(node: nodes.Node) -> bool:
    """Whether a node is a code cell with its outputs."""
    return (
        isinstance(node, nodes.container) and node.get("nb_element") == CELL
    )


def parts(node: nodes.Element, level: int = 1) -> Iterator[str | int]:
    """Yield a page's texts, and the number of each code cell, in order."""
    texts: list[str] = []
    for child in node.children:
        if is_cell(child):
            yield "\n\n".join(filter(str.strip, texts))
            texts = []
            yield child["cell_index"]
        elif isinstance(child, nodes.Element) and any(
            map(is_cell, child.findall(nodes.container))
        ):
            yield "\n\n".join(filter(str.strip, texts))
            texts = []
            deeper = isinstance(child, nodes.section)
            yield from parts(child, level + deeper)
        else:
            texts.append(prose.block(child, level))
    yield "\n\n".join(filter(str.strip, texts))


def register(app: Sphinx) -> None:
    """Connect before the theme looks for what it can offer."""
    app.connect("html-page-context", offer, priority=450)
