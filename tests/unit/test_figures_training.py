"""Chapter 02's figures from fabricated records: what they draw."""

import gzip
import json

import pytest
from fabricated import Fabricated, entry

from workshop.errors import UserError
from workshop.figures import comparison, style, training


def event(name, stream, begin, length, cat="gpu_memcpy"):
    return {
        "ph": "X", "cat": cat, "name": name, "ts": begin, "dur": length,
        "args": {"device": 0, "stream": stream},
    }  # fmt: skip


def write(folder, events):
    text = json.dumps({"traceEvents": events}).encode()
    (folder / "trace.json.gz").write_bytes(gzip.compress(text))


@pytest.fixture
def compared(tmp_path):
    """A comparison of two ways, of which four are traced."""
    rows = [
        {"device": 0, "stream": 7, "kind": kind, "spans": [[0.0, 4.0]]}
        for kind in ("compute", "communication", "other")
    ]
    for name in comparison.TRACED:
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        profile = {
            "step_ms": 4.0, "compute_ms": 4.0, "idle_ms": 0.0,
            "exposed_communication_ms": 0.0, "timeline": rows,
        }  # fmt: skip
        (folder / "profile.json").write_text(json.dumps(profile))
        slower = [
            event("embedding", 7, 0, 10, "kernel"),
            event("gemm", 7, 10, 1000 if name == "alone" else 1500, "kernel"),
            event("nccl", 20, 10, 750, "kernel"),
        ]
        write(folder, slower if name != "alone" else slower[:2])
    events = [
        event("embedding", 7, 0, 10, "kernel"),
        event("gemm", 7, 10, 1500, "kernel"),
        event("Memcpy PtoP (Device -> Device)", 20, 0, 3000),
        event("Memcpy DtoD (Device -> Device)", 20, 3000, 2000),
        event("barrier_kernel(int)", 20, 5000, 1000, "kernel"),
        event("vectorized_elementwise", 20, 6000, 500, "kernel"),
    ]
    write(tmp_path / "artifacts" / "overlapped", events)
    summary = {
        f"tflops_per_gpu{{contestant={name}}}": entry(value)
        for name, value in (("ddp", 400.0), ("alone", 500.0))
    }
    return Fabricated(summary, folder=tmp_path)


def words(figure):
    (axis,) = figure.axes
    ticks = [label.get_text() for label in axis.get_yticklabels()]
    return ticks, [text.get_text() for text in axis.texts]


def test_contestants_keep_the_order_of_the_chapter(compared):
    figure = comparison.contestants(compared)
    ticks, shown = words(figure)
    assert ticks == ["both, no communication", "torch's DDP"]
    assert shown == ["500", "400"]
    lengths = [bar.get_width() for bar in figure.axes[0].patches]
    assert lengths == [500.0, 400.0]


def test_steps_have_a_lane_for_compute_and_one_for_communication(compared):
    figure = comparison.contestant_steps(compared)
    assert len(figure.axes[0].collections) == 2 * len(comparison.TRACED)


def test_a_product_is_drawn_where_it_met_a_message(compared):
    (axis,) = comparison.slowed_products(compared).axes
    lines = {line.get_label(): line for line in axis.lines}
    for way in ("ours, NCCL", "torch's DDP"):
        assert list(lines[way].get_xdata()) == [50.0]
        assert list(lines[way].get_ydata()) == [1.5]
    half = lines["half speed while a message runs"]
    assert half.get_ydata()[0] == 1 and half.get_ydata()[-1] == 2


def test_the_parts_of_communication_are_told_apart(compared):
    ticks, shown = words(comparison.communication_parts(compared))
    parts = dict(zip(ticks, shown, strict=True))
    assert parts == {
        "pulling from the peer": "3.0",
        "packing into buckets": "2.0",
        "waiting for the peer": "1.0",
        "averaging": "0.5",
    }


def test_a_missing_profile_is_named(tmp_path):
    with pytest.raises(UserError, match="no profile artifacts/alone/prof"):
        comparison.contestant_steps(Fabricated(folder=tmp_path))


def test_learning_draws_both_losses():
    steps = [{"event": "step", "step": s, "loss": 9.0 - s} for s in range(3)]
    held_out = {f"held_out_loss{{step={s}}}": entry(8.0) for s in (10, 2)}
    (axis,) = training.learning(Fabricated(held_out, events=steps)).axes
    line, points = axis.lines
    assert list(line.get_ydata()) == [9.0, 8.0, 7.0]
    assert list(points.get_xdata()) == [2, 10]


def test_the_model_bends_where_backward_hides_all():
    def run(seconds):
        meta = {"event": "meta", "parameters": 10**9}
        return Fabricated({"step_time_s": entry(seconds)}, events=[meta])

    def link(bandwidth):
        return Fabricated({"all_reduce_beta": entry(bandwidth)})

    figure = training.hiding(
        run(0.3), link(300.0), link(3.0),
        run(0.31), run(0.3), run(1.0), run(0.8),
    )  # fmt: skip
    by_label = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(by_label["naive, measured"].get_ydata()) == [310.0, 1000.0]
    model = by_label["overlapped, model"]
    hidden = [
        step == pytest.approx(300.0)
        for bandwidth, step in zip(*model.get_data(), strict=True)
        # 2 GB in two thirds of 0.3 s
        if bandwidth > 2 / (training.BACKWARD * 0.3)
    ]
    assert hidden and all(hidden)
    assert model.get_ydata()[0] > 1500
    assert by_label["overlapped, model"].get_color() == style.BLUE
