"""The ranks of one node: its own launcher, and what is no world at all."""

import json
import subprocess
import sys

import psutil
import pytest
from launching import environment, program
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

from workshop.errors import UserError
from workshop.job import launch, one_node, one_world, torchrun

TRAIN = ["-m", "workshop.lab1.pretrain_gpt", "--steps"]


def listening(process: psutil.Process) -> set[str]:
    """Return the addresses at which a process waits for others."""
    return {
        each.laddr.ip
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # the batch script's
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"RANK": "3", "GROUP_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"},
        {"RANK": "1", "GROUP_WORLD_SIZE": "1"},
    ],
)
def test_one_world_is_one(env):
    one_world.check(env)


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{}"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "{}"},
        {"PMI_SIZE": "2", "PMI_RANK": "{}"},
        {
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_PROCID": "{}",
            "RANK": "0",
            "GROUP_WORLD_SIZE": "2",
        },
    ],
)
def test_several_worlds_are_refused_once(env):
    said = []
    for number in ("0", "1"):
        with pytest.raises(UserError) as error:
            one_world.check({k: v.format(number) for k, v in env.items()})
        said.append(str(error.value))
    assert "tasks were started that do not know of each other" in said[0]
    assert said[1] == ""


def test_the_store_listens_on_the_loopback_alone():
    before = listening(psutil.Process())
    options = one_node.at_home()
    ours = listening(psutil.Process()) - before | {one_node.HERE}
    assert ours == {"127.0.0.1"} >= listening(psutil.Process()) - before
    assert "--local-addr=127.0.0.1" in options
    assert one_node._store.host == "127.0.0.1"


def test_a_sentence_ends_what_torchrun_says(tmp_path, monkeypatch, capsys):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    launch.leave_sentence("no such text: name another")
    told = ProcessFailure(0, 7, 2, str(file))
    killed = ProcessFailure(1, 8, -9, "none")
    said = str(ChildFailedError("x", {1: killed, 0: told})).splitlines()
    assert said[-2].endswith(": error: no such text: name another")
    ended = ProcessFailure(0, 7, -15, str(file))
    refused = ProcessFailure(1, 8, 2, "none")
    for failures, code, line in (
        ({0: told}, 2, ""),
        ({0: ended, 1: refused}, 2, ""),
        ({0: ended}, 1, ""),
        ({1: killed}, 137, "error: rank 1 got SIGKILL\n"),
        ({1: ProcessFailure(1, 8, 3, "none")}, 3, "exit code 3\n"),
    ):
        with pytest.raises(SystemExit) as end:
            torchrun.report(failures)
        assert end.value.code == code
        assert capsys.readouterr().err.endswith(line)


def test_a_job_of_one_node_stays_on_its_loopback(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    launch.stay_on_loopback()
    assert "GLOO_SOCKET_IFNAME" not in launch.os.environ
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    launch.stay_on_loopback()
    assert launch.os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    launch.stay_on_loopback()
    assert launch.os.environ["GLOO_SOCKET_IFNAME"] == "mine"


@pytest.fixture
def start(tmp_path):
    """Start two ranks with our launcher."""
    started = []

    def run(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", one_node.__name__]
        started.append(
            subprocess.Popen(
                [*command, "--nproc-per-node", "2", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(tmp_path),
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_a_run_listens_nowhere_else_and_ends_in_its_sentence(start):
    misused, running = start(*TRAIN, "0"), start(*TRAIN, "1000000")
    assert misused.communicate(timeout=120)[1].splitlines() == [
        "error: --steps 0 is too small: give 1 or more"
    ]
    assert misused.returncode == 2
    assert running.stdout.readline()  # the ranks have met
    family = psutil.Process(running.pid).children(recursive=True)
    family = [psutil.Process(running.pid), *family]
    assert len(family) == 3
    assert set().union(*map(listening, family)) == {"127.0.0.1"}
    running.terminate()
    assert "Traceback" not in running.communicate(timeout=120)[1]
    assert running.returncode == 143


@pytest.mark.long
def test_torchruns_last_words_are_the_sentence(tmp_path):
    done = subprocess.run(
        [program("torchrun"), "--standalone", *TRAIN, "0"],
        capture_output=True, text=True, check=False, timeout=120,
        env=environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    last = [x for x in done.stderr.splitlines() if x.strip("=")][-1]
    assert last.endswith("error: --steps 0 is too small: give 1 or more")


def test_the_rank_with_a_sentence_comes_before_those_that_were_ended(
    tmp_path,
):
    def failure(rank: int, code: int, file: str) -> ProcessFailure:
        made = ProcessFailure(rank, 0, code, str(tmp_path / file))
        made.timestamp = 7
        return made

    told = {"message": {"message": "so", "extraInfo": {"timestamp": "7"}}}
    (tmp_path / "said").write_text(json.dumps(told))
    ended, silent = failure(0, -15, "none"), failure(1, 1, "none")
    said = failure(2, 2, "said")
    assert torchrun.first({0: ended, 1: silent, 2: said}) == (2, said)
    assert torchrun.first({0: ended, 1: silent}) == (1, silent)
    assert torchrun.first({0: ended}) == (0, ended)
