"""`sh` in notebooks, and the transcript that it replays."""

import ast
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from workshop import paths
from workshop.errors import UserError
from workshop.lab1 import slurm_session
from workshop.lab1.slurm_session import COMMANDS
from workshop.notebook import sh, shell

CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL
)


def commands_of(page: str) -> list[str]:
    """Return the argument of every `sh(...)` in a page's code cells."""
    commands = []
    for cell in CELL.findall(page):
        for node in ast.walk(ast.parse(python_of(cell))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "sh":
                commands.append(ast.literal_eval(node.args[0]))
    return commands


def python_of(cell: str) -> str:
    """Return a cell without its options, magics and shell lines."""
    cell = re.sub(
        r"\A---\n.*?^---\n", "", cell, flags=re.DOTALL | re.MULTILINE
    )
    cell = cell.replace("\\\n", " ")
    lines = [x for x in cell.splitlines() if x[:1] not in (":", "%", "!")]
    return re.sub(r" = !.*", " = None", "\n".join(lines))


def test_no_command_is_recorded_twice() -> None:
    assert len(set(COMMANDS)) == len(COMMANDS)


def test_chapters_run_only_recorded_commands() -> None:
    used = {
        command: page.name
        for page in sorted((paths.root() / "book").rglob("*.md"))
        for command in commands_of(page.read_text())
    }
    assert "01_cluster.md" in used.values(), "chapter 01 runs no command"
    missing = set(used) - set(COMMANDS)
    assert not missing, "add them to workshop.lab1.slurm_session.COMMANDS"


def test_a_cell_outside_the_list_is_found() -> None:
    page = "```{code-cell} ipython3\n:tags: [x]\n%matplotlib inline\n!ls\n"
    page += 'sh("sinfo")\nsh("rm " "x", check=False)\n```\n'
    assert commands_of(page) == ["sinfo", "rm x"]
    page = "```{code-cell} ipython3\n---\ntags: [x]\n---\n!ls \\\n  -l\n"
    page += 'sh("squeue")\n```\n'
    assert commands_of(page) == ["squeue"]


@pytest.fixture
def nowhere(monkeypatch, tmp_path: Path) -> None:
    """Be on a system without Slurm, with a record of three commands."""
    why = "Slurm runs on Linux and this is darwin"
    monkeypatch.setattr(shell.cluster, "available", lambda: False)
    monkeypatch.setattr(shell.cluster, "possible", lambda: why)
    (tmp_path / "artifacts").mkdir()
    transcript = [
        {"command": "sinfo -N", "output": "others\n", "exit_code": 0},
        {"command": "sinfo", "output": "two nodes\n", "exit_code": 0},
        {"command": "false", "output": "bad\n", "exit_code": 3},
    ]
    path = tmp_path / "artifacts" / "session.json"
    path.write_text(json.dumps(transcript))
    run = SimpleNamespace(folder=tmp_path, provenance=lambda: "job 12")
    monkeypatch.setattr("workshop.records.load.load", lambda name: run)


@pytest.mark.usefixtures("nowhere")
def test_replay_says_so_in_one_line(capsys) -> None:
    sh("sinfo")
    first, second = capsys.readouterr().out.splitlines()
    assert "darwin" in first and "job 12" in first and second == "two nodes"
    with pytest.raises(UserError, match="`false` exited with 3"):
        sh("false")
    sh("false", check=False)
    with pytest.raises(UserError, match="has no command `squeue`"):
        sh("squeue")


def test_where_slurm_could_run_a_missing_cluster_is_an_error(
    monkeypatch,
) -> None:
    monkeypatch.setattr(shell.cluster, "available", lambda: False)
    monkeypatch.setattr(shell.cluster, "possible", lambda: None)
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", "/tmp/no-such-cluster")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(UserError, match="workshop cluster start"):
        sh("sinfo")


def test_commands_run_for_real(monkeypatch, capsys) -> None:
    monkeypatch.setattr(shell.cluster, "available", lambda: True)
    monkeypatch.setattr(shell.cluster, "environment", dict)
    sh("echo out; echo err >&2")
    assert capsys.readouterr().out == "out\nerr\n"
    with pytest.raises(UserError, match="exited with 4"):
        sh("exit 4")
    before = psutil.Process().children()
    with pytest.raises(UserError, match="was not over after 0.2 s"):
        sh("sleep 60", timeout=0.2)
    assert not set(psutil.Process().children()) - set(before)


def runs(process: psutil.Process) -> bool:
    """Say whether a process is neither gone nor waits to be reaped."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_ends_with_its_kernel(tmp_path, monkeypatch) -> None:
    """Killed with -9 a kernel cannot end what a cell has started."""
    monkeypatch.setattr(shell.cluster, "environment", dict)
    pids = tmp_path / "pids"
    kernel = multiprocessing.get_context("fork").Process(
        target=shell.capture,
        args=(f"echo $$ >{pids}; sleep 60 | sleep 60", 60),
    )
    kernel.start()
    ends = time.monotonic() + 60
    while not (pids.is_file() and pids.read_text().strip()):
        assert time.monotonic() < ends, "the command does not start"
        time.sleep(0.05)
    bash = psutil.Process(int(pids.read_text()))
    while len(family := [bash, *bash.children()]) < 3:
        assert time.monotonic() < ends, "the command does not go on"
    kernel.kill()
    kernel.join()
    ends = time.monotonic() + 5
    while left := [process for process in family if runs(process)]:
        if time.monotonic() > ends:
            os.killpg(bash.pid, signal.SIGKILL)
            raise AssertionError(f"{left} outlive their kernel")
        time.sleep(0.05)


def test_transcript_hides_this_machines_folder(monkeypatch, tmp_path) -> None:
    here = str(paths.root())
    monkeypatch.setattr(
        slurm_session, "capture", lambda line, limit: (f"in {here}/x\n", 0)
    )
    output = tmp_path / "a" / "session.json"
    assert slurm_session.record(output) == len(COMMANDS)
    entries = json.loads(output.read_text())
    assert [entry["command"] for entry in entries] == list(COMMANDS)
    assert entries[0]["output"] == "in $WORKSHOP_ROOT/x\n"


def test_transcript_without_a_place_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.delenv("WORKSHOP_ARTIFACTS", raising=False)
    monkeypatch.setattr("sys.argv", ["slurm_session"])
    with pytest.raises(SystemExit) as caught:
        slurm_session.main()
    assert caught.value.code == 2
    assert "WORKSHOP_ARTIFACTS" in capsys.readouterr().err
