"""Figures of pipelines: boxes from the operations, gaps that are bubbles."""

import itertools

from contrast import contrast
from matplotlib.patches import Rectangle

from workshop.figures import pipeline, style
from workshop.parallel.pipeline.schedule import (
    gpipe,
    interleaved,
    one_f_one_b,
)


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


def test_numbers_can_be_read_on_their_boxes() -> None:
    for colour in pipeline.COLOURS.values():
        assert contrast(colour, style.NEAR_BLACK) >= 4
