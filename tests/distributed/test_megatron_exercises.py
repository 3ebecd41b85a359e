"""The checks of the exercises on Megatron-LM know right from wrong."""

from math import ceil

import pytest
import torch
import torch.distributed as dist
from pool import Pool

from workshop import collectives
from workshop.exercises import megatron as exercises


def by_heads(weight, heads, rank, t):
    h = weight.shape[1]
    parts = weight.view(3, heads, h // heads, h).chunk(t, dim=1)
    return parts[rank].reshape(-1, h)


def microbatches(p, v, share):
    least = max(1, ceil((p - 1) * (1 - share) / (v * share)))
    return least if v == 1 else ceil(least / p) * p


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (
            exercises.check_layer_bytes,
            lambda b, s, h, size, t: 8 * (t - 1) / t * b * s * h * size,
            lambda b, s, h, size, t: 4 * (t - 1) / t * b * s * h * size,
            "sends 512 bytes a rank, not 256.",
        ),
        (
            exercises.check_qkv_cut,
            by_heads,
            lambda weight, heads, rank, t: weight.chunk(t)[rank],
            "with 2 ranks the outputs do not",
        ),
        (
            exercises.check_qkv_cut,
            by_heads,
            lambda weight, heads, rank, t: weight,
            "rank 0 of 2 got the shape",
        ),
        (
            exercises.check_microbatches,
            microbatches,
            lambda p, v, share: ceil((p - 1) / (v * share)),
            "p=4 and v=1 need m=25",
        ),
        (
            exercises.check_microbatches,
            microbatches,
            lambda p, v, share: 0,
            "no number of micro-batches",
        ),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong, says
) -> None:
    assert check(right) == exercises.RIGHT
    assert check(wrong).startswith("Not yet")
    assert says in check(wrong)
    assert check(None) == exercises.MISSING


def target_logits(logits, targets, group):
    """Return each token's target logit, summed over the ranks."""
    width = logits.shape[1]
    local = targets - dist.get_rank(group) * width
    mine = (local >= 0) & (local < width)
    rows = torch.arange(len(targets), device=logits.device)
    target = logits[rows, local.clamp(0, width - 1)] * mine
    collectives.all_reduce(target, group)
    return target


def split_loss(logits, targets, group):
    largest = logits.amax(dim=1)
    collectives.all_reduce(largest, group, dist.ReduceOp.MAX)
    logits = logits - largest[:, None]
    total = logits.exp().sum(dim=1)
    collectives.all_reduce(total, group)
    return total.log() - target_logits(logits, targets, group)


def without_maximum(logits, targets, group):
    total = logits.exp().sum(dim=1)
    collectives.all_reduce(total, group)
    return total.log() - target_logits(logits, targets, group)


def gathered(logits, targets, group):
    n = dist.get_world_size(group)
    whole = logits.new_empty(n * len(logits), logits.shape[1])
    collectives.all_gather(whole, logits, group)
    whole = torch.cat(whole.chunk(n), dim=1)
    return torch.nn.functional.cross_entropy(whole, targets, reduction="none")


def alone(logits, targets, group):
    return torch.zeros(len(targets), dtype=logits.dtype)


def judge(rank: int, world: int, answer) -> str:
    return exercises.check_split_loss(
        answer, dist.group.WORLD, torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (split_loss, exercises.RIGHT),
        (without_maximum, "Not yet: the losses of logits near 1000 are"),
        (gathered, "Not yet: 60 numbers travelled for 6 tokens"),
        (alone, "Not yet: the losses are [0.000, 0.000, 0.000, ...]"),
        (None, exercises.MISSING),
    ],
)
def test_a_split_loss_is_right_stable_and_short(
    pool2: Pool, answer, says
) -> None:
    for verdict in pool2.run(judge, answer):
        assert verdict.startswith(says)
