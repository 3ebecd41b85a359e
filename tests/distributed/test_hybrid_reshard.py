"""A state that one layout made goes on in any other as the dense one does."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hybrid_cases import Case, Training, assemble, of, own, train_dense
from hybrid_parity import check
from parity import compare
from pool import Pool

from workshop.errors import UserError
from workshop.layout import Layout

Pairs = dict[Layout, list[Layout]]
CHUNKS = {"schedule": "interleaved", "virtual_stages": 2}
OF_TWO = [
    of(2, m=2),
    of(2, tp=2, m=2),
    of(2, tp=2, m=2, sequence_parallel=True),
    of(2, pp=2, m=2),
    of(2, pp=2, m=2, **CHUNKS),
]
OF_FOUR = [
    of(4, m=2),
    of(4, tp=4, m=2),
    of(4, pp=4, m=2),
    of(4, tp=2, m=2, sequence_parallel=True),
    of(4, pp=2, m=2, **CHUNKS),
    of(4, tp=2, pp=2, m=2),
]


def switch(rank: int, world: int, case: Case, pairs: Pairs) -> list[Training]:
    """Take step 0 in one layout and step 1 in others; a result for each."""
    results = []
    for before, others in pairs.items():
        first = replace(case, layout=before)
        trainer = first.trainer()
        trainer.step(first.batches(0, trainer.groups.at.dp), case.lr)
        dense = [trainer.state()]
        trainer.close()
        dist.broadcast_object_list(dense)
        for after in others:
            second = replace(case, layout=after)
            other = second.trainer()
            with torch.no_grad():
                for parameter in other.parameters.values():
                    parameter.fill_(7.0)  # nothing that is right already
            other.load(dense[0])
            report = other.step(
                second.batches(1, other.groups.at.dp), case.lr
            )
            weights = own(other, lambda p: p.detach())
            results.append(Training([report.tolist()], [], weights))
            other.close()
    return results


def next_two(layouts: list[Layout]) -> Pairs:
    """Return each layout with itself and the next one in a circle."""
    following = [*layouts[1:], layouts[0]]
    return {
        one: [one, other]
        for one, other in zip(layouts, following, strict=True)
    }


def every_pair(layouts: list[Layout]) -> Pairs:
    return dict.fromkeys(layouts, layouts)


EACH = pytest.mark.parametrize(
    "pairs", [next_two, pytest.param(every_pair, marks=pytest.mark.long)]
)


@EACH
@pytest.mark.parametrize("optimizer", ["adamw", "master"])
def test_two_ranks_from_any_layout_to_any(
    pool2: Pool, optimizer: str, pairs: Callable[[list[Layout]], Pairs]
) -> None:
    layouts = OF_TWO if optimizer == "adamw" else OF_TWO[1:4]
    verify(pool2, Case(optimizer=optimizer, clip=0.05), pairs(layouts))


@EACH
def test_four_ranks_from_any_layout_to_any(
    pool4: Pool, pairs: Callable[[list[Layout]], Pairs]
) -> None:
    verify(pool4, Case(optimizer="adamw", awkward=True), pairs(OF_FOUR))


def verify(pool: Pool, case: Case, pairs: Pairs) -> None:
    """Compare what each pair of layouts ends with, with the dense model."""
    by_rank = pool.run(switch, case, pairs)
    dense = train_dense(case)
    ends = [after for others in pairs.values() for after in others]
    for after, ranks in zip(ends, zip(*by_rank, strict=True), strict=True):
        whole = assemble(after, [training.weights for training in ranks])
        compare("weights", 0, whole, dense.weights)
        for rank, training in enumerate(ranks):
            for got, due in zip(
                training.reports[0], dense.reports[1], strict=True
            ):
                check(f"rank {rank}", got, due)


def refusals(rank: int, world: int) -> list[str]:
    """Return what loading says of states that are of another model."""
    case = Case(of(2, tp=2, m=2), optimizer="adamw")
    trainer = case.trainer()
    trainer.step(case.batches(0, trainer.groups.at.dp), case.lr)
    box = [trainer.state()]
    dist.broadcast_object_list(box)
    said = []
    for change in (
        lambda model: model.pop("head.norm.weight"),
        lambda model: model.update(
            {"blocks.0.mlp.up.weight": torch.zeros(8, 16)}
        ),
    ):
        state = {**box[0], "model": dict(box[0]["model"])}
        change(state["model"])
        with pytest.raises(UserError) as refused:
            trainer.load(state)
        said.append(str(refused.value))
    return said


def test_shapes_that_do_not_fit_are_one_sentence(pool2: Pool) -> None:
    for missing, other in pool2.run(refusals):
        assert "head.norm.weight is missing" in missing
        assert "blocks.0.mlp.up.weight is (4, 16)" in other
        assert "the model's (32, 16)" in other
