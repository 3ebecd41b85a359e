"""A rank that fails ends the job, and is the one that speaks.

The others would wait half an hour for its message; `launch` does not.
"""

from pathlib import Path

import pytest
from launching import launch

SCRIPT = Path(__file__).resolve().parents[1] / "failing_rank.py"


def run(how: str) -> tuple[int, str]:
    """Return exit code and stderr of the job."""
    torchrun = ("torchrun", "--standalone", "--nproc-per-node=2")
    done = launch(*torchrun, SCRIPT, how, "1")
    return done.returncode, done.stderr


def test_an_exception_is_shown_by_the_rank_that_had_it() -> None:
    code, err = run("raise")
    assert code != 0
    assert "rank 1 failed:" in err and "rank 0 failed:" not in err
    assert "ZeroDivisionError: planted on this rank" in err
    # torchrun's summary has it from the rank's error file.
    summary = err[err.index("Root Cause") :]
    assert (
        "ZeroDivisionError: planted" in summary and "rank      : 1" in summary
    )
    others = err[: err.index("Root Cause")].count("Traceback")
    assert others == 2, "the rank's and torchrun's own"


@pytest.mark.long
def test_a_killed_rank_takes_the_others_along() -> None:
    code, err = run("killed")
    assert code != 0
    summary = err[err.index("Root Cause") :]
    assert "rank      : 1" in summary and "SIGKILL" in summary
    assert "rank 0 failed:" not in err


@pytest.mark.long
def test_out_of_memory_is_one_sentence() -> None:
    code, err = run("memory")
    assert code != 0 and "exitcode  : 2" in err
    said, last = [line for line in err.splitlines() if "error: " in line]
    assert said.startswith("error: out of memory: the training asked for ")
    assert last.endswith(said) and err.rstrip(" =\n").endswith(said)
    assert "workshop/" not in err, "a traceback of ours"
