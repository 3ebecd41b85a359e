"""`workshop.doctor` reads NVML rightly and never raises."""

import getpass
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from workshop import doctor as hardware
from workshop.doctor import gpus, nvml, software

SWITCH = (0, 200, 0)
H200 = "NVIDIA H200"


class Error(Exception):
    """What the library raises."""


class Nvml:
    """NVML of a host whose GPU i sits on PCI bus i + 1.

    `ends` gives for each GPU where its active NVLinks end; None is a
    link whose end the driver does not tell.  `ways` is NVML's number for
    a pair without NVLinks.
    """

    NVMLError = Error
    NVML_NVLINK_MAX_LINKS = 36
    NVML_NVLINK_DEVICE_TYPE_GPU = 0
    NVML_NVLINK_DEVICE_TYPE_IBMNPU = 1
    NVML_FI_DEV_NVLINK_GET_SPEED = 164
    NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON = 90

    def __init__(self, *ends, ways=50, old=False, refuses=()):
        self.ends, self.ways, self.old = ends, ways, old
        self.refuses = refuses
        self.open = 0

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in self.refuses:
            raise Error(name)
        return object.__getattribute__(self, name)

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.ends)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlSystemGetDriverVersion(self):
        return "580.159"

    def nvmlDeviceGetName(self, handle):
        return H200

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{'ab'[handle % 2] * 2}"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=143771 * 2**20)

    def nvmlDeviceGetPciInfo(self, handle):
        return SimpleNamespace(domain=0, bus=handle + 1, device=0)

    def nvmlDeviceGetNvLinkState(self, handle, number):
        if number >= 18:
            raise Error("no such link")
        return int(number < len(self.ends[handle]))

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle, number):
        if (end := self.ends[handle][number]) is None:
            raise Error("not supported")
        domain, bus, device = end
        return SimpleNamespace(domain=domain, bus=bus, device=device)

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle, number):
        if (end := self.ends[handle][number]) is None:
            raise Error("not supported")
        return 2 if end == SWITCH else 0

    def nvmlDeviceGetTopologyCommonAncestor(self, one, other):
        return self.ways

    def nvmlDeviceGetFieldValues(self, handle, asked):
        scoped = isinstance(asked[0], tuple)
        return [
            SimpleNamespace(
                nvmlReturn=3 if scoped and self.old else 0,
                value=SimpleNamespace(uiVal=26562),
            )
            for _ in asked
        ]


@pytest.fixture
def host(monkeypatch):
    """Return a function that makes a library that of this host."""

    def use(library):
        monkeypatch.setattr(nvml, "pynvml", library)
        monkeypatch.setattr(gpus, "_by_torch", lambda: None)
        return library

    return use


def gpu_at(index):
    return (0, index + 1, 0)


@pytest.mark.parametrize("end", [SWITCH, None])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("old", [False, True])
def test_links_to_a_switch_reach_every_gpu(host, end, count, old):
    library = host(Nvml(*[[end] * 18] * count, old=old))
    links = nvml.links()
    assert links["devices"] == [f"GPU{n}" for n in range(count)]
    for i, row in enumerate(links["matrix"]):
        assert row == ["X" if i == j else "NV18" for j in range(count)]
    assert links["nvlink"] == [
        {"gpu": n, "links": 18, "gb_per_s": 478.116} for n in range(count)
    ]
    assert library.open == 0


def test_links_between_gpus_count_pair_by_pair(host):
    host(
        Nvml(
            [gpu_at(1)] * 4 + [gpu_at(2)] * 2,
            [gpu_at(0)] * 4,
            [gpu_at(0)] * 2,
            [(0, 77, 0)] * 3,  # a GPU that this container does not see
            ways=40,
        )
    )
    assert nvml.links()["matrix"] == [
        ["X", "NV4", "NV2", "NODE"],
        ["NV4", "X", "NODE", "NODE"],
        ["NV2", "NODE", "X", "NODE"],
        ["NODE", "NODE", "NODE", "X"],
    ]


@pytest.mark.parametrize(("ways", "name"), nvml.WAYS.items())
def test_without_nvlink_the_way_over_pcie_is_named(host, ways, name):
    host(Nvml([], [], ways=ways))
    assert nvml.links() == {
        "devices": ["GPU0", "GPU1"],
        "matrix": [["X", name], [name, "X"]],
        "nvlink": [],
    }


def test_one_gpu_has_no_links(host):
    host(Nvml([]))
    assert nvml.links() == {
        "devices": ["GPU0"],
        "matrix": [["X"]],
        "nvlink": [],
    }


def test_a_way_that_nobody_knows_leaves_the_matrix_out(host):
    host(Nvml([], [], refuses=["nvmlDeviceGetTopologyCommonAncestor"]))
    assert nvml.links() == {"devices": [], "matrix": [], "nvlink": []}


@pytest.mark.parametrize(
    "library",
    [None, Nvml(), Nvml([], refuses=["nvmlInit"])],
    ids=["no library", "no GPU", "no driver"],
)
def test_what_cannot_be_asked_is_described_as_absent(host, library):
    host(library)
    machine = hardware.describe()
    assert (machine["links"], machine["driver"], machine["gpus"]) == (
        None,
        None,
        [],
    )
    assert machine["host_gpus"] == 0


@pytest.mark.parametrize(
    "name", [name for name in dir(Nvml) if name.startswith("nvml")]
)
def test_any_refusal_is_survived(host, name):
    host(Nvml([SWITCH], [SWITCH], refuses=[name]))
    json.dumps(hardware.describe())


def test_the_hosts_gpus_come_from_the_driver(host):
    host(Nvml([SWITCH] * 18, [SWITCH] * 18))
    machine = hardware.describe()
    assert machine["host_gpus"] == 2 and machine["driver"] == "580.159"
    assert machine["links"]["matrix"][0][1] == "NV18"
    assert [gpu["model"] for gpu in machine["gpus"]] == [H200] * 2
    assert machine["gpus"][1]["memory_gib"] == 140.4


def test_a_visible_gpu_keeps_its_number_on_the_host(host, monkeypatch):
    class Properties:
        name, uuid, total_memory = H200, "bb", 140 * 2**30
        major, minor, multi_processor_count = 9, 0, 132

    host(Nvml([], []))
    monkeypatch.setattr(gpus, "_by_torch", lambda: [Properties])
    assert gpus.visible_gpus() == [
        {
            "index": 0,
            "host_index": 1,
            "model": H200,
            "memory_gib": 140.0,
            "compute_capability": "9.0",
            "multiprocessors": 132,
        }
    ]


def test_description_is_json_without_names_of_people_or_folders(monkeypatch):
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.setenv("NCCL_TOPO_FILE", f"{Path.home()}/topology.xml")
    text = json.dumps(hardware.describe())
    assert str(Path.home()) not in text
    assert "/home" not in text and "topology.xml" not in text
    if (user := getpass.getuser()) != "root":
        assert user not in text.split('"')
    machine = json.loads(text)
    assert machine["nccl_variables"]["NCCL_NVLS_ENABLE"] == "0"
    assert set(machine["software"]) == {
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
    assert machine["software"]["torch"] and machine["host"]["kernel"]


def test_an_absent_package_has_no_version():
    assert software.version("no-such-package-anywhere") is None
