"""`workshop.doctor` reads nvidia-smi rightly and never raises."""

import getpass
import json
import stat
from pathlib import Path

import pytest

from workshop import doctor as hardware
from workshop.doctor import gpus, nvidia_smi, software

TOPOLOGY = (
    "\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\x1b[0m\n"
    "GPU0\t X \tNV18\tSYS\t0-31\t0\t\tN/A\n"
    "GPU1\tNV18\t X \tPHB\t0-31\t0\t\tN/A\n"
    "NIC0\tSYS\tPHB\t X \n"
    "\nLegend:\n\n  X    = Self\n"
    "NIC Legend:\n\n  NIC0: mlx5_0\n"
)
NVLINK = (
    "GPU 0: NVIDIA H200 (UUID: GPU-aa)\n"
    "\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n"
    "GPU 1: NVIDIA H200 (UUID: GPU-bb)\n"
    "\t Link 0: <inactive>\n\t Link 1: 26.562 GB/s\n"
)
QUERY = (
    "0, NVIDIA H200, GPU-aa, 143771, 580.159\n"
    "1, NVIDIA H200, GPU-bb, 143771, 580.159\n"
)


def put_nvidia_smi(folder: Path, monkeypatch, body: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + body)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_topology_is_a_square_matrix_of_link_names():
    found = nvidia_smi.parse_topology(TOPOLOGY)
    assert found == {
        "devices": ["GPU0", "GPU1", "NIC0"],
        "matrix": [
            ["X", "NV18", "SYS"],
            ["NV18", "X", "PHB"],
            ["SYS", "PHB", "X"],
        ],
    }


@pytest.mark.parametrize(
    "text", ["", "no devices were found\n", "\tGPU0\tGPU1\nGPU0\t X \n"]
)
def test_a_missing_or_torn_topology_is_none(text):
    assert nvidia_smi.parse_topology(text) is None


def test_inactive_nvlinks_do_not_count():
    assert nvidia_smi.parse_nvlink(NVLINK) == [
        {"gpu": 0, "links": 2, "gb_per_s": 53.124},
        {"gpu": 1, "links": 1, "gb_per_s": 26.562},
    ]


def test_the_hosts_gpus_come_from_nvidia_smi(tmp_path, monkeypatch):
    (tmp_path / "topology").write_text(TOPOLOGY)
    (tmp_path / "nvlink").write_text(NVLINK)
    (tmp_path / "query").write_text(QUERY)
    put_nvidia_smi(
        tmp_path,
        monkeypatch,
        f'case "$1" in topo) cat {tmp_path}/topology;; '
        f"nvlink) cat {tmp_path}/nvlink;; *) cat {tmp_path}/query;; esac\n",
    )
    monkeypatch.setattr(gpus, "_by_torch", lambda: None)
    found = hardware.describe()
    assert found["host_gpus"] == 2 and found["driver"] == "580.159"
    assert found["links"]["matrix"][0][1] == "NV18"
    assert found["links"]["nvlink"][0]["links"] == 2
    assert [gpu["model"] for gpu in found["gpus"]] == ["NVIDIA H200"] * 2
    assert found["gpus"][1]["memory_gib"] == 140.4


def test_a_visible_gpu_keeps_its_number_on_the_host(monkeypatch):
    class Properties:
        name, uuid, total_memory = "NVIDIA H200", "bb", 140 * 2**30
        major, minor, multi_processor_count = 9, 0, 132

    rows = [
        dict(zip(gpus._FIELDS, line.split(", "), strict=True))
        for line in QUERY.splitlines()
    ]
    monkeypatch.setattr(nvidia_smi, "query", lambda *fields: rows)
    monkeypatch.setattr(gpus, "_by_torch", lambda: [Properties])
    assert gpus.visible_gpus() == [
        {
            "index": 0,
            "host_index": 1,
            "model": "NVIDIA H200",
            "memory_gib": 140.0,
            "compute_capability": "9.0",
            "multiprocessors": 132,
        }
    ]


@pytest.mark.parametrize(
    "body", ["exit 9\n", "echo 'Failed to initialize NVML'; exit 1\n"]
)
def test_a_broken_driver_is_described_as_absent(tmp_path, monkeypatch, body):
    put_nvidia_smi(tmp_path, monkeypatch, body)
    found = hardware.describe()
    assert found["links"] is None and found["driver"] is None


def test_description_is_json_without_names_of_people_or_folders(monkeypatch):
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.setenv("NCCL_TOPO_FILE", f"{Path.home()}/topology.xml")
    text = json.dumps(hardware.describe())
    assert str(Path.home()) not in text
    assert "/home" not in text and "topology.xml" not in text
    if (user := getpass.getuser()) != "root":
        assert user not in text.split('"')
    found = json.loads(text)
    assert found["nccl_variables"]["NCCL_NVLS_ENABLE"] == "0"
    assert set(found["software"]) == {
        "python",
        "torch",
        "triton",
        "numpy",
        "transformers",
        "deepspeed",
        "megatron-core",
        "cuda",
        "nccl",
    }
    assert found["software"]["torch"] and found["host"]["kernel"]


def test_an_absent_package_has_no_version():
    assert software.version("no-such-package-anywhere") is None
