"""The whole pretraining on the ranks of a pool, and what it reports."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pool import groups_closed

STEPS = 4


def pretrain(rank, world, folder, *argv):
    """Run the whole entry point on a rank of the pool; return the events.

    On CUDA where the pool's ranks have GPUs.
    """
    from workshop.job.launch import Job
    from workshop.lab1.pretrain_gpt import run
    from workshop.lab1.pretrain_options import parse

    os.environ["WORKSHOP_CACHE"] = f"{folder}/cache"
    metrics = Path(folder) / "metrics.jsonl"
    args = parse(
        [
            "--steps",
            str(STEPS),
            "--corpus-mib",
            "0.2",
            "--metrics",
            str(metrics),
            *argv,
        ]
    )
    device = torch.device("cpu")
    if dist.get_backend(dist.group.WORLD) != "gloo":
        device = torch.device("cuda", torch.cuda.current_device())
    # The ranks of a pool live through many models, each compiled anew.
    torch._dynamo.reset()
    with groups_closed():
        run(Job(rank, world, device), args)
    lines = metrics.read_text().splitlines() if rank == 0 else []
    return [json.loads(line) for line in lines]


def refused(rank, world, folder, *argv):
    """Return what the entry point refuses, as this rank raises it."""
    from workshop.job.launch import AgreedError

    with pytest.raises(AgreedError) as raised:
        pretrain(rank, world, folder, *argv)
    return str(raised.value)


def values(events):
    """Return step, loss and gradient norm of every step."""
    return [
        (e["step"], e["loss"], e["grad_norm"])
        for e in events
        if e["event"] == "step"
    ]
