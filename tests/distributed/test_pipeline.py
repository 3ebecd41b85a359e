"""A pipeline equals the dense model, whatever its schedule."""

import itertools

import pytest
import torch.distributed as dist
from pipeline_cases import SHAPE, Case, build, verify
from pool import Pool, RankError

from workshop.parallel.data_parallel import (
    NaiveDataParallel,
    OverlappedDataParallel,
)
from workshop.parallel.pipeline import Pipeline
from workshop.parallel.pipeline_messages import route_of
from workshop.parallel.pipeline_schedule import make_schedule
from workshop.parallel.pipeline_stages import make_stages

PLAIN = [Case("1f1b", m) for m in (1, 2, 3, 4, 8)] + [
    Case("gpipe", m) for m in (1, 2, 3, 4, 8)
]


def test_two_stages_equal_the_dense_model(pool2: Pool) -> None:
    interleaved = [Case("interleaved", m, v=2) for m in (2, 4, 8)]
    verify(pool2, PLAIN + interleaved)


def test_four_stages_equal_the_dense_model(pool4: Pool) -> None:
    interleaved = [Case("interleaved", m, v=2, layers=8) for m in (4, 8)]
    verify(pool4, PLAIN + interleaved)


@pytest.mark.parametrize("wrap", [NaiveDataParallel, OverlappedDataParallel])
def test_pipelines_beside_each_other_average(pool4: Pool, wrap) -> None:
    cases = [Case("1f1b", 3, dp=2, wrap=wrap),
             Case("interleaved", 2, v=2, dp=2, wrap=wrap)]  # fmt: skip
    verify(pool4, cases)


def test_frozen_parameters_stay_without_gradient(pool2: Pool) -> None:
    stage = [n for n, _ in Case().model().named_parameters()
             if n.startswith(("embedding", "blocks.0", "blocks.1"))]  # fmt: skip
    some = ("embedding.token.weight", "blocks.3.mlp.up.bias")
    verify(pool2, [Case(frozen=tuple(stage)), Case(frozen=some)])


def test_blocking_sends_survive_gpipe_and_1f1b(pool4: Pool) -> None:
    options = {"blocking": True, "timeout": 30}
    verify(pool4, [Case(s, m, options=options) for s in ("gpipe", "1f1b")
                   for m in (1, 5)])  # fmt: skip


def swap(rank: int, world: int, blocking: bool) -> float:
    case = Case()
    schedule = make_schedule("1f1b", world, case.num_microbatches)
    schedule[0][:2] = reversed(schedule[0][:2])
    chunks = make_stages(case.model(), case.config, rank, world)
    pipeline = Pipeline(chunks, schedule, dist.group.WORLD, SHAPE,
                        blocking=blocking, timeout=1)  # fmt: skip
    loss = pipeline.forward_backward(case.micro_batches(0)).item()
    pipeline.close()
    return loss


def test_a_swapped_order_hangs_blocking_sends_and_names_the_ranks(
    pool2: Pool,
) -> None:
    one, two = pool2.run(swap, False)
    assert one == two
    with pytest.raises(RankError) as caught:
        pool2.run(swap, True)
    said = "\n".join(caught.value.failures.values())
    assert caught.value.failures.keys() <= {0, 1}
    assert (
        "deadlock: rank 0 waits after F1 until rank 1 takes its result for "
        "F1, and rank 1 waits before F0 for the result of F0 on rank 0"
    ) in said
    assert "PipelineStuck: rank" in said


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
