"""The job: what it records when a run is good, fails, hangs or is ended."""

import json
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
import runs_folder

from workshop import paths
from workshop.doctor import cpu
from workshop.errors import UserError
from workshop.records import check, job, node
from workshop.records import experiments as describe
from workshop.records.experiments import Size

NAME = "lab1/toy"


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    root = runs_folder.make_workshop(tmp_path / "w")
    runs_folder.enter(monkeypatch, root)
    return root


def run(root, small=False, **description):
    runs_folder.describe_toy(root, **description)
    return job.run(describe.read()[NAME], small, paths.records())


def test_failed_run_is_recorded_as_failed(workshop):
    folder, body = run(workshop, kind="fails")
    assert folder == workshop / "book" / "runs" / NAME
    assert (body["status"], body["exit_code"]) == ("failed", 3)
    why = "repeat 0 ended with exit code 3, error: the toy fails"
    assert body["reason"] == why
    assert "error: the toy fails" in (folder / "log.txt").read_text()
    assert body["summary"] == {}
    finding = check.examine(NAME, describe.read()[NAME], folder)
    assert finding.state == "failed"
    assert "exit code 3" in finding.problem
    assert finding.breaks()


def test_failed_run_leaves_an_earlier_good_record(workshop):
    good, first = run(workshop, repeats=1)
    beside, _ = run(workshop, kind="fails", repeats=1)
    assert beside == good.with_name("toy.failed")
    assert json.loads((good / "record.json").read_text()) == first
    runs_folder.describe_toy(workshop, repeats=1)
    finding = check.examine(NAME, describe.read()[NAME], good)
    assert finding.state == "fresh"
    assert "an attempt on" in finding.note
    run(workshop, repeats=1)
    assert not beside.exists()
    assert os.listdir(paths.records() / ".staging") == [".gitignore"]


def test_run_beyond_its_limit_is_recorded_and_leaves_no_process(workshop):
    folder, body = run(workshop, kind="sleeps", timeout="1s")
    assert body["status"] == "timeout"
    assert "after 1 s" in body["reason"]
    assert "toy: sleeping" in (folder / "log.txt").read_text()
    names = [" ".join(p.cmdline()) for p in psutil.Process().children()]
    assert not [name for name in names if "toy sleeps" in name]


def test_cancelled_run_is_recorded(workshop):
    before = signal.signal(signal.SIGTERM, job._stop)
    pid = os.getpid()
    timer = threading.Timer(0.7, os.kill, (pid, signal.SIGTERM))
    timer.start()
    try:
        folder, body = run(workshop, kind="sleeps")
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert body["status"] == "cancelled"
    assert (folder / "record.json").is_file()


def test_run_without_metrics_has_failed(workshop):
    _, body = run(workshop, kind="silent")
    assert body["status"] == "failed"
    assert "wrote no metrics" in body["reason"]


def test_gpus_are_looked_at_by_a_process_of_its_own(workshop, monkeypatch):
    monkeypatch.setattr(job, "host_gpus", lambda: [{"index": 0}])
    monkeypatch.setattr(node, "describe", None)
    size = describe.read()[NAME].size()
    (workshop / "nodes").mkdir()
    nodes = job._nodes(size, workshop, workshop / "nodes")
    assert [each["cpu"]["model"] for each in nodes] == [cpu()["model"]]


def test_two_nodes_with_long_descriptions_do_not_mix(workshop, monkeypatch):
    """What they print may arrive mixed up; each has a file of its own."""
    program = "import sys; from workshop.records import node; "
    program += "from workshop import doctor; told = doctor.describe; "
    program += "doctor.describe = lambda: told() | {'x': 'y' * 100_000}; "
    program += "sys.argv = ['node', sys.argv[1]]; "
    program += "print('{' * 5000); node.main()"

    def srun(command, env):
        folder = command[-1]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, folder],
                env=env | {"SLURMD_NODENAME": name},
            )
            for name in ("b", "a")
        ]
        assert [each.wait(60) for each in started] == [0, 0]

    monkeypatch.setattr(job, "_output", srun)
    (workshop / "nodes").mkdir()
    size = Size(nodes=2, gpus_per_node=0)
    nodes = job._nodes(size, workshop, workshop / "nodes")
    assert [each["node"] for each in nodes] == ["a", "b"]
    assert all(len(each["x"]) == 100_000 for each in nodes)
    (workshop / "nodes" / "a.json").unlink()
    monkeypatch.setattr(job, "_output", lambda command, env: None)
    with pytest.raises(UserError, match="1 of 2 nodes described"):
        job._nodes(size, workshop, workshop / "nodes")


def test_metrics_that_are_no_events_have_failed(workshop):
    (workshop / "code" / "toy.py").write_text(
        "import os\n"
        "with open(os.environ['WORKSHOP_METRICS'], 'w') as file:\n"
        '    file.write(\'{"event": "measure", "name": "x"}\')\n'
    )
    _, body = run(workshop)
    assert body["status"] == "failed"
    assert "line 1 of metrics.0.jsonl is not a" in body["reason"]


def test_whatever_goes_wrong_is_recorded(workshop, monkeypatch):
    def broken(size, root, folder):
        raise RuntimeError("nodes are broken")

    monkeypatch.setattr(job, "_nodes", broken)
    folder, body = run(workshop)
    assert body["reason"] == "RuntimeError: nodes are broken"
    assert "Traceback" in (folder / "log.txt").read_text()


def test_too_few_gpus_are_one_sentence_and_nothing_runs(workshop):
    _, body = run(workshop, needs_gpus=2)
    assert body["status"] == "failed"
    assert "needs 2 GPUs" in body["reason"]
    assert body["repeats"] == []


def test_small_run_outside_slurm_says_so(workshop, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    out = workshop / ".runs-local"
    toy = describe.read()[NAME]
    folder, body = job.run(toy, True, out)
    assert (body["size"], body["slurm"]) == ("small", None)
    assert body["layout"] == "one machine, without Slurm"
    assert len(body["repeats"]) == 1
    assert check.examine(NAME, toy, folder).state == "fresh"
    target = paths.records() / NAME
    target.parent.mkdir(parents=True)
    folder.rename(target)
    finding = check.examine(NAME, toy, target)
    assert "ran outside Slurm" in finding.problem


def test_log_names_no_folder_of_the_machine(workshop):
    (workshop / "code" / "toy.py").write_text(
        "import os\nprint('in', os.environ['WORKSHOP_ROOT'] + '/x')\n"
    )
    folder, _ = run(workshop)
    log = (folder / "log.txt").read_text()
    assert "in ./x" in log
    assert str(workshop) not in log


def test_limit_of_the_environment_lowers_only(workshop, monkeypatch):
    toy = describe.read()[NAME]
    for given, limit in (("5", 5), ("99999", toy.timeout)):
        monkeypatch.setenv("WORKSHOP_TIMEOUT", given)
        assert job.time_limit(toy) == limit


def test_tasks_are_those_of_slurm(workshop, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    facts = job.slurm_facts(describe.read()[NAME].size())
    assert (facts["nodes"], facts["tasks"]) == (2, 4)


def test_artifact_is_hashed_and_an_edit_during_the_run_noticed(workshop):
    (workshop / "code" / "toy.py").write_text(
        "import os, pathlib\n"
        "made = pathlib.Path(os.environ['WORKSHOP_ARTIFACTS'])\n"
        "(made / 'a.txt').write_text('x')\n"
        "pathlib.Path('code/helper_of_toy.py').write_text('rate = 1')\n"
    )
    _, body = run(workshop, repeats=1)
    assert "artifacts/a.txt" in body["files"]
    assert body["status"] == "failed"
    why = "its sources changed while it ran (code/helper_of_toy.py)"
    assert body["reason"] == why


def test_no_commit_is_one_sentence(workshop, monkeypatch):
    monkeypatch.delenv("WORKSHOP_COMMIT")
    with pytest.raises(UserError, match="WORKSHOP_COMMIT"):
        run(workshop)
    assert not paths.records().exists()


def test_tests_on_gpus_are_a_run_with_counts(workshop):
    (workshop / "tests").mkdir()
    (workshop / "tests" / "test_toy.py").write_text(TESTS)
    (workshop / runs_folder.DESCRIBED).write_text(PYTEST)
    folder, body = job.run(
        describe.read()["tests/toy"], False, paths.records()
    )
    assert body["status"] == "failed"
    assert body["command"].startswith("python -m pytest")
    events = (folder / "metrics.0.jsonl").read_text()
    counts = [json.loads(line) for line in events.splitlines()][1:]
    assert {each["name"]: each["value"] for each in counts} == {
        "tests_passed": 2,
        "tests_failed": 1,
        "tests_error": 0,
        "tests_skipped": 1,
    }


def test_tests_that_were_all_skipped_have_failed(workshop):
    (workshop / "tests").mkdir()
    skipped = "import pytest\ndef test_a():\n    pytest.skip('no GPU')\n"
    (workshop / "tests" / "test_toy.py").write_text(skipped)
    (workshop / runs_folder.DESCRIBED).write_text(PYTEST)
    _, body = job.run(describe.read()["tests/toy"], False, paths.records())
    assert (body["status"], body["exit_code"]) == ("failed", 5)


TESTS = """
import pytest

def test_a(): pass
def test_b(): pass
def test_c(): assert False
def test_d(): pytest.skip("not today")
"""
PYTEST = """
[[experiment]]
name = "tests/toy"
title = "Tests"
chapter = "runs"
launch = "pytest"
args = ["tests", "-p", "no:cacheprovider"]
nodes = 1
gpus_per_node = 0
repeats = 1
"""
