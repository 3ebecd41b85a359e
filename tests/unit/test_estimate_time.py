"""Seconds by formula: links, pipelines, buckets, layouts."""

from dataclasses import asdict
from functools import partial

import pytest

from workshop.estimate.communication import (
    link,
    network,
    seconds,
    sent_bytes,
    traffic,
)
from workshop.estimate.data_parallel import (
    exposed,
    gradients,
    in_buckets,
    timeline,
)
from workshop.estimate.pipeline import (
    bubble_over_ideal,
    bubble_over_total,
    in_flight,
    pipeline_seconds,
)
from workshop.estimate.time import (
    optimizer_seconds,
    spread,
    step_time,
    tensor_seconds,
    update_seconds,
)
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.parallel.pipeline import schedule as pipeline_schedule
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.simulator import simulate
from workshop.records.load import load
from workshop.records.predict.layouts import curve, predict

GPT_1_3B = asdict(CONFIGS["gpt-1.3b"])
LINK = link(20.0, 300.0)


def test_a_message_takes_alpha_and_its_sent_bytes_over_beta():
    one = link(10.0, 2.0)
    assert seconds(one, "send", 2e9) == pytest.approx(1 + 1e-5)
    assert seconds(one, "all_reduce", 2e9) == pytest.approx(1 + 1e-5)
    assert seconds(one, "all_reduce", 2e9, 4) == pytest.approx(1.5 + 1e-5)
    assert seconds(one, "all_gather", 2e9, 4) == pytest.approx(0.75 + 1e-5)
    assert seconds(one, "reduce_scatter", 2e9, 4) == pytest.approx(0.75001)
    assert seconds(one, "all_reduce", 2e9, 1) == 0


def test_a_measured_curve_stands_in_for_the_line():
    curve = link(0.0, 0.0, [(1000, 20.0), (100, 10.0), (2000, 30.0)])
    at = [seconds(curve, "send", size) * 1e6 for size in (1, 550, 1500, 4000)]
    assert at == pytest.approx([10.0, 15.0, 25.0, 60.0])


def test_a_network_moves_an_eighth_of_its_bits():
    assert seconds(network(100, 0.0), "send", 12.5e9) == pytest.approx(1)


def summed(entries, each):
    """Return the sum of `each(operation, size, ranks)` over messages."""
    return sum(
        one["times"] * each(one["operation"], size, one["ranks"])
        for one in entries
        for size in [one["elements"] * one["element_bytes"]]
    )


@pytest.mark.parametrize("axis", ["dp", "tp"])
def test_the_seconds_of_all_messages_add_up(axis):
    both = Layout(dp=2, tp=2, micro_batch=4)
    entries = [one for one in traffic(GPT_1_3B, both) if one["axis"] == axis]
    took = summed(entries, partial(seconds, link(0.0, 3.0)))
    assert took == pytest.approx(summed(entries, sent_bytes) / 3e9) and took


SHAPES = [
    (name, p, m, v)
    for name, v in (
        ("gpipe", 1), ("1f1b", 1), ("eager-1f1b", 1), ("interleaved", 2)
    )  # fmt: skip
    for p in (2, 4, 8)
    for m in (1, 2, 4, 6, 8, 16)
    if v == 1 or m % p == 0
]


@pytest.mark.parametrize(("name", "p", "m", "v"), SHAPES)
@pytest.mark.parametrize("heavier", [0.0, 0.15], ids=["equal", "uneven"])
def test_the_pipeline_takes_as_long_as_simulated(name, p, m, v, heavier):
    schedule = make_schedule(name, p, m, v)
    forward = [1.0] * (p * v)
    forward[-1] += heavier
    backward = [2 * cost for cost in forward]
    ranks = [sum(3 * cost for cost in forward[r::p]) for r in range(p)]
    for message in (0.0, 0.1):
        run = simulate(schedule, forward, backward, message)
        times = pipeline_seconds(ranks, m, v, message, name)
        exact = name != "1f1b" or p == 2 or not message
        assert times["total"] == pytest.approx(
            run.makespan, rel=1e-9 if exact else 0.03
        )
        parts = [
            times[key]
            for key in ("compute", "imbalance", "bubble", "hand_over")
        ]
        assert sum(parts) == pytest.approx(times["total"])


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("ratio", [1800, 11_500, 46_000, 180_000])
def test_the_boxed_rule_of_hand_overs_is_the_simulators(p, ratio):
    """1F1B pays (p-1)/(18 h L) P/W of its time, GPipe next to nothing."""
    h, layers, s, b, m = 2048, 24, 1024, 4, 64 * p
    stage = 72 * b * s * h * h * layers / p  # operations of a micro-batch
    hand_over = 2 * b * s * h * ratio  # in the time of as many operations

    def exposed(name, v=1):
        costs = stage / 3 / v, 2 * stage / 3 / v
        schedule = make_schedule(name, p, m, v)
        free = simulate(schedule, *costs).makespan
        return simulate(schedule, *costs, hand_over).makespan / free - 1

    rule = (p - 1) / (18 * h * layers) * ratio
    assert exposed("1f1b") == pytest.approx(rule, rel=0.06)
    assert exposed("gpipe") < rule / 10
    assert exposed("eager-1f1b") < exposed("1f1b")
    assert exposed("interleaved", 2) < exposed("1f1b")


@pytest.mark.parametrize(("name", "p", "m", "v"), SHAPES)
def test_bubble_and_activations_are_those_of_the_schedule(name, p, m, v):
    schedule = make_schedule(name, p, m, v)
    run = simulate(schedule, 1, 2)
    assert run.bubble_over_ideal == pytest.approx(bubble_over_ideal(p, m, v))
    assert run.shares().bubble == pytest.approx(bubble_over_total(p, m, v))
    for rank, operations in enumerate(schedule):
        held = pipeline_schedule.in_flight(operations)
        assert in_flight(name, p, m, v, rank) == held


def test_a_bucket_leaves_when_it_is_full_and_the_link_is_free():
    one = link(0.0, 1.0)
    messages = [(1_000_000_000, 0.25), (500_000_000, 0.5), (500_000, 1.0)]
    spans = timeline(messages, 8.0, one, 2)
    moments = [moment for span in spans for moment in span]
    assert moments == pytest.approx([2.0, 4.0, 4.0, 5.0, 8.0, 8.001])


def test_backward_hides_all_but_the_last_buckets_on_a_fast_link():
    spread_out = Layout(dp=2)
    late, busy = exposed(GPT_1_3B, spread_out, 1.0, LINK)
    buckets = in_buckets(gradients(GPT_1_3B, spread_out))
    last = [size for size, share in buckets if share == 1]
    assert sum(last) > (50304 + 1024) * 2048
    assert late == pytest.approx(
        sum(seconds(LINK, "all_reduce", 2 * size) for size in last)
    )
    naive, everything = exposed(
        GPT_1_3B, spread_out, 1.0, LINK, overlap=False
    )
    assert naive == everything > busy > late
    count = len(gradients(GPT_1_3B, spread_out))
    assert count == 24 * 12 + 4
    assert naive == pytest.approx(
        count * 20e-6
        + summed(traffic(GPT_1_3B, spread_out), sent_bytes) / 300e9
    )


def test_a_slow_link_runs_from_the_first_bucket_to_the_end():
    slow = link(0.0, 3.0)
    late, busy = exposed(GPT_1_3B, Layout(dp=2), 0.1, slow)
    assert busy == pytest.approx(
        summed(traffic(GPT_1_3B, Layout(dp=2)), sent_bytes) / 3e9
    )
    assert busy - 0.1 < late < busy


def test_the_stages_share_the_compute_by_their_operations():
    whole = spread(GPT_1_3B, Layout(micro_batch=4), 0.3)
    assert whole == [(pytest.approx(0.1), pytest.approx(0.2))]
    stages = spread(GPT_1_3B, Layout(pp=2, tp=2, micro_batch=4), 0.3)
    assert sum(map(sum, stages)) == pytest.approx(0.15)
    even = spread(GPT_1_3B, Layout(pp=2, cut=[12, 12]), 0.3)
    uneven = sum(even[1]) / sum(even[0])
    assert uneven == pytest.approx(1.16, abs=0.01)
    balanced = sum(stages[1]) / sum(stages[0])
    assert balanced == pytest.approx(1, abs=0.01)


def test_half_of_the_tensor_parallel_messages_hide():
    spread_out = Layout(tp=2, micro_batch=16)
    stages = spread(GPT_1_3B, spread_out, 0.24)
    sizes = GPT_1_3B, spread_out, 0, stages[0][1]
    late, everything = tensor_seconds(*sizes, LINK)
    naive, same = tensor_seconds(*sizes, LINK, overlap=False)
    assert naive == same == everything
    assert everything == pytest.approx(
        summed(traffic(GPT_1_3B, spread_out), partial(seconds, LINK))
    )
    each = seconds(LINK, "all_reduce", 16 * 1024 * 2048 * 2)
    assert everything - late == pytest.approx(49 * each)


LAYOUTS = [
    {},
    {"dp": 4},
    {"tp": 2},
    {"tp": 4, "sequence_parallel": True},
    {"pp": 2, "num_microbatches": 8},
    {"pp": 4, "num_microbatches": 8, "schedule": "gpipe"},
    {
        "pp": 2,
        "num_microbatches": 8,
        "schedule": "interleaved",
        "virtual_stages": 2,
    },
    {"dp": 2, "tp": 2, "pp": 2, "num_microbatches": 4},
]


@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_the_parts_of_a_step_add_up(sizes):
    spread_out = Layout(micro_batch=4, **sizes)
    stages = spread(GPT_1_3B, spread_out, 0.06)
    links = {axis: LINK for axis in ("dp", "tp", "pp")}
    step = step_time(GPT_1_3B, spread_out, stages, links, 0.01)
    parts = ("compute", "imbalance", "bubble", "tp", "pp", "dp")
    parts += ("contention", "optimizer")
    assert step["total"] == pytest.approx(sum(step[key] for key in parts))
    m, ranks = spread_out.num_microbatches, spread_out.pp
    work = m * 0.06 / spread_out.tp / ranks
    assert step["compute"] == pytest.approx(work)
    for axis in ("dp", "tp", "pp"):
        assert (step[axis] > 0) == (getattr(spread_out, axis) > 1)
    assert (step["bubble"] > 0) == (ranks > 1)
    slower = {axis: network(25) for axis in links}
    worse = step_time(GPT_1_3B, spread_out, stages, slower, 0.01)
    assert worse["total"] > step["total"] or not sizes
    naive = step_time(
        GPT_1_3B, spread_out, stages, links, 0.01, overlap=False
    )
    assert naive["total"] >= step["total"]


def test_a_step_of_one_device_is_compute_and_update():
    step = step_time(GPT_1_3B, Layout(), [(0.1, 0.2)], {}, 0.05)
    assert step["total"] == pytest.approx(0.35)
    assert step["tokens_per_s"] == pytest.approx(1024 / 0.35)


def test_contention_slows_what_communication_runs_beside():
    spread_out = Layout(dp=2, micro_batch=16)
    stages = spread(GPT_1_3B, spread_out, 0.24)
    step = step_time(GPT_1_3B, spread_out, stages, {"dp": LINK}, slowdown=2.0)
    assert step["contention"] == pytest.approx(step["hidden_dp"] / 2)


def test_the_update_moves_thirty_bytes_a_parameter():
    assert optimizer_seconds(1e9, 3000) == pytest.approx(0.01)
    whole = update_seconds(GPT_1_3B, Layout(), 4000)
    assert whole == pytest.approx(optimizer_seconds(1_313_722_368, 4000))
    assert update_seconds(GPT_1_3B, Layout(pp=2), 4000) < 0.6 * whole


@pytest.mark.parametrize("way", ["naive", "overlapped"])
@pytest.mark.parametrize(
    ("gpus", "links"), [("2gpu", "links-1node"), ("2nodes", "links-2nodes")]
)
def test_the_recorded_runs_take_as_long_as_predicted(gpus, links, way):
    """Within 10 %, by the all-reduce's measured curve."""
    parts = predict(
        load("lab1/compare-data-parallel"),
        load("lab1/links-1node"),
        Layout(dp=2, micro_batch=16),
        {"dp": curve(load(f"lab1/{links}"))},
        overlap=way == "overlapped",
    )
    run = load(f"lab1/gpt-1.3b-{gpus}-{way}")
    step = run.summary["step_time_s"]["median"]
    assert parts["total"] == pytest.approx(step, rel=0.1)
