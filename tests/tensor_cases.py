"""A tensor parallel training, and the dense training that it must equal.

`verify` compares the two; `planted.tensor_parallel` goes through it too.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from fused_on_cpu import fused_on_cpu
from parity import TOLERANCE, Mismatch, compare
from torch import Tensor, nn
from training_cases import gradients_of, snapshot

from workshop.collectives import Ledger, count
from workshop.models.gpt import GPT, GPTConfig, compile_blocks
from workshop.parallel.placement import Placement
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.parallel.tensor.sharding import PLAN, shard_of

LAYERS, HIDDEN, HEADS, SEQUENCE = 2, 16, 4, 8
BATCH, STEPS, SEED = 3, 2, 100
FROZEN = (
    "embedding.position.weight",
    "blocks.0.mlp.up.weight",
    "blocks.1.attention.output.weight",
    "blocks.1.mlp.down.bias",
)


@dataclass(frozen=True)
class Case:
    """One training: how the model is split, the model, the optimizer.
    `backend` compiles every block, `bug` is planted, `fused` are the layers.
    """

    sequence_parallel: bool = False
    overlap: bool = True
    vocabulary: int = 37
    bias: bool = True
    frozen: bool = False
    dropout: float = 0.0
    optimizer: str = "sgd"
    backend: str = ""
    bug: str = ""
    fused: bool = False

    @property
    def config(self) -> GPTConfig:
        sizes = LAYERS, HIDDEN, HEADS, SEQUENCE
        return GPTConfig(*sizes, self.vocabulary, self.bias, self.dropout)

    def model(self) -> GPT:
        """Return the dense model, in which no parameter is zero."""
        torch.manual_seed(SEED)
        model = GPT(self.config).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if self.frozen:
            for name in FROZEN:
                model.get_parameter(name).requires_grad_(False)
        return model

    def optimize(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer; SGD shows a wrong scale, AdamW hides it."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=0.5)
        return torch.optim.AdamW(parameters, lr=1e-2)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return a step's tokens and targets, (b, s) each."""
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(
            self.vocabulary, (BATCH, SEQUENCE + 1), generator=generator
        )
        # The last token of an odd vocabulary is the one beside the padding.
        tokens[0, 2:4] = self.vocabulary - 1
        return tokens[:, :-1], tokens[:, 1:]


Traffic = Counter[tuple[str, str, int, int]]


@dataclass
class Training:
    """What a training left behind; tensors by dense name.

    `traffic` counts (phase, operation, elements, bytes) of the first step,
    `sent` the bytes of the whole step by the ring formulas.
    """

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    logits: Tensor | None = None
    traffic: Traffic = field(default_factory=Counter)
    sent: float = 0.0


def moments_of(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Return what the optimizer remembers: key, then parameter's name."""
    by_key: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                by_key.setdefault(key, {})[name] = value
    return {key: snapshot(tensors) for key, tensors in by_key.items()}


def entries(phase: str, ledger: Ledger) -> Iterable[tuple]:
    """Yield what `Training.traffic` counts."""
    for entry in ledger.entries:
        yield phase, entry.operation, entry.elements, entry.message_bytes


def train(
    case: Case,
    model: nn.Module,
    group: Any = None,
    placement: dict[str, Placement] | None = None,
) -> Training:
    """Train on the same batches, dense (`group` None) or split."""
    done = Training()
    optimizer = case.optimize(model)
    torch.manual_seed(SEED)
    for step in range(STEPS):
        optimizer.zero_grad()
        with count() as forward:
            loss = model(*case.batch(step))
        with count() as backward:
            loss.backward()
        with count() as finish:
            if group is not None:
                tensor_parallel.finish_gradients(model, placement, group)
        done.losses.append(loss.item())
        done.gradients.append(gradients_of(model))
        optimizer.step()
        if step == 0:
            done.traffic.update(entries("forward", forward))
            done.traffic.update(entries("backward", backward))
            done.traffic.update(entries("finish", finish))
            done.sent = forward.bytes_sent + backward.bytes_sent
    done.weights = snapshot(dict(model.named_parameters()))
    done.moments = moments_of(model, optimizer)
    with torch.no_grad():
        done.logits = model.eval()(case.batch(0)[0])
    return done


@cache
def train_dense(case: Case) -> Training:
    """Train in one process, with no group in sight."""
    return train(case, case.model())


def split(case: Case, group: dist.ProcessGroup) -> tuple[nn.Module, dict]:
    """Return the case's model, split over the group, and its placement."""
    model, how = case.model(), (case.sequence_parallel, case.overlap)
    with fused_on_cpu() if case.fused else nullcontext():
        placement = tensor_parallel.apply(model, PLAN, group, *how)
    return compiled(model, case.backend), placement


def compiled(model: nn.Module, backend: str) -> nn.Module:
    """Compile every block, if there is a backend, and forget all others.

    The ranks of a pool live through many models, and each is compiled anew.
    """
    if backend:
        torch._dynamo.reset()
        compile_blocks(model, backend)
    return model


def train_rank(rank: int, world: int, cases: list[Case]) -> list[Training]:
    """Train every case on this rank's part of the model."""
    from planted.tensor_parallel import PLANTS

    trainings = []
    for case in cases:
        with PLANTS[case.bug]() if case.bug else nullcontext():
            model, placement = split(case, dist.group.WORLD)
            trainings.append(train(case, model, dist.group.WORLD, placement))
    return trainings


def compare_parts(
    check: str,
    case: Case,
    parts: list[dict[str, Tensor]],
    dense: dict[str, Tensor],
) -> None:
    """Compare joined parts, and every rank's replicated tensors."""
    joined, replicated = {}, {}
    for name, tensor in dense.items():
        shards = [part[name] for part in parts]
        shard = shard_of(name, tensor.shape, PLAN)
        joined[name] = shard.whole(shards) if shard else shards[0]
        if shard is None:
            replicated[name] = tensor
    compare(check, 0, joined, dense)
    for rank, part in enumerate(parts):
        compare(check, rank, {n: part[n] for n in replicated}, replicated)


def check_steps(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Loss and the gradient of every parameter are the dense ones.

    The first step that differs is the one to report: after it the weights
    differ too, and no ratio means anything.
    """
    for step, due in enumerate(dense.losses):
        for rank, training in enumerate(ranks):
            ratio = training.losses[step] / due
            if not abs(ratio - 1) <= TOLERANCE:
                raise Mismatch("loss", ratio, f"rank {rank}, step {step}")
        parts = [training.gradients[step] for training in ranks]
        compare_parts("gradients", case, parts, dense.gradients[step])


def check_weights(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Weights and moments of the optimizer end as the dense ones."""
    parts = [training.weights for training in ranks]
    compare_parts("weights", case, parts, dense.weights)
    for key, due in dense.moments.items():
        parts = [training.moments[key] for training in ranks]
        compare_parts("weights", case, parts, due)


def check_logits(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Every rank's logits without targets are the dense ones, (b, s, V)."""
    for rank, training in enumerate(ranks):
        due = {"logits": dense.logits}
        compare("logits", rank, {"logits": training.logits}, due)


def check_traffic(case: Case, ranks: list[Training]) -> None:
    """Every rank sends what the papers say and nothing else."""
    due = due_traffic(case)
    for rank, training in enumerate(ranks):
        got = training.traffic
        if got != due:
            ratio = got.total() / due.total()
            message = f"rank {rank}: {got - due} too much, {due - got} lack"
            raise Mismatch("traffic", ratio, message)


def due_traffic(case: Case, itemsize: int = 8) -> Traffic:
    """Return the traffic of a step that the papers give."""
    activations = BATCH * SEQUENCE * HIDDEN
    scalars = BATCH * SEQUENCE
    wide = max(itemsize, 4)
    due: Traffic = Counter()

    def add(phase: str, operation: str, times: int) -> None:
        due[phase, operation, activations, activations * itemsize] += times

    due["forward", "all_reduce", scalars, scalars * wide] = 3
    if not case.sequence_parallel:
        add("forward", "all_reduce", 2 * LAYERS + 1)
        add("backward", "all_reduce", 2 * LAYERS + 1)
        return due
    for phase in ("forward", "backward"):
        add(phase, "all_gather", 2 * LAYERS + 1)
        add(phase, "reduce_scatter", 2 * LAYERS + 1)
    if case.overlap:
        add("backward", "all_gather", 2 * LAYERS + 1)
    # LayerNorms, positions, and the biases behind a sum.
    vectors = (2 * LAYERS + 1) * (2 if case.bias else 1)
    vectors += SEQUENCE + (2 * LAYERS if case.bias else 0)
    partial = vectors * HIDDEN
    due["finish", "all_reduce", partial, partial * itemsize] = 1
    return due


def verify(case: Case, ranks: list[Training], traffic: bool = True) -> None:
    """Compare a training with the dense one, check by check.

    Raises:
        Mismatch: from the first check that fails.
    """
    # A split model computes the same, whichever way it is split.
    whole = {"sequence_parallel": False, "overlap": True}
    dense = train_dense(replace(case, **whole, backend="", bug=""))
    check_steps(case, dense, ranks)
    check_weights(case, dense, ranks)
    check_logits(case, dense, ranks)
    if traffic:
        check_traffic(case, ranks)
