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
from workshop.training.hybrid import make_strategy
from workshop.training.layout import Layout

from workshop.groups import Coordinate, ParallelDims, make_groups
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.peers.megatron import weights
from workshop.training.clipping import clipped_step, global_norm
from workshop.training.optimizer import make_optimizer

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
        return Layout(
            self.tp,
            self.pp,
            self.sequence_parallel,
            schedule,
            self.virtual_stages,
        )

    @property
    def dims(self) -> ParallelDims:
        return ParallelDims.for_world(RANKS, self.tp, self.pp)

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
    return case.dims.dp * case.num_microbatches * BATCH


def micro_batches(
    case: Case, step: int, dp: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the part of a step that data parallel rank `dp` takes."""
    shape = (case.num_microbatches, case.dims.dp, BATCH, CONFIG.sequence)
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

    With `steps=0` the gradients of step 0; otherwise the weights after
    that many steps of our own clipping and AdamW.
    """
    model = dense_model(case.dtype)
    optimizer = make_optimizer(model, LR)
    report = []
    for step in range(max(1, case.steps)):
        optimizer.zero_grad()
        loss = model(*global_batch(step, sequences(case)))
        loss.backward()
        report = [loss.item()]
        if case.steps:
            norm = global_norm(model.parameters())
            clipped_step(optimizer, norm, CLIP)
            report.append(norm.item())
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
    from workshop.peers.megatron import training

    dims = case.dims
    settings = training.Settings(
        case.dtype,
        LR,
        CLIP,
        attention=case.attention,
        fused=case.fused,
        distributed_optimizer=bool(case.steps),
    )
    at = dims.coordinate(rank)
    plant = BUGS[case.bug] if case.bug else nullcontext
    with plant(), training.model_parallel(case.layout, dims):
        megatron = training.MegatronTraining(
            CONFIG,
            case.layout,
            dims,
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
            report = [loss.item()]
        tensors = {
            name: (p if case.steps else p.main_grad).detach().clone()
            for stage in megatron.stages
            for name, p in weights.named(stage)
        }
    return Held(at, tensors, report)


@groups_closed()
def train_ours(rank: int, world: int, case: Case) -> Held:
    """Return the gradients of our own training in the same layout."""
    groups = make_groups(case.dims)
    strategy = make_strategy(
        dense_model(case.dtype),
        case.layout,
        groups,
        BATCH,
        case.num_microbatches,
    )
    batches = micro_batches(case, 0, groups.at.dp)
    loss = strategy.forward_backward(batches, bf16=False)
    strategy.finish()
    tensors = {
        name: p.grad.clone() for name, p in strategy.named_parameters()
    }
    report = [strategy.mean(loss).item()]
    return Held(groups.at, tensors, report)


@groups_closed()
def take_steps(
    rank: int, world: int, name: str, layout: str, dtype: torch.dtype
) -> list[float]:
    """Return loss and norm of each of three steps of a contestant."""
    import megatron_cpu

    megatron_cpu.patch()
    from workshop.job.launch import Job
    from workshop.peers.megatron import contestants, training

    job = Job(rank, world, torch.device("cpu"))
    contestant = contestants.named(layout, BATCH, BATCH, 2)
    case = Case(
        contestant.layout.tensor,
        contestant.layout.pipeline,
        num_microbatches=contestant.num_microbatches,
    )
    at = case.dims.coordinate(rank)
    settings = functools.partial(training.Settings, dtype)
    narrow = mock.patch.object(
        training, "Settings", lambda _, *args, **kw: settings(*args, **kw)
    )
    with narrow, contestants.ready(name, contestant, CONFIG, job) as step:
        values = [
            value
            for number in range(3)
            for value in step(micro_batches(case, number, at.dp)).tolist()
        ]
    return values


def unshard_ours(name: str, parts: list[Tensor]) -> Tensor:
    """Return a whole tensor from the parts of our tensor parallel ranks."""
    if len(parts) == 1:
        return parts[0]
    plan, vocabulary = tensor_parallel.PLAN, CONFIG.vocabulary
    return tensor_parallel.unshard_tensor(name, parts, plan, vocabulary)


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
    found = {}
    # The other bugs are in its model, which lives in the ranks alone.
    mapping = BUGS[case.bug] is qkv_cut_across if case.bug else False
    with qkv_cut_across() if mapping else nullcontext():
        for dp in range(case.dims.dp):
            for pp in range(case.pp):
                stage = [h for h in ranks if h.at[:2] == (pp, dp)]
                stage.sort(key=lambda held: held.at.tp)
                found[dp, pp] = {
                    name: unshard(name, [h.tensors[name] for h in stage])
                    for name in stage[0].tensors
                }
    names = {name for stage in found.values() for name in stage}
    assert names == set(dict(dense_model(case.dtype).named_parameters()))
    return found
