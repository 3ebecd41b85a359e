"""Real jobs on the local cluster: good, failed, ended, cancelled, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workshop.notebook import recorded
from workshop.records import check, job
from workshop.records import experiments as describe
from workshop.slurm import jobs

HERE = Path(__file__).parents[2]
sys.path.insert(0, str(HERE / "tests" / "unit"))
import runs_folder

NAME = "lab1/toy"


@pytest.fixture
def workshop(tmp_path, monkeypatch, slurm_cluster):
    """A workshop of toy experiments, whose Slurm is the local cluster."""
    root = runs_folder.make_workshop(tmp_path / "w")
    runs_folder.enter(monkeypatch, root, job_id="")
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return root


def command(*arguments):
    cli = [sys.executable, "-m", "workshop.cli", "runs", "submit"]
    return [*cli, *arguments]


def submit(*arguments):
    return subprocess.run(
        command(*arguments),
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def record(root, name=NAME):
    file = root / "book" / "runs" / name / "record.json"
    return json.loads(file.read_text())


def sentences(text):
    return [line for line in text.splitlines() if line.startswith("error")]


def test_good_runs_are_recorded_and_a_second_call_has_nothing_to_do(workshop):
    runs_folder.describe_toy(workshop, more=runs_folder.TWO_NODES)
    done = submit()
    assert done.returncode == 0, done.stderr
    for name in (NAME, "lab1/ranks"):
        folder = workshop / "book" / "runs" / name
        finding = check.examine(name, describe.read()[name], folder)
        assert (finding.state, finding.problem) == ("fresh", "")
    body = record(workshop)
    assert body["slurm"]["partition"] == "debug"
    assert body["slurm"]["node_list"] == "node1"
    assert body["summary"]["tokens_per_s"]["values"] == [300, 301, 302]
    ranks = record(workshop, "lab1/ranks")
    assert ranks["slurm"]["job_id"] < body["slurm"]["job_id"]
    assert ranks["layout"] == "two Slurm nodes on one host"
    assert ranks["slurm"]["node_list"] == "node[1-2]"
    assert ranks["summary"]["ranks"]["median"] == 4
    metrics = workshop / "book" / "runs" / "lab1" / "ranks"
    first = (metrics / "metrics.0.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["node"] == "node1"
    again = submit()
    assert again.returncode == 0
    assert "nothing to submit" in again.stdout


def test_failed_and_late_runs_are_recorded_as_such(workshop):
    runs_folder.describe_toy(workshop, kind="fails")
    failed = submit("--missing")
    assert failed.returncode == 1
    assert len(sentences(failed.stderr)) == 1
    assert "error: the toy fails" in failed.stderr
    assert record(workshop)["status"] == "failed"
    runs_folder.describe_toy(workshop, kind="sleeps", timeout="1s")
    late = submit(NAME)
    assert late.returncode == 1
    assert "still running after 1 s" in late.stderr
    assert record(workshop)["status"] == "timeout"


def test_ctrl_c_cancels_the_job_and_says_so(workshop, shell):
    runs_folder.describe_toy(workshop, kind="sleeps")
    process = subprocess.Popen(
        command(NAME), stderr=subprocess.PIPE, text=True
    )
    staging = workshop / "book" / "runs" / ".staging"
    ends = time.monotonic() + 30
    while "sleeping" not in logged(staging) and time.monotonic() < ends:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "is cancelled" in said
    assert "Traceback" not in said
    body = record(workshop)
    assert body["status"] == "cancelled"
    job = body["slurm"]["job_id"]
    queue = shell(f"squeue --noheader --states=all --jobs={job} -o %T")
    assert queue.stdout.strip() == "CANCELLED"


def test_rejected_job_is_one_sentence(workshop):
    profile = workshop / "slurm" / "profiles" / "local.toml"
    profile.write_text('partition = "nowhere"\n')
    done = submit(NAME)
    assert done.returncode == 1
    assert len(sentences(done.stderr)) == 1
    assert "invalid partition" in done.stderr
    assert not (workshop / "book" / "runs" / NAME).exists()


def logged(staging):
    return "".join(p.read_text() for p in staging.glob("*/log.txt"))


def test_too_many_gpus_and_too_little_budget_submit_nothing(workshop):
    more = runs_folder.TWO_NODES.replace("nodes = 2", "nodes = 9")
    runs_folder.describe_toy(workshop, more=more)
    wide = submit("lab1/ranks")
    assert wide.returncode == 1
    assert "asks for 9 x 2 (nodes x GPUs) and local has 2 x 2" in wide.stderr
    short = submit(NAME, "--budget", "5s")
    assert short.returncode == 0
    assert "call this again" in short.stderr
    assert not list((workshop / "slurm" / "logs").iterdir())


def test_two_calls_take_what_is_stale_as_far_as_the_budget_goes(
    workshop, monkeypatch
):
    toy = {"kind": "good", "repeats": 1, "timeout": "30s", "needs_gpus": 0}
    second = runs_folder.TOML.format(name="lab1/second", **toy)
    first = 'priority = 1\nexpected = "2s"\n'
    more = f'{first}{second}priority = 2\nexpected = "25s"\n'
    runs_folder.describe_toy(workshop, repeats=1, more=more)
    with monkeypatch.context() as patch:
        runs_folder.enter(patch, workshop)
        for name in (NAME, "lab1/second"):
            job.run(describe.read()[name], False, workshop / "book" / "runs")
    fresh = submit("--stale", "--budget", "40s")
    assert "nothing to submit" in fresh.stdout, fresh.stderr
    helper = workshop / "code" / "helper_of_toy.py"
    # Of another size: compiled code is told to be old by that and by seconds.
    helper.write_text(helper.read_text().replace("100.0", "200.00"))
    # Two seconds fit into 40 less what a submission takes, 25 more do not.
    done = submit("--stale", "--budget", "40s")
    assert (done.returncode, done.stdout.count("recorded by job")) == (0, 1)
    assert f"{NAME}: recorded" in done.stdout
    assert "lab1/second takes about 25 s" in done.stderr
    assert "call this again" in done.stderr
    rest = submit("--stale", "--budget", "50s")
    assert (rest.returncode, rest.stdout.count("recorded by job")) == (0, 1)
    assert "lab1/second: recorded" in rest.stdout
    for name in (NAME, "lab1/second"):
        summary = record(workshop, name)["summary"]
        assert summary["tokens_per_s"]["values"] == [600]
    assert "nothing to submit" in submit("--stale").stdout


def test_a_recorded_cell_submits_the_small_size(
    workshop, monkeypatch, capsys
):
    runs_folder.describe_toy(workshop, kind="fails")
    monkeypatch.setenv("WORKSHOP_RUN", "slurm")
    run = recorded(NAME)
    assert run.folder == workshop / ".runs-local" / "slurm" / NAME
    assert (run.record["size"], run.record["status"]) == (
        "small",
        "completed",
    )
    shown = capsys.readouterr().out
    assert "step    3 | loss 6.0000" in shown
    assert not (workshop / "book").exists()


def test_the_script_runs_by_hand_and_keeps_small_runs_out_of_the_book(
    workshop, shell
):
    script = "slurm/experiment.sbatch"
    done = shell(f"sbatch --parsable {script} {NAME} --small")
    assert done.returncode == 0, done.stderr
    jobs.wait(int(done.stdout), timeout=240)
    folder = workshop / ".runs-local" / "slurm" / NAME
    finding = check.examine(NAME, describe.read()[NAME], folder)
    assert (finding.state, finding.problem) == ("fresh", "")
    assert not (workshop / "book").exists()
