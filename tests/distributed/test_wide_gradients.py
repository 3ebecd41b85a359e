"""Float32 gradients of bfloat16 weights: sums lose nothing, in any layout.

Backward gives each micro-batch's gradient in bfloat16.  The reference takes
those one by one and adds them up in float64; a sum in bfloat16 rounds after
every micro-batch, and is the bug that must not pass.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hybrid_cases import CONFIG, SEED, Case, of
from pool import Pool
from torch import Tensor
from training_cases import groups_of

from workshop.collectives import count
from workshop.models.gpt import GPT
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.trainer import Recipe

WIDE, NARROW = "bf16-weights-float32-gradients", "bf16-weights"
M = 8
EXACT = 1e-6
"""What eight sums in float32 may lose; one in bfloat16 loses a thousandth."""


def model() -> GPT:
    """Return the same dense model on every rank.

    Untied: the dense model adds both uses of a tied weight inside backward,
    a pipeline afterwards.
    """
    torch.manual_seed(SEED)
    return GPT(replace(CONFIG, tied=False))


@cache
def reference() -> dict[str, Tensor]:
    """Return the mean of the micro-batches' gradients, added in float64."""
    dense = model().bfloat16()
    sums: dict[str, Tensor] = {}
    for tokens, targets in Case(of(1, m=M)).batches(0, 0):
        dense.zero_grad(set_to_none=True)
        (dense(tokens, targets) / M).backward()
        for name, parameter in dense.named_parameters():
            sums[name] = sums.get(name, 0) + parameter.grad.double()
    return sums


def train(
    rank: int, world: int, case: Case, precision: str
) -> tuple[set[torch.dtype], float, int]:
    """Return a step's dtypes of gradients, worst error, and bytes summed.

    The reference is computed on the rank: another process may multiply with
    another number of threads, and round otherwise.
    """
    recipe = Recipe(precision=precision, data_parallel=case.data_parallel)
    groups = groups_of(case.layout)
    trainer = LayoutTrainer(model, groups, recipe)
    try:
        before = {
            n: p.detach().clone() for n, p in trainer.parameters.items()
        }
        with count() as ledger:
            trainer.forward_backward(case.batches(0, groups.at.dp))
            norm = trainer.update(0.1)
        due = torch.stack(
            [p.grad.double().norm() for p in trainer.parameters.values()]
        ).norm()
        if groups.layout.model_size == 1:
            torch.testing.assert_close(norm.double(), due, rtol=1e-4, atol=0)
        for name, parameter in trainer.parameters.items():
            assert parameter.dtype == torch.bfloat16, name
            assert not torch.equal(parameter, before[name]), name
        gradients = {n: p.grad for n, p in trainer.parameters.items()}
        sent = sum(
            each.message_bytes
            for each in ledger.entries
            if each.operation == "all_reduce"
        )
        dtypes = {gradient.dtype for gradient in gradients.values()}
        return dtypes, worst(gradients), sent
    finally:
        trainer.close()


def worst(gradients: dict[str, Tensor]) -> float:
    """Return the largest relative error of the gradients that are whole."""
    return max(
        ((mine - due).norm() / due.norm()).item()
        for name, mine in gradients.items()
        if mine.shape == (due := reference()[name]).shape
    )


@pytest.mark.parametrize(
    "case",
    [
        Case(of(2, m=M // 2), data_parallel="naive"),
        Case(of(2, m=M // 2)),
        Case(of(2, m=M // 2), bucket_mib=0.001),
        Case(of(2, pp=2, m=M)),
        Case(of(2, pp=2, m=M, schedule="interleaved", virtual_stages=2)),
    ],
    ids=str,
)
def test_the_sum_over_micro_batches_and_ranks_is_exact(
    pool2: Pool, case: Case
) -> None:
    for dtypes, error, _ in pool2.run(train, case, WIDE):
        assert dtypes == {torch.float32} and error < EXACT
    for dtypes, error, _ in pool2.run(train, case, NARROW):
        assert dtypes == {torch.bfloat16} and error > 100 * EXACT


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_shards_have_them_too(pool2: Pool, sequence_parallel: bool) -> None:
    """Products of other shapes round otherwise: near, and not exact."""
    case = Case(of(2, tp=2, m=M, sequence_parallel=sequence_parallel))
    for dtypes, error, _ in pool2.run(train, case, WIDE):
        assert dtypes == {torch.float32} and error < 0.05


@pytest.mark.parametrize("way", ["naive", "overlapped"])
def test_they_cost_twice_the_traffic(pool2: Pool, way: str) -> None:
    case = Case(of(2, m=M // 2), data_parallel=way)
    wide, narrow = (
        {sent for *_, sent in pool2.run(train, case, precision)}
        for precision in (WIDE, NARROW)
    )
    elements = sum(p.numel() for p in model().parameters())
    assert (wide, narrow) == ({4 * elements}, {2 * elements})
