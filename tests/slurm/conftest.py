"""A Slurm cluster of this test session's own, beside any other."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workshop import paths
from workshop.errors import UserError
from workshop.slurm import local as cluster
from workshop.slurm.state import Layout

Shell = Callable[[str], subprocess.CompletedProcess[str]]


def start_or_skip(**options: object) -> Layout:
    """Start a cluster; skip only where Slurm itself cannot be had."""
    try:
        return cluster.start(**options)
    except UserError:
        if why := cluster.possible():
            pytest.skip(f"no Slurm tests: {why}")
        raise


def clear(patch: pytest.MonkeyPatch, base: Path) -> None:
    """Make `base` the local cluster, whatever cluster we are called in."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH_", "WORKSHOP_PROFILE")):
            patch.delenv(name)
    patch.setenv("WORKSHOP_SLURM_BASE", str(base))
    patch.setenv("WORKSHOP_ROOT", str(paths.root()))


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Layout]:
    """Two nodes of two pretended GPUs, for the whole session."""
    base = Path(f"/tmp/wsl-{os.getpid()}")
    with pytest.MonkeyPatch.context() as patch:
        clear(patch, base)
        try:
            yield start_or_skip(real=False)
        finally:
            cluster.stop()
            shutil.rmtree(base, ignore_errors=True)
            Path(f"{base}.lock").unlink(missing_ok=True)


@pytest.fixture
def shell(slurm_cluster: Layout) -> Shell:
    """Return a function that runs a line of bash with Slurm's commands."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            env=cluster.environment(),
            cwd=paths.root(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.fixture
def second_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make another folder the local cluster; stop what a test starts."""
    base = Path(f"/tmp/wsl-{os.getpid()}b")
    clear(monkeypatch, base)
    yield base
    cluster.stop(base)
    shutil.rmtree(base, ignore_errors=True)
    Path(f"{base}.lock").unlink(missing_ok=True)


@pytest.fixture
def spaced_checkout(
    second_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Make a checkout whose path has a space and an umlaut the root."""
    here, there = paths.root(), tmp_path / "a checkout für alle"
    shutil.copytree(here / "slurm", there / "slurm")
    for name in ("code", "tests", ".venv"):
        (there / name).symlink_to(here / name)
    if (here / ".slurm" / "debs").is_dir():
        shutil.copytree(here / ".slurm" / "debs", there / ".slurm" / "debs")
    monkeypatch.setenv("WORKSHOP_ROOT", str(there))
    return there
