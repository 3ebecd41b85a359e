"""A pipeline equals the dense model, whatever its schedule."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch.distributed as dist
from parity import compare
from pipeline_cases import SHAPE, Case, train_dense, verify
from pool import Pool, RankError
from training_cases import gradients_of

from workshop.collectives import count
from workshop.errors import UserError
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.naive import NaivePipeline
from workshop.parallel.pipeline.schedule import (
    gpipe,
    interleaved,
    make_schedule,
    one_f_one_b,
)
from workshop.parallel.pipeline.stages import make_stages

PLAIN = [Case("1f1b", m) for m in (1, 2, 3, 4, 8)] + [
    Case(name, m) for name in ("gpipe", "eager-1f1b") for m in (1, 3, 8)
]


NAIVE = [replace(case, pipeline=NaivePipeline) for case in PLAIN]


def test_two_stages_equal_the_dense_model(pool2: Pool) -> None:
    interleaved = [Case("interleaved", m, v=2) for m in (2, 4, 8)]
    verify(pool2, PLAIN + interleaved + NAIVE)


def test_four_stages_equal_the_dense_model(pool4: Pool) -> None:
    interleaved = [Case("interleaved", m, v=2, layers=8) for m in (4, 8)]
    verify(pool4, PLAIN + interleaved + NAIVE)


def test_a_head_of_its_own_has_nothing_to_sum(pool2: Pool) -> None:
    cases = [Case(m, 4, tied=False) for m in ("1f1b", "gpipe")]
    naive = [replace(case, pipeline=NaivePipeline) for case in cases]
    chunks = Case("interleaved", 4, v=2, tied=False)
    verify(pool2, [*cases, *naive, chunks])


@pytest.mark.parametrize("wrap", [NaiveDataParallel, OverlappedDataParallel])
def test_pipelines_beside_each_other_average(pool4: Pool, wrap) -> None:
    one = Case("1f1b", 3, dp=2, wrap=wrap)
    cases = [
        one,
        replace(one, pipeline=NaivePipeline),
        Case("interleaved", 2, v=2, dp=2, wrap=wrap),
    ]
    verify(pool4, cases)


def test_frozen_parameters_stay_without_gradient(pool2: Pool) -> None:
    stage = [n for n, _ in Case().model().named_parameters()
             if n.startswith(("embedding", "blocks.0", "blocks.1"))]  # fmt: skip
    some = ("embedding.token.weight", "blocks.3.mlp.up.bias")
    cases = [Case(frozen=tuple(stage)), Case(frozen=some)]
    naive = [replace(case, pipeline=NaivePipeline) for case in cases]
    verify(pool2, cases + naive)


def swap(rank: int, world: int, kind: type) -> float:
    case = Case()
    schedule = make_schedule("1f1b", world, case.num_microbatches)
    schedule[0][:2] = reversed(schedule[0][:2])
    chunks = make_stages(case.model(), case.config, rank, world)
    pipeline = kind(chunks, schedule, dist.group.WORLD, SHAPE, timeout=1)
    loss = pipeline.forward_backward(case.micro_batches(0)).item()
    pipeline.close()
    return loss


def test_a_swapped_order_hangs_the_naive_one_which_names_the_ranks(
    pool2: Pool, record_property: Callable[[str, object], None]
) -> None:
    one, two = pool2.run(swap, Pipeline)
    assert one == two
    with pytest.raises(RankError) as caught:
        pool2.run(swap, NaivePipeline)
    said = "\n".join(caught.value.failures.values())
    assert caught.value.failures.keys() <= {0, 1}
    assert (
        "deadlock: rank 0 waits after F1 until rank 1 takes its result for "
        "F1, and rank 1 waits before F0 for the result of F0 on rank 0"
    ) in said
    assert "PipelineStuck: rank" in said
    bug = "send order swapped, blocking sends"
    record_property("planted bug", (bug, "timeout", ""))


def refused(rank: int, world: int) -> list[str]:
    case, group = Case(), dist.group.WORLD
    chunks = make_stages(case.model(), case.config, rank, world)
    circle = [gpipe(world, 2)[0] for _ in range(world)]
    circle[0] = [circle[0][i] for i in (0, 2, 1, 3)]
    said = []
    for schedule in (one_f_one_b(3, 2), interleaved(2, 2, 2), circle):
        try:
            Pipeline(chunks, schedule, group, SHAPE)
        except UserError as error:
            said.append(str(error))
    try:
        NaivePipeline([*chunks, *chunks], interleaved(2, 2, 2), group, SHAPE)
    except UserError as error:
        said.append(str(error))
    pipeline = Pipeline(chunks, one_f_one_b(2, 3), group, SHAPE)
    try:
        pipeline.forward_backward(case.micro_batches(0))
    except UserError as error:
        said.append(str(error))
    pipeline.close()
    return said


def test_what_does_not_fit_is_one_sentence(pool2: Pool) -> None:
    for said in pool2.run(refused):
        ranks, chunks, circle, several, number = said
        assert "give each rank one stage" in several
        assert "3 ranks with 1 chunks each and the pipeline has 2" in ranks
        assert "2 ranks with 2 chunks each and the pipeline has 2" in chunks
        assert "can never finish (deadlock: rank" in circle
        assert "4 micro-batches came and the schedule is for 3" in number
        assert not any("\n" in text for text in said)


def mismatched(rank: int, world: int) -> None:
    case = Case()
    chunks = make_stages(case.model(), case.config, rank, world)
    shape = (*SHAPE[:2], 2 * SHAPE[2])
    pipeline = Pipeline(chunks, one_f_one_b(2, 4), dist.group.WORLD, shape,
                        timeout=1)  # fmt: skip
    pipeline.forward_backward(case.micro_batches(0))


def test_a_wrong_shape_is_named_before_it_is_sent(pool2: Pool) -> None:
    message = r"F0 of rank 0 hands over \(2, 8, 16\).* for \(2, 8, 32\)"
    with pytest.raises(RankError, match=message):
        pool2.run(mismatched)


def alone(rank: int, world: int) -> list[float]:
    case = Case("1f1b", 3)
    mine = dist.new_subgroups(1)[0]
    (stage,) = make_stages(case.model(), case.config, 0, 1)
    pipeline = Pipeline([stage], one_f_one_b(1, 3), mine, SHAPE)
    with count() as ledger:
        loss = pipeline.forward_backward(case.micro_batches(0))
        pipeline.finish_gradients()
    pipeline.close()
    dense = train_dense(case)
    compare("gradients", rank, gradients_of(stage), dense.gradients[0])
    return [loss.item() - dense.losses[0], ledger.calls]


def test_one_stage_is_the_dense_model_and_sends_nothing(pool2: Pool) -> None:
    for error, calls in pool2.run(alone):
        assert abs(error) < 1e-12
        assert calls == 0
