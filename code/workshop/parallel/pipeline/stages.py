"""Stages of a pipeline: a dense GPT cut into runs of blocks.

Where to cut is decided by predicted cost, because the output projection is
worth about two layers of GPT 1.3B: with 12 layers on each of two ranks the
second has 7 % more than its share, with 13 and 11 both have the same.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor, nn

from workshop.errors import UserError
from workshop.estimate.cut import shares_of
from workshop.estimate.flops import matmul_flops_per_token
from workshop.models.gpt import GPT, GPTConfig, call


class Costs(NamedTuple):
    """What each part costs, in any unit that they share."""

    embedding: float
    block: float
    head: float


def predicted_costs(config: GPTConfig) -> Costs:
    """Return the operations of each part for one token, both passes.

    The embedding only looks up rows, which costs nothing beside a matrix
    product.
    """
    sizes = (config.hidden, config.sequence, config.vocabulary)
    head = matmul_flops_per_token(0, *sizes)
    block = matmul_flops_per_token(1, *sizes) - head
    return Costs(0, block, head)


def cut(
    config: GPTConfig,
    stages: int,
    costs: Costs | None = None,
    ranks: int | None = None,
) -> list[range]:
    """Return the blocks of each stage, so that the slowest rank is fastest.

    Args:
        config: the sizes of the model.
        stages: the number of stages, p·v.
        costs: of embedding, block and head; predicted if None.
        ranks: how many ranks share the stages, stage g on rank g % ranks;
            None gives each stage a rank of its own.

    Every stage has one block or more.

    Raises:
        UserError: there are more stages than layers.
    """
    if stages > config.layers:
        raise UserError(
            f"{config.layers} layers cannot be cut into {stages} pipeline "
            "stages, each needs at least one: lower the pipeline parallel "
            "size or the number of virtual stages"
        )
    blocks = shares_of(
        config.layers, stages, costs or predicted_costs(config), ranks
    )
    return ranges_of(blocks)


def cut_by_hand(config: GPTConfig, layers: Sequence[int]) -> list[range]:
    """Return the blocks of each stage, so many `layers` each.

    Raises:
        UserError: all of them together are not the model's.
    """
    if sum(layers) != config.layers:
        raise UserError(
            f"a cut into {list(layers)} has {sum(layers)} layers and the "
            f"model {config.layers}: give each of its layers to one stage"
        )
    return ranges_of(layers)


def ranges_of(lengths: Sequence[int]) -> list[range]:
    """Return ranges of these lengths, one behind the other from 0."""
    ends = list(accumulate(lengths))
    return [
        range(end - length, end)
        for end, length in zip(ends, lengths, strict=True)
    ]


class Stage(nn.Module):
    """A run of a GPT's blocks, with the embedding or the head at the ends.

    Args:
        model: the dense model whose parts it takes over.
        blocks: the numbers of its blocks.
        first: whether it has the embedding.
        last: whether it has the head.

    Parameters keep their names in the dense model. The last stage, where it
    is not the first too, has a copy of a tied token embedding, so
    `embedding.token.weight` exists twice in a pipeline:
    `Pipeline.finish_gradients` keeps both equal.  `run` is as in `GPT`.
    """

    run = staticmethod(call)

    def __init__(
        self, model: GPT, blocks: range, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.config = model.config
        self.first, self.last = first, last
        if first:
            self.embedding = model.embedding
        elif last and model.config.tied:
            self.embedding = TiedCopy(model.embedding.token)
        self.blocks = nn.ModuleDict(
            {str(number): model.blocks[number] for number in blocks}
        )
        if last:
            self.head = model.head

    @property
    def copies(self) -> tuple[str, ...]:
        """The parameters of which another stage has the original."""
        if self.first or not (self.last and self.config.tied):
            return ()
        return ("embedding.token.weight",)

    @property
    def tied(self) -> nn.Parameter | None:
        """The token embedding, where another stage may have it as well."""
        if self.first == self.last or not self.config.tied:
            return None
        return self.embedding.token.weight

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        """Map tokens (b, s) or activations (b, s, h) through the stage.

        The result is activations (b, s, h); of the last stage, the mean
        loss over `targets` (b, s), or logits (b, s, V) without them.
        """
        if self.first:
            x = self.embedding(x)
        for block in self.blocks.values():
            x = self.run(block, x)
        if self.last:
            tied = self.embedding.token.weight if self.config.tied else None
            x = self.head(x, tied, targets)
        return x


class TiedCopy(nn.Module):
    """The token embedding's weight for the head, in memory of its own."""

    def __init__(self, token: nn.Embedding) -> None:
        super().__init__()
        weight = token.weight.detach().clone()
        self.token = nn.Embedding(*weight.shape, _weight=weight)
        self.token.weight.requires_grad_(token.weight.requires_grad)


def make_stages(
    model: GPT,
    config: GPTConfig,
    rank: int,
    p: int,
    v: int = 1,
    costs: Costs | None = None,
    layers: Sequence[int] | None = None,
) -> list[Stage]:
    """Return the chunks of a rank: stages rank, rank + p, rank + 2p...

    Args:
        model: the dense model, equal on all ranks; its parts are taken
            over, and what other ranks need is free with the last reference
            to it.
        config: the sizes of the model.
        rank: the rank within the pipeline group.
        p: pipeline parallel size.
        v: chunks a rank.
        costs: as `cut` takes them.
        layers: of each stage, cut by hand; None balances them.

    Raises:
        UserError: there are more stages than layers, or `layers` are not
            those of the model.
    """
    if layers is None:
        ranges = cut(config, p * v, costs, ranks=p)
    else:
        ranges = cut_by_hand(config, layers)
    return [
        Stage(model, ranges[stage], stage == 0, stage == p * v - 1)
        for stage in range(rank, p * v, p)
    ]


def unwrapped(chunk: nn.Module) -> Stage:
    """Return the stage inside its wrappers."""
    while not isinstance(chunk, Stage):
        chunk = chunk.module
    return chunk
