"""A pipeline step, and the dense step that it must equal.

`train_dense` computes the gradients of the whole batch in one process and
`train_rank` those of one rank's chunks; `verify` compares them with
`CHECKS`. The planted bugs go through the very same `verify`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from parity import Mismatch, compare
from pool import Pool
from torch import Tensor, nn
from training_cases import gradients_of

from workshop.collectives import count
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.naive import NaivePipeline
from workshop.parallel.pipeline.schedule import Operation, make_schedule
from workshop.parallel.pipeline.stages import make_stages, unwrapped

BATCH, SEED, SEQUENCE, HIDDEN = 2, 100, 8, 16
SHAPE = (BATCH, SEQUENCE, HIDDEN)
MESSAGE_BYTES = BATCH * SEQUENCE * HIDDEN * 8

# Every schedule (name, p, m, v) of p up to 8, m up to 16 and v up to 4.
PLAIN = [(name, p, m, 1) for name in ("gpipe", "1f1b", "eager-1f1b")
         for p in range(1, 9) for m in range(1, 17)]  # fmt: skip
INTERLEAVED = [("interleaved", p, m, v) for p in range(2, 9)
               for m in range(p, 17, p) for v in range(2, 5)]  # fmt: skip
ALL = PLAIN + INTERLEAVED


@dataclass(frozen=True)
class Case:
    """One step: the schedule, the data parallelism around it, the checks.

    Cases are equal when their dense step is the same.
    """

    schedule: str = field(default="1f1b", compare=False)
    num_microbatches: int = 4
    v: int = field(default=1, compare=False)
    dp: int = 1
    wrap: Callable[..., nn.Module] | None = field(default=None, compare=False)
    layers: int = 4
    frozen: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    tied: bool = True
    pipeline: type[Pipeline | NaivePipeline] = field(
        default=Pipeline, compare=False
    )
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def config(self) -> GPTConfig:
        """The sizes, with a vocabulary that nothing divides."""
        sizes = (self.layers, HIDDEN, 2, SEQUENCE, 37)
        return GPTConfig(*sizes, tied=self.tied)

    def model(self) -> GPT:
        """Return the dense model, the same on every rank."""
        torch.manual_seed(SEED)
        model = GPT(self.config).to(self.device, self.dtype)
        for name in self.frozen:
            model.get_parameter(name).requires_grad_(False)
        return model

    def micro_batches(self, replica: int) -> list[tuple[Tensor, Tensor]]:
        """Return tokens and targets of one of `dp` copies of the model."""
        generator = torch.Generator().manual_seed(replica)
        size = (self.num_microbatches, BATCH, SEQUENCE + 1)
        tokens = torch.randint(37, size, generator=generator)
        tokens = tokens.to(self.device)
        return [(part[:, :-1], part[:, 1:]) for part in tokens]


@dataclass
class Step:
    """What a step left behind on a rank.

    `gradients` are by chunk and name, `sent` the bytes of each message to
    another stage.
    """

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    trace: list[Operation] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


@cache
def train_dense(case: Case) -> Step:
    """Compute the gradients of the whole batch at once."""
    model = case.model()
    batches = [b for r in range(case.dp) for b in case.micro_batches(r)]
    tokens, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    loss = model(tokens, targets)
    loss.backward()
    # The mean over a copy's own batch, where data parallelism is around.
    with torch.no_grad():
        losses = [
            sum(model(*pair).item() for pair in case.micro_batches(replica))
            / case.num_microbatches
            for replica in range(case.dp)
        ]
    return Step(losses, [gradients_of(model)])


def train_rank(rank: int, world: int, cases: list[Case]) -> list[Step]:
    """Run a step of each case on this rank of the pipeline."""
    return [step_of(rank, world, case) for case in cases]


def step_of(rank: int, world: int, case: Case) -> Step:
    """Run a step of training and one of evaluation."""
    pipeline = build(rank, world, case)
    replica = rank % case.dp
    with count() as ledger:
        loss = pipeline.forward_backward(case.micro_batches(replica))
    trace = pipeline.trace
    evaluated = pipeline.forward(case.micro_batches(replica))
    if case.wrap:
        for chunk in pipeline.chunks:
            chunk.finish()
    pipeline.finish_gradients()
    pipeline.close()
    return Step(
        [loss.item(), evaluated.item()],
        [gradients_of(unwrapped(chunk)) for chunk in pipeline.chunks],
        trace,
        [e.ring_bytes for e in ledger.entries if e.operation == "send"],
    )


def build(rank: int, world: int, case: Case) -> Pipeline:
    """Return this rank's pipeline, one of `dp` in the world."""
    p = world // case.dp
    group = dist.group.WORLD
    if case.dp > 1:
        group = subgroup([range(d, world, case.dp) for d in range(case.dp)])
    chunks = make_stages(case.model(), case.config, group.rank(), p, case.v)
    if case.wrap:
        across = subgroup(
            [range(s * case.dp, (s + 1) * case.dp) for s in range(p)]
        )
        chunks = [case.wrap(chunk, across) for chunk in chunks]
    schedule = make_schedule(case.schedule, p, case.num_microbatches, case.v)
    return case.pipeline(chunks, schedule, group, SHAPE, **case.options)


def subgroup(ranks: list[range]) -> dist.ProcessGroup:
    """Create the groups and return this rank's."""
    lists = [list(some) for some in ranks]
    return dist.new_subgroups_by_enumeration(lists)[0]


def check_loss(case: Case, dense: Step, ranks: list[Step]) -> None:
    """Every rank of a pipeline has the mean loss of its micro-batches."""
    for rank, step in enumerate(ranks):
        due = dense.losses[rank % case.dp]
        for got in step.losses:
            if not abs(got / due - 1) <= 1e-12:
                raise Mismatch("loss", got / due, f"rank {rank}")


def check_gradients(case: Case, dense: Step, ranks: list[Step]) -> None:
    """Every parameter is somewhere, and its gradient is the dense one."""
    seen = set()
    for rank, step in enumerate(ranks):
        for got in step.gradients:
            due = {name: dense.gradients[0][name] for name in got}
            compare("gradients", rank, got, due)
            seen |= got.keys()
    if missing := dense.gradients[0].keys() - seen:
        raise Mismatch("gradients", 0.0, f"no rank has {sorted(missing)}")


def check_trace(case: Case, dense: Step, ranks: list[Step]) -> None:
    """What was executed is the schedule."""
    p = len(ranks) // case.dp
    schedule = make_schedule(case.schedule, p, case.num_microbatches, case.v)
    for rank, step in enumerate(ranks):
        due = schedule[rank // case.dp]
        if step.trace != due:
            ratio = len(step.trace) / len(due)
            raise Mismatch("trace", ratio, f"rank {rank} ran {step.trace}")


def check_traffic(case: Case, dense: Step, ranks: list[Step]) -> None:
    """A rank sends b·s·h elements for each F and B of each of its stages.

    But the last stage sends no activations and the first no gradients, so
    all together send (pv - 1) m messages each way.
    """
    p = len(ranks) // case.dp
    for rank, step in enumerate(ranks):
        at = rank // case.dp
        messages = 2 * case.v - (at == 0) - (at == p - 1)
        due = [MESSAGE_BYTES] * messages * case.num_microbatches
        if step.sent != due:
            ratio = sum(step.sent) / sum(due)
            text = f"rank {rank} sent {len(step.sent)} messages"
            raise Mismatch("traffic", ratio, text)


CHECKS = (check_gradients, check_loss, check_trace, check_traffic)


def verify(pool: Pool, cases: list[Case]) -> None:
    """Compare the steps of all cases with the dense ones.

    Raises:
        Mismatch: from the first check that fails.
        RankError: a rank raised, died or hung.
    """
    by_rank = pool.run(train_rank, cases)
    for case, ranks in zip(cases, zip(*by_rank, strict=True), strict=True):
        compare_steps(case, ranks)


def compare_steps(case: Case, ranks: Sequence[Step]) -> None:
    """Run the checks of one case, as `verify` does."""
    for check in CHECKS:
        check(case, train_dense(case), list(ranks))
