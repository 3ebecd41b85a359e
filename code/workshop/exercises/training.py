"""Checks for the exercises of chapter 02: each says what it found.

An answer of None is one that was not given yet.
"""

from collections.abc import Callable
from math import ceil, isclose

import torch
import torch.distributed as dist
from torch import Tensor

from workshop.collectives import count, ring_bytes

RIGHT = "Right."
MISSING = "Not answered yet: put your answer where None stands."


def check_step_bytes(answer: Callable[[int, int, int], float] | None) -> str:
    """Judge a function of parameters, bytes of an element and ranks.

    It returns the bytes that a rank sends to average all gradients once.
    """
    if answer is None:
        return MISSING
    for parameters, size, ranks in ((1000, 2, 1), (1000, 2, 4), (60, 4, 3)):
        due = ring_bytes("all_reduce", parameters * size, ranks)
        sent = answer(parameters, size, ranks)
        if not isclose(sent, due, rel_tol=1e-6, abs_tol=1e-9):
            return (
                f"Not yet: {parameters} gradients of {size} bytes on {ranks} "
                f"ranks are {float(due):g} bytes, not {sent:g}."
            )
    return RIGHT


def check_accumulation(
    answer: Callable[[float, float, float], int] | None,
) -> str:
    """Judge a function of all-reduce s, micro-batch s and a share.

    It returns the fewest micro-batches a step with which a naive average
    takes at most that share of the step.
    """
    if answer is None:
        return MISSING
    for talk, batch, share in ((0.9, 0.25, 0.1), (0.01, 0.25, 0.5)):
        due = max(1, ceil(talk * (1 - share) / (share * batch)))
        m = answer(talk, batch, share)
        if m != due:
            part = talk / (talk + m * batch)
            return (
                f"Not yet: with an all-reduce of {talk:g} s and micro-batches"
                f" of {batch:g} s, {m} of them leave it {part:.3f} of "
                f"the step; at most {share:g} takes {due}."
            )
    return RIGHT


def check_one_message(
    answer: Callable[[list[Tensor]], None] | None,
    group: dist.ProcessGroup,
    device: torch.device,
) -> str:
    """Judge a function that averages gradients, in place, in one message.

    Every rank of `group` calls this; the function gets a list of tensors.
    """
    if answer is None:
        return MISSING
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    gradients = [
        torch.full(shape, float(rank + place), device=device)
        for place, shape in enumerate([(3, 2), (5,), (1, 4)])
    ]
    with count() as ledger:
        answer(gradients)
    for place, gradient in enumerate(gradients):
        due = torch.full_like(gradient, place + (ranks - 1) / 2)
        if not torch.allclose(gradient, due):
            return (
                f"Not yet: gradient {place} is {gradient.flatten()[0]:g} and "
                f"the mean over the ranks is {due.flatten()[0]:g}."
            )
    if ledger.calls != 1:
        return f"Not yet: {ledger.calls} messages were counted, one is due."
    return RIGHT
