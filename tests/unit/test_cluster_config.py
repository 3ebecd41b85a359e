"""The local cluster's configuration, GPUs, folder and ports."""

import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from workshop.errors import UserError
from workshop.slurm import state
from workshop.slurm.local import config, gpus, hosts, place
from workshop.slurm.state import Layout

TWO_OF_TWO = Layout(
    base="/tmp/c",
    names=("node1", "node2"),
    gpus_per_node=2,
    gpus=("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2", "/dev/nvidia3"),
    real=True,
    hide_gpus=False,
    own_names=True,
    loopback_only=False,
    local_name=False,
    port=20000,
    cpus_per_node=8,
    memory_mib=4000,
)


def test_every_node_gets_its_own_devices() -> None:
    assert config.gres_conf(TWO_OF_TWO).splitlines() == [
        "AutoDetect=off",
        "NodeName=node1 Name=gpu File=/dev/nvidia0,/dev/nvidia1",
        "NodeName=node2 Name=gpu File=/dev/nvidia2,/dev/nvidia3",
    ]


def test_nodes_have_ports_and_host_names_of_their_own() -> None:
    text = config.slurm_conf(TWO_OF_TWO, "me", "machine", "/lib/slurm")
    assert "NodeHostname=node2 NodeAddr=127.0.0.1 Port=20002" in text
    assert "SlurmctldHost=machine(127.0.0.1)\nSlurmctldPort=20000" in text
    shared = replace(TWO_OF_TWO, own_names=False)
    text = config.slurm_conf(shared, "me", "machine", "/lib/slurm")
    assert text.count("NodeHostname=machine ") == 2


def test_machine_without_network_is_told_to_look_further() -> None:
    alone = replace(TWO_OF_TWO, loopback_only=True)
    for here, wanted in ((TWO_OF_TWO, False), (alone, True)):
        text = config.slurm_conf(here, "me", "machine", "/lib/slurm")
        assert ("CommunicationParameters=EnableIPv6\n" in text) == wanted


def test_daemons_listen_on_the_loopback_where_the_name_leads_there() -> None:
    local = replace(TWO_OF_TWO, local_name=True)
    for here, wanted in ((TWO_OF_TWO, False), (local, True)):
        text = config.slurm_conf(here, "me", "machine", "/lib/slurm")
        both = "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny\n"
        assert (both in text) == wanted


def test_without_gpus_nothing_mentions_them() -> None:
    none = replace(TWO_OF_TWO, gpus_per_node=0, gpus=(), real=False)
    text = config.slurm_conf(none, "me", "machine", "/lib/slurm")
    assert "gpu" not in text and "Name=gpu" not in config.gres_conf(none)


@pytest.mark.parametrize(
    ("node", "given", "renamed"),
    [
        ("node1", "0,1", "0,1"),
        ("node2", "0,1", "2,3"),
        ("node2", "1", "3"),
        ("node2", "", None),
        ("node2", "GPU-5d0c", None),
        ("node2", "7", None),
    ],
)
def test_task_prolog_renames_gpus(tmp_path, node, given, renamed) -> None:
    here = replace(TWO_OF_TWO, base=str(tmp_path))
    for number, name in enumerate(here.names):
        (tmp_path / f"gpumap.{name}").write_text(config.gpu_map(here, number))
    done = subprocess.run(
        ["sh", "-c", config.task_prolog(here)],
        env={
            "PATH": "/usr/bin:/bin",
            "SLURMD_NODENAME": node,
            "CUDA_VISIBLE_DEVICES": given,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = f"export CUDA_VISIBLE_DEVICES={renamed}\n" if renamed else ""
    assert done.stdout == wanted


def test_pretended_gpus_hide_real_ones() -> None:
    hidden = replace(TWO_OF_TWO, real=False, hide_gpus=True)
    done = subprocess.run(
        ["sh", "-c", config.task_prolog(hidden)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "export CUDA_VISIBLE_DEVICES=\n"


@pytest.mark.parametrize(
    ("count", "nodes", "each", "real", "expected"),
    [
        (0, 2, None, None, (2, 0, False)),
        (0, 2, 3, None, (3, 0, False)),
        (2, 2, None, None, (1, 2, True)),
        (2, 1, None, True, (2, 2, True)),
        (8, 2, None, None, (4, 8, True)),
        (8, 2, 2, None, (2, 4, True)),
        (2, 2, None, False, (2, 0, False)),
        (2, 2, 0, None, (0, 0, True)),
    ],
)
def test_gpus_are_shared_out(
    monkeypatch, count, nodes, each, real, expected
) -> None:
    devices = [f"/dev/nvidia{number}" for number in range(count)]
    monkeypatch.setattr(gpus, "real_devices", lambda: devices)
    per_node, devices, is_real = gpus.choose(nodes, each, real)
    assert (per_node, len(devices), is_real) == expected


@pytest.mark.parametrize(
    ("count", "nodes", "each", "real", "said"),
    [
        (1, 2, None, None, "need 2 GPUs and this machine has 1"),
        (2, 2, 2, None, "need 4 GPUs and this machine has 2"),
        (0, 2, None, True, "this machine has none"),
    ],
)
def test_too_few_gpus_are_named(
    monkeypatch, count, nodes, each, real, said
) -> None:
    devices = [f"/dev/nvidia{number}" for number in range(count)]
    monkeypatch.setattr(gpus, "real_devices", lambda: devices)
    with pytest.raises(UserError, match=said):
        gpus.choose(nodes, each, real)


def test_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="92 characters"):
        place.check_base(Path("/" + "a" * 91))
    with pytest.raises(UserError, match="must be absolute"):
        place.check_base(Path("here"))
    with pytest.raises(UserError, match="has a character that Slurm"):
        place.check_base(Path("/tmp/für alle"))
    short = Path("/tmp")
    with pytest.raises(UserError, match="holds something else"):
        place.check_base(short)
    place.check_base(Path("/tmp/no-such-cluster"))


def test_layout_survives_its_file(tmp_path: Path) -> None:
    here = replace(TWO_OF_TWO, base=str(tmp_path))
    here.save()
    assert state.load(tmp_path) == here
    (tmp_path / "layout.json").write_text("{}")
    assert state.load(tmp_path) is None
    assert state.load(tmp_path / "none") is None


def test_taken_ports_are_avoided_or_named() -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            place.choose_ports(port, 1)
    with pytest.raises(UserError, match="port 80 is out of range"):
        place.choose_ports(80, 3)
    first = place.choose_ports(None, 3)
    assert all(place.port_is_free(first + n) for n in range(3))


def test_the_last_port_of_all_may_be_taken_and_none_beyond():
    place.check_ports(65530, 6)
    with pytest.raises(UserError, match="between 1024 and 65530"):
        place.check_ports(65531, 6)


def test_only_the_names_of_this_cluster_are_forgotten(tmp_path, monkeypatch):
    known = tmp_path / "hosts"
    others = f"127.0.0.1 node1 {hosts.mark(Path('/tmp/c2'))}\n"
    ours = f"127.0.0.1 node2 {hosts.mark(Path('/tmp/c'))}\n"
    known.write_text(others + ours)
    monkeypatch.setattr(hosts, "Path", lambda _: known)
    hosts.forget(Path("/tmp/c"))
    assert known.read_text() == others
