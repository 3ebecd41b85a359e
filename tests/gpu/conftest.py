"""GPU tests run where there are GPUs; elsewhere one line says how."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pool import pool2

__all__ = ["pool2"]

HERE = Path(__file__).parent
CUDA = torch.cuda.is_available()

collect_ignore_glob = [] if CUDA else ["test_*.py"]

# of a job that runs these tests; a launch in here is another job
JOB = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORKSHOP_METRICS",
    "WORKSHOP_ARTIFACTS",
    "WORKSHOP_REPEAT",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that `-m "not gpu"` knows it."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def two_gpus() -> None:
    """Ask for two GPUs; on one GPU the summary names what was skipped."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs and this node shows one")


@pytest.fixture
def launch(tmp_path: Path):
    """Return a function that runs a module by torchrun, by its events."""

    def run(
        module: str,
        *arguments: str,
        ranks: int = 2,
        expect: int = 0,
        **variables: str,
    ) -> "Launched":
        metrics = tmp_path / "metrics.jsonl"
        env = {k: v for k, v in os.environ.items() if k not in JOB}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={ranks}",
                "-m",
                module,
                *arguments,
            ],
            env={
                **env,
                "OMP_NUM_THREADS": "1",
                "WORKSHOP_METRICS": str(metrics),
                "WORKSHOP_ARTIFACTS": str(tmp_path / "artifacts"),
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert (done.returncode != 0) == (expect != 0), done.stderr
        events = []
        if expect == 0:
            lines = metrics.read_text().splitlines()
            events = [json.loads(line) for line in lines]
        return Launched(done, events, tmp_path / "artifacts")

    return run


class Launched:
    """What a launch printed, wrote and kept."""

    def __init__(
        self,
        done: subprocess.CompletedProcess,
        events: list[dict],
        artifacts: Path,
    ) -> None:
        self.stdout, self.stderr = done.stdout, done.stderr
        self.events, self.artifacts = events, artifacts

    def of(self, kind: str) -> list[dict]:
        """Return the events of one kind: meta, step or measure."""
        return [event for event in self.events if event["event"] == kind]
