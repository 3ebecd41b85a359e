"""A data parallel training, and the dense training that it must equal.

A `Case` says what is trained and how. `train_dense` trains the full batch in
one process by a plain loop, `train_rank` the same batch over the ranks of a
group by the workshop's own training step. `parity` compares the two.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from workshop.collectives import count
from workshop.groups import Groups, make_groups
from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.data.ways import TorchDataParallel
from workshop.parallel.placement import Placement
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.spread import Spread
from workshop.training.trainer import Recipe

CONFIG = GPTConfig(layers=2, hidden=16, heads=2, sequence=8, vocabulary=37)
BATCH, STEPS, SEED = 2, 2, 100


class Awkward(nn.Module):
    """A GPT with everything that gradients of real models come with.

    An embedding tied under two names, a bias on the output, a frozen
    parameter, one that no loss depends on, and a buffer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.randn(5))
        self.gpt = GPT(CONFIG)
        self.gpt.embedding.position.weight.requires_grad_(False)
        self.output = nn.Linear(CONFIG.hidden, CONFIG.vocabulary)
        self.output.weight = self.gpt.embedding.token.weight
        self.register_buffer("temperature", 1 + torch.rand(()))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.gpt.embedding(tokens)
        for block in self.gpt.blocks:
            x = block(x)
        logits = self.output(self.gpt.head.norm(x)) / self.temperature
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten()
        )


def torch_ddp(
    module: nn.Module, group: dist.ProcessGroup, unused: bool, mib: float
) -> nn.Module:
    """torch's own, wrapped as the training wraps it."""
    return TorchDataParallel(
        module,
        process_group=group,
        bucket_cap_mb=mib,
        find_unused_parameters=unused,
        gradient_as_bucket_view=True,
    )


@dataclass(frozen=True)
class Case:
    """One training: the strategy, the model, the optimizer, the batches.

    Cases are equal when their dense training is the same.
    """

    strategy: Callable[..., nn.Module] = field(compare=False)
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    awkward: bool = False
    optimizer: str = "sgd"
    num_microbatches: int = 1
    device: str = "cpu"
    checks: tuple[str, ...] = field(default=(), compare=False)

    def model(self, rank: int) -> nn.Module:
        """Return the model of a rank, with weights that no other has."""
        torch.manual_seed(SEED + rank)
        model = Awkward() if self.awkward else GPT(CONFIG)
        return model.to(self.device, torch.float64)

    def wrap(self, module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
        """Return the module under the strategy."""
        return self.strategy(
            module, group, unused=self.awkward, **self.options
        )

    def batch(self, step: int, ranks: int) -> tuple[Tensor, Tensor]:
        """Return a step's tokens and targets, `(ranks · k · b, s)` each."""
        generator = torch.Generator().manual_seed(step)
        size = (ranks * self.num_microbatches * BATCH, CONFIG.sequence + 1)
        tokens = torch.randint(CONFIG.vocabulary, size, generator=generator)
        tokens = tokens.to(self.device)
        return tokens[:, :-1], tokens[:, 1:]

    @property
    def lr(self) -> float:
        """The learning rate of every step."""
        return 0.5 if self.optimizer == "sgd" else 1e-2

    def optimize(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer; SGD shows a wrong scale, AdamW hides it."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, fused=True)
        return torch.optim.AdamW(parameters, lr=self.lr, fused=True)


@dataclass
class Training:
    """What a training left behind; tensors by name, on the CPU.

    `gradients`, `reports` (loss and global norm) and `bytes_sent` have an
    element for every step. `started` is how many all-reduces had been called
    when the last gradient of a backward pass arrived.
    """

    start: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]
    reports: list[list[float]]
    bytes_sent: list[float] = field(default_factory=list)
    gradient_bytes: int = 0
    started: int = 0


def snapshot(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in tensors.items()
        if tensor is not None
    }


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return snapshot({name: p.grad for name, p in model.named_parameters()})


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what AdamW remembers, by the parameter's number."""
    return snapshot(
        {
            f"{key} of parameter {number}": value
            for number, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
    )


@cache
def groups_of(layout: Layout) -> Groups:
    """Return the groups of a layout, made once by the ranks of a pool."""
    return make_groups(layout)


@cache
def train_dense(case: Case, ranks: int) -> Training:
    """Train on the whole batch at once, with no group in sight."""
    model = case.model(rank=0)
    optimizer = case.optimize(model)
    start, gradients, reports = snapshot(model.state_dict()), [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(*case.batch(step, ranks))
        loss.backward()
        parts = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.cat([part.flatten() for part in parts]).norm()
        reports.append([loss.item(), norm.item()])
        gradients.append(gradients_of(model))
        optimizer.step()
    weights = snapshot(model.state_dict()) | state_of(optimizer)
    return Training(start, gradients, weights, reports)


def train_rank(rank: int, world: int, case: Case) -> Training:
    """Train on this rank's part of every batch, under the strategy."""
    model = case.model(rank)
    trainable = [p for p in model.parameters() if p.requires_grad]
    arrivals: list[int] = []
    ledgers = []
    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(
            lambda _: arrivals.append(ledgers[-1].calls)
        )

    def take_over(module, groups, recipe) -> Spread:
        wrapped = case.wrap(module, dist.group.WORLD)
        names = [name for name, _ in module.named_parameters()]
        return Spread([module], [wrapped], dict.fromkeys(names, Placement()))

    trainer = LayoutTrainer(
        lambda: model,
        groups_of(Layout(dp=world)),
        Recipe(clip=0),
        lambda parts, lr: case.optimize(model),
        take_over=take_over,
    )
    optimizer = trainer.optimizer
    start, gradients, reports = snapshot(model.state_dict()), [], []
    for step in range(STEPS):
        tokens, targets = (
            part.view(world, case.num_microbatches, BATCH, -1)[rank]
            for part in case.batch(step, world)
        )
        pairs = list(zip(tokens, targets, strict=True))
        with count() as ledger:
            ledgers.append(ledger)
            report = trainer.step(pairs, case.lr)
        reports.append(report.tolist())
        gradients.append(gradients_of(model))
    return Training(
        start,
        gradients,
        snapshot(model.state_dict()) | state_of(optimizer),
        reports,
        [ledger.bytes_sent for ledger in ledgers],
        sum(p.numel() * p.element_size() for p in trainable)
        # One float32 a parameter says which were used.
        + (4 * len(trainable) if case.awkward else 0),
        arrivals[-1],
    )


def train_cases(rank: int, world: int, cases: list[Case]) -> list[Training]:
    """Train all cases in turn on a rank of the pool."""
    return [train_rank(rank, world, case) for case in cases]
