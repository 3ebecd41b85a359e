"""Figures of pipelines: boxes from the operations, gaps that are bubbles."""

import itertools
import json
from pathlib import Path

import pytest
from contrast import contrast
from fabricated import Fabricated
from matplotlib.patches import Rectangle

from workshop.errors import UserError
from workshop.figures import pipeline, style
from workshop.parallel.pipeline.schedule import (
    gpipe,
    interleaved,
    make_schedule,
    one_f_one_b,
)
from workshop.parallel.pipeline.simulator import simulate
from workshop.parallel.pipeline.timeline import Timeline


def boxes(figure) -> list[Rectangle]:
    (axis,) = figure.axes
    return [p for p in axis.patches if isinstance(p, Rectangle)]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_operation_is_a_box_in_its_rank_s_row() -> None:
    named = {"GPipe": gpipe(4, 6), "1F1B": one_f_one_b(4, 6)}
    figure = pipeline.schedule_diagram(named)
    drawn = boxes(figure)
    assert len(drawn) == 2 * 4 * 12
    # Boxes of a row do not overlap, and their widths are the costs.
    rows = {}
    for box in drawn:
        rows.setdefault(box.get_y(), []).append(box)
    assert len(rows) == 8
    for row in rows.values():
        spans = sorted((b.get_x(), b.get_x() + b.get_width()) for b in row)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert sum(b.get_width() for b in row) == 6 * 3
    said = texts(figure)
    assert "GPipe" in said
    assert said.count(f"bubble {3 / 9:.1%}") == 2
    assert said.count("5") == 16
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [f"rank {r}" for r in range(4)] * 2


def test_chunks_take_their_share_and_look_different() -> None:
    figure = pipeline.schedule_diagram({"interleaved": interleaved(2, 4, 2)})
    drawn = boxes(figure)
    assert {box.get_width() for box in drawn} == {0.5, 1.0}
    assert sum(box.get_facecolor()[3] == 0 for box in drawn) == len(drawn) / 2
    legend = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert legend == [
        "forward, first chunk",
        "backward, first chunk",
        "forward, second chunk",
        "backward, second chunk",
    ]
    assert f"bubble {1 / 9:.1%}" in texts(figure)


def trace(schedule, seconds: float = 1e-3, late: float = 0.0) -> Timeline:
    """Return a simulated step in seconds that starts at any moment."""
    made = simulate(schedule, [2, 1], [4, 2], communication=late)
    return Timeline(
        [
            [
                timed._replace(
                    start=7 + seconds * timed.start,
                    end=7 + seconds * timed.end,
                )
                for timed in operations
            ]
            for operations in made.ranks
        ]
    )


def test_a_trace_stands_beside_the_simulation_of_its_stages() -> None:
    schedule = one_f_one_b(2, 4)
    figure = pipeline.executed_beside_simulated(schedule, trace(schedule))
    drawn = boxes(figure)
    half = len(drawn) // 2
    # Without communication the two are the same, in milliseconds from 0.
    for real, promised in zip(drawn[:half], drawn[half:], strict=True):
        assert real.get_x() == pytest.approx(promised.get_x(), abs=1e-6)
        assert real.get_width() == pytest.approx(promised.get_width())
    assert min(box.get_x() for box in drawn) == pytest.approx(0)
    assert "executed" in texts(figure)
    assert any(", imbalance 2" in text for text in texts(figure))


def test_communication_makes_the_trace_longer() -> None:
    schedule = one_f_one_b(2, 4)
    drawn = boxes(
        pipeline.executed_beside_simulated(
            schedule, trace(schedule, late=0.5)
        )
    )
    half = len(drawn) // 2
    ends = [max(b.get_x() + b.get_width() for b in part)
            for part in (drawn[:half], drawn[half:])]  # fmt: skip
    assert ends[0] > ends[1] + 0.9


def test_a_recorded_trace_is_drawn_from_its_artifact(tmp_path: Path) -> None:
    step = trace(make_schedule("1f1b", 2, 4))
    assert Timeline.from_rows(step.rows()).ranks == step.ranks
    (tmp_path / "pipeline.json").write_text(json.dumps(step.rows()))
    figure = pipeline.recorded_beside_simulated(
        Fabricated(folder=tmp_path), "pipeline.json"
    )
    assert len(boxes(figure)) == 2 * 2 * 8
    assert "<svg" in style.svg(figure)


@pytest.mark.parametrize("text", [None, "[[[1, 2]]]", "nothing", "3"])
def test_what_is_no_trace_is_one_sentence(tmp_path: Path, text) -> None:
    if text is not None:
        (tmp_path / "pipeline.json").write_text(text)
    with pytest.raises(UserError, match="no pipeline trace pipeline.json"):
        pipeline.recorded_beside_simulated(
            Fabricated(folder=tmp_path), "pipeline.json"
        )


def test_a_trace_of_another_schedule_is_one_sentence() -> None:
    step = trace(one_f_one_b(2, 4))
    with pytest.raises(UserError, match="other operations than the schedule"):
        pipeline.executed_beside_simulated(gpipe(2, 4), step)


def test_numbers_can_be_read_on_their_boxes() -> None:
    for colour in pipeline.COLOURS.values():
        assert contrast(colour, style.NEAR_BLACK) >= 4
