"""Batches that are a pure function of the step, the rank and the seed.

No sampler holds a position, so a run resumes at any step with no state, and
any number of ranks and of accumulated micro-batches sees the same global
batch at the same step.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from workshop.data.counted import IGNORED
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
    permutation; it may cross into the next epoch.  `rank` and `world_size`
    are the data parallel index and size.  `offset` is how many sequences
    more were taken before than as many steps of this size take.

    Raises `UserError` when there is not one whole sequence.
    """

    tokens: np.ndarray
    sequence: int
    micro_batch: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    offset: int = 0

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

    def taken(self, steps: int) -> int:
        """Return how many sequences all ranks have taken in `steps`."""
        return steps * self.global_batch + self.offset

    def resumed(self, step: int, taken: int) -> "Batches":
        """Return the batches that go on where `taken` sequences were taken.

        `step` steps took them, with this global batch or another one.
        """
        return replace(self, offset=taken - step * self.global_batch)

    def positions(self, step: int, micro_step: int = 0) -> range:
        """Return this rank's places among all sequences ever taken."""
        first = (
            self.taken(step)
            + (micro_step * self.world_size + self.rank) * self.micro_batch
        )
        return range(first, first + self.micro_batch)

    def indices(self, step: int, micro_step: int = 0) -> np.ndarray:
        """Return which sequences this rank takes, shape (micro_batch,)."""
        size = self.sequences
        return np.array(
            [
                permutation(self.seed, p // size, size)[p % size]
                for p in self.positions(step, micro_step)
            ]
        )

    def at(self, step: int, micro_step: int = 0) -> tuple[Tensor, Tensor]:
        """Return tokens and targets, int64 of shape (micro_batch, s)."""
        starts = self.indices(step, micro_step) * self.sequence
        windows = starts[:, None] + np.arange(self.sequence + 1)
        both = torch.from_numpy(self.tokens[windows].astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def on(
        self, device: torch.device, step: int, until: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return all micro-batches of a step on `device`.

        Of the sequences from place `until` on, the targets are -100, which
        count in no loss.
        On CUDA the copy is asynchronous, from pinned memory: call it while
        the device computes the step before.
        """
        batches = [self.at(step, i) for i in range(self.accumulation)]
        if until is not None:
            for i, (tokens, targets) in enumerate(batches):
                beyond = [[p >= until] for p in self.positions(step, i)]
                # Not in place: a single sequence's targets are a view of
                # what its tokens are.
                kept = targets.masked_fill(torch.tensor(beyond), IGNORED)
                batches[i] = tokens, kept
        # One piece: to pin memory takes the host long, however little it is.
        whole = torch.stack([torch.stack(pair) for pair in batches])
        if device.type == "cuda":
            whole = whole.pin_memory().to(device, non_blocking=True)
        return [(tokens, targets) for tokens, targets in whole]
