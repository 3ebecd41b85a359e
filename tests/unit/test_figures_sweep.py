"""The figures of a pipeline's sweep draw what its record holds."""

import pytest
from fabricated import Fabricated

from workshop.figures import sweep as figures


def test_every_schedule_stands_beside_the_formula():
    shares = {"1f1b": {8: 0.12, 1: 0.48}, "interleaved": {8: 0.09}}
    summary = {
        f"bubble{{m={m},schedule={schedule}}}": {
            "median": share, "min": share - 0.01, "max": share + 0.02,
        }
        for schedule, by_m in shares.items()
        for m, share in by_m.items()
    }  # fmt: skip
    run = Fabricated(summary, meta={"world_size": 2})
    (axis,) = figures.bubbles(run).axes
    for dashes, v in (("--", 1), (":", 2)):
        formula = next(x for x in axis.lines if x.get_linestyle() == dashes)
        assert list(formula.get_xdata()) == [1, 8]
        due = [100 / (v + 1), 100 / (8 * v + 1)]
        assert list(formula.get_ydata()) == pytest.approx(due)
    plain, chunked = axis.containers
    assert list(plain.lines[0].get_ydata()) == pytest.approx([48, 12])
    assert list(chunked.lines[0].get_ydata()) == pytest.approx([9])
