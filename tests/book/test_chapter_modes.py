"""The book builds in each of its three ways: replay, local and slurm."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from myst_nb.core.read import read_myst_markdown_notebook
from nbclient import NotebookClient

from workshop.errors import UserError
from workshop.slurm import local as cluster

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(
    path
    for path in (ROOT / "book" / "lab1").glob("*.md")
    if "recorded(" in path.read_text()
)


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
    chapter: Path, monkeypatch: pytest.MonkeyPatch
) -> nbformat.NotebookNode:
    """Run a chapter's cells in one kernel and return the notebook."""
    notebook = read_myst_markdown_notebook(chapter.read_text(), path=chapter)
    monkeypatch.setenv("WORKSHOP_RUN", "replay")
    monkeypatch.setenv("WORKSHOP_ROOT", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(chapter.parent)}},
    )
    return client.execute()


def printed(notebook: nbformat.NotebookNode, word: str) -> list[str]:
    """Return what each cell printed whose source contains a word."""
    printed = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and word in cell.source:
            printed.append("".join(map(plain, cell.outputs)))
    return printed


def plain(output: nbformat.NotebookNode) -> str:
    """Return what a cell printed or displayed, as text."""
    shown = output.get("data", {}).get("text/plain", "")
    return output.get("text", shown)


def test_there_are_chapters_with_recorded_cells() -> None:
    names = [chapter.stem for chapter in CHAPTERS]
    assert "02_distributed_training" in names


@pytest.mark.long
def test_a_chapter_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(
        ROOT / "book" / "lab1" / "02_distributed_training.md", monkeypatch
    )
    runs = printed(notebook, "= recorded(")
    assert runs, "the chapter has no recorded cell"
    assert all(text.startswith("Recorded: ") for text in runs), runs
    assert printed(notebook, "%%px"), "the chapter has no %%px cell"


@pytest.mark.long
@pytest.mark.parametrize("way", ["local", "slurm"])
@pytest.mark.usefixtures("slurm")
def test_the_whole_book_builds(way: str, tmp_path: Path) -> None:
    """Every page is executed and built by Jupyter Book, warnings fatal."""
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [programs / "jupyter-book", "build", "book",
         "--config", "_config.yml", "--toc", str(ROOT / "_toc.yml"),
         "--path-output", str(tmp_path), "-W", "-n", "--keep-going"],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "WORKSHOP_RUN": way,
            "WORKSHOP_ROOT": str(ROOT),
            "IPYTHONDIR": str(tmp_path / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
        },
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )  # fmt: skip
    html = tmp_path / "_build" / "html"
    reports = "\n".join(
        report.read_text()[-3000:]
        for report in (html / "reports").rglob("*.err.log")
    )
    lines = done.stdout.splitlines()
    wrong = [x for x in lines if re.search("WARNING|ERROR|rror:", x)]
    assert done.returncode == 0, "\n".join([*wrong, reports])
    for chapter in CHAPTERS:
        page = (html / "lab1" / f"{chapter.stem}.html").read_text()
        outputs = re.findall(
            r'<div class="output .*?</pre>', page, re.DOTALL
        )
        runs = [text for text in outputs if "-m workshop.lab1" in text]
        assert runs, f"{chapter.stem} shows no run"
        assert not [text for text in outputs if "Recorded: " in text]
        if way == "slurm":
            assert any("job " in text for text in outputs)
