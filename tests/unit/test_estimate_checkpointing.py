"""When to save: Daly's published optima, his formula, and the dice."""

from random import Random

import pytest

from workshop.estimate.checkpointing import (
    daly,
    mtbf_of,
    overhead,
    simulated_overhead,
    young,
)

DUMP, RESTART = 5, 10  # minutes, in the captions of Daly's figures 3 to 5


@pytest.mark.parametrize(
    ("mtbf", "published"), [(24 * 60, "117"), (6 * 60, "57"), (15, "9.1")]
)
def test_dalys_figures_at_their_printed_precision(mtbf, published) -> None:
    digits = len(published.partition(".")[2])
    assert f"{daly(DUMP, mtbf):.{digits}f}" == published


def test_young_is_daly_where_saving_is_short() -> None:
    assert young(1e-8, 1) == pytest.approx(daly(1e-8, 1), rel=1e-3)
    assert young(5, 1440) == 120


def test_a_checkpoint_that_takes_too_long_is_written_once_a_failure() -> None:
    assert daly(3, 1) == 1


@pytest.mark.parametrize("mtbf", [24 * 60, 6 * 60, 60])
def test_the_optimum_loses_less_than_its_neighbours(mtbf) -> None:
    best = daly(DUMP, mtbf)
    at_best = overhead(best, DUMP, mtbf, RESTART)
    for factor in (0.9, 1.1):
        assert overhead(factor * best, DUMP, mtbf, RESTART) > at_best


def test_the_loss_to_first_order() -> None:
    dump, mtbf = 1e-6, 1.0
    lost = overhead(young(dump, mtbf), dump, mtbf)
    assert lost == pytest.approx((2 * dump / mtbf) ** 0.5, rel=2e-3)


@pytest.mark.parametrize("interval", [1, 20, 57, 200, 1000])
@pytest.mark.parametrize("restart", [0, 10])
def test_no_interval_loses_less_than_the_first_order(
    interval, restart
) -> None:
    least = (2 * DUMP / 360) ** 0.5
    assert overhead(interval, DUMP, 360, restart) > least


@pytest.mark.parametrize("interval", [30, 117, 400])
def test_the_dice_agree_with_the_formula(interval) -> None:
    dice = Random(0)
    lost = [
        simulated_overhead(500, interval, DUMP, 1440, RESTART, dice)
        for _ in range(40)
    ]
    expected = overhead(interval, DUMP, 1440, RESTART)
    assert sum(lost) / len(lost) == pytest.approx(expected, rel=0.05)


def test_without_failures_only_the_dumps_are_lost() -> None:
    lost = simulated_overhead(10, 95, 5, 1e12, 0, Random(0))
    assert lost == pytest.approx(5 / 95)


def test_many_nodes_fail_as_often_as_there_are_nodes() -> None:
    assert mtbf_of(2048, 4096) == 2
