"""The invariants of a data parallel strategy, against the dense model.

A `Case` says what is trained and how; `train_dense` trains the full batch
in one process, `train_rank` the same batch over the ranks of a group, and
`verify` compares the two with `CHECKS`. The planted bugs go through the very
same `verify`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from pool import Pool
from torch import Tensor, nn
from torch.nn import functional

from workshop.collectives import count
from workshop.models.gpt import GPT, GPTConfig

TOLERANCE = 1e-9
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


class TorchDDP(nn.parallel.DistributedDataParallel):
    """torch's own, behind the interface of ours."""

    def __init__(
        self,
        module: nn.Module,
        group: dist.ProcessGroup,
        unused: bool = False,
        bucket_mib: float = 25.0,
    ) -> None:
        super().__init__(
            module,
            process_group=group,
            bucket_cap_mb=bucket_mib,
            find_unused_parameters=unused,
        )

    def finish(self) -> None:
        """Its hooks have averaged all gradients when backward returns."""


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
    checks: tuple[str, ...] = field(
        default=("start", "gradients", "weights", "traffic"), compare=False
    )

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

    def optimize(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer; SGD shows a wrong scale, AdamW hides it."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=0.5)
        return torch.optim.AdamW(parameters, lr=1e-2)


@dataclass
class Training:
    """What a training left behind; tensors by name, on the CPU.

    `gradients` and `bytes_sent` have an element for every step. `started`
    is how many all-reduces had been called when the last gradient of a
    backward pass arrived.
    """

    start: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]
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
def train_dense(case: Case, ranks: int) -> Training:
    """Train on the whole batch at once, with no group in sight."""
    model = case.model(rank=0)
    optimizer = case.optimize(model)
    start, gradients = snapshot(model.state_dict()), []
    for step in range(STEPS):
        optimizer.zero_grad()
        model(*case.batch(step, ranks)).backward()
        gradients.append(gradients_of(model))
        optimizer.step()
    weights = snapshot(model.state_dict()) | state_of(optimizer)
    return Training(start, gradients, weights)


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
    wrapped = case.wrap(model, dist.group.WORLD)
    optimizer = case.optimize(model)
    start, gradients = snapshot(model.state_dict()), []
    k = case.num_microbatches
    for step in range(STEPS):
        optimizer.zero_grad()
        tokens, targets = (
            part.view(world, k, BATCH, -1)[rank]
            for part in case.batch(step, world)
        )
        with count() as ledger:
            ledgers.append(ledger)
            for i in range(k - 1):
                with wrapped.no_sync():
                    (wrapped(tokens[i], targets[i]) / k).backward()
            (wrapped(tokens[-1], targets[-1]) / k).backward()
            wrapped.finish()
        gradients.append(gradients_of(model))
        optimizer.step()
    return Training(
        start,
        gradients,
        snapshot(model.state_dict()) | state_of(optimizer),
        [ledger.bytes_sent for ledger in ledgers],
        sum(p.numel() * p.element_size() for p in trainable)
        # One float32 a parameter says which were used.
        + (4 * len(trainable) if case.awkward else 0),
        arrivals[-1],
    )


class Mismatch(AssertionError):
    """A check failed: which one, and the ratio of what it compared."""

    def __init__(self, check: str, ratio: float, message: str) -> None:
        super().__init__(f"{check}: {message} (ratio {ratio:.6g})")
        self.check = check
        self.ratio = ratio


def compare(
    check: str, rank: int, got: dict[str, Tensor], dense: dict[str, Tensor]
) -> None:
    """Compare tensor by tensor; the ratio of their norms names many bugs."""
    if got.keys() != dense.keys():
        names = sorted(got.keys() ^ dense.keys())
        raise Mismatch(check, float("nan"), f"rank {rank} alone has {names}")
    worst, where, ratio = 0.0, "", 1.0
    for name, reference in dense.items():
        norm = reference.norm().item()
        error = (got[name] - reference).norm().item()
        relative = error / norm if norm else error
        # Not `relative > worst`: that is false for a NaN.
        if not relative <= worst:
            worst, where = relative, name
            ratio = got[name].norm().item() / norm if norm else error
    if not worst <= TOLERANCE:
        raise Mismatch(
            check, ratio, f"rank {rank}, {where}: relative error {worst:.3g}"
        )


def check_start(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Every rank starts with the weights and buffers of rank 0."""
    for rank, training in enumerate(ranks):
        compare("start", rank, training.start, dense.start)


def check_gradients(
    case: Case, dense: Training, ranks: list[Training]
) -> None:
    """The gradient of every parameter in every step is the dense one.

    The first step that differs is the one to report: after it the weights
    differ too, and no ratio means anything.
    """
    for step, reference in enumerate(dense.gradients):
        for rank, training in enumerate(ranks):
            compare("gradients", rank, training.gradients[step], reference)


def check_weights(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Weights and optimizer state end as those of the dense training."""
    for rank, training in enumerate(ranks):
        compare("weights", rank, training.weights, dense.weights)


def check_traffic(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Every step sends exactly 2(n-1)/n of the gradient's bytes."""
    n = len(ranks)
    for rank, training in enumerate(ranks):
        due = 2 * (n - 1) * training.gradient_bytes / n
        for sent in training.bytes_sent:
            if sent != due:
                ratio = sent / due if due else float("inf")
                message = f"rank {rank} sent {sent} bytes, due are {due}"
                raise Mismatch("traffic", ratio, message)


def check_overlap(case: Case, dense: Training, ranks: list[Training]) -> None:
    """The first all-reduce starts before the last gradient has arrived."""
    for rank, training in enumerate(ranks):
        if training.started == 0:
            message = f"rank {rank} sent nothing before backward ended"
            raise Mismatch("overlap", 0.0, message)


CHECKS = {
    "start": check_start,
    "gradients": check_gradients,
    "weights": check_weights,
    "traffic": check_traffic,
    "overlap": check_overlap,
}


def verify(pool: Pool, case: Case) -> None:
    """Train dense and in parallel, and run the case's checks in order.

    Raises:
        Mismatch: from the first check that fails.
        RankError: a rank raised, died or hung.
    """
    dense = train_dense(case, pool.world)
    ranks = pool.run(train_rank, case)
    for name in case.checks:
        CHECKS[name](case, dense, ranks)
