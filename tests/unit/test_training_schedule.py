"""Warmup and cosine, at the points that can be worked out by hand."""

import pytest

from workshop.training.schedule import learning_rate


def rate(step):
    return learning_rate(step, peak=1.0, warmup=10, steps=110)


def test_it_rises_linearly_to_the_peak():
    assert [rate(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_it_falls_along_half_a_cosine_to_a_tenth():
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.55)
    assert rate(110) == pytest.approx(0.1)
    assert rate(10_000) == pytest.approx(0.1)
    falling = [rate(s) for s in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_without_warmup_it_starts_at_the_peak():
    assert learning_rate(0, peak=3.0, warmup=0, steps=5) == 3.0


def test_a_warmup_longer_than_the_run_stays_below_the_peak():
    rates = [learning_rate(s, 1.0, warmup=8, steps=4) for s in range(4)]
    assert rates == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])
