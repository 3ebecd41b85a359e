"""Chapter 02 runs from top to bottom in each of its three ways."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from myst_nb.core.read import read_myst_markdown_notebook
from nbclient import NotebookClient

from workshop import cluster
from workshop.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "book" / "lab1" / "02_distributed_training.md"


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local Slurm cluster of this test's own."""
    base = Path(f"/tmp/wsb-{os.getpid()}")
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH_", "WORKSHOP_PROFILE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", str(base))
    try:
        try:
            cluster.start(real=False)
        except UserError:
            if why := cluster.possible():
                pytest.skip(f"no Slurm here: {why}")
            raise
        yield
    finally:
        cluster.stop(base)
        shutil.rmtree(base, ignore_errors=True)
        Path(f"{base}.lock").unlink(missing_ok=True)


def execute(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> nbformat.NotebookNode:
    """Run the chapter's cells in one kernel and return the notebook."""
    notebook = read_myst_markdown_notebook(CHAPTER.read_text(), path=CHAPTER)
    monkeypatch.setenv("WORKSHOP_RUN", way)
    monkeypatch.setenv("WORKSHOP_ROOT", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(CHAPTER.parent)}},
    )
    return client.execute()


def printed(notebook: nbformat.NotebookNode, word: str) -> list[str]:
    """Return what each cell printed whose source contains a word."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and word in cell.source:
            found.append("".join(o.get("text", "") for o in cell.outputs))
    return found


@pytest.mark.parametrize(
    "way",
    [
        "replay",
        pytest.param("local", marks=pytest.mark.long),
        pytest.param("slurm", marks=pytest.mark.long),
    ],
)
def test_the_chapter_runs(
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if way == "slurm":
        request.getfixturevalue("slurm")
    notebook = execute(way, monkeypatch)
    runs = printed(notebook, "recorded(")
    assert runs, "the chapter has no recorded cell"
    for text in runs:
        assert ("Recorded: " in text) == (way == "replay"), text
        assert text.strip()
    assert printed(notebook, "%%px"), "the chapter has no %%px cell"
