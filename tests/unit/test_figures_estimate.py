"""Figures of predictions from fabricated records: what they draw."""

from dataclasses import asdict

import pytest
from fabricated import Fabricated

from workshop.errors import UserError
from workshop.estimate.communication import link
from workshop.estimate.memory import DEVICES, largest_stage
from workshop.figures import estimate as drawn
from workshop.figures import style
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.records.predict.ranks import predict

LINKS = {axis: link(20.0, 300.0) for axis in ("dp", "tp", "pp")}
MODEL = asdict(CONFIGS["gpt-1.3b"])


@pytest.fixture
def ranks():
    """A run of one_rank: one device, two stages, two tensor ranks."""
    summary = {}
    stages = [("dp1", 0, 60), ("pp2", 0, 32), ("pp2", 1, 30), ("tp2", 0, 31)]
    for name, stage, work in stages:
        key = f"{{layout={name},micro_batch=4,stage={stage}}}"
        for part, share in (("forward", 1 / 3), ("backward", 2 / 3)):
            summary[f"{part}_ms{key}"] = {"median": work * share}
        summary[f"update_ms{key}"] = {"median": 8.0 - stage}
    return Fabricated(summary, meta={"model": "gpt-1.3b"})


def test_a_layout_is_predicted_from_its_ranks(ranks):
    alone = predict(ranks, "dp1", 4, {})
    assert alone["total"] == pytest.approx(0.068)
    both = predict(ranks, "pp2", 4, LINKS, num_microbatches=8)
    assert both["compute"] == pytest.approx(8 * 0.031)
    assert both["imbalance"] == pytest.approx(8 * 0.001)
    assert both["bubble"] == pytest.approx(0.030)
    assert both["optimizer"] == pytest.approx(0.008)
    with pytest.raises(UserError, match="not measured tp4"):
        predict(ranks, "tp4", 4, LINKS)
    with pytest.raises(UserError, match="micro-batches of 16"):
        predict(ranks, "tp2", 16, LINKS)


def lengths(figure, colour):
    (axis,) = figure.axes
    return [
        bar.get_width()
        for bar in axis.patches
        if bar.get_width() and bar.get_facecolor() == colour
    ]


def rgba(colour):
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def test_predicted_parts_stand_beside_the_measured_step(ranks):
    parts = predict(ranks, "tp2", 4, LINKS)
    entry = {"median": 0.05, "min": 0.049, "max": 0.052}
    figure = drawn.predicted_beside_measured(
        {"recorded": (parts, entry), "planned": (parts, None)}
    )
    (axis,) = figure.axes
    assert lengths(figure, rgba(style.BLUE)) == pytest.approx([31.0, 31.0])
    measured = [
        bar.get_width()
        for bar in axis.patches
        if bar.get_facecolor()[3] == 0 and bar.get_width()
    ]
    assert measured == pytest.approx([50.0])
    off = 100 * (parts["total"] / 0.05 - 1)
    assert [text.get_text() for text in axis.texts] == [f"{off:+.1f} %"]


def test_memory_is_stacked_up_to_the_devices_limit():
    layouts = {
        "fits": Layout.from_name("tp2", micro_batch=16),
        "does not": Layout.from_name("dp1", micro_batch=96),
    }
    figure = drawn.memory_by_part(MODEL, layouts)
    (axis,) = figure.axes
    shown = [text.get_text() for text in axis.texts]
    assert ["does not fit" in text for text in shown] == [False, True]
    for y, spread in enumerate(layouts.values()):
        _, parts = largest_stage(MODEL, spread)
        bars = [
            bar.get_width()
            for bar in axis.patches
            if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.01
        ]
        assert sum(bars) == pytest.approx(parts["total"] / 2**30)
    limits = [line.get_xdata()[0] for line in axis.lines]
    assert limits == [DEVICES["NVIDIA H200"] / 2**30]
