"""Ways to train the same GPT, each ready to take one step at a time."""

import gc
import hashlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from workshop.errors import UserError
from workshop.job.launch import Job
from workshop.models.gpt import GPT, GPTConfig, compile_blocks
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.data.ways import OneRank, TorchDataParallel
from workshop.training.clipping import clipped_step, global_norm
from workshop.training.optimizer import make_optimizer

CLIP = 1.0
LR = 1e-4
Step = Callable[[Tensor, Tensor], Tensor]

# What each one is called in a record, and how it averages gradients.
OURS: dict[str, Callable[[nn.Module, Job], nn.Module]] = {
    "single": lambda module, job: OneRank(module),
    "alone": lambda module, job: OneRank(module),
    "naive": lambda module, job: NaiveDataParallel(module, dist.group.WORLD),
    "overlapped": lambda module, job: OverlappedDataParallel(
        module, dist.group.WORLD
    ),
    "overlapped-collective": lambda module, job: OverlappedDataParallel(
        module, dist.group.WORLD, transport="collective"
    ),
    "ddp": lambda module, job: TorchDataParallel(
        module,
        device_ids=[job.device] if job.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    ),
}
PEERS = ("nanogpt-alone", "nanogpt-ddp")


def ours(name: str, config: GPTConfig, job: Job, compiled: bool) -> Step:
    """Return the step of one of `OURS`: bfloat16 weights on CUDA.

    A step takes tokens and targets (b, s) and returns the loss, queued and
    not yet computed on CUDA.
    """
    torch.manual_seed(0)
    with torch.device(job.device):
        module = GPT(config)
    if job.device.type == "cuda":
        module.bfloat16()
    if compiled:
        compile_blocks(module)
    optimizer = make_optimizer(module, LR)
    model = OURS[name](module, job)

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, targets)
        loss.backward()
        model.finish()
        clipped_step(optimizer, global_norm(module.parameters()), CLIP)
        return loss.detach()

    return step


class NanoGPT:
    """nanoGPT's model, trained in the order of its own train.py.

    Whole-model torch.compile, bfloat16 autocast, DDP with its defaults, its
    own choice of optimizer. `folder` is a clone of karpathy/nanoGPT, which
    this repository does not hold.
    """

    def __init__(
        self, folder: Path, config: GPTConfig, job: Job, compiled: bool
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
        self.module = peer.GPT(
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
        self.optimizer = self.module.configure_optimizers(
            0.1, LR, (0.9, 0.95), self.device
        )
        model = torch.compile(self.module) if compiled else self.module
        on_gpu = self.device == "cuda"
        self.model = DistributedDataParallel(
            model, device_ids=[job.device] if on_gpu else None
        )

    def step(self, name: str) -> Step:
        """Return the step of `nanogpt-alone` or `nanogpt-ddp`."""
        local = name == "nanogpt-alone"

        def context() -> AbstractContextManager:
            return self.model.no_sync() if local else nullcontext()

        def step(tokens: Tensor, targets: Tensor) -> Tensor:
            autocast = torch.autocast(
                self.device, torch.bfloat16, enabled=self.device == "cuda"
            )
            with context():
                with autocast:
                    _, loss = self.model(tokens, targets)
                loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return step


def forget() -> None:
    """Free what the last contestant held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
