"""nanoGPT's model, trained in the order of its own train.py."""

import hashlib
import importlib.util
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from workshop.data.counted import refuse_ignored
from workshop.errors import UserError
from workshop.job.launch import Job
from workshop.models.gpt import GPTConfig
from workshop.training.trainer import MicroBatch, Trainer


class NanoGPT:
    """The model under DDP, of which two trainers take turns.

    Whole-model torch.compile, bfloat16 autocast, DDP with its defaults, its
    own choice of optimizer.

    Args:
        folder: a clone of karpathy/nanoGPT, which this repository does not
            hold.

    Raises:
        UserError: there is no clone in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        config: GPTConfig,
        job: Job,
        compiled: bool,
        lr: float,
    ) -> None:
        source = folder / "model.py"
        if not source.is_file():
            raise UserError(
                f"there is no model.py in {folder}: clone "
                "https://github.com/karpathy/nanoGPT there, or leave out "
                "--peer"
            )
        self.sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        spec = importlib.util.spec_from_file_location("nanogpt", source)
        peer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(peer)
        torch.manual_seed(0)
        module = peer.GPT(
            peer.GPTConfig(
                block_size=config.sequence,
                vocab_size=config.vocabulary,
                n_layer=config.layers,
                n_head=config.heads,
                n_embd=config.hidden,
                dropout=0.0,
                bias=True,
            )
        ).to(job.device)
        self.device = job.device.type
        self.optimizer = module.configure_optimizers(
            0.1, lr, (0.9, 0.95), self.device
        )
        self.model = DistributedDataParallel(
            torch.compile(module) if compiled else module,
            device_ids=[job.device] if self.device == "cuda" else None,
        )


class NanoGPTTrainer(Trainer):
    """Steps of a `NanoGPT`; `alone` averages no gradients."""

    def __init__(self, peer: NanoGPT, alone: bool, clip: float) -> None:
        self.peer, self.alone, self.clip = peer, alone, clip

    def step(self, micro_batches: list[MicroBatch], lr: float) -> Tensor:
        """Take its step on one micro-batch; the loss is this rank's."""
        refuse_ignored(micro_batches, "give it targets that all count")
        ((tokens, targets),) = micro_batches
        model, optimizer = self.peer.model, self.peer.optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        with model.no_sync() if self.alone else nullcontext():
            with self._autocast():
                _, loss = model(tokens, targets)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.stack([loss.detach(), norm])

    @torch.no_grad()
    def loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Return this rank's mean loss."""
        refuse_ignored(micro_batches, "give it targets that all count")
        module = self.peer.model.module
        module.eval()
        with self._autocast():
            losses = [module(*pair)[1] for pair in micro_batches]
        module.train()
        return torch.stack(losses).mean()

    def _autocast(self) -> torch.autocast:
        device = self.peer.device
        return torch.autocast(
            device, torch.bfloat16, enabled=device == "cuda"
        )
