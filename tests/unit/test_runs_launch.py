"""How a run is launched, and what is said of where it ran."""

import sys

import pytest

from workshop.records import experiments as describe
from workshop.records import launch, node, transports


def experiment(**fields):
    toy = {
        "name": "lab1/toy",
        "title": "",
        "chapter": "",
        "nodes": 1,
        "gpus_per_node": 2,
        "module": "toy",
        "args": ("--x", "a b"),
    }
    return describe.Experiment(**(toy | fields))


def test_command_of_one_node():
    toy = experiment()
    assert launch.command(toy, toy.size()) == [
        "python",
        "-m",
        "workshop.job.one_node",
        "--nproc-per-node",
        "2",
        "-m",
        "toy",
        "--x",
        "a b",
    ]


def test_two_nodes_become_one_on_a_single_machine():
    toy = experiment(nodes=2, gpus_per_node=1)
    command = launch.command(toy, toy.size().on_one_node())
    assert command[:5] == [
        "python",
        "-m",
        "workshop.job.one_node",
        "--nproc-per-node",
        "2",
    ]


def test_command_of_two_nodes_has_rank_0_on_the_first():
    toy = experiment(nodes=2, gpus_per_node=1)
    place = launch.Allocation(2, "node1", 20042)
    command = launch.command(toy, toy.size(), place)
    assert command[:5] == ["srun", "--nodes", "2", "--ntasks", "2"]
    assert command[-1] == (
        "exec torchrun --nnodes 2 --node-rank $SLURM_NODEID "
        "--nproc-per-node 1 --master-addr node1 --master-port 20042 "
        "-m toy --x 'a b'"
    )


def host(name, boot, *gpus):
    return {
        "node": name,
        "host_name": name,
        "boot_id": boot,
        "gpus": [{"model": "G", "host_index": index} for index in gpus],
    }


@pytest.mark.parametrize(
    ("hosts", "words", "gpus"),
    [
        ([host("n1", "a", 0, 1)], "one Slurm node", {"G": 2}),
        (
            [host("n1", "a", 0), host("n2", "a", 1)],
            "two Slurm nodes on one host",
            {"G": 2},
        ),
        (
            [host("n1", "a", 0), host("n2", "a", 0)],
            "two Slurm nodes on one host",
            {"G": 1},
        ),
        (
            [host("n1", "a", 0), host("n2", "b", 0)],
            "two Slurm nodes on hosts of their own",
            {"G": 2},
        ),
    ],
)
def test_layout_is_honest(hosts, words, gpus):
    assert node.layout(hosts, slurm=True) == words
    assert node.gpus(hosts) == gpus


def test_transports_of_nccl(tmp_path):
    (tmp_path / "0.n1.log").write_text(
        "n1:7:9 [0] NCCL INFO Using network Socket\n"
        "n1:7:9 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
        "n1:7:9 [0] NCCL INFO Channel 01 : 0[a100] -> 1[1] [send] via "
        "NET/Socket/0\n"
        "n1:7:9 [0] NCCL INFO Trees [0] 1/-1/-1->0->-1\n"
    )
    used, lines = transports.read(tmp_path)
    assert used == {
        "channels": {"NET/Socket/0": 1, "P2P/CUMEM": 1},
        "networks": ["Socket"],
    }
    assert lines == [
        "Using network Socket",
        "Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
        "Channel 01 : 0[a100] -> 1[1] [send] via NET/Socket/0",
    ]


def test_python_and_torchrun_are_those_of_this_interpreter(tmp_path):
    module = [sys.executable, "-m", "torch.distributed.run"]
    nowhere = str(tmp_path)
    toy = experiment(nodes=2)
    single = launch.command(toy, toy.size().on_one_node())
    command = launch.executable(single, nowhere)
    assert command == [sys.executable, *single[1:]]
    double = launch.command(toy, toy.size(), launch.Allocation(2, "n1", 9))
    command = launch.executable(double, nowhere)
    assert command[-1].startswith(f"exec {' '.join(module)} --nnodes 2")
    assert launch.executable(["python", "-m", "x"], nowhere)[0] == module[0]
    (tmp_path / "torchrun").write_text("#!/bin/sh\n")
    (tmp_path / "torchrun").chmod(0o755)
    assert launch.executable(double, nowhere) == double
