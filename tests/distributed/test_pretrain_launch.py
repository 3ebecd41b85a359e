"""The real launch command: killed and resumed, interrupted, misused.

torchrun itself is started where it is what ends the ranks.
"""

import gzip
import json
import re
import signal
import subprocess
import time

import psutil
import pytest
import torch
from launching import LIMIT, environment, launch_ranks, program

from workshop.lab1 import pretrain_gpt

MODULE = "workshop.lab1.pretrain_gpt"
COMMAND = pretrain_gpt.__doc__.splitlines()[0].split()
STEPS, SAVED = 50, 10  # 50 is what the command does with no arguments


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folders(cache, tmp_path):
    """The variables that say where a run keeps what it makes."""
    return {
        "WORKSHOP_CACHE": str(cache),
        "WORKSHOP_ARTIFACTS": str(tmp_path / "artifacts"),
    }


@pytest.fixture
def train(folders):
    """Run the ranks of the command, or one process, to the end."""

    def run(*argv, ranks=2):
        done = launch_ranks(MODULE, *argv, ranks=ranks, **folders)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def launch(folders):
    """Start the docstring's command with arguments."""
    started = []

    def start(*argv):
        process = subprocess.Popen(
            [program("torchrun"), *COMMAND[1:], *map(str, argv)],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**folders),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for rank in everyone(process):
            rank.kill()
        process.communicate()


def everyone(process):
    """Return torchrun and its ranks, each in a session of its own."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def survivors(processes):
    """Return those that still run after a minute."""
    _, running = psutil.wait_procs(processes, timeout=60)
    return [p for p in running if p.status() != psutil.STATUS_ZOMBIE]


def wait_for_step(process, metrics, step):
    """Return once the metrics hold `step`; fail if the job ends before."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        if process.poll() is not None:
            pytest.fail(f"ended before step {step}:\n{process.stderr.read()}")
        time.sleep(0.005)
    pytest.fail(f"step {step} was not reached in {LIMIT} s")


def finish(process):
    """Return the exit code, stdout and stderr of a job."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def losses(metrics):
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [e["event"] for e in events].count("meta") == 1
    return [
        (e["step"], e["loss"], e["grad_norm"])
        for e in events
        if e["event"] == "step"
    ]


def weights(folder):
    path = folder / f"step-{STEPS:08d}" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["layout"]  # words, which assert_close does not compare
    return state


def test_the_docstring_begins_with_the_launch_command():
    assert " ".join(COMMAND) == (
        f"torchrun --standalone --nproc-per-node 2 -m {MODULE}"
    )


def test_a_killed_run_resumes_bit_for_bit(launch, train, tmp_path):
    """SIGKILL to torchrun takes the ranks along; then --resume."""

    def argv(name):
        return [
            *("--save-every", SAVED, "--corpus-mib", 1),
            *("--checkpoint", tmp_path / name),
            *("--metrics", tmp_path / f"{name}.jsonl"),
        ]

    killed = launch(*argv("killed"))
    wait_for_step(killed, tmp_path / "killed.jsonl", 2 * SAVED + 3)
    processes = everyone(killed)
    assert len(processes) == 3
    killed.kill()
    assert not survivors(processes)
    assert not (tmp_path / "killed" / f"step-{STEPS:08d}").exists()
    reached = losses(tmp_path / "killed.jsonl")
    code, out, err = train(*argv("killed"), "--resume")
    assert code == 0, err
    after = int(re.search(r"resuming after step (\d+)", out)[1])
    assert 2 * SAVED <= after <= len(reached) < STEPS
    code, _, err = train(*argv("whole"))
    assert code == 0, err
    expected = losses(tmp_path / "whole.jsonl")
    assert expected[-1][1] < expected[0][1] - 0.5
    assert [step for step, *_ in expected] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "killed.jsonl") == expected
    assert reached == expected[: len(reached)]
    torch.testing.assert_close(
        weights(tmp_path / "killed"),
        weights(tmp_path / "whole"),
        rtol=0,
        atol=0,
    )


def test_ctrl_c_ends_every_rank_without_a_traceback_of_ours(launch, tmp_path):
    metrics = tmp_path / "m.jsonl"
    process = launch(
        *("--steps", 10**6, "--log-every", 10**6, "--corpus-mib", 1),
        *("--metrics", metrics),
    )
    wait_for_step(process, metrics, 3)
    processes = everyone(process)
    assert len(processes) == 3
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code != 0 and not survivors(processes)
    # torchrun reports the signal in its own words; the ranks are quiet.
    assert "KeyboardInterrupt" not in err and "workshop/" not in err


def sentences(err):
    return [line for line in err.splitlines() if line.startswith("error:")]


def test_bad_input_is_one_sentence_from_one_rank(train):
    code, out, err = train("--corpus", "/no/such/text")
    assert code != 0 and "step" not in out
    assert len(sentences(err)) == 1
    assert "corpus path /no/such/text does not exist" in sentences(err)[0]
    assert "workshop/" not in err, "a traceback of ours"


def test_one_process_alone_leaves_a_trace(train, tmp_path):
    code, out, err = train(
        *("--steps", 7, "--warmup-steps", 2, "--trace"),
        *("--corpus-mib", 1),
        ranks=None,
    )
    assert code == 0, err
    lines = [x for x in out.splitlines() if x.startswith("step ")]
    assert len(lines) == 7 and "TFLOP/s/GPU" in lines[0]
    trace = tmp_path / "artifacts" / "trace.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {e["name"] for e in events if "ProfilerStep" in e.get("name", "")}
    assert steps == {f"ProfilerStep#{n}" for n in (4, 5, 6)}
