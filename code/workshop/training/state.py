"""What a run must remember to go on as if it had never been killed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from workshop.training import checkpoint
from workshop.training.launch import Job, together


@dataclass
class TrainingState:
    """The dense `module`, its optimizer and each rank's random numbers.

    Batches and learning rate are functions of the step and need no state.
    `folder` holds the checkpoints (None: none are made) and `config` says
    whose they are.  All ranks read the folder; rank 0 writes it.
    """

    module: nn.Module
    optimizer: Optimizer
    job: Job
    folder: Path | None
    config: dict[str, Any]

    def save(self, step: int) -> None:
        """Save a checkpoint after `step` steps; all ranks call it.

        Raises `UserError` on all ranks when it cannot be written.
        """
        random: list[Any] = [None] * self.job.world_size
        dist.all_gather_object(random, self._random())

        def write() -> None:
            if self.job.first:
                state = {
                    "model": self.module.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "random": random,
                }
                checkpoint.save(self.folder, step, state, self.config)

        together(write)

    def resume(self) -> int:
        """Load the latest checkpoint and return its step, 0 without one.

        With another number of ranks than it was saved with, random numbers
        (dropout) start anew; the rest goes on unchanged.  Raises `UserError`
        on all ranks when the checkpoint is damaged or of another model.
        """
        found = checkpoint.latest(self.folder)
        if found is None:
            return 0
        step, state = together(lambda: checkpoint.load(found, self.config))
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if len(state["random"]) == self.job.world_size:
            self._set_random(state["random"][self.job.rank])
        return step

    def _random(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.job.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.job.device)
        return states

    def _set_random(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.job.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.job.device)
