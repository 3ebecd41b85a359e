"""Tensor parallelism, split tokens or not, against the dense model."""

import pytest
import torch
import torch.distributed as dist
from pool import Pool
from tensor_cases import (
    FROZEN,
    Case,
    Training,
    compiled,
    split,
    train_rank,
    verify,
)
from torch import nn
from training_cases import groups_of

from workshop.collectives import count
from workshop.errors import UserError
from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.pipeline.stages import Stage
from workshop.parallel.placement import Placement
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.parallel.tensor.sharding import PLAN, shard_tensor

CASES = {
    "odd vocabulary": Case(),
    "even vocabulary": Case(vocabulary=64),
    "no overlap": Case(overlap=False),
    "no bias": Case(bias=False),
    "AdamW": Case(optimizer="adamw"),
    "frozen": Case(frozen=True),
    "frozen, no overlap": Case(frozen=True, overlap=False),
    "dropout": Case(dropout=0.2),
    "one real row on the last of 4 ranks": Case(vocabulary=7),
    "tokens split": Case(sequence_parallel=True),
    "tokens split, even vocabulary": Case(
        sequence_parallel=True, vocabulary=64
    ),
    "tokens split, no overlap": Case(sequence_parallel=True, overlap=False),
    "tokens split, no bias": Case(sequence_parallel=True, bias=False),
    "tokens split, AdamW": Case(sequence_parallel=True, optimizer="adamw"),
    "tokens split, frozen": Case(sequence_parallel=True, frozen=True),
    "fused": Case(sequence_parallel=True, fused=True),
    "fused, frozen": Case(sequence_parallel=True, frozen=True, fused=True),
}


def all_cases(pool: Pool) -> dict[str, list[Training]]:
    ranks = pool.run(train_rank, list(CASES.values()))
    by_case = zip(*ranks, strict=True)
    return dict(zip(CASES, map(list, by_case), strict=True))


@pytest.fixture(scope="module")
def on_two(pool2: Pool) -> dict[str, list[Training]]:
    return all_cases(pool2)


@pytest.fixture(scope="module")
def on_four(pool4: Pool) -> dict[str, list[Training]]:
    return all_cases(pool4)


@pytest.mark.parametrize("ranks", ["on_two", "on_four"])
@pytest.mark.parametrize("name", CASES)
def test_equals_dense(
    request: pytest.FixtureRequest, ranks: str, name: str
) -> None:
    """Loss, gradients, weights, moments, logits; traffic to the byte."""
    case = CASES[name]
    trainings = request.getfixturevalue(ranks)[name]
    # What is frozen sends less; the values are what matters there.
    verify(case, trainings, traffic=not case.frozen)
    for training in trainings:
        missing = {name for name in FROZEN if case.frozen}
        assert training.gradients[0].keys() | missing == (
            training.weights.keys()
        )
        assert not training.gradients[0].keys() & missing


def train_in_pairs(rank: int, world: int, case: Case) -> list[float]:
    """Train with dp = 2 and tp = 2; return loss and what it sent."""
    groups = groups_of(Layout(dp=world // 2, tp=2))
    model, placement = split(case, groups.tp)
    with count() as ledger:
        loss = model(*case.batch(groups.at.dp))
        loss.backward()
        tensor_parallel.finish_gradients(model, placement, groups.tp)
    sizes = {entry.group_size for entry in ledger.entries}
    return [groups.at.dp, loss.item(), *sizes]


def test_two_groups_side_by_side_do_not_meet(pool4: Pool) -> None:
    """Each pair trains on its own batch and talks within the pair."""
    for sequence_parallel in (False, True):
        case = Case(sequence_parallel)
        dense = case.model()
        for dp, loss, *sizes in pool4.run(train_in_pairs, case):
            due = dense(*case.batch(dp)).item()
            assert loss == pytest.approx(due, rel=1e-12)
            assert sizes == [2]


def split_alone(rank: int, world: int) -> bool:
    """Apply to a group of this rank alone; tell whether all is as before."""
    alone = [[member] for member in range(world)]
    group, _ = dist.new_subgroups_by_enumeration(alone)
    model = Case().model()
    modules, parameters = list(model.modules()), list(model.parameters())
    due = model(*Case().batch(0))
    placement = tensor_parallel.apply(
        model, PLAN, group, sequence_parallel=True
    )
    with count() as ledger:
        loss = model(*Case().batch(0))
        loss.backward()
        tensor_parallel.finish_gradients(model, placement, group)
    dist.destroy_process_group(group)
    same = torch.equal(loss, due) and ledger.calls == 0
    for kept, now in (
        (modules, model.modules()),
        (parameters, model.parameters()),
    ):
        same &= all(a is b for a, b in zip(kept, now, strict=True))
    return same and set(placement.values()) == {Placement()}


def test_one_rank_is_the_dense_model(pool2: Pool) -> None:
    assert pool2.run(split_alone) == [True, True]


def refusals(rank: int, world: int) -> list[str]:
    """Return the sentences for layouts that cannot be."""
    long = GPT(GPTConfig(1, 12, 2, 7, 10))
    messages = []
    for model, tokens, split_tokens in (
        (GPT(GPTConfig(1, 12, 3, 8, 10)), 8, False),
        (long, 7, True),
        (GPT(GPTConfig(1, 12, 2, 8, 10)), 5, True),
    ):
        try:
            tensor_parallel.apply(model, PLAN, dist.group.WORLD, split_tokens)
            model(torch.zeros(2, tokens, dtype=torch.int64))
        except UserError as error:
            messages.append(str(error))
    return messages


def test_sizes_that_do_not_divide_are_named(pool2: Pool) -> None:
    for heads, sequence, shorter in pool2.run(refusals):
        assert "3 attention heads" in heads and "size 2" in heads
        assert "sequence of 7 tokens" in sequence and "size 2" in sequence
        assert "sequence of 5 tokens" in shorter


def unknown_tokens(rank: int, world: int) -> list[str]:
    """Return what tokens beyond 9 words, padded to 10, or below 0 raise."""
    model = GPT(GPTConfig(1, 12, 2, 8, 9))
    tensor_parallel.apply(model, PLAN, dist.group.WORLD)
    raised = []
    for token in (9, 10, 99, -1):
        try:
            model(torch.full((2, 8), token))
        except IndexError as error:
            raised.append(type(error).__name__)
    return raised


def test_a_token_beyond_the_vocabulary_is_refused(pool2: Pool) -> None:
    """As the dense embedding does, on every rank: nobody waits."""
    assert pool2.run(unknown_tokens) == [["IndexError"] * 4] * 2


def run_stages(rank: int, world: int, case: Case) -> list[str]:
    """Cut a model in two stages, split each; return what is wrong."""
    dense = case.model()
    due = dense(*case.batch(0))
    due.backward()
    model, group = case.model(), dist.group.WORLD
    stages = [
        Stage(model, range(1), first=True, last=False),
        Stage(model, range(1, 2), first=False, last=True),
    ]
    placements = []
    for stage in stages:
        placements.append(
            tensor_parallel.apply(stage, PLAN, group, case.sequence_parallel)
        )
        compiled(stage, case.backend)
    tokens, targets = case.batch(0)
    loss = stages[1](stages[0](tokens), targets)
    loss.backward()
    got: dict[str, torch.Tensor] = {}
    wrong = [] if torch.isclose(loss, due, rtol=1e-12) else ["loss"]
    for number, stage in enumerate(stages):
        tensor_parallel.finish_gradients(stage, placements[number], group)
        for name, parameter in stage.named_parameters():
            got[name] = got.get(name, 0) + parameter.grad
    for name, parameter in dense.named_parameters():
        part = shard_tensor(name, parameter.grad, PLAN, rank, world)
        if not torch.allclose(got[name], part, rtol=1e-9, atol=1e-14):
            wrong.append(name)
    return wrong


def test_a_stage_without_embedding_or_head_is_split(pool2: Pool) -> None:
    for sequence_parallel in (False, True):
        case = Case(sequence_parallel, backend="eager")
        assert pool2.run(run_stages, case) == [[], []]


def low_precision(rank: int, world: int, case: Case) -> list:
    """Return losses, and bytes an element of what travels, in 16 bits."""
    trained = []
    for weights, backend in (
        (torch.bfloat16, ""),
        (torch.float32, ""),
        (torch.float32, "eager"),
    ):
        autocast = weights == torch.float32
        models: list[nn.Module] = [case.model().to(weights)]
        models.append(case.model().to(weights))
        tensor_parallel.apply(
            models[1],
            PLAN,
            dist.group.WORLD,
            case.sequence_parallel,
            case.overlap,
        )
        compiled(models[1], backend)
        losses = []
        for model in models:
            with (
                count() as ledger,
                torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            ):
                loss = model(*case.batch(0))
            loss.backward()
            losses.append(loss.item())
        widths = {
            (entry.elements, entry.message_bytes // entry.elements)
            for entry in ledger.entries[1:]
        }
        kinds = {p.grad.dtype for p in models[1].parameters()}
        trained.append((losses, widths, kinds == {weights}, loss.dtype))
    return trained


@pytest.mark.parametrize(
    ("sequence_parallel", "overlap"),
    [(False, True), (True, True), (True, False)],
)
def test_16_bits_travel_and_the_loss_is_summed_in_32(
    pool2: Pool, sequence_parallel: bool, overlap: bool
) -> None:
    """bfloat16 weights, and autocast, which no custom operator sees."""
    case = Case(sequence_parallel, overlap, vocabulary=64)
    scalars, activations = 3 * 8, 3 * 8 * 16
    for trained in pool2.run(low_precision, case):
        for (due, loss), widths, kinds, dtype in trained:
            assert loss == pytest.approx(due, rel=0.01)
            assert widths == {(scalars, 4), (activations, 2)}
            assert kinds and dtype == torch.float32
