"""Any text that does the job is right, and each mistake has its hint."""

import pytest

from workshop.exercises import cluster_shell
from workshop.exercises.cluster_shell import RIGHT, check_launcher
from workshop.exercises.cluster_shell import check_node_numbers as check
from workshop.paths import root

BROKEN = """#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
export MASTER_ADDR=localhost
export MASTER_PORT=29500
srun torchrun --nnodes=2 --node-rank=$SLURM_NODEID --nproc-per-node=2 \\
  --master-addr=$MASTER_ADDR --master-port=$MASTER_PORT -m some.module
"""
REPAIRS = (
    ("--ntasks-per-node=2", "--ntasks-per-node=1", "several launchers"),
    ("=localhost", "=$(scontrol show hostnames | head -n 1)", "itself"),
    ("srun torchrun", "srun bash -c 'torchrun", "same node"),
    ("29500", "$((20000 + SLURM_JOB_ID % 10000))", "same port"),
)


@pytest.fixture
def nowhere(monkeypatch) -> None:
    monkeypatch.setattr(cluster_shell.cluster, "available", lambda: False)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("srun -N2 bash -c 'echo $SLURM_NODEID $(hostname)' | sort", None),
        (
            "srun --nodes 2 -n 2 sh -c "
            "'echo $SLURM_PROCID $SLURMD_NODENAME' | sort -n",
            None,
        ),
        ("srun -N1 -n2 sh -c 'echo $SLURM_PROCID $(hostname)'", "both lines"),
        ("srun -N2 -n4 sh -c 'echo $SLURM_NODEID $(hostname)'", "4 lines"),
        ('srun -N2 bash -c "echo 0$SLURM_NODEID $(hostname)"', "node1"),
        ("srun -N2 hostname", "a number and a name"),
        ("srun -N3 hostname", "Node count"),
        ("true", "0 lines"),
        ("srun -N2 --label hostname | tr -d : | sort", None),
        ("srun --nodelist=node1,node2 -N2 -l hostname | tr -d : | sort", None),
        (
            'srun -N2 bash -c "echo $SLURM_NODEID $SLURMD_NODENAME" | sort',
            "the lines are empty",
        ),
    ],
)
def test_a_command_is_judged_by_what_it_does(text, hint) -> None:
    told = check(text)
    assert told == RIGHT if hint is None else hint in told


def test_each_mistake_of_the_script_has_its_hint() -> None:
    script = BROKEN
    for wrong, repaired, hint in REPAIRS:
        assert hint in check_launcher(script)
        script = script.replace(wrong, repaired)
        if "bash -c" in repaired:
            script = script.replace("some.module", "some.module'")
    assert check_launcher(script) == RIGHT


def test_the_books_own_script_and_another_way_are_right() -> None:
    own = (root() / "slurm" / "torchrun_nodes.sbatch").read_text()
    assert check_launcher(own.replace('. "${WORK', 'true "${WORK')) == RIGHT
    other = (
        "#SBATCH -N 2\nset -e\nhead=$(scontrol show hostnames | head -n1)\n"
        "srun --ntasks-per-node=1 python -m torch.distributed.run "
        "--nnodes 2 --nproc_per_node gpu --rdzv_backend c10d "
        "--rdzv_endpoint $head:$((15000 + SLURM_JOB_ID)) train.py"
    )
    assert check_launcher(other) == RIGHT
    assert "no torchrun" in check_launcher("true")
    assert "failed" in check_launcher("exit 3")
