"""The figures of a pipeline's sweep draw what its record holds."""

import json

import pytest
from fabricated import Fabricated

from workshop.errors import UserError
from workshop.figures import sweep as figures
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.simulator import simulate


def test_the_bubble_stands_beside_the_formula():
    summary = {
        f"bubble{{m={m},schedule=1f1b}}": {
            "median": share, "min": share - 0.01, "max": share + 0.02,
        }
        for m, share in ((8, 0.12), (1, 0.48))
    }  # fmt: skip
    summary["bubble{m=4,schedule=gpipe}"] = {
        "median": 0.9, "min": 0.9, "max": 0.9,
    }  # fmt: skip
    run = Fabricated(summary, meta={"world_size": 2})
    (axis,) = figures.bubbles(run).axes
    formula = next(x for x in axis.lines if x.get_linestyle() == "--")
    assert list(formula.get_xdata()) == [1, 8]
    assert list(formula.get_ydata()) == pytest.approx([50, 100 / 9])
    (points,) = axis.containers
    assert list(points.lines[0].get_ydata()) == pytest.approx([48, 12])


def test_the_trace_is_drawn_from_its_file(tmp_path):
    run = Fabricated(folder=tmp_path)
    with pytest.raises(UserError, match="has no pipeline trace"):
        figures.trace(run)
    timeline = simulate(make_schedule("1f1b", 2, 8), 1, 2)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / figures.TRACE).write_text(json.dumps(timeline.rows()))
    boxes = [len(axis.patches) for axis in figures.trace(run).axes]
    assert sum(boxes) >= 2 * 2 * 2 * 8  # both, ranks, passes, micro-batches
