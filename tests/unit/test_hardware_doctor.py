"""`workshop doctor` finds what is broken and names one remedy for it."""

import copy
import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from workshop import doctor as hardware
from workshop.cli import app
from workshop.cli import doctor as program
from workshop.doctor import checks, probe
from workshop.doctor.checks import Check, Machine
from workshop.slurm import local as cluster

ABOUT = hardware.describe()
GPU = {
    "index": 0,
    "host_index": 0,
    "model": "NVIDIA H200",
    "memory_gib": 139.8,
    "compute_capability": "9.0",
    "multiprocessors": 132,
}


@pytest.fixture
def here(tmp_path):
    return Machine(copy.deepcopy(ABOUT), tmp_path)


@pytest.mark.parametrize(
    ("host", "ok"), [("localhost", True), ("no-such-name.invalid", None)]
)
def test_a_name_that_leads_nowhere_is_named_with_a_remedy(here, host, ok):
    here.about["host"]["name"] = host
    told = checks.name(here)
    assert told.ok is ok and host in told.observed
    assert ("PET_LOCAL_ADDR=127.0.0.1" in told.remedy) == (ok is None)


def test_a_name_server_that_does_not_answer_is_not_waited_for(
    here, monkeypatch
):
    def hangs(words, timeout, **options):
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert "takes long to find" in checks.name(here).observed


@pytest.fixture
def two_gpus(here):
    here.about["gpus"] = [GPU, {**GPU, "index": 1}]
    here.about["host_gpus"] = 2
    here.about["links"] = {
        "devices": ["GPU0", "GPU1", "NIC0"],
        "matrix": [
            ["X", "NV18", "SYS"],
            ["NV18", "X", "SYS"],
            ["SYS", "SYS", "X"],
        ],
        "nvlink": [],
    }
    here.about["peer_access"] = [[True, True], [True, True]]
    here.about["software"]["nccl"] = "2.28.9"
    return here


def test_two_ranks_really_sum_on_this_machine(here):
    assert checks.gloo(here).ok is True


def test_ranks_that_do_not_answer_are_given_up():
    assert probe.all_reduce("gloo", seconds=0) == "no answer within 0 s"


def test_a_wrong_sum_is_no_success(tmp_path, monkeypatch):
    # sitecustomize runs in the ranks before anything else
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.distributed as d; d.all_reduce = lambda tensor: None\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    wrong = probe.all_reduce("gloo")
    assert wrong.startswith("rank ") and "1 + 2 gave" in wrong


@pytest.mark.parametrize(
    ("version", "ok"),
    [
        ("2.11.0+cu130", True),
        ("2.13.1", True),
        ("2.10.2", False),
        ("2.14.0", False),
        ("3.11.0", False),
        (None, False),
    ],
)
def test_torch_outside_the_range_is_broken(here, version, ok):
    here.about["software"]["torch"] = version
    finding = checks.torch(here)
    assert finding.ok is ok and bool(finding.remedy) is not ok


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 12), True), ((3, 13), False)]
)
def test_python_outside_the_range_is_broken(here, monkeypatch, version, ok):
    monkeypatch.setattr(
        checks, "sys", SimpleNamespace(version_info=(*version, 0))
    )
    assert checks.python(here).ok is ok


def test_a_full_disk_is_broken(here, monkeypatch):
    monkeypatch.setattr(checks, "NEEDED_GIB", 10.0**9)
    finding = checks.disk(here)
    assert finding.ok is False and finding.remedy.startswith("Free ")


def test_gpus_that_torch_cannot_use_are_named(here):
    here.about["gpus"] = [{**GPU, "compute_capability": None}]
    finding = checks.gpus(here)
    assert finding.ok is None and "torch sees none" in finding.observed
    assert "CUDA build" in finding.remedy


def test_gpus_without_the_drivers_library_are_named(two_gpus):
    two_gpus.about["host_gpus"] = 0
    assert "nvidia-ml-py" in checks.gpus(two_gpus).remedy


def test_links_between_gpus(two_gpus):
    assert checks.gpus(two_gpus).observed == "2 × NVIDIA H200"
    assert checks.links(two_gpus).observed == "NV18, peer access"
    two_gpus.about["peer_access"] = [[True, False], [True, True]]
    finding = checks.links(two_gpus)
    assert finding.ok is None and "no peer access" in finding.observed


def test_a_failing_nccl_is_broken(two_gpus, monkeypatch):
    monkeypatch.setattr(probe, "all_reduce", lambda *a, **k: "rank 0 failed")
    assert checks.nccl(two_gpus).ok is False
    monkeypatch.setattr(probe, "all_reduce", lambda *a, **k: None)
    assert checks.nccl(two_gpus).observed == "2.28.9, all-reduce on 2 GPUs"


@pytest.mark.parametrize(
    ("site", "running", "why", "ok", "words"),
    [
        (True, False, None, True, "this site's own"),
        (False, True, None, True, "is up"),
        (False, False, None, None, "not running"),
        (False, False, "this is darwin", None, "impossible here: this is"),
    ],
)
def test_slurm(here, monkeypatch, site, running, why, ok, words):
    monkeypatch.setattr(cluster, "site", lambda: site)
    monkeypatch.setattr(cluster, "running", lambda: running)
    monkeypatch.setattr(cluster, "possible", lambda: why)
    finding = checks.slurm(here)
    assert finding.ok is ok and words in finding.observed


def answer(monkeypatch, *arguments, **broken):
    findings = {
        name: Check(name, True, "fine") for name, _ in checks.CHECKS
    } | {c.name: c for c in broken.values()}
    table = tuple((n, lambda m, n=n: findings[n]) for n in findings)
    monkeypatch.setattr(program, "CHECKS", table)
    monkeypatch.setattr(program, "machine", lambda: Machine(ABOUT, None))
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_exit_code_is_0_though_gpus_are_absent(monkeypatch):
    done = answer(monkeypatch, gpu=Check("GPUs", None, "none", "Borrow."))
    assert done.exit_code == 0
    assert "can build the book" in done.stdout and "Borrow." in done.stdout


@pytest.mark.parametrize("name", program.LAPTOP)
def test_exit_code_is_1_without_the_laptop_set(monkeypatch, name):
    done = answer(monkeypatch, one=Check(name, False, "broken", "Mend it."))
    assert done.exit_code == 1 and "Mend it." in done.stdout


def test_a_check_that_fails_itself_is_a_finding(monkeypatch):
    def breaks(machine):
        raise KeyError("software")

    monkeypatch.setattr(program, "CHECKS", (("Python", breaks),))
    monkeypatch.setattr(program, "machine", lambda: Machine(ABOUT, None))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "KeyError" in done.stdout


def test_json_holds_findings_and_machine(monkeypatch):
    done = answer(monkeypatch, "--json")
    report = json.loads(done.stdout)
    assert report["machine"] == ABOUT
    assert {c["name"] for c in report["checks"]} >= set(program.LAPTOP)
    assert set(report["checks"][0]) == {"name", "ok", "observed", "remedy"}


def test_every_check_here_gives_a_remedy_when_broken():
    # the real checks on the real machine, but for the ranks and Slurm
    about = checks.machine()
    for name, check in checks.CHECKS:
        if name in ("ranks on the CPU", "NCCL", "Slurm"):
            continue
        finding = check(about)
        assert finding.name == name and finding.observed
        assert finding.ok is not False or finding.remedy
