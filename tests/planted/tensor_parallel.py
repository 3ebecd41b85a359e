"""Tensor and sequence parallelism with one bug each, for the checks to catch.

A plant replaces something real by a version with one mistake that people
make; it is a context manager, entered on every rank before the model is
split.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from tensor_cases import LAYERS, STEPS, Case
from torch import Tensor, nn

from workshop import collectives
from workshop.parallel.placement import PARTIAL, WHOLE, Placement
from workshop.parallel.tensor import layers as tensor_layers
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.parallel.tensor.layers import (
    RowParallelLinear,
    VocabParallelEmbedding,
)
from workshop.parallel.tensor.mappings import reduce_from
from workshop.parallel.tensor.sequence import SequenceParallelEmbedding

Plant = Callable[[], AbstractContextManager[object]]


def bias_before_the_sum() -> AbstractContextManager[object]:
    """Every rank adds the bias, and then the ranks are summed."""

    def forward(layer: RowParallelLinear, x: Tensor) -> Tensor:
        y = F.linear(x, layer.weight, layer.bias)
        return reduce_from(y, layer.region.group)

    return mock.patch.object(RowParallelLinear, "forward", forward)


def qkv_cut_across() -> AbstractContextManager[object]:
    """The fused QKV is cut like any matrix: rank 0 gets Q and half of K."""
    return mock.patch.dict(
        tensor_parallel.PLAN, {"blocks.*.attention.qkv": "column"}
    )


@contextmanager
def after_apply(change: Callable[[str, Placement], Placement]) -> Iterator:
    """Change where the parameters are said to lie."""
    apply = tensor_parallel.apply

    def changed(*args: object) -> dict[str, Placement]:
        placement = apply(*args)
        return {n: change(n, lies) for n, lies in placement.items()}

    with mock.patch.object(tensor_parallel, "apply", changed):
        yield


def forget(what: str) -> Plant:
    """Leave some partial gradients out of the sum over the group."""

    def change(name: str, lies: Placement) -> Placement:
        partial_here = what in name and lies.tp == PARTIAL
        return Placement(tp=WHOLE) if partial_here else lies

    return partial(after_apply, change)


def sums_replicated() -> AbstractContextManager[object]:
    """Gradients that are whole on every rank are summed all the same."""

    def change(name: str, lies: Placement) -> Placement:
        return Placement(tp=PARTIAL) if lies.tp == WHOLE else lies

    return after_apply(change)


def no_mask() -> AbstractContextManager[object]:
    """Tokens of other ranks read a row, which nobody zeroes."""

    def forward(layer: VocabParallelEmbedding, tokens: Tensor) -> Tensor:
        x = F.embedding(tokens % len(layer.weight), layer.weight)
        return reduce_from(x, layer.region.group)

    return mock.patch.object(VocabParallelEmbedding, "forward", forward)


def mask_off_by_one() -> AbstractContextManager[object]:
    """The first row of every rank counts as another rank's."""

    def forward(layer: VocabParallelEmbedding, tokens: Tensor) -> Tensor:
        rows = len(layer.weight)
        local = tokens - layer.region.rank * rows
        elsewhere = (local <= 0) | (local >= rows)
        x = F.embedding(tokens % rows, layer.weight)
        x = x.masked_fill(elsewhere.unsqueeze(-1), 0.0)
        return reduce_from(x, layer.region.group)

    return mock.patch.object(VocabParallelEmbedding, "forward", forward)


def padding_wins() -> AbstractContextManager[object]:
    """Padded rows take part in the softmax, with a logit of zero."""
    whole = tensor_layers.vocab_parallel_cross_entropy

    def unmasked(logits, targets, start, real, group):
        return whole(logits, targets, start, logits.shape[1], group)

    return mock.patch.object(
        tensor_layers, "vocab_parallel_cross_entropy", unmasked
    )


def positions_from_zero() -> AbstractContextManager[object]:
    """Every rank takes its tokens for the first of the sequence."""

    def positions(
        embedding: SequenceParallelEmbedding, tokens: Tensor
    ) -> Tensor:
        own = tokens.shape[1] // embedding.region.size
        return embedding.position(torch.arange(own))

    return mock.patch.object(
        SequenceParallelEmbedding, "positions", positions
    )


@contextmanager
def mask_of_its_own() -> Iterator[None]:
    """Each rank drops other elements of activations that all hold."""
    seed = torch.manual_seed
    rank = torch.distributed.get_rank()
    apply = tensor_parallel.apply

    def reseeded(*args: object) -> nn.Module:
        model = apply(*args)
        torch.manual_seed = lambda number: seed(number + rank)
        return model

    try:
        with mock.patch.object(tensor_parallel, "apply", reseeded):
            yield
    finally:
        torch.manual_seed = seed


@contextmanager
def dropped(operation: str, place: int, a_step: int) -> Iterator[None]:
    """Leave out one collective of each step, by its place among its kind.

    Of `a_step` calls a step, the one numbered `place` (from 0) leaves every
    rank with what it had: its own term of the sum, or copies of its own
    part.
    """
    real = getattr(collectives, operation)
    calls = iter(range(STEPS * a_step))

    def perhaps(*args, **options):
        # The evaluation after the last step is left in peace.
        number = next(calls, None)
        if number is None or number % a_step != place:
            return real(*args, **options)
        if operation == "all_gather":
            output, part = args[:2]
            output.copy_(part.repeat(args[2].size()))
        if operation == "reduce_scatter":
            output, terms, group = args
            output.copy_(terms.view(group.size(), -1)[group.rank()])
        return mock.Mock()

    with mock.patch.object(collectives, operation, perhaps):
        yield


@dataclass(frozen=True)
class Bug:
    """A planted bug, the check that must catch it, and by what ratio.

    `case` names the bug, and the training in which it shows.
    """

    plant: Plant
    case: Case
    caught_by: str
    ratio: float | None = None

    @property
    def name(self) -> str:
        return self.case.bug


def _bug(
    name: str,
    plant: Plant,
    caught_by: str,
    ratio: float | None = None,
    **options: object,
) -> Bug:
    return Bug(plant, Case(bug=name, **options), caught_by, ratio)


RANKS = 2

_FORWARD = ["the embedding"] + [
    f"{part} {layer}, forward"
    for layer in range(LAYERS)
    for part in ("attention", "MLP")
]
_LOSS = ["the maximum", "the target's logit", "the exponentials"]
_BACKWARD = ["the head"] + [
    f"{part} {layer}, backward"
    for layer in reversed(range(LAYERS))
    for part in ("MLP", "attention")
]
ALL_REDUCES = [*_FORWARD, *_LOSS, *_BACKWARD]

BUGS = [
    _bug("bias added t times", bias_before_the_sum, "loss"),
    _bug("QKV cut across", qkv_cut_across, "loss"),
    _bug("embedding: no mask", no_mask, "loss"),
    _bug("embedding: mask off by one", mask_off_by_one, "loss"),
    _bug("padding of the vocabulary takes part", padding_wins, "loss"),
    _bug("replicated gradients summed", sums_replicated, "gradients", RANKS),
    _bug(
        "dropout: each rank its own mask",
        mask_of_its_own,
        "loss",
        dropout=0.1,
    ),
    *(
        _bug(
            f"all-reduce dropped: {what}",
            partial(dropped, "all_reduce", place, len(ALL_REDUCES)),
            "gradients" if what in _BACKWARD else "loss",
        )
        for place, what in enumerate(ALL_REDUCES)
    ),
    _bug(
        "sequence parallel: positions from zero",
        positions_from_zero,
        "loss",
        sequence_parallel=True,
    ),
    *(
        _bug(
            f"sequence parallel: {what} not reduced",
            forget(part),
            "gradients",
            sequence_parallel=True,
        )
        for what, part in (
            ("LayerNorm gradient", "norm"),
            ("bias gradient", "output.bias"),
            ("position gradient", "position"),
        )
    ),
    *(
        _bug(
            f"sequence parallel: {operation} {place} dropped",
            partial(dropped, operation, place, a_step),
            "loss" if place < forward else "gradients",
            sequence_parallel=True,
        )
        for operation, forward, a_step in (
            ("reduce_scatter", 2 * LAYERS + 1, 4 * LAYERS + 2),
            ("all_gather", 2 * LAYERS + 1, 6 * LAYERS + 3),
        )
        for place in range(a_step)
    ),
]

PLANTS = {bug.name: bug.plant for bug in BUGS}
