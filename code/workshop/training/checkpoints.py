"""What a run must remember to go on as if it had never been killed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from workshop.job.launch import AgreedError, Job, together
from workshop.layout import Layout
from workshop.training import checkpoint
from workshop.training.trainer import Trainer

# What decides which rank draws which random numbers.
OF_RANDOM = (
    "dp",
    "tp",
    "pp",
    "ep",
    "sequence_parallel",
    "schedule",
    "virtual_stages",
    "cut",
)


@dataclass
class Checkpoints:
    """A trainer's state and each rank's random numbers, in a folder.

    Batches are a function of the sequences that have been taken, and the
    learning rate one of the step: neither needs more state.  `config` (JSON
    values) says whose checkpoints these are: the model, and the seed and the
    text, with which the batches go on where they stopped.  All ranks read
    the folder; rank 0 writes it.
    """

    trainer: Trainer
    job: Job
    layout: Layout
    folder: Path
    config: dict[str, Any]

    def save(self, step: int, sequences: int) -> None:
        """Save a checkpoint after `step` steps; all ranks call it.

        They took `sequences` in all, whatever the global batch was.

        It is dense, whatever the layout.  Raises `UserError` on all ranks
        when it cannot be written.
        """
        random: list[Any] = [None] * self.job.world_size
        dist.all_gather_object(random, self._random())
        dense = self.trainer.state()

        def write() -> None:
            if dense is not None:
                state = {
                    **dense,
                    "random": random,
                    "layout": self._layout(),
                    "sequences": sequences,
                }
                checkpoint.save(self.folder, step, state, self.config)

        together(write)

    def resume(self) -> tuple[int, int]:
        """Load the latest checkpoint; return its step and its sequences.

        Both are 0 without one.

        In another layout than it was saved in, random numbers (dropout)
        start anew; the rest goes on unchanged.  Raises `UserError` on all
        ranks when the checkpoint is damaged, not the one that each rank
        sees, of another model, or of other batches than these, some of which
        would come twice and some never.
        """
        newest = self._latest()
        if newest is None:
            return 0, 0

        def load() -> tuple[int, dict[str, Any]]:
            step, state = checkpoint.load(newest, self.config)
            self.trainer.load(state)
            return step, state

        step, state = together(load)
        if state["layout"] == self._layout():
            self._set_random(state["random"][self.job.rank])
        return step, state["sequences"]

    def _latest(self) -> Path | None:
        newest = together(lambda: checkpoint.latest(self.folder))
        seen: list[str | None] = [None] * self.job.world_size
        dist.all_gather_object(seen, newest.name if newest else None)
        for rank, name in enumerate(seen):
            if name != seen[0]:
                raise AgreedError(
                    f"in {self.folder} rank 0 sees {seen[0] or 'nothing'} "
                    f"and rank {rank} {name or 'nothing'}: name a folder "
                    "that all nodes share, then resume"
                )
        return newest

    def _layout(self) -> dict[str, Any]:
        values = self.layout.as_dict()
        return {name: values[name] for name in OF_RANDOM}

    def _random(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.job.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.job.device)
        return states

    def _set_random(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.job.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.job.device)
