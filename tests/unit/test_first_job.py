"""The least job: what it says when nobody launched it, and two ranks."""

import subprocess
import sys

from launching import environment

from workshop import paths

MODULE = "workshop.lab1.first_job"


def test_without_torchrun_it_says_so_in_one_sentence(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    done = subprocess.run(
        [sys.executable, "-m", MODULE], capture_output=True, text=True,
        check=False, cwd=paths.root(), env=environment(),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: no LOCAL_RANK")
    assert done.stderr.count("\n") == 1
