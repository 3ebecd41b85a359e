"""A state that one layout made goes on in any other as the dense one does."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hybrid_cases import (
    CONFIG,
    SEQUENCES,
    Case,
    Training,
    assemble,
    batch,
    groups_of,
    own,
    train_dense,
)
from hybrid_parity import check
from parity import compare
from pool import Pool
from torch import nn

from workshop.errors import UserError
from workshop.training import reshard
from workshop.training.hybrid import Strategy, make_strategy
from workshop.training.layout import Layout
from workshop.training.step import training_step

CHUNKS = {"schedule": "interleaved", "virtual_stages": 2}
OF_TWO = [
    Layout(),
    Layout(2),
    Layout(2, 1, True),
    Layout(1, 2),
    Layout(1, 2, **CHUNKS),
]
OF_FOUR = [
    Layout(data_parallel="naive"),
    Layout(4),
    Layout(1, 4),
    Layout(2, 1, True),
    Layout(1, 2, **CHUNKS),
    Layout(2, 2),
]


class Trainee:
    """A case in its layout on this rank, to be trained step by step."""

    def __init__(self, world: int, case: Case) -> None:
        self.case, self.m = case, 2
        dims = case.layout.dims(world, case.config, self.m)
        self.groups = groups_of(dims)
        self.micro_batch = SEQUENCES // (dims.dp * self.m)
        self.strategy: Strategy = make_strategy(
            case.model(), case.layout, self.groups, self.micro_batch, self.m
        )
        parts = nn.ModuleList(self.strategy.chunks)
        self.optimizer = case.optimize(parts)

    def step(self, number: int) -> list[float]:
        """Train one step; return loss and norm."""
        dp = self.groups.dims.dp
        tokens = batch(number).view(self.m, dp, self.micro_batch, -1)
        mine = tokens[:, self.groups.at.dp]
        pairs = [(each[:, :-1], each[:, 1:]) for each in mine]
        return training_step(
            self.strategy, self.optimizer, pairs, self.case.clip, False
        ).tolist()

    def close(self) -> None:
        if self.groups.dims.pp > 1:
            self.strategy.pipeline.close()


def switch(
    rank: int, world: int, case: Case, layouts: list[Layout]
) -> list[Training]:
    """Take step 0 in each layout and step 1 in each; a result for each."""
    found = []
    for before in layouts:
        trainee = Trainee(world, replace(case, layout=before))
        trainee.step(0)
        dense = [
            reshard.gather(
                trainee.strategy, trainee.optimizer, CONFIG.vocabulary
            )
        ]
        trainee.close()
        dist.broadcast_object_list(dense)
        for after in layouts:
            other = Trainee(world, replace(case, layout=after))
            with torch.no_grad():
                for parameter in other.strategy.parameters:
                    parameter.fill_(7.0)  # nothing that is right already
            reshard.scatter(dense[0], other.strategy, other.optimizer)
            report = other.step(1)
            weights = own(other.strategy, lambda p: p.detach())
            found.append(Training([report], [], weights))
            other.close()
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "master"])
def test_two_ranks_from_any_layout_to_any(
    pool2: Pool, optimizer: str
) -> None:
    layouts = OF_TWO if optimizer == "adamw" else OF_TWO[1:4]
    verify(pool2, Case(optimizer=optimizer, clip=0.05), layouts)


def test_four_ranks_from_any_layout_to_any(pool4: Pool) -> None:
    verify(pool4, Case(optimizer="adamw", awkward=True), OF_FOUR)


def verify(pool: Pool, case: Case, layouts: list[Layout]) -> None:
    """Compare what each pair of layouts ends with, with the dense model."""
    by_rank = pool.run(switch, case, layouts, timeout=240)
    dense = train_dense(case)
    pairs = [(a, b) for a in layouts for b in layouts]
    for (_, after), ranks in zip(
        pairs, zip(*by_rank, strict=True), strict=True
    ):
        dims = after.dims(pool.world, CONFIG, 2)
        whole = assemble(dims, [training.weights for training in ranks])
        compare("weights", 0, whole, dense.weights)
        for rank, training in enumerate(ranks):
            for got, due in zip(
                training.reports[0], dense.reports[1], strict=True
            ):
                check(f"rank {rank}", got, due)


def refusals(rank: int, world: int) -> list[str]:
    """Return what loading says of states that are of another model."""
    trainee = Trainee(world, Case(Layout(2), optimizer="adamw"))
    trainee.step(0)
    box = [reshard.gather(trainee.strategy, trainee.optimizer, 37)]
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
            reshard.scatter(state, trainee.strategy, trainee.optimizer)
        said.append(str(refused.value))
    return said


def test_shapes_that_do_not_fit_are_one_sentence(pool2: Pool) -> None:
    for missing, other in pool2.run(refusals):
        assert "head.norm.weight is missing" in missing
        assert "blocks.0.mlp.up.weight is (4, 16)" in other
        assert "the model's (32, 16)" in other
