"""How a pipeline runs: receives ahead, traces, memory, compiled blocks."""

import itertools
import time
import weakref

import pytest
import torch
from pipeline_cases import Case, build
from pool import Pool

from workshop.models.gpt import compile_blocks
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.messages import route_of
from workshop.parallel.pipeline.schedule import (
    make_schedule,
)
from workshop.parallel.pipeline.timeline import Timeline

LATE = 2.0
"""Seconds by which the first stage begins a step later than the second."""


class Logged(Pipeline):
    """Notes when receives are posted and when operations run."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.log, post = [], self.channels.receive

        def receive(message, tensor):
            self.log.append(("post", message.needed))
            return post(message, tensor)

        self.channels.receive = receive

    def _execute(self, operation, mail):
        self.log.append(("run", operation))
        return super()._execute(operation, mail)


def log_of(rank: int, world: int, case: Case) -> list:
    pipeline = build(rank, world, case)
    logs = []
    for _ in range(2):
        pipeline.log.clear()
        pipeline.forward_backward(case.micro_batches(0))
        logs.append(list(pipeline.log))
    pipeline.close()
    return logs


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_receives_are_posted_before_the_operation_before(
    pool2: Pool, schedule: str
) -> None:
    v = 2 if schedule == "interleaved" else 1
    case = Case(schedule, 4, v, pipeline=Logged)
    planned = make_schedule(schedule, 2, 4, v)
    for rank, (first, second) in enumerate(pool2.run(log_of, case)):
        operations, early = planned[rank], 0
        for before, operation in itertools.pairwise(operations):
            if not route_of(planned).incoming(rank, operation):
                continue
            run, post = ("run", before), ("post", operation)
            # Kernels are compiled in the first step, and nothing may wait.
            assert first.index(post) > first.index(run)
            early += second.index(post) < second.index(run)
        # All but the turning points, which need the operation before.
        assert early >= len(operations) / 2 - 1 - v


def traced(rank: int, world: int) -> list:
    traces = []
    for align in (False, True):
        pipeline = build(rank, world, Case(options={"align": align}))
        batches = Case().micro_batches(0)
        pipeline.forward_backward(batches)
        time.sleep(LATE if rank == 0 else 0)
        pipeline.forward_backward(batches)
        traces.append((pipeline.trace, pipeline.trace_times()))
        pipeline.close()
    return traces


def one_clock(timeline: Timeline) -> bool:
    """Say whether every operation starts after what it needs has ended.

    Clocks of ranks that began together may differ by what a busy machine
    makes one of them wait.
    """
    route = route_of(make_schedule("1f1b", 2, 4))
    ends = [{t.operation: t.end for t in times} for times in timeline.ranks]
    return all(
        start > ends[message.sender][message.produced] - LATE / 2
        for rank, times in enumerate(timeline.ranks)
        for operation, start, _ in times
        if (message := route.incoming(rank, operation))
    )


def test_the_trace_has_a_time_for_every_operation(pool2: Pool) -> None:
    ranks = pool2.run(traced)
    for rank, runs in enumerate(ranks):
        for trace, times in runs:
            assert trace == make_schedule("1f1b", 2, 4)[rank]
            assert [timed.operation for timed in times] == trace
            for timed, following in itertools.pairwise(times):
                assert 0 <= timed.start < timed.end <= following.start
    alone, aligned = (
        Timeline([runs[way][1] for runs in ranks]) for way in (0, 1)
    )
    assert one_clock(aligned)
    assert not one_clock(alone)
    assert sum(aligned.shares()) == pytest.approx(1)


def reordered(rank: int, world: int) -> list[float]:
    case = Case("1f1b", 4)
    pipeline = build(rank, world, case)
    batches = case.micro_batches(0)
    losses = [pipeline.forward_backward(batches).item()]
    pipeline.reorder(make_schedule("gpipe", world, 2))
    parts = (batches[:2], batches[2:])
    losses += [pipeline.forward_backward(part).item() for part in parts]
    pipeline.close()
    return losses


def test_another_schedule_on_the_same_stages(pool2: Pool) -> None:
    one, two = pool2.run(reordered)
    assert one == two
    assert one[0] == pytest.approx((one[1] + one[2]) / 2, rel=1e-12)


class Watched(Pipeline):
    """Notes the dtype of what is handed over, and which results live on."""

    def _execute(self, operation, mail):
        result = super()._execute(operation, mail)
        if self.handing and operation.kind == "F":
            self.results.append(weakref.ref(result))
            self.dtypes.add(result.dtype)
        return result


def watch(rank: int, world: int) -> tuple:
    case = Case("gpipe", 4, dtype=torch.float32, pipeline=Watched)
    pipeline = build(rank, world, case)
    pipeline.handing, pipeline.results = rank < world - 1, []
    pipeline.dtypes, kept = set(), []
    run = pipeline._backward

    def backward(operation, gradient):
        kept.append(sum(ref() is not None for ref in pipeline.results))
        return run(operation, gradient)

    pipeline._backward = backward
    loss = pipeline.forward_backward(case.micro_batches(0), autocast=torch.bfloat16)
    held = len(pipeline.saved)
    pipeline.close()
    return pipeline.dtypes, kept, held, loss.dtype


def test_results_are_freed_and_bfloat16_travels(pool2: Pool) -> None:
    first, last = pool2.run(watch)
    assert first[0] == {torch.bfloat16}
    for _, kept, held, dtype in (first, last):
        assert kept == [0] * 4
        assert held == 0
        assert dtype == torch.float32


def compiled(rank: int, world: int) -> tuple[float, float]:
    case = Case()
    plain = build(rank, world, case)
    other = build(rank, world, case)
    for stage in other.chunks:
        compile_blocks(stage, backend="aot_eager")
    losses = []
    for pipeline in (plain, other):
        loss = pipeline.forward_backward(case.micro_batches(0))
        pipeline.finish_gradients()
        losses.append(loss.item())
        pipeline.close()
    pairs = zip(plain.chunks[0].parameters(), other.chunks[0].parameters(),
                strict=True)  # fmt: skip
    worst = max((a.grad - b.grad).norm() / a.grad.norm() for a, b in pairs)
    return abs(losses[0] - losses[1]), worst.item()


def test_compiled_blocks_give_the_same_gradients(pool2: Pool) -> None:
    for loss, gradient in pool2.run(compiled):
        assert loss < 1e-12
        assert gradient < 1e-9
