"""Cross-entropy of logits that are split along the vocabulary."""

from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pool import Pool
from torch import Tensor

from workshop.collectives import count
from workshop.parallel.tensor import cross_entropy as vocab_cross_entropy
from workshop.parallel.tensor.cross_entropy import (
    mean_loss,
    vocab_parallel_cross_entropy,
)

TOKENS = 11


def dense(vocabulary: int, scale: float, dtype: torch.dtype) -> tuple:
    """Return logits (n, V), targets (n), and a gradient of the losses."""
    torch.manual_seed(0)
    logits = scale * torch.randn(TOKENS, vocabulary, dtype=torch.float64)
    targets = torch.randint(vocabulary, (TOKENS,))
    targets[0] = vocabulary - 1
    logits = logits.to(dtype)
    return logits, targets, torch.randn(TOKENS, dtype=torch.float64)


def split_losses(
    rank: int, world: int, cases: list, piece: int | None
) -> list:
    """Return what `split_loss` does, for each case."""
    piece = piece or vocab_cross_entropy.PIECE
    losses = []
    with mock.patch.object(vocab_cross_entropy, "PIECE", piece):
        for case in cases:
            losses.append(split_loss(rank, world, case))
    return losses


def split_loss(rank: int, world: int, case: tuple) -> tuple:
    """Return losses, gradient, columns that are real, and what was sent."""
    group = dist.group.WORLD.group_name
    vocabulary = case[0]
    logits, targets, gradient = dense(*case)
    rows = -(-vocabulary // world)
    start = rank * rows
    # Padding must not matter whatever stands there.
    padded = F.pad(logits, (0, rows * world - vocabulary), value=1e4)
    own = padded[:, start : start + rows].clone().requires_grad_()
    real = min(max(vocabulary - start, 0), rows)
    with count() as ledger:
        losses = vocab_parallel_cross_entropy(
            own * 1, targets, start, real, group
        )
        losses.backward(gradient.to(losses.dtype))
    sent = [(entry.operation, entry.elements) for entry in ledger.entries]
    return losses.detach(), own.grad, real, sent


CASES = [
    (vocabulary, scale, torch.float64)
    for vocabulary in (37, 64, 5)
    for scale in (1, 1e3)
]


@pytest.mark.parametrize("piece", [None, 30])
@pytest.mark.parametrize("fixture", ["pool2", "pool4"])
def test_losses_and_gradients_are_those_of_whole_logits(
    request: pytest.FixtureRequest, fixture: str, piece: int | None
) -> None:
    """Odd vocabularies, logits of a thousand, a rank that is all padding.

    A piece of 30 logits is two or three rows, and the last one is shorter.
    """
    pool: Pool = request.getfixturevalue(fixture)
    ranks = pool.run(split_losses, CASES, piece)
    for number, case in enumerate(CASES):
        logits, targets, gradient = dense(*case)
        logits.requires_grad_()
        due = F.cross_entropy(logits, targets, reduction="none")
        due.backward(gradient)
        parts: list[Tensor] = []
        for losses, of_own, real, sent in (rank[number] for rank in ranks):
            torch.testing.assert_close(losses, due.detach())
            assert not of_own[:, real:].any()
            parts.append(of_own[:, :real])
            assert sent == [("all_reduce", TOKENS)] * 3
        torch.testing.assert_close(torch.cat(parts, 1), logits.grad)


def test_16_bit_logits_are_summed_in_32(pool2: Pool) -> None:
    """The losses are those of the same logits, widened first."""
    case = (64, 3.0, torch.bfloat16)
    logits, targets, gradient = dense(*case)
    wide = logits.float().requires_grad_()
    due = F.cross_entropy(wide, targets, reduction="none")
    due.backward(gradient.float())
    ranks = pool2.run(split_losses, [case], None)
    for ((losses, of_own, _, _),) in ranks:
        assert losses.dtype == torch.float32
        assert of_own.dtype == torch.bfloat16
        torch.testing.assert_close(losses, due.detach())
    whole = torch.cat([rank[0][1] for rank in ranks], 1)
    torch.testing.assert_close(whole, wide.grad.bfloat16())


def overwritten(rank: int, world: int) -> list[bool]:
    """Tell where the gradient lies, and whether a second pass is refused."""
    logits, targets, _ = dense(64, 1.0, torch.float32)
    own = logits[:, 32 * rank : 32 * rank + 32].clone().requires_grad_()
    product = own * 1
    loss = vocab_parallel_cross_entropy(
        product, targets, 32 * rank, 32, dist.group.WORLD.group_name
    ).sum()
    loss.backward(retain_graph=True)
    holds = [torch.equal(product, own.grad)]
    try:
        loss.backward()
    except RuntimeError as error:
        holds.append("modified by an inplace operation" in str(error))
    return holds


def test_the_gradient_takes_the_place_of_the_logits(pool2: Pool) -> None:
    """There is no second buffer; backward again says so, not nonsense."""
    assert pool2.run(overwritten) == [[True, True]] * 2


def ignoring(rank: int, world: int, dtype: torch.dtype) -> tuple:
    """Return the mean loss and the gradient where some targets are -100."""
    logits, targets, _ = dense(64, 1.0, dtype)
    targets[::3] = -100
    rows = 64 // world
    own = logits[:, rows * rank : rows * (rank + 1)].clone()
    own.requires_grad_()
    losses = vocab_parallel_cross_entropy(
        own * 1, targets, rows * rank, rows, dist.group.WORLD.group_name
    )
    mean = mean_loss(losses, targets)
    mean.backward()
    return losses.detach(), mean.detach(), own.grad


def test_ignored_targets_count_as_in_the_dense_loss(pool2: Pool) -> None:
    logits, targets, _ = dense(64, 1.0, torch.float64)
    targets[::3] = -100
    logits.requires_grad_()
    each = F.cross_entropy(logits.detach(), targets, reduction="none")
    due = F.cross_entropy(logits, targets)
    due.backward()
    ranks = pool2.run(ignoring, torch.float64)
    for losses, mean, _ in ranks:
        torch.testing.assert_close(losses, each)
        torch.testing.assert_close(mean, due.detach(), rtol=1e-12, atol=0)
    whole = torch.cat([gradient for *_, gradient in ranks], 1)
    torch.testing.assert_close(whole, logits.grad)


def plain(rank: int, world: int) -> bool:
    losses = torch.randn(1000)
    targets = torch.zeros(1000, dtype=torch.int64)
    return torch.equal(mean_loss(losses, targets), losses.mean())


def test_where_all_targets_count_the_mean_is_the_plain_one(
    pool2: Pool,
) -> None:
    assert all(pool2.run(plain))
