"""The checks of chapter 03's exercises know right from wrong."""

from itertools import product
from math import ceil

import pytest

from workshop.estimate.pipeline import bubble_over_total
from workshop.exercises import layouts as exercises


def fewest(p, v, share):
    step = p if v > 1 else 1
    return next(
        m
        for m in range(step, 10_000, step)
        if bubble_over_total(p, m, v) <= share
    )


def cheaper(layers, activation, gradients, inside, between):
    def talk(alpha, beta, calls, size):
        return calls * (alpha + size / beta)

    def both(tensor, data):
        return talk(*tensor, 4 * layers, activation) + talk(
            *data, 1, gradients / 2
        )

    return "tp" if both(inside, between) <= both(between, inside) else "dp"


def balanced(layers, stages, head):
    cuts = (
        cut
        for cut in product(range(1, layers + 1), repeat=stages)
        if sum(cut) == layers
    )
    return min(cuts, key=lambda cut: max(*cut[:-1], cut[-1] + head))


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (
            exercises.check_micro_batches,
            fewest,
            lambda p, v, share: ceil((p - 1) / (v * share)),
            "with 15 micro-batches; at most 0.07 takes 14",
        ),
        (
            exercises.check_micro_batches,
            fewest,
            lambda p, v, share: ceil((p - 1) * (1 - share) / (share * v)),
            "micro-batches come in multiples of p = 8, and 13 is none",
        ),
        (
            exercises.check_placement,
            cheaper,
            lambda *_: "tp",
            "tp inside the node talks for 0.4354 s a step and dp for 0.0156 s",
        ),
        (
            exercises.check_placement,
            cheaper,
            lambda *_: "pp",
            "'pp' is neither",
        ),
        (
            exercises.check_cut,
            balanced,
            lambda layers, stages, head: [layers // stages] * stages,
            "[12, 12] costs 14 layers with a head of 2, and 13 is possible",
        ),
        (
            exercises.check_cut,
            balanced,
            lambda layers, stages, head: [layers],
            "[24] does not cut 24 layers into 2 stages",
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
