"""A hybrid training on a rank, and the dense one that it must equal.

A `Case` says how a small GPT is trained and over which layout. `train_rank`
trains it on a rank by the workshop's own training step, `train_dense` the
same global batch at once by a plain loop. `assemble` puts the ranks' shards
together, and refuses copies that are not equal.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn
from training_cases import groups_of

from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.tensor.sharding import PLAN, shard_of
from workshop.training.clipping import EPSILON
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.master_adamw import MasterAdamW
from workshop.training.optimizer import make_optimizer
from workshop.training.trainer import Recipe

CONFIG = GPTConfig(layers=4, hidden=16, heads=4, sequence=8, vocabulary=37)
SEQUENCES, STEPS, SEED, RATE = 16, 2, 100, 0.5
PLAIN = Layout(micro_batch=SEQUENCES)


def of(world: int, tp: int = 1, pp: int = 1, m: int = 1, **rest) -> Layout:
    """Return a layout of `world` ranks that takes `SEQUENCES` a step."""
    micro_batch = SEQUENCES * tp * pp // (world * m)
    sizes = {"micro_batch": micro_batch, "num_microbatches": m}
    return Layout.for_world(world, tp=tp, pp=pp, **sizes, **rest)


@dataclass(frozen=True)
class Case:
    """One training of `SEQUENCES` sequences a step, in one layout.

    `awkward` leaves biases out and freezes the position embedding, `deep`
    has eight layers and eight heads, which eight ranks can share. `plant`
    changes a trainer on its rank before it is used.
    """

    layout: Layout = PLAIN
    data_parallel: str = "overlapped"
    bucket_mib: float = 100.0
    optimizer: str = "sgd"
    clip: float = 0.0
    awkward: bool = False
    deep: bool = False
    compiled: bool = False
    steps: int = STEPS
    tied: bool = True
    ignored: bool = False
    attention: str = "flash"
    recompute: str = "none"
    plant: Callable[[LayoutTrainer], None] | None = field(
        default=None, compare=False
    )

    def __str__(self) -> str:
        layout = self.layout
        return (
            f"tp{layout.tp} pp{layout.pp} {layout.schedule} "
            f"v{layout.virtual_stages} m{layout.num_microbatches} "
            f"{'sp ' * layout.sequence_parallel}{self.data_parallel} "
            f"{self.optimizer} clip {self.clip:g}"
            f"{' awkward' * self.awkward}{' deep' * self.deep}"
            f"{' compiled' * self.compiled}"
            f"{' untied' * (not self.tied)}{' ignored' * self.ignored}"
            f"{' core' * (self.attention == 'core')}"
            f"{f' {self.recompute}' * (self.recompute != 'none')}"
        )

    @property
    def config(self) -> GPTConfig:
        """The sizes of the model."""
        sizes = {"layers": 8, "heads": 8} if self.deep else {}
        own = {"tied": self.tied, "attention": self.attention}
        return replace(CONFIG, bias=not self.awkward, **own, **sizes)

    @property
    def dense(self) -> "Case":
        """The training that this one must equal, in no layout at all."""
        return Case(
            optimizer=self.optimizer,
            clip=self.clip,
            awkward=self.awkward,
            deep=self.deep,
            steps=self.steps,
            tied=self.tied,
            ignored=self.ignored,
        )

    def model(self) -> GPT:
        """Return the dense model, equal on every rank."""
        torch.manual_seed(SEED)
        model = GPT(self.config).double()
        model.embedding.position.weight.requires_grad_(not self.awkward)
        return model

    @property
    def lr(self) -> float:
        """The learning rate of every step."""
        return RATE if self.optimizer == "sgd" else RATE / 100

    def optimize(self, parts: nn.Module, lr: float) -> torch.optim.Optimizer:
        """Return the optimizer; SGD shows a wrong scale, AdamW hides it."""
        if self.optimizer == "adamw":
            return make_optimizer(parts, lr)
        trainable = [p for p in parts.parameters() if p.requires_grad]
        if self.optimizer == "master":
            return MasterAdamW(trainable, lr=lr)
        return torch.optim.SGD(trainable, lr=lr, fused=True)

    def trainer(self) -> LayoutTrainer:
        """Return this rank's trainer in the layout."""
        recipe = Recipe(
            clip=self.clip,
            data_parallel=self.data_parallel,
            bucket_mib=self.bucket_mib,
            backend="eager" if self.compiled else None,
            ignored_targets=self.ignored,
            recompute=self.recompute,
        )
        groups = groups_of(self.layout)
        return LayoutTrainer(self.model, groups, recipe, self.optimize)

    def batches(self, step: int, dp: int) -> list[tuple[Tensor, Tensor]]:
        """Return what data parallel index `dp` has of a step."""
        m, b = self.layout.num_microbatches, self.layout.micro_batch
        sizes = m, self.layout.dp, b, -1
        tokens = batch(step)[:, :-1].reshape(sizes)[:, dp]
        targets = self.targets(step).reshape(sizes)[:, dp]
        return list(zip(tokens, targets, strict=True))

    def targets(self, step: int) -> Tensor:
        """Return the targets of a step, (SEQUENCES, s).

        `ignored`, those of the first quarter of the sequences count in no
        loss, and of the others fewer from one sequence to the next.
        """
        targets = batch(step)[:, 1:].clone()
        if self.ignored:
            targets[: SEQUENCES // 4] = -100
            for number in range(SEQUENCES // 4, SEQUENCES):
                targets[number, : number % CONFIG.sequence] = -100
        return targets


@dataclass
class Training:
    """What a training left: by step, and its weights at the end.

    Tensors are under their dense names; a rank has its parts of them, and
    the copy of the tied embedding under a name of its own.
    """

    reports: list[list[float]]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]


def batch(step: int) -> Tensor:
    """Return the tokens of a step, (SEQUENCES, s + 1)."""
    generator = torch.Generator().manual_seed(step)
    size = (SEQUENCES, CONFIG.sequence + 1)
    return torch.randint(CONFIG.vocabulary, size, generator=generator)


@cache
def train_dense(case: Case) -> Training:
    """Train on the whole batch at once, with no group in sight."""
    model = case.model()
    optimizer = case.optimize(model, case.lr)
    reports, gradients = [], []
    for step in range(case.steps):
        optimizer.zero_grad()
        loss = model(batch(step)[:, :-1], case.targets(step))
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        grads = {n: g for n, g in grads.items() if g is not None}
        norm = torch.cat([g.flatten() for g in grads.values()]).norm()
        if case.clip:
            scale = ((norm + EPSILON) / case.clip).clamp(min=1)
            if case.optimizer != "master":
                scale = scale.float()  # as a fused optimizer takes it
            for gradient in grads.values():
                gradient /= scale.double()
        reports.append([loss.item(), norm.item()])
        gradients.append({n: g.clone() for n, g in grads.items()})
        optimizer.step()
    weights = {n: p.detach() for n, p in model.named_parameters()}
    return Training(reports, gradients, weights)


def train_rank(rank: int, world: int, cases: list[Case]) -> list[Training]:
    """Train all cases in turn on a rank of the pool."""
    return [train_case(case) for case in cases]


def train_case(case: Case) -> Training:
    """Train a case on this rank's part of every batch."""
    trainer = case.trainer()
    if case.plant:
        case.plant(trainer)
    reports, gradients = [], []
    for step in range(case.steps):
        pairs = case.batches(step, trainer.groups.at.dp)
        reports.append(trainer.step(pairs, case.lr).tolist())
        gradients.append(
            own(trainer, lambda p: None if p.grad is None else p.grad)
        )
    weights = own(trainer, lambda parameter: parameter.detach())
    trainer.close()
    return Training(reports, gradients, weights)


def own(
    trainer: LayoutTrainer, of: Callable[[nn.Parameter], Tensor | None]
) -> dict[str, Tensor]:
    """Return a tensor of each parameter of this rank, by its name."""
    tensors = {}
    # Not by the placement, which a planted bug may have changed.
    copies = {
        name for c in trainer.chunks for name in getattr(c, "copies", ())
    }
    for name, parameter in trainer.parameters.items():
        copy = "copy of " * (name in copies)
        if (tensor := of(parameter)) is not None:
            tensors[copy + name] = tensor.clone()
    return tensors


class Unequal(AssertionError):
    """Ranks that must hold the same do not: the tensor and the ratio."""

    def __init__(self, name: str, ratio: float) -> None:
        super().__init__(f"copies of {name} differ (ratio {ratio:.6g})")
        self.ratio = ratio


def assemble(
    layout: Layout, ranks: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the dense tensors that all ranks' parts make together.

    Raises:
        Unequal: of two ranks that hold the same one holds something else.
    """
    dense: dict[str, Tensor] = {}
    for dp in range(layout.dp):
        for pp in range(layout.pp):
            at = [layout.rank(pp, dp, tp) for tp in range(layout.tp)]
            shards = [ranks[rank] for rank in at]
            for name in shards[0]:
                whole = unshard(
                    name.removeprefix("copy of "), [s[name] for s in shards]
                )
                same(name, whole, dense.setdefault(name, whole))
    for name in [name for name in dense if name.startswith("copy of ")]:
        same(name, dense.pop(name), dense[name.removeprefix("copy of ")])
    return dense


@cache
def shapes() -> dict[str, torch.Size]:
    """Return the shape of every parameter of the dense model."""
    model = GPT(replace(CONFIG, tied=False))
    return {name: p.shape for name, p in model.named_parameters()}


def unshard(name: str, shards: list[Tensor]) -> Tensor:
    """Put shards together; a tensor that is not split must be equal."""
    if len(shards) == 1:
        return shards[0]
    # Blocks beyond those of CONFIG are like its first.
    first = re.sub(r"blocks\.\d+", "blocks.0", name)
    split = shard_of(name, shapes()[first], PLAN)
    if split is not None:
        return split.whole(shards)
    for shard in shards:
        same(name, shard, shards[0])
    return shards[0]


def same(name: str, one: Tensor, other: Tensor) -> None:
    """Refuse two copies that differ by more than float64's rounding."""
    if not torch.allclose(one, other, rtol=1e-9, atol=1e-12):
        raise Unequal(name, (one.norm() / other.norm()).item())


def names(cases: Iterable[Case]) -> list[str]:
    """Return what to call cases in a report."""
    return [str(case) for case in cases]
