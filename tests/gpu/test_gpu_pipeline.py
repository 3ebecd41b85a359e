"""A pipeline equals the dense model on two GPUs, over NCCL.

The invariants are those of the CPU tests, in float64 on the devices.
"""

from dataclasses import replace

import pytest
import torch.distributed as dist
from pipeline_cases import Case, build, verify
from pool import Pool

from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.timeline import Timeline

CASES = [
    Case(schedule, m, device="cuda")
    for schedule in ("gpipe", "1f1b", "eager-1f1b")
    for m in (1, 3, 8)
] + [Case("interleaved", m, v=2, device="cuda") for m in (2, 4, 8)]
OVER_NCCL = [replace(case, options={"copies": False}) for case in CASES[3:]]


def test_two_stages_equal_the_dense_model_on_gpus(nccl2: Pool) -> None:
    """By copy engines where the ranks can, and over NCCL."""
    verify(nccl2, CASES + OVER_NCCL)


def test_wrapped_stages_equal_the_dense_model_on_gpus(nccl2: Pool) -> None:
    wrapped = Case("1f1b", 3, dp=2, wrap=OverlappedDataParallel)
    verify(nccl2, [replace(wrapped, device="cuda")])


def warm_steps(rank: int, world: int) -> list:
    """Run steps with receives posted ahead; return losses and a trace."""
    case = Case("1f1b", 8, device="cuda", options={"align": True})
    pipeline = build(rank, world, case)
    losses = [
        pipeline.forward_backward(case.micro_batches(0)) for _ in range(4)
    ]
    for name, v in (("gpipe", 1), ("1f1b", 1)):
        pipeline.reorder(make_schedule(name, world, 8, v))
        losses.append(pipeline.forward_backward(case.micro_batches(0)))
    times = pipeline.trace_times()
    dist.barrier()
    pipeline.close()
    return [[loss.item() for loss in losses], times]


def test_receives_ahead_and_times_on_gpus(nccl2: Pool) -> None:
    ranks = nccl2.run(warm_steps)
    for losses, times in ranks:
        assert losses == pytest.approx([losses[0]] * 6, rel=1e-12)
        assert all(t.start < t.end for t in times)
    shares = Timeline([times for _, times in ranks]).shares()
    assert 0 < shares.busy <= 1
