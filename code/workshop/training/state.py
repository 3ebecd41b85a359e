"""What a run must remember to go on as if it had never been killed."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from workshop.job.launch import Job, together
from workshop.training import checkpoint, reshard
from workshop.training.hybrid import Strategy
from workshop.training.layout import Layout


@dataclass
class TrainingState:
    """The model in its layout, its optimizer, each rank's random numbers.

    Batches and learning rate are functions of the step and need no state.
    `folder` holds the checkpoints (None: none are made) and `config` says
    whose they are.  All ranks read the folder; rank 0 writes it.
    """

    strategy: Strategy
    optimizer: Optimizer
    job: Job
    layout: Layout
    folder: Path | None
    config: dict[str, Any]

    def save(self, step: int) -> None:
        """Save a checkpoint after `step` steps; all ranks call it.

        It is dense, whatever the layout.  Raises `UserError` on all ranks
        when it cannot be written.
        """
        random: list[Any] = [None] * self.job.world_size
        dist.all_gather_object(random, self._random())
        dense = reshard.gather(
            self.strategy, self.optimizer, self.config["vocabulary"]
        )

        def write() -> None:
            if dense is not None:
                state = {**dense, "random": random, "layout": self._layout()}
                checkpoint.save(self.folder, step, state, self.config)

        together(write)

    def resume(self) -> int:
        """Load the latest checkpoint and return its step, 0 without one.

        In another layout than it was saved in, random numbers (dropout)
        start anew; the rest goes on unchanged.  Raises `UserError` on all
        ranks when the checkpoint is damaged or of another model.
        """
        found = checkpoint.latest(self.folder)
        if found is None:
            return 0

        def load() -> tuple[int, dict[str, Any]]:
            step, state = checkpoint.load(found, self.config)
            reshard.scatter(state, self.strategy, self.optimizer)
            return step, state

        step, state = together(load)
        if state["layout"] == self._layout():
            self._set_random(state["random"][self.job.rank])
        return step

    def _layout(self) -> dict[str, Any]:
        """Return what decides which rank draws which random numbers."""
        layout = dataclasses.asdict(self.layout)
        of_gradients = ("data_parallel", "bucket_mib")
        kept = {k: v for k, v in layout.items() if k not in of_gradients}
        return {"world_size": self.job.world_size, **kept}

    def _random(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.job.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.job.device)
        return states

    def _set_random(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.job.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.job.device)
