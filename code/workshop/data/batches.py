"""Batches that are a pure function of the step, the rank and the seed.

No sampler holds a position, so a run resumes at any step with no state, and
any number of ranks and of accumulated micro-batches sees the same global
batch at the same step.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from workshop.errors import UserError
from workshop.layout import Layout


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of `size` sequences in one epoch, shape (size,)."""
    return np.random.default_rng([seed, epoch]).permutation(size)


@dataclass(frozen=True)
class Batches:
    """Cuts `tokens` (n,) into sequences and deals them out to the ranks.

    Sequence i is the tokens from i * s to (i + 1) * s, and its targets are
    the same shifted by one.  The global batch of a step is the next
    `micro_batch * accumulation * world_size` sequences of the epoch's
    permutation; it may cross into the next epoch.

    Raises `UserError` when there is not one whole sequence.
    """

    tokens: np.ndarray
    sequence: int
    micro_batch: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise UserError(
                f"the corpus has {len(self.tokens)} tokens, fewer than one "
                f"sequence of {self.sequence} and its target: use a larger "
                "corpus"
            )

    @classmethod
    def of_layout(
        cls,
        tokens: np.ndarray,
        sequence: int,
        layout: Layout,
        dp: int,
        seed: int,
    ) -> "Batches":
        """Return the batches of data parallel index `dp` of a layout."""
        return cls(
            tokens,
            sequence,
            layout.micro_batch,
            layout.num_microbatches,
            rank=dp,
            world_size=layout.dp,
            seed=seed,
        )

    @property
    def sequences(self) -> int:
        """How many sequences an epoch has."""
        return (len(self.tokens) - 1) // self.sequence

    @property
    def global_batch(self) -> int:
        """How many sequences all ranks together see in a step."""
        return self.micro_batch * self.accumulation * self.world_size

    def indices(self, step: int, micro_step: int = 0) -> np.ndarray:
        """Return which sequences this rank takes, shape (micro_batch,)."""
        first = (
            step * self.global_batch
            + (micro_step * self.world_size + self.rank) * self.micro_batch
        )
        positions = range(first, first + self.micro_batch)
        size = self.sequences
        return np.array(
            [
                permutation(self.seed, p // size, size)[p % size]
                for p in positions
            ]
        )

    def at(self, step: int, micro_step: int = 0) -> tuple[Tensor, Tensor]:
        """Return tokens and targets, int64 of shape (micro_batch, s)."""
        starts = self.indices(step, micro_step) * self.sequence
        windows = starts[:, None] + np.arange(self.sequence + 1)
        both = torch.from_numpy(self.tokens[windows].astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def on(
        self, device: torch.device, step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Return all micro-batches of a step on `device`.

        On CUDA the copy is asynchronous, from pinned memory: call it while
        the device computes the step before.
        """
        batches = [self.at(step, i) for i in range(self.accumulation)]
        if device.type != "cuda":
            return batches
        return [
            (
                tokens.pin_memory().to(device, non_blocking=True),
                targets.pin_memory().to(device, non_blocking=True),
            )
            for tokens, targets in batches
        ]
