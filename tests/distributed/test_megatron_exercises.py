"""The checks of the exercises on Megatron-LM know right from wrong."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pool import Pool

from workshop import collectives
from workshop.exercises import megatron as exercises
from workshop.parallel.tensor.mappings import copy_to, reduce_from


def by_heads(weight, heads, rank, t):
    h = weight.shape[1]
    parts = weight.view(3, heads, h // heads, h).chunk(t, dim=1)
    return parts[rank].reshape(-1, h)


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
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
            exercises.check_planted,
            exercises.PLANTED,
            dict.fromkeys("ABC", "f left out"),
            "give each of A, B and C one of",
        ),
        (
            exercises.check_planted,
            exercises.PLANTED,
            dict(zip("ABC", sorted(exercises.PLANTED.values()))),
            "look at A again",
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


def unsummed(x, name):
    return x


def mlp(x, a, b, bias, group, twice=False, early=False, enter=copy_to):
    rank, t, name = group.rank(), group.size(), group.group_name
    columns, rows = a.chunk(t, dim=1)[rank], b.chunk(t)[rank]
    addend = F.gelu(enter(x, name) @ columns) @ rows
    z = reduce_from(addend + bias * early, name) + bias * (not early)
    return copy_to(z, name) if twice else z


def uncut(x, a, b, bias, group):
    return F.gelu(x @ a) @ b + bias


def part_of_the_bias(x, a, b, bias, group):
    return mlp(x, a, b, bias / group.size(), group, early=True)


def bias_on_one_rank(x, a, b, bias, group):
    return mlp(x, a, b, bias * (group.rank() == 0), group)


def judge_layers(rank: int, world: int, answer) -> str:
    return exercises.check_layers(
        answer, dist.group.WORLD, torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (mlp, exercises.RIGHT),
        (partial(mlp, early=True), "Not yet: the output is not the dense"),
        (partial(mlp, twice=True), "Not yet: it is right, and sends more"),
        (partial(mlp, enter=unsummed), "Not yet: forward is right, and the"),
        (uncut, "Not yet: the gradient of this rank's columns of A"),
        (part_of_the_bias, "Not yet: all is right but the gradient of the"),
        (None, exercises.MISSING),
    ],
)
def test_two_layers_are_right_and_short(pool2: Pool, answer, says) -> None:
    for verdict in pool2.run(judge_layers, answer):
        assert verdict.startswith(says)


def test_a_rank_that_is_right_waits_for_no_other(pool2: Pool) -> None:
    first, second = pool2.run(judge_layers, bias_on_one_rank)
    assert first.startswith("Not yet: forward is right")
    assert second.startswith("Not yet: the output is not the dense")


def symptoms(rank: int, world: int) -> dict:
    return {
        letter: exercises.planted(
            letter, dist.group.WORLD, torch.device("cpu")
        )
        for letter in exercises.PLANTED
    }


def test_each_planted_bug_has_its_own_symptom(pool2: Pool) -> None:
    for shown in pool2.run(symptoms):
        by_bug = {exercises.PLANTED[x]: shown[x] for x in shown}
        one = pytest.approx(1)
        assert by_bug["g sums backward"] == (one, pytest.approx(2))
        assert by_bug["bias before g"][1] == one != by_bug["bias before g"][0]
        output, gradient = by_bug["f left out"]
        assert output == one and gradient != one
