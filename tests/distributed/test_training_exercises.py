"""The checks of chapter 02's exercises know right from wrong."""

from math import ceil

import pytest
import torch
import torch.distributed as dist
from pool import Pool

from workshop import collectives
from workshop.exercises import training as exercises


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (
            exercises.check_step_bytes,
            lambda parameters, size, n: 2 * (n - 1) / n * parameters * size,
            lambda parameters, size, n: 2 * parameters * size,
        ),
        (
            exercises.check_accumulation,
            lambda talk, batch, share: max(
                1, ceil(talk * (1 - share) / (share * batch))
            ),
            lambda talk, batch, share: ceil(talk / batch),
        ),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong
) -> None:
    assert check(right) == exercises.RIGHT
    assert check(wrong).startswith("Not yet")
    assert check(None) == exercises.MISSING


def in_one_message(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    collectives.all_reduce(flat, dist.group.WORLD)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def one_by_one(gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        collectives.all_reduce(gradient, dist.group.WORLD)
        gradient /= dist.get_world_size()


def nothing(gradients: list[torch.Tensor]) -> None:
    pass


def judge(rank: int, world: int, answer) -> str:
    return exercises.check_one_message(
        answer, dist.group.WORLD, torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (in_one_message, exercises.RIGHT),
        (one_by_one, "Not yet: 3 messages were counted, one is due."),
        (nothing, "Not yet: gradient 0 is"),
        (None, exercises.MISSING),
    ],
)
def test_one_message_is_counted(pool2: Pool, answer, says) -> None:
    for verdict in pool2.run(judge, answer):
        assert verdict.startswith(says)
