"""GPU tests run where there are GPUs; elsewhere one line says how.

Ranks that find fewer GPUs than they are share one, so that everything but
the tests that measure a link or a speed runs on a single GPU as well.
Several workers (`-n 4`) share the GPUs: most of a test is imports and
compilation. A test that measures asks for the fixture `alone`, and waits
until no other runs.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pool import Pool
from shared_gpu import sharing
from torch.distributed.elastic.utils.distributed import get_free_port

LIMIT = 180
"""Seconds that a launch may take."""

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


LONGEST = (
    "the_dense_gradients[4-16]",
    "both_sides_have_the_same_losses",
    "the_dense_gradients[2-6]",
    "all_ways_train_on_nccl",
    "receives_ahead_and_times",
    "a_profile_shows_stages",
    "trains_compiled_in_bf16",
)
"""Tests that begin first, each on a worker of its own."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, so that `-m "not gpu"` knows them.

    pytest-xdist hands a worker two tests to begin with, so that each of the
    longest has a short one beside it.
    """
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    longest = [i for name in LONGEST for i in ours if name in i.nodeid]
    rest = [item for item in ours if item not in longest]
    dealt = [one for pair in zip(longest, rest, strict=False) for one in pair]
    dealt += [item for item in ours if item not in dealt]
    # At last what has the GPUs alone: it waits for all, and all for it.
    dealt.sort(key=lambda item: "alone" in item.fixturenames)
    others = [item for item in items if item not in ours]
    items[:] = others + dealt


@pytest.fixture
def two_gpus() -> None:
    """Ask for two GPUs; on one GPU the summary names what was skipped."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs and this node shows one")


@pytest.fixture(autouse=True)
def turns(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Share the GPUs with other workers' tests, or have them alone."""
    # All workers' folders lie in one.
    folder = tmp_path_factory.getbasetemp().parent
    quiet = "alone" in request.fixturenames
    door, room = (folder / name for name in ("gpu-door", "gpu-room"))
    with door.open("w") as entering, room.open("w") as inside:
        # Whoever waits to be alone holds the door, so that no other enters.
        fcntl.flock(entering, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if quiet else fcntl.LOCK_SH)
        fcntl.flock(entering, fcntl.LOCK_UN)
        yield


@pytest.fixture
def alone() -> None:
    """Have the GPUs for this test alone: `turns` sees to it."""


@pytest.fixture(scope="session")
def nccl2() -> Iterator[Pool]:
    """Yield two ranks that talk over NCCL."""
    with Pool(2, "nccl") as pool:
        yield pool


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
        env |= {
            "OMP_NUM_THREADS": "1",
            "WORKSHOP_METRICS": str(metrics),
            "WORKSHOP_ARTIFACTS": str(tmp_path / "artifacts"),
            **variables,
        }
        shared = "CUDA_VISIBLE_DEVICES" not in variables
        shared = shared and ranks > torch.cuda.device_count()
        agents = shares(ranks, env) if shared else whole(ranks, env)
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        started = [
            subprocess.Popen(
                [*torchrun, *options, "-m", module, *arguments],
                env=env,
                stdout=subprocess.PIPE if number == 0 else subprocess.DEVNULL,
                stderr=subprocess.PIPE if number == 0 else subprocess.DEVNULL,
                text=True,
            )
            for number, (options, env) in enumerate(agents)
        ]
        try:
            stdout, stderr = started[0].communicate(timeout=LIMIT)
            for other in started[1:]:
                other.wait(LIMIT)
        finally:
            for process in started:
                process.kill()
        done = subprocess.CompletedProcess(
            module, started[0].returncode, stdout, stderr
        )
        assert (done.returncode != 0) == (expect != 0), done.stderr
        events = []
        if expect == 0:
            lines = metrics.read_text().splitlines()
            events = [json.loads(line) for line in lines]
        return Launched(done, events, tmp_path / "artifacts")

    return run


def whole(ranks: int, env: dict) -> list[tuple[list[str], dict]]:
    """Return the one torchrun whose ranks have a GPU each."""
    return [(["--standalone", f"--nproc-per-node={ranks}"], env)]


def shares(ranks: int, env: dict) -> list[tuple[list[str], dict]]:
    """Return a torchrun for each rank, as if each had a node of its own."""
    meet = [
        f"--nnodes={ranks}",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
        f"--master-port={get_free_port()}",
    ]
    return [
        ([*meet, f"--node-rank={rank}"], {**env, **sharing(rank)})
        for rank in range(ranks)
    ]


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
