"""Profiles of GPU traces whose numbers can be worked out by hand."""

import gzip
import json

import pytest

from workshop.errors import UserError
from workshop.job.metrics import MetricsWriter
from workshop.profiling import report as profile_report
from workshop.profiling import shrink as trace_shrink
from workshop.profiling.groups import GROUPS
from workshop.profiling.profile import on_one_clock
from workshop.profiling.rank_summary import RankSummary, summarise_rank

COMPUTE, COMM = 7, 20
HOST, AUTOGRAD = 1, 2
GIB = 2**30


class Trace:
    """Builds a trace: what the host launched, and when the GPU ran it."""

    def __init__(self):
        self.events = []

    def host(self, name, begin, end, thread=HOST, cat="user_annotation"):
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": 9, "tid": thread,
             "ts": float(begin), "dur": float(end - begin), "args": {}}
        )  # fmt: skip

    def kernel(self, name, launched, begin, end, stream=COMPUTE,
               thread=HOST, cat="kernel"):  # fmt: skip
        correlation = len(self.events)
        self.host("cudaLaunchKernel", launched, launched + 1, thread,
                  "cuda_runtime")  # fmt: skip
        self.events[-1]["args"]["correlation"] = correlation
        args = {"device": 0, "stream": stream, "correlation": correlation}
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": stream,
             "ts": float(begin), "dur": float(end - begin), "args": args}
        )  # fmt: skip

    def step(self, number, begin, end):
        self.host(f"ProfilerStep#{number}", begin, end)
        self.events[-1]["cat"] = "gpu_user_annotation"

    def memory(self, at, gib, device=1):
        self.events.append(
            {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]",
             "pid": 9, "tid": HOST, "ts": float(at),
             "args": {"Device Type": device, "Device Id": 0,
                      "Total Allocated": int(gib * GIB)}}
        )  # fmt: skip

    def summary(self, folder, first=0):
        path = folder / "trace.json"
        whole = {"traceEvents": self.events, "baseTimeNanoseconds": 5000}
        path.write_text(json.dumps(whole))
        return summarise_rank(path, first)


@pytest.fixture
def trace():
    return Trace()


def test_groups_hold_each_kernel_once(trace, tmp_path):
    trace.step(0, 0, 1000)
    trace.host("Optimizer.step#AdamW.step", 500, 600)
    trace.kernel("nvjet_sm90", 10, 0, 300)
    trace.kernel("fmha", 20, 300, 400)
    trace.kernel("vectorized_elementwise_kernel", 30, 400, 500)
    # the same name, launched by the optimizer's step
    trace.kernel("vectorized_elementwise_kernel", 550, 600, 850)
    trace.kernel("Memset (Device)", 560, 850, 860, cat="gpu_memset")
    trace.kernel("ncclDevKernel_AllReduce", 40, 100, 700, COMM)
    trace.kernel("ncclDevKernel_AllReduce", 41, 200, 600, COMM + 1)
    numbers = trace.summary(tmp_path).numbers
    assert numbers["groups"] == pytest.approx(
        {"matrix products": 0.3, "attention": 0.1, "LayerNorm": 0.0,
         "elementwise": 0.1, "optimizer": 0.25, "communication": 0.6,
         "copies": 0.01, "ungrouped": 0.0}
    )  # fmt: skip
    assert set(numbers["groups"]) == set(GROUPS)
    assert numbers["kernels"][0] == {
        "name": "ncclDevKernel_AllReduce",
        "group": "communication",
        "count": 2,
        "ms": pytest.approx(1.0),
    }
    parts = ("compute_ms", "exposed_communication_ms", "idle_ms")
    assert [numbers[part] for part in parts] == pytest.approx(
        [0.75, 0.1, 0.14]
    )
    assert numbers["begin_us"] == 5.0


def test_a_pass_is_the_time_of_the_kernels_launched_in_it(trace, tmp_path):
    trace.step(0, 100, 900)
    trace.host("F0", 0, 20)
    trace.kernel("gemm", 5, 100, 200)
    trace.kernel("gelu", 15, 200, 250)
    trace.kernel("ncclDevKernel_SendRecv", 19, 240, 800, COMM)
    trace.host("B0.1", 20, 40)
    # autograd launches from a thread of its own
    trace.kernel("gemm", 30, 400, 600, thread=AUTOGRAD)
    trace.kernel("between", 45, 600, 700)
    trace.host("F7", 50, 60)  # a pass that launched nothing
    summary = trace.summary(tmp_path)
    assert summary.numbers["ranges"] == [
        ["F0", 0.0, 0.15],
        ["B0.1", 0.3, 0.2],
    ]
    kept = json.loads(gzip.decompress(summary.trace))["traceEvents"]
    marks = {e["name"]: e for e in kept if e["name"] in ("F0", "B0.1")}
    assert (marks["B0.1"]["ts"], marks["B0.1"]["dur"]) == (300.0, 200.0)
    # the small trace, which has no launches, says the same again
    path = tmp_path / "kept.json.gz"
    path.write_bytes(summary.trace)
    again = summarise_rank(path).numbers
    assert again["ranges"] == summary.numbers["ranges"]
    assert again["groups"] == summary.numbers["groups"]


def test_memory_moves_to_where_the_gpu_uses_it(trace, tmp_path):
    trace.step(0, 1000, 3000)
    trace.kernel("gemm", 5, 1000, 1500)
    trace.kernel("gemm", 15, 1500, 2000)
    trace.kernel("gemm", 25, 2000, 3000)
    trace.memory(1, 2.0)  # before the first kernel
    trace.memory(10, 5.0)  # before the second
    trace.memory(12, 3.0)
    trace.memory(30, 1.0)  # after the last launch
    trace.memory(10, 99.0, device=0)  # the host's own memory
    memory = trace.summary(tmp_path).numbers["memory"]
    assert memory["points"] == [
        [0.0, 2.0], [0.0, 2.0], [0.5, 5.0], [0.5, 3.0], [1.0, 1.0],
    ]  # fmt: skip
    assert memory["peak_gib"] == 5.0
    assert memory["from_zero"] is True


def test_a_profile_without_memory_events_has_none(trace, tmp_path):
    trace.kernel("gemm", 5, 0, 100)
    numbers = trace.summary(tmp_path).numbers
    assert numbers["memory"] is None
    text = profile_report.table([{**numbers, "offset_ms": 0.0}])
    assert "n/a" in text and "idle" in text


def test_many_changes_of_memory_keep_their_peak(trace, tmp_path):
    trace.step(0, 0, 30_000)
    for i in range(3_000):
        trace.kernel("gemm", 10 * i, 10 * i, 10 * i + 9)
        trace.memory(10 * i - 1, 7.0 if i == 1234 else 1 + i % 2)
    memory = trace.summary(tmp_path).numbers["memory"]
    assert memory["peak_gib"] == 7.0
    assert len(memory["points"]) <= 600
    assert [at for at, gib in memory["points"] if gib == 7.0] == [12.34]
    times = [at for at, _ in memory["points"]]
    assert times == sorted(times)


def test_the_number_of_the_step_is_the_runs(trace, tmp_path):
    for k in range(3):
        trace.step(k, 1000 * k, 1000 * k + 900)
        trace.kernel("gemm", 1000 * k, 1000 * k, 1000 * k + 100 * (k + 1))
    numbers = trace.summary(tmp_path, first=40).numbers
    assert [s["step"] for s in numbers["steps"]] == [40, 41, 42]
    assert (numbers["step"], numbers["compute_ms"]) == (41, 0.2)


def kernels_kept(summary: RankSummary) -> list[dict]:
    events = json.loads(gzip.decompress(summary.trace))["traceEvents"]
    return [e for e in events if e["name"].startswith("gemm")]


def test_a_large_step_loses_details_first_then_short_kernels(
    trace, tmp_path, monkeypatch
):
    trace.step(0, 0, 10_000)
    for i in range(100):
        length = 1.5 if i % 2 else 90.25 + i / 1000
        trace.kernel("gemm", 5, 100 * i, 100 * i + length)
        trace.events[-1]["args"]["grid"] = [i * i, 7 * i, 1]
    whole = trace.summary(tmp_path)
    assert whole.numbers["shortest_kept_us"] == 0.0
    assert len(kernels_kept(whole)) == 100

    monkeypatch.setattr(trace_shrink, "LIMIT_BYTES", len(whole.trace) - 1)
    bare = trace.summary(tmp_path)
    assert bare.numbers["shortest_kept_us"] == 0.0
    assert len(kernels_kept(bare)) == 100
    assert not any("grid" in e["args"] for e in kernels_kept(bare))

    monkeypatch.setattr(trace_shrink, "LIMIT_BYTES", len(bare.trace) - 1)
    least = trace.summary(tmp_path)
    assert least.numbers["shortest_kept_us"] == 2.0
    assert len(kernels_kept(least)) == 50
    assert least.numbers["groups"] == whole.numbers["groups"]

    monkeypatch.setattr(trace_shrink, "LIMIT_BYTES", 10)
    with pytest.raises(UserError, match="over the limit of 10"):
        trace.summary(tmp_path)


def passes(*ranges, offset=0.0):
    return {"offset_ms": offset, "ranges": [list(each) for each in ranges]}


def test_the_bubble_of_1f1b_is_the_formulas():
    p, m, forward, backward = 2, 4, 1.0, 2.0
    # m micro-batches follow each other on the last stage without a gap
    last = [(f"{kind}{i}", 3.0 * i + (kind == "B") * forward, cost)
            for i in range(m)
            for kind, cost in (("F", forward), ("B", backward))]  # fmt: skip
    first = [(f"F{i}", 3.0 * max(i - 1, 0) + i, forward) for i in range(m)]
    first += [(f"B{i}", 4.0 + 3 * i, backward) for i in range(m)]
    idle = profile_report.bubble(
        [passes(*first), passes(*last, offset=forward)]
    )
    assert idle["span_ms"] == (m + p - 1) * (forward + backward)
    assert idle["bubble"] == pytest.approx((p - 1) / (m + p - 1))
    assert idle["formula"] == pytest.approx(idle["schedule"])
    assert idle["imbalance"] == 0.0


def test_unequal_stages_are_told_from_the_schedules_bubble():
    idle = profile_report.bubble(
        [
            passes(("F0", 0, 1), ("B0", 4, 1)),
            passes(("F0", 1, 2), ("B0", 3, 1)),
        ]
    )
    assert idle["span_ms"] == 5
    assert idle["bubble"] == pytest.approx(1 - 2.5 / 5)
    assert idle["schedule"] == pytest.approx(1 - 3 / 5)
    assert idle["formula"] == pytest.approx(1 / 2)
    assert idle["imbalance"] == pytest.approx(0.5 / 5)


def test_a_pipeline_that_starts_later_lengthens_the_span():
    both = [passes(("F0", 0, 1), ("B0", 1, 2), offset=o) for o in (0.0, 1.0)]
    idle = profile_report.bubble(both)
    assert idle["span_ms"] == 4.0
    assert idle["schedule"] == pytest.approx(1 / 4)


def test_without_passes_there_is_no_bubble():
    optimizer = passes(("Optimizer.step#AdamW.step", 0, 1))
    assert profile_report.bubble([optimizer, optimizer]) is None


def test_only_another_machine_needs_its_clock_set():
    def of(begin_us):
        return RankSummary({"begin_us": begin_us, "step": 1}, b"")

    ranks = on_one_clock(
        [
            ("here", 100.0, of(5000.0)),
            # the same clock, whenever this rank looked at it
            ("here", 170.0, of(7000.0)),
            # a clock that is an hour ahead
            ("there", 100.0 + 3.6e9, of(4000.0 + 3.6e9)),
        ]
    )
    assert [rank["offset_ms"] for rank in ranks] == [1.0, 3.0, 0.0]
    assert all("begin_us" not in rank for rank in ranks)


def test_a_folder_that_takes_no_files_is_one_sentence(trace, tmp_path):
    trace.kernel("gemm", 5, 0, 100)
    summary = trace.summary(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no profile can be written"):
        profile_report.write(
            [{**summary.numbers, "offset_ms": 0.0}],
            [summary.trace],
            tmp_path / "file" / "artifacts",
            MetricsWriter(None),
        )
