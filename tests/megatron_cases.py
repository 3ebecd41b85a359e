"""One step of megatron-core over four ranks, and what it must equal.

`train_rank` runs in a rank that `megatron_cpu.patch` has prepared. It gives
back what this rank holds, under our names; `whole` puts the parts of all
ranks together.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest import mock

import torch
import torch.distributed as dist
from planted.megatron import BUGS, qkv_cut_across
from pool import groups_closed
from torch import Tensor

from workshop.groups import make_groups
from workshop.layout import Coordinate, Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.tensor.sharding import PLAN, shard_of
from workshop.peers.megatron import weights
from workshop.training.clipping import clipped_step, local_norm
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.optimizer import make_optimizer
from workshop.training.trainer import Recipe

RANKS, BATCH, SEED, LR, CLIP = 4, 2, 7, 1e-2, 0.5
CONFIG = GPTConfig(layers=5, hidden=16, heads=4, sequence=8, vocabulary=36)


@dataclass(frozen=True)
class Case:
    """A layout of four ranks, the micro-batches of a step, and a bug."""

    tp: int = 1
    pp: int = 1
    sequence_parallel: bool = False
    virtual_stages: int = 1
    num_microbatches: int = 1
    attention: str = "local"
    fused: bool = False
    dtype: torch.dtype = torch.float64
    steps: int = 0
    bug: str = ""

    @property
    def layout(self) -> Layout:
        schedule = "interleaved" if self.virtual_stages > 1 else "1f1b"
        return Layout.for_world(
            RANKS,
            tp=self.tp,
            pp=self.pp,
            sequence_parallel=self.sequence_parallel,
            schedule=schedule,
            virtual_stages=self.virtual_stages,
            micro_batch=BATCH,
            num_microbatches=self.num_microbatches,
        )

    def __str__(self) -> str:
        name = f"tp{self.tp}-pp{self.pp}-m{self.num_microbatches}"
        name += f"-v{self.virtual_stages}" if self.virtual_stages > 1 else ""
        name += "-sp" if self.sequence_parallel else ""
        name += "-fused" if self.fused else ""
        return name + ("-flash" if self.attention == "flash" else "")


@dataclass
class Held:
    """What a rank holds after a step, by our names, and what it reports."""

    at: Coordinate
    tensors: dict[str, Tensor]
    report: list[float] = field(default_factory=list)


def dense_model(dtype: torch.dtype) -> GPT:
    """Return our model; no vector of it is all ones or zeros."""
    torch.manual_seed(SEED)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.to(dtype)


def global_batch(step: int, sequences: int) -> tuple[Tensor, Tensor]:
    """Return tokens and targets of a step, `(sequences, s)` each."""
    generator = torch.Generator().manual_seed(step)
    size = (sequences, CONFIG.sequence + 1)
    tokens = torch.randint(CONFIG.vocabulary, size, generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def sequences(case: Case) -> int:
    return case.layout.sequences


def micro_batches(
    case: Case, step: int, dp: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the part of a step that data parallel rank `dp` takes."""
    shape = (case.num_microbatches, case.layout.dp, BATCH, CONFIG.sequence)
    tokens, targets = global_batch(step, sequences(case))
    return list(
        zip(
            tokens.view(shape)[:, dp].contiguous(),
            targets.view(shape)[:, dp].contiguous(),
            strict=True,
        )
    )


def train_dense(case: Case) -> Held:
    """Return loss and gradients of our dense model, or its weights.

    With `steps=0` the gradients of step 0, and the loss twice, as a step
    and an evaluation report it; otherwise the weights after
    that many steps of our own clipping and AdamW.
    """
    model = dense_model(case.dtype)
    optimizer = make_optimizer(model, LR)
    report = []
    for step in range(max(1, case.steps)):
        optimizer.zero_grad()
        loss = model(*global_batch(step, sequences(case)))
        loss.backward()
        report = [loss.item(), loss.item()]
        if case.steps:
            norm = local_norm(model.parameters())
            clipped_step(optimizer, norm, CLIP)
            report[1] = norm.item()
    tensors = {
        name: (p if case.steps else p.grad).detach().clone()
        for name, p in model.named_parameters()
    }
    return Held(Coordinate(0, 0, 0), tensors, report)


@groups_closed()
def train_rank(rank: int, world: int, case: Case) -> Held:
    """Return what megatron-core computes of the same on this rank."""
    import megatron_cpu

    megatron_cpu.patch()
    from workshop.peers.megatron import trainer

    layout = case.layout
    settings = trainer.Settings(
        case.dtype,
        CLIP,
        attention=case.attention,
        fused=case.fused,
        distributed_optimizer=bool(case.steps),
    )
    at = layout.coordinate(rank)
    plant = BUGS[case.bug] if case.bug else nullcontext
    with plant(), trainer.model_parallel(layout):
        megatron = trainer.MegatronTrainer(
            CONFIG,
            layout,
            settings,
            dense_model(case.dtype).state_dict(),
            torch.device("cpu"),
        )
        if case.steps:
            for step in range(case.steps):
                batches = micro_batches(case, step, at.dp)
                report = megatron.step(batches, LR).tolist()
            for stage in megatron.stages:
                stage.start_param_sync(force_sync=True)
        else:
            for stage in megatron.stages:
                stage.zero_grad_buffer()
            batches = micro_batches(case, 0, at.dp)
            loss = megatron.forward_backward(batches)
            dist.all_reduce(loss)
            report = [loss.item(), megatron.loss(batches).item()]
        tensors = {
            name: (p if case.steps else p.main_grad).detach().clone()
            for stage in megatron.stages
            for name, p in weights.named(stage)
        }
    return Held(at, tensors, report)


@groups_closed()
def train_ours(rank: int, world: int, case: Case) -> Held:
    """Return the gradients of our own training in the same layout."""
    groups = make_groups(case.layout)
    trainer = LayoutTrainer(lambda: dense_model(case.dtype), groups, Recipe())
    batches = micro_batches(case, 0, groups.at.dp)
    loss = trainer.forward_backward(batches)
    trainer.finish()
    tensors = {name: p.grad.clone() for name, p in trainer.parameters.items()}
    report = [trainer.mean(loss).item(), trainer.loss(batches).item()]
    return Held(groups.at, tensors, report)


@groups_closed()
def take_steps(
    rank: int, world: int, name: str, layout: str, dtype: torch.dtype
) -> list[float]:
    """Return loss and norm of each of three steps of a contestant."""
    import megatron_cpu

    megatron_cpu.patch()
    from workshop.bench import megatron
    from workshop.bench.contestants import LR, Contestant, named
    from workshop.job.launch import Job
    from workshop.peers.megatron import trainer as its

    job = Job(rank, world, torch.device("cpu"))
    spread = named(layout, BATCH, BATCH, 2).layout
    sizes = {"tp": spread.tp, "pp": spread.pp}
    case = Case(num_microbatches=spread.num_microbatches, **sizes)
    at = case.layout.coordinate(rank)
    settings = functools.partial(its.Settings, dtype)
    narrow = mock.patch.object(
        its, "Settings", lambda _, *args, **kw: settings(*args, **kw)
    )
    contestant = Contestant(layout, case.layout)
    with narrow, megatron.ready(name, contestant, CONFIG, job) as trainer:
        values = [
            value
            for number in range(3)
            for value in trainer.step(
                micro_batches(case, number, at.dp), LR
            ).tolist()
        ]
    return values


def unshard_ours(name: str, parts: list[Tensor]) -> Tensor:
    """Return a whole tensor from the parts of our tensor parallel ranks."""
    if len(parts) == 1:
        return parts[0]
    shard = shard_of(name, GPT(CONFIG).get_parameter(name).shape, PLAN)
    return parts[0] if shard is None else shard.whole(parts)


def unshard_its(name: str, parts: list[Tensor]) -> Tensor:
    """Return a whole tensor from the parts of megatron-core's ranks."""
    return weights.unshard(name, parts, CONFIG.heads)


def whole(
    case: Case,
    ranks: list[Held],
    unshard: Callable[[str, list[Tensor]], Tensor] = unshard_its,
) -> dict[tuple[int, int], dict[str, Tensor]]:
    """Return the whole tensors of each copy's stages, by (dp, pp).

    Raises:
        AssertionError: a parameter is nowhere, so that nothing tested it.
    """
    stages = {}
    # The other bugs are in its model, which lives in the ranks alone.
    mapping = BUGS[case.bug] is qkv_cut_across if case.bug else False
    with qkv_cut_across() if mapping else nullcontext():
        for dp in range(case.layout.dp):
            for pp in range(case.pp):
                stage = [h for h in ranks if h.at[:2] == (pp, dp)]
                stage.sort(key=lambda held: held.at.tp)
                stages[dp, pp] = {
                    name: unshard(name, [h.tensors[name] for h in stage])
                    for name in stage[0].tensors
                }
    names = {name for stage in stages.values() for name in stage}
    assert names == set(dict(dense_model(case.dtype).named_parameters()))
    return stages
