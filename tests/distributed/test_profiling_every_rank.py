"""Two ranks of a small pipeline under the profiler: what is found is true."""

import gzip
import json

import pytest
import torch
import torch.distributed as dist
from pool import Pool

from workshop.job.launch import Job
from workshop.job.metrics import MetricsWriter
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.stages import make_stages
from workshop.profiling.profile import PROFILED, Profiler
from workshop.profiling.rank_summary import summarise_rank

CONFIG = GPTConfig(layers=4, hidden=64, heads=4, sequence=64, vocabulary=97)
MICRO_BATCHES, START, AFTER = 4, 10, 12


def profiled(rank: int, world: int, folder: str) -> dict:
    """Train a few steps of a pipeline with the profiler on."""
    torch.manual_seed(0)
    group = dist.group.WORLD
    stages = make_stages(GPT(CONFIG), CONFIG, rank, world)
    schedule = make_schedule("1f1b", world, MICRO_BATCHES, 1)
    pipeline = Pipeline(stages, schedule, group, (2, 64, 64))
    optimizer = torch.optim.AdamW(
        [p for stage in stages for p in stage.parameters()]
    )
    metrics = f"{folder}/metrics.jsonl" if rank == 0 else None
    with MetricsWriter(metrics) as writer:
        job = Job(rank, world, torch.device("cpu"))
        profile = Profiler(folder, job, START, AFTER, writer)
        paused = [START] if profile.at(START) else []
        for step in range(START + 1, AFTER + PROFILED + 3):
            text = torch.randint(97, (MICRO_BATCHES, 2, 65))
            pipeline.forward_backward([(t[:, :-1], t[:, 1:]) for t in text])
            pipeline.finish_gradients()
            optimizer.step()
            optimizer.zero_grad()
            if profile.at(step):
                paused.append(step)
    order = [str(operation) for operation in pipeline.trace]
    pipeline.close()
    return {"paused": paused, "order": order}


@pytest.fixture(scope="module")
def recorded(pool2: Pool, tmp_path_factory) -> tuple:
    """The folder of one profile, and what each rank did."""
    folder = tmp_path_factory.mktemp("profile")
    return folder, pool2.run(profiled, str(folder))


def ranks_of(folder) -> list[dict]:
    return json.loads((folder / "profile.json").read_text())["ranks"]


def test_only_the_ends_of_the_profile_take_time_of_no_step(recorded):
    _, profiles = recorded
    for rank in profiles:
        assert rank["paused"] == [AFTER, AFTER + 2, AFTER + PROFILED]


def test_the_profile_is_of_the_steps_it_says(recorded):
    folder, _ = recorded
    for rank in ranks_of(folder):
        # two warm up, three are recorded, the one in the middle is shown
        assert [s["step"] for s in rank["steps"]] == [15, 16, 17]
        assert rank["step"] == 16
        assert rank["on_gpu"] is False


def test_every_rank_leaves_a_small_trace_with_the_same_numbers(recorded):
    folder, _ = recorded
    for place, rank in enumerate(ranks_of(folder)):
        trace = folder / f"trace.rank{place}.json.gz"
        assert 1000 < trace.stat().st_size < 300_000
        again = summarise_rank(trace).numbers
        assert again["step"] == rank["step"]
        for field in ("step_ms", "compute_ms", "communication_ms", "idle_ms"):
            assert again[field] == pytest.approx(rank[field], abs=0.01)
        assert [r[0] for r in again["ranges"]] == [
            r[0] for r in rank["ranges"]
        ]


def test_the_times_of_a_step_add_up(recorded):
    folder, _ = recorded
    for rank in ranks_of(folder):
        parts = (
            rank["compute_ms"]
            + rank["exposed_communication_ms"]
            + rank["idle_ms"]
        )
        assert parts == pytest.approx(rank["step_ms"])
        assert rank["compute_ms"] > 0 and rank["communication_ms"] > 0
        work = sum(rank["groups"].values()) - rank["communication_ms"]
        # groups are own times of operations: never more than the lanes'
        assert 0.8 * rank["compute_ms"] < work <= 1.001 * rank["compute_ms"]
        for group in ("matrix products", "attention", "LayerNorm"):
            assert rank["groups"][group] > 0
        assert rank["groups"]["optimizer"] > 0


def test_the_passes_are_those_that_the_executor_ran(recorded):
    folder, profiles = recorded
    for rank, ran in zip(ranks_of(folder), profiles, strict=True):
        passes = [name for name, _, _ in rank["ranges"] if name[0] in "FB"]
        assert passes == ran["order"]
        assert len(passes) == 2 * MICRO_BATCHES


def test_ranks_share_a_clock_on_which_a_message_arrives_later(recorded):
    folder, _ = recorded
    begin = [
        {name: r["offset_ms"] + at for name, at, _ in r["ranges"]}
        for r in ranks_of(folder)
    ]
    end = [
        {name: r["offset_ms"] + at + d for name, at, d in r["ranges"]}
        for r in ranks_of(folder)
    ]
    for i in range(MICRO_BATCHES):
        assert end[0][f"F{i}"] < begin[1][f"F{i}"]
        assert end[1][f"B{i}"] < begin[0][f"B{i}"]


def test_the_bubble_and_the_measures_are_written(recorded):
    folder, _ = recorded
    pipeline = json.loads((folder / "profile.json").read_text())["pipeline"]
    assert 0 < pipeline["bubble"] < 1
    assert pipeline["bubble"] == pytest.approx(
        pipeline["schedule"] + pipeline["imbalance"]
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    measured = {
        (e["name"], e["labels"].get("rank"), e["labels"].get("group")): e
        for e in map(json.loads, lines)
    }
    assert (
        measured["bubble_fraction", None, None]["value"]
        == (pipeline["bubble"])
    )
    for place, rank in enumerate(ranks_of(folder)):
        assert (
            measured["compute_ms", place, None]["value"]
            == (rank["compute_ms"])
        )
        assert ("group_ms", place, "matrix-products") in measured
        assert ("profiled_peak", place, None) in measured
    assert not any(name == "offset_ms" for name, _, _ in measured)


def test_memory_grows_by_the_activations_and_falls_again(recorded):
    folder, _ = recorded
    for rank in ranks_of(folder):
        memory = rank["memory"]
        sizes = [gib for _, gib in memory["points"]]
        assert memory["peak_gib"] == pytest.approx(max(sizes), abs=1e-5)
        # of one micro-batch, each block keeps more than 4 times b · s · h
        least = 4 * 2 * 64 * 64 * 4 / 2**30
        assert max(sizes) - min(sizes) > least
        assert memory["from_zero"] is False


def test_the_table_names_every_rank_and_group(recorded):
    folder, _ = recorded
    text = (folder / "profile.txt").read_text()
    for words in ("step 16 of the run", "exposed", "rank 1", "attention",
                  "the longest operations", "unequal stages"):  # fmt: skip
        assert words in text


def alone(rank: int, world: int, folder: str) -> list[int]:
    """Count steps under a profiler of rank 0 alone; return its pauses."""
    job = Job(rank, world, torch.device("cpu"))
    with MetricsWriter(None) as writer:
        profiler = Profiler(folder, job, 0, 1, writer, every_rank=False)
        paused = []
        for step in range(PROFILED + 3):
            if profiler.at(step):
                paused.append(step)
            torch.ones(8, 8) @ torch.ones(8, 8)
    return paused


def test_a_profile_of_rank_0_alone_asks_nothing_of_the_others(
    pool2: Pool, tmp_path
):
    assert pool2.run(alone, str(tmp_path)) == [[1, 3, 1 + PROFILED], []]
    (kept,) = tmp_path.iterdir()
    assert kept.name == "trace.json.gz"
    events = json.loads(gzip.decompress(kept.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "aten::mm" for event in events)
