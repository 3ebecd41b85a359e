"""Site profiles, and what the waiter says about each end of a job."""

import os
import subprocess
from pathlib import Path

import pytest

from workshop.errors import UserError
from workshop.slurm import jobs, profile


@pytest.fixture(autouse=True)
def no_cluster(tmp_path, monkeypatch):
    """Whatever cluster this machine has is none of these tests'."""
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", str(tmp_path / "none"))


@pytest.mark.parametrize("name", profile.names())
def test_shipped_profiles_load(name: str, monkeypatch) -> None:
    monkeypatch.setattr(profile, "running", lambda: False)
    site = profile.load(name)
    assert site.name == name and site.description


def test_site_reaches_sbatch_and_the_job(monkeypatch, tmp_path) -> None:
    site = profile.load("example-site")
    assert site.sbatch_options() == [
        "--partition=gpu",
        "--account=my-project",
        "--time=00:30:00",
        "--exclusive",
    ]
    monkeypatch.setattr(profile, "root", lambda: tmp_path)
    lines = "module() { echo module $1; }\n. .venv/bin/activate\n"
    mine = profile.Profile("mine", setup=lines, variables={"A": "x y; z"})
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("B=$A\n")
    done = subprocess.run(
        ["sh", "-c", f'. {mine.write_setup()}; module load; echo "$B"'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "module load\nx y; z\n", done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition = gpu", "is not TOML"),
        ("queue = 'gpu'", "sets queue, which no profile has"),
        ("nodes = 'two'", "sets nodes to 'two': it must be a whole number"),
        ("nodes = -1", "whole number"),
        ("gpus_per_node = true", "whole number"),
        ("options = '--exclusive'", "must be a list"),
        ("options = [[1]]", "options.0 to .1.: it must be a list of strings"),
        ("name = 'mars'", "sets name, which no profile has"),
        ("variables = {A = true}", "variables.A to True: it must be a table"),
        ("partition = 3", "must be a string"),
        ("variables = ['A']", "must be a table"),
    ],
)
def test_malformed_profile_is_named(tmp_path: Path, text, said) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        profile.load(str(path))


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)],
    ids=["folder", "pipe", "link to itself"],
)
def test_a_profile_that_is_no_file_is_one_sentence(tmp_path, make) -> None:
    path = tmp_path / "site.toml"
    make(path)
    with pytest.raises(UserError, match="cannot be read"):
        profile.load(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        profile.load("a" * 5000)
    path.unlink() if path.is_symlink() or path.is_fifo() else path.rmdir()
    for text in ("x = " + "9" * 5000, "x = " + "[" * 5000):
        path.write_text(text)
        with pytest.raises(UserError, match="is not TOML"):
            profile.load(str(path))


def test_unknown_or_unchosen_profile_names_those_there_are(
    monkeypatch,
) -> None:
    with pytest.raises(UserError, match="no profile mars: choose example-si"):
        profile.load("mars")
    monkeypatch.delenv("WORKSHOP_PROFILE", raising=False)
    monkeypatch.setattr(profile, "running", lambda: False)
    with pytest.raises(UserError, match="no Slurm site is chosen"):
        profile.load()
    monkeypatch.setenv("WORKSHOP_PROFILE", "example-site")
    assert profile.load().name == "example-site"


def test_a_controller_that_hangs_is_one_sentence(monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER_TIMEOUT_S", 0.1)
    with pytest.raises(UserError, match="sleep had no answer from Slurm"):
        jobs._run(["sleep", "60"], {"PATH": "/usr/bin:/bin"})


def scripted(monkeypatch, *lines: str) -> None:
    """Let scontrol answer with `lines`, one at each look."""
    left = list(lines)

    def run(words, env):
        line = left.pop(0) if len(left) > 1 else left[0]
        return subprocess.CompletedProcess(words, 0, line + "\n", "")

    monkeypatch.setattr(jobs, "_run", run)
    monkeypatch.setattr(jobs, "environment", dict)
    monkeypatch.setattr(jobs, "POLL_S", 0)


LINE = (
    "JobId=7 JobName=a b GroupId=me(1) MCS_label=N/A JobState={} "
    "Reason=None ExitCode={} ReqB:S:C:T=0:0:*:* Socks/Node=* "
    "NodeList=node[1-2] TRES=cpu=2,mem=3 StdOut=/none/x.out Power="
)


def test_fields_of_a_job_are_told_apart(monkeypatch) -> None:
    scripted(monkeypatch, LINE.format("RUNNING", "0:0"))
    job = jobs.info(7)
    assert job["JobName"] == "a b" and job["TRES"] == "cpu=2,mem=3"
    assert job["ReqB:S:C:T"] == "0:0:*:*" and job["Power"] == ""


@pytest.mark.parametrize(
    ("state", "code", "exit_code", "said"),
    [
        ("FAILED", "3:0", 3, "ended as FAILED with exit code 3 on node"),
        ("OUT_OF_MEMORY", "0:9", 137, "as OUT_OF_MEMORY with exit code 137"),
        ("NODE_FAIL", "1:0", 1, "ended as NODE_FAIL"),
        ("TIMEOUT", "0:15", 143, "ran out of its time limit"),
        ("CANCELLED", "0:15", 143, "was cancelled"),
    ],
)
def test_every_bad_end_is_one_sentence(
    monkeypatch, state, code, exit_code, said
) -> None:
    going = LINE.format("RUNNING", "0:0")
    scripted(monkeypatch, going, going, LINE.format(state, code))
    with pytest.raises(jobs.JobEnded, match=said) as caught:
        jobs.wait(7)
    assert caught.value.job.exit_code == exit_code
    assert "/none/x.out" in str(caught.value)
    assert jobs.wait(7, check=False).state == state


def test_missing_sbatch_is_named(monkeypatch) -> None:
    monkeypatch.setattr(jobs, "environment", lambda: {"PATH": "/nowhere"})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch not found"):
        jobs.submit("slurm/hello.sbatch", profile=profile.Profile("none"))


def test_a_value_of_scontrol_may_hold_words():
    line = "JobId=7 JobName=My Job Comment=A B=c"
    assert jobs._fields(line) == {
        "JobId": "7", "JobName": "My Job", "Comment": "A", "B": "c"
    }  # fmt: skip
