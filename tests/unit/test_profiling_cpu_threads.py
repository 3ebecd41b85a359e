"""Traces of the CPU alone whose numbers can be worked out by hand."""

import json

import pytest

from workshop.profiling.rank_summary import summarise_rank

MAIN, AUTOGRAD, GLOO = 1, 2, 3


def event(name, begin, end, thread=MAIN, cat="cpu_op"):
    return {
        "ph": "X", "cat": cat, "name": name, "pid": 9, "tid": thread,
        "ts": float(begin), "dur": float(end - begin), "args": {},
    }  # fmt: skip


def note(name, begin, end, thread=MAIN):
    return event(name, begin, end, thread, "user_annotation")


@pytest.fixture
def numbers(tmp_path):
    def summarise(*events):
        path = tmp_path / "trace.json"
        step = note("ProfilerStep#0", 0, 1000)
        path.write_text(json.dumps({"traceEvents": [step, *events]}))
        return summarise_rank(path).numbers

    return summarise


def times(rank):
    """Return compute, communication, exposed and idle in µs."""
    fields = ("compute_ms", "communication_ms", "exposed_communication_ms",
              "idle_ms")  # fmt: skip
    return [pytest.approx(1e3 * rank[field]) for field in fields]


def test_nested_operations_count_once(numbers):
    rank = numbers(
        event("aten::linear", 0, 400),
        event("aten::addmm", 10, 390),
        event("aten::add", 400, 500),
        event("aten::mul", 450, 600, AUTOGRAD),
    )
    assert times(rank) == [600, 0, 0, 400]
    lanes = {(r["stream"], r["kind"]) for r in rank["timeline"]}
    assert lanes == {(0, "compute"), (1, "compute")}


def test_a_message_sent_ahead_is_hidden_by_its_own_thread(numbers):
    rank = numbers(
        note("gloo:send", 100, 700),
        event("aten::mm", 200, 600),
    )
    assert times(rank) == [400, 600, 200, 400]


def test_an_operation_that_waits_for_its_message_is_no_compute(numbers):
    rank = numbers(
        event("autograd::engine::evaluate_function: Sum", 0, 900),
        event("workshop::all_reduce", 100, 800),
        event("c10d::allreduce_", 110, 130),
        note("gloo:all_reduce", 120, 790, GLOO),
        event("aten::mul", 800, 850),
        event("aten::mm", 900, 1000),
    )
    assert times(rank) == [150, 670, 670, 180]
    assert rank["groups"]["elementwise"] == pytest.approx(0.05)
    assert rank["groups"]["communication"] == pytest.approx(0.67)
    waits = [k for k in rank["kernels"] if k["name"].startswith("workshop")]
    assert [k["group"] for k in waits] == ["communication"]


def test_an_outer_operation_gives_its_group_to_the_inner_ones(numbers):
    rank = numbers(
        event("aten::scaled_dot_product_attention", 0, 300),
        event("aten::bmm", 50, 250),
        event("aten::linear", 300, 400),
        event("aten::t", 300, 310),
        note("Optimizer.step#AdamW.step", 500, 900),
        event("aten::mul_", 500, 700),
        event("aten::mul_", 900, 950),
    )
    assert rank["groups"] == pytest.approx(
        {"matrix products": 0.1, "attention": 0.3, "LayerNorm": 0.0,
         "elementwise": 0.05, "optimizer": 0.2, "communication": 0.0,
         "copies": 0.0, "ungrouped": 0.0}
    )  # fmt: skip
    own = {k["name"]: k["ms"] for k in rank["kernels"]}
    assert own["aten::scaled_dot_product_attention"] == pytest.approx(0.1)


def test_passes_are_the_hosts_own_ranges(numbers):
    rank = numbers(
        note("F0", 100, 200), note("B0.1", 300, 500), note("other", 0, 9)
    )
    assert rank["ranges"] == [["F0", 0.1, 0.1], ["B0.1", 0.3, 0.2]]
