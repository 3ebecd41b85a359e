"""A build of the book that is interrupted, in whatever way."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import build_book
import psutil
import pytest
from test_cluster_session import runs

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import contextlib, os, subprocess, sys
import build_book as book

@contextlib.contextmanager
def slurm(env):
    try:
        yield
    finally:
        print("the cluster stops", flush=True)

def start(command, **options):
    shell = "setsid sleep 61 & echo $$; sleep 61; true"
    del options["cwd"]
    return popen(["bash", "-c", shell], **options)

popen, subprocess.Popen = subprocess.Popen, start
book.slurm, book.environment = slurm, lambda: dict(os.environ)
book.forget_pages = lambda: None
book.book_inputs.fresh = lambda: False
book.book_inputs.stamp = lambda: book.Path("/nonexistent/stamp")
book.main()
"""


@pytest.mark.parametrize(
    "told",
    [
        signal.SIGHUP,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_build_leaves_nothing(monkeypatch, told) -> None:
    """Ctrl-C, a plain kill and a closed terminal, each of them twice."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tools"))
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    book = psutil.Process(int(build.stdout.readline()))
    ends = time.monotonic() + 20
    while len(family := [book, *book.children()]) < 3:
        assert time.monotonic() < ends, "the cells do not start"
    build.send_signal(told)
    build.send_signal(signal.SIGHUP)
    said, error = build.communicate(timeout=60)
    left = [process for process in family if runs(process)]
    for process in left:
        process.kill()
    assert not left, "what the build started outlives it"
    assert build.returncode == 1 and said == "the cluster stops\n"
    assert error.startswith("error: interrupted") and error.count("\n") == 1


def test_a_cluster_that_is_interrupted_while_it_starts_is_stopped(
    monkeypatch,
) -> None:
    asked = []

    def cluster(command, env):
        asked.append(command)
        if command == "start":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(build_book, "slurm_answers", lambda env: False)
    monkeypatch.setattr(build_book, "cluster", cluster)
    with pytest.raises(KeyboardInterrupt), build_book.slurm({}):
        pass
    assert asked == ["start", "stop"]
