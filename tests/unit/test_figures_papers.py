"""The papers' tables agree with their formulas, and figures draw them."""

import pytest
from contrast import contrast
from matplotlib.figure import Figure

from workshop.estimate.parameters import (
    gpt_parameters,
    narayanan_parameters,
)
from workshop.estimate.published import NARAYANAN_2021, SHOEYBI_2019
from workshop.figures import style
from workshop.figures.drawn import drawn
from workshop.figures.papers import (
    bubble_over_micro_batches,
    published_speeds,
)

PEAK = 312  # TFLOP/s of an A100


@pytest.mark.parametrize("row", SHOEYBI_2019, ids=lambda r: f"{r.billions}B")
def test_table_1_of_2019_at_its_printed_precision(row) -> None:
    P = gpt_parameters(row.layers, row.hidden, 1024, 51200)
    assert f"{P / 1e9:.1f}" == str(row.billions)
    assert row.hidden == 96 * row.heads
    assert row.heads % row.tensor == 0
    assert row.gpus == 64 * row.tensor


@pytest.mark.parametrize(
    "row", NARAYANAN_2021, ids=lambda r: f"{r.billions}B"
)
def test_table_1_of_2021_agrees_with_itself(row) -> None:
    P = narayanan_parameters(row.layers, row.hidden, 2048, 51200)
    assert f"{P / 1e9:.1f}" == str(row.billions)
    assert row.tensor * row.pipeline * row.data == row.gpus
    assert row.batch % row.data == 0
    assert round(100 * row.tflops / PEAK) == row.percent
    # Both are rounded: to 1 TFLOP/s of each GPU and to 0.1 PFLOP/s of all.
    pflops = row.gpus * row.tflops / 1e3
    assert pflops == pytest.approx(row.pflops, abs=row.gpus * 5e-4 + 0.05)


def test_simulated_bubbles_lie_on_the_formula() -> None:
    (axis,) = bubble_over_micro_batches(4, (1, 2, 4)).axes
    assert len(axis.lines) == 6
    for line, points in zip(axis.lines[::2], axis.lines[1::2], strict=True):
        assert list(points.get_xdata()) == [4, 8, 16]
        assert list(points.get_ydata()) == pytest.approx(
            list(line.get_ydata())
        )
    assert axis.lines[0].get_ydata()[0] == pytest.approx(75.0)


def test_speeds_draws_every_row_of_the_table() -> None:
    figure = published_speeds()
    (axis,) = figure.axes
    labels = [text.get_text() for text in axis.texts]
    assert labels[0] == "1×1×32" and labels[-1] == "8×64×6"
    assert list(axis.lines[0].get_ydata())[-1] == 163
    assert len(labels) == len(NARAYANAN_2021)


@pytest.mark.parametrize(
    "draw", [bubble_over_micro_batches, published_speeds]
)
def test_a_figure_is_legible_in_light_and_dark(draw) -> None:
    figure = draw()
    assert isinstance(figure, Figure)
    for axis in figure.axes:
        for line in axis.lines:
            for page in (style.WHITE, style.NEAR_BLACK):
                assert contrast(line.get_color(), page) >= 3
    assert drawn(figure).data.startswith("<svg")
    assert "8×64×6" in drawn(published_speeds()).data
