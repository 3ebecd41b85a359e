"""Chapter 03's predictions and figures, from fabricated records."""

import pytest
from fabricated import Fabricated, entry

from workshop.estimate.communication import seconds
from workshop.figures import nodes as figures
from workshop.layout import Layout
from workshop.records.predict import layouts as model


def link_of(beta):
    """A link whose curve is slower than its line at every size."""
    summary = {
        "all_reduce_alpha": entry(30.0),
        "all_reduce_beta": entry(beta),
        "device_copy{rank=0}": entry(4000.0),
    }
    for size in (2**10, 2**20, 2**30):
        time_us = 40.0 + size / (0.8 * beta * 1e3)
        summary[f"all_reduce_time{{bytes={size}}}"] = entry(time_us)
    return Fabricated(summary)


@pytest.fixture
def alone():
    return Fabricated(
        {"step_time_s": entry(0.25), "tokens_per_s": entry(65_536.0)},
        meta={"model": "gpt-1.3b", "micro_batch": 16},
    )


INSIDE, BETWEEN = link_of(300.0), link_of(3.0)


def test_one_gpu_of_a_comparison_is_the_one_whose_neighbour_idles(alone):
    speed = {
        f"tokens_per_s_per_gpu{{contestant={name}}}": entry(value)
        for name, value in (("alone", 60_000.0), ("single", 65_536.0))
    }
    compared = Fabricated(speed, meta=alone.meta)
    assert model.step_of_one_gpu(compared) == pytest.approx(0.25)
    assert model.step_of_one_gpu(alone) == 0.25


def test_one_gpu_is_predicted_as_it_was_measured(alone):
    predicted = model.predict(alone, INSIDE, Layout(micro_batch=16), {})
    assert predicted["total"] == pytest.approx(0.25)
    half = model.predict(alone, INSIDE, Layout(micro_batch=8), {})
    assert half["compute"] == pytest.approx(predicted["compute"] / 2)
    assert half["optimizer"] == predicted["optimizer"] > 0


def test_a_link_is_read_as_a_line_or_as_a_curve():
    size = 2**25
    line = seconds(model.fitted(BETWEEN), "all_reduce", size)
    assert line == pytest.approx(30e-6 + size / 3e9)
    curve = seconds(model.curve(BETWEEN), "all_reduce", size)
    assert curve == pytest.approx(40e-6 + size / 2.4e9, rel=1e-3)


@pytest.mark.parametrize("read", [model.fitted, model.curve])
def test_who_shares_a_link_needs_twice_the_time_for_bytes(read):
    whole = read(BETWEEN)
    half = model.shared(whole, 2)
    for size in (2**21, 2**28):
        alone = seconds(whole, "all_reduce", 2 * size)
        assert seconds(half, "all_reduce", size) == pytest.approx(alone)
        assert half["alpha_us"] == whole["alpha_us"]


@pytest.mark.parametrize(
    ("layouts", "ranks"),
    [
        (model.two_ranks(), 2),
        ({n: c[0] for n, c in model.four_gpus({}, model.fitted(BETWEEN)).items()}, 4),
    ],
)  # fmt: skip
def test_layouts_are_compared_at_one_batch(layouts, ranks):
    for name, one in layouts.items():
        assert one.dp * one.tp * one.pp == ranks, name
        batch = one.dp * one.micro_batch * one.num_microbatches
        assert batch == model.SEQUENCES, name


def test_bandwidth_ranks_the_layouts(alone):
    (axis,) = figures.over_bandwidth(alone, INSIDE, BETWEEN).axes
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert lines["TP2"][0] < lines["DP2"][0] < lines["PP2"][0]
    assert lines["TP2"][-1] > 10 * lines["TP2"][0]
    for name in ("DP2", "TP2", "PP2"):
        assert list(lines[name]) == sorted(lines[name])
    words = [text.get_text() for text in axis.texts]
    assert "NVLink" in words and "400 Gb/s" in words


def test_accumulation_mends_every_network(alone):
    (axis,) = figures.accumulation(alone, INSIDE, BETWEEN).axes
    lines = {
        line.get_label(): line.get_ydata()
        for line in axis.lines
        if len(line.get_ydata()) == 6
    }
    assert set(lines) == {"sockets", "25 Gb/s", "100 Gb/s", "400 Gb/s"}
    for shares in lines.values():
        assert list(shares) == sorted(shares)
        assert 0 < shares[0] < shares[-1] <= 100 + 1e-9


def test_bars_of_placements_add_up_and_a_long_one_is_cut(alone):
    (axis,) = figures.placements(alone, INSIDE, BETWEEN).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[-1] == "DP2 inside, TP2 across"
    cases = model.four_gpus(model.curve(INSIDE), model.curve(BETWEEN))
    assert sorted(names) == sorted(cases)
    ends = [0.0] * len(names)
    for bar in axis.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] += bar.get_width()
    for name, end in zip(names, ends, strict=True):
        due = model.predict(alone, INSIDE, *cases[name])["total"]
        assert end == pytest.approx(1e3 * due), name
    assert ends == sorted(ends)
    assert ends[-1] > axis.get_xlim()[1]
    arrows = [text.get_text().endswith("→") for text in axis.texts]
    assert arrows == [False] * (len(names) - 1) + [True]
