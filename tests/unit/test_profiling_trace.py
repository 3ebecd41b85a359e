"""Traces whose numbers can be worked out by hand."""

import gzip
import json

import pytest

from workshop.errors import UserError
from workshop.job.metrics import MetricsWriter
from workshop.profiling.events import read, windows
from workshop.profiling.intervals import intersection, length, union
from workshop.profiling.shrink import pack
from workshop.profiling.trace import record, summarise_trace

COMPUTE, COMM = 7, 20
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"


def event(name, begin, end, stream, cat="kernel", **args):
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": 0,
        "tid": stream,
        "ts": float(begin),
        "dur": float(end - begin),
        "args": {"device": 0, "stream": stream, **args},
    }


def step(name, begin, end):
    return event(name, begin, end, COMPUTE, cat="gpu_user_annotation")


def write(path, *events):
    path.write_text(json.dumps({"traceEvents": list(events)}))
    return path


@pytest.fixture
def trace(tmp_path):
    return lambda *events: write(tmp_path / "trace.json", *events)


def middle_step(path):
    events = read(path)["traceEvents"]
    spans = windows(events)
    return pack(events, *spans[len(spans) // 2], [], None)[0]


def test_intervals():
    assert union([(3, 4), (0, 1), (1, 2), (3.5, 6), (9, 9)]) == [
        (0, 2),
        (3, 6),
    ]
    assert union([(0, 1), (2, 3), (9, 10)], gap=1) == [(0, 3), (9, 10)]
    both = intersection([(0, 4), (6, 9)], [(1, 2), (3, 7), (8, 20)])
    assert both == [(1, 2), (3, 4), (6, 7), (8, 9)]
    assert length(both) == 4


@pytest.mark.parametrize(
    ("comm", "fraction", "exposed", "idle"),
    [
        ((0, 1000), 1.0, 0.0, 1.0),
        ((1000, 2000), 0.0, 1.0, 0.0),
        ((250, 1250), 0.75, 0.25, 0.75),
    ],
    ids=["wholly under compute", "after compute", "three quarters under"],
)
def test_overlap(trace, comm, fraction, exposed, idle):
    summary = summarise_trace(
        trace(
            step("ProfilerStep#3", 0, 2000),
            event("gemm", 0, 600, COMPUTE),
            event("gemm", 600, 1000, COMPUTE),
            event(ALL_REDUCE, *comm, COMM),
        )
    )
    assert summary["overlap_fraction"] == fraction
    assert summary["exposed_communication_ms"] == exposed
    assert summary["idle_ms"] == idle
    assert summary["compute_ms"] == 1.0
    assert summary["communication_ms"] == 1.0
    assert summary["step_ms"] == 2.0


def test_a_gap_between_kernels_hides_nothing(trace):
    summary = summarise_trace(
        trace(
            event("gemm", 0, 400, COMPUTE),
            event("gemm", 600, 1000, COMPUTE),
            event(ALL_REDUCE, 0, 1000, COMM),
        )
    )
    assert summary["overlap_fraction"] == 0.8


def test_copies_are_not_compute_and_hide_nothing(trace):
    summary = summarise_trace(
        trace(
            event("Memcpy HtoD", 0, 1000, COMPUTE, cat="gpu_memcpy"),
            event(ALL_REDUCE, 0, 1000, COMM),
        )
    )
    assert summary["overlap_fraction"] == 0.0
    assert summary["compute_ms"] == 0.0 and summary["idle_ms"] == 0.0


def test_kernels_of_one_stream_cannot_hide_each_other(trace):
    summary = summarise_trace(
        trace(
            event("gemm", 0, 500, COMM),
            event(ALL_REDUCE, 0, 1000, COMM),
        )
    )
    assert summary["overlap_fraction"] == 0.0


def test_two_communications_at_once_count_once(trace):
    summary = summarise_trace(
        trace(
            event("gemm", 0, 500, COMPUTE),
            event(ALL_REDUCE, 0, 1000, COMM),
            event(ALL_REDUCE, 0, 1000, COMM + 1),
        )
    )
    assert summary["communication_ms"] == 1.0
    assert summary["overlap_fraction"] == 0.5


def test_a_communication_stream_packs_waits_and_averages(trace):
    summary = summarise_trace(
        trace(
            event("gemm", 0, 1000, COMPUTE),
            event("Memcpy DtoD", 1000, 1100, COMPUTE, cat="gpu_memcpy"),
            event("pack", 0, 100, COMM),
            event("Memcpy PtoP", 100, 400, COMM, cat="gpu_memcpy"),
            event("Memcpy DtoD", 400, 500, COMM, cat="gpu_memcpy"),
            event("average", 500, 600, COMM),
            event("Memcpy HtoD", 600, 900, COMM, cat="gpu_memcpy"),
        )
    )
    assert summary["communication_ms"] == pytest.approx(0.6)
    assert summary["compute_ms"] == 1.0


def test_packing_beside_nccl_is_no_compute_and_hides_nothing(trace):
    summary = summarise_trace(
        trace(
            event("gemm", 0, 500, COMPUTE),
            event("pack", 500, 900, COMM + 1),
            event(ALL_REDUCE, 0, 1000, COMM),
        )
    )
    assert summary["compute_ms"] == 0.5
    assert summary["overlap_fraction"] == 0.5


@pytest.mark.parametrize(
    "name",
    [
        ALL_REDUCE,
        "void (anonymous namespace)::two_shot_all_reduce_kernel<bf16, 8>()",
        "c10d::symmetric_memory::barrier_kernel(unsigned int**, int)",
    ],
)
def test_communication_on_the_compute_stream_is_no_compute(trace, name):
    summary = summarise_trace(
        trace(event("gemm", 0, 600, COMPUTE), event(name, 600, 1000, COMPUTE))
    )
    assert summary["compute_ms"] == pytest.approx(0.6)
    assert summary["exposed_communication_ms"] == pytest.approx(0.4)


def test_steps_are_taken_apart_and_summed_up_by_the_median(trace):
    summary = summarise_trace(
        trace(
            step("ProfilerStep#1", 0, 900),
            step("ProfilerStep#2", 1000, 1900),
            step("ProfilerStep#3", 2000, 3000),
            event("gemm", 0, 100, COMPUTE),
            event("gemm", 1000, 1300, COMPUTE),
            event("gemm", 2000, 3000, COMPUTE),
        )
    )
    assert [s["compute_ms"] for s in summary["steps"]] == [0.1, 0.3, 1.0]
    # the pause before the next step belongs to the step before it
    assert [s["idle_ms"] for s in summary["steps"]] == [0.9, 0.7, 0.0]
    assert summary["compute_ms"] == 0.3
    assert summary["overlap_fraction"] is None


def test_a_shrunk_trace_gives_the_numbers_of_its_step(trace, tmp_path):
    big = trace(
        step("ProfilerStep#1", 500, 1400),
        step("ProfilerStep#2", 1500, 2500),
        step("ProfilerStep#3", 2600, 3000),
        event("aten::mm", 1500, 1600, 1, cat="cpu_op"),
        event("gemm", 500, 900, COMPUTE, correlation=4),
        event("gemm", 1500, 2100, COMPUTE, correlation=5),
        event(ALL_REDUCE, 1800, 2400, COMM, correlation=6),
        event("gemm", 2600, 2700, COMPUTE, correlation=7),
    )
    small = tmp_path / "small.json.gz"
    small.write_bytes(middle_step(big))
    events = json.loads(gzip.decompress(small.read_bytes()))["traceEvents"]
    assert {e["name"] for e in events} == {
        "ProfilerStep#2",
        "gemm",
        ALL_REDUCE,
    }
    assert all("correlation" not in e.get("args", {}) for e in events)
    middle = summarise_trace(big)["steps"][1]
    assert summarise_trace(small)["steps"] == [middle]
    assert middle_step(big) == small.read_bytes()


def test_an_incompressible_step_is_refused(trace, tmp_path, monkeypatch):
    monkeypatch.setattr("workshop.profiling.shrink.LIMIT_BYTES", 10)
    big = trace(event("gemm", 0, 100, COMPUTE))
    with pytest.raises(UserError, match="over the limit of 10"):
        record(big, tmp_path / "artifacts", MetricsWriter(None))
    assert not (tmp_path / "artifacts").exists()


def test_record_writes_measures_and_artifacts(trace, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    with MetricsWriter(metrics) as writer:
        record(
            trace(
                event("gemm", 0, 900, COMPUTE),
                event(ALL_REDUCE, 500, 1000, COMM),
            ),
            tmp_path / "artifacts",
            writer,
            mode="overlapped",
        )
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    values = {line["name"]: line["value"] for line in lines}
    assert values["overlap_fraction"] == 0.8
    assert values["exposed_communication_ms"] == pytest.approx(0.1)
    assert all(line["labels"] == {"mode": "overlapped"} for line in lines)
    profile = json.loads((tmp_path / "artifacts/profile.json").read_text())
    spans = {
        (r["stream"], r["kind"]): r["spans"] for r in profile["timeline"]
    }
    assert spans == {
        (COMPUTE, "compute"): [[0.0, 0.9]],
        (COMM, "communication"): [[0.5, 0.5]],
    }
    assert (tmp_path / "artifacts/trace.json.gz").stat().st_size < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "profile a run first"),
        ("{", "not a profiler's Chrome trace"),
        ("[]", "not a profiler's Chrome trace"),
        ('{"traceEvents": []}', "nothing that ran on a GPU"),
    ],
)
def test_a_bad_trace_is_one_clear_sentence(tmp_path, text, message):
    path = tmp_path / "trace.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        summarise_trace(path)
