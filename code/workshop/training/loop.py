"""The training loop: queue a step, then read the one before.

The host is always one step ahead of the device.  While the device computes
step n, the host fetches the batches of step n + 1 and reads the loss and
the time of step n - 1.
"""

from dataclasses import dataclass

from workshop.data.batches import Batches
from workshop.job.clock import Mark, StepClock
from workshop.profiling.profile import RankProfile, StepTrace
from workshop.training.evaluate import held_out_loss
from workshop.training.report import Reporter
from workshop.training.schedule import learning_rate
from workshop.training.state import TrainingState
from workshop.training.step import training_step


@dataclass(frozen=True)
class Options:
    """What a run does in each step, and how often it does the rest.

    `lr` is the peak of the schedule and `lr_warmup` its rising steps;
    `clip` limits the gradient's norm (0: never).  `eval_every` and
    `save_every` count steps, and 0 means only at the end (for the
    evaluation: not at all).
    """

    steps: int
    lr: float
    lr_warmup: int = 0
    clip: float = 1.0
    bf16: bool = False
    eval_every: int = 0
    save_every: int = 0


def train(
    state: TrainingState,
    training: Batches,
    held_out: Batches,
    options: Options,
    reporter: Reporter,
    profiler: StepTrace | RankProfile | None = None,
    start: int = 0,
) -> None:
    """Train from step `start` to `options.steps`.

    Step n of the log is the n-th update.
    """
    device = state.job.device
    batches = training.on(device, start)
    unread: Mark | None = None
    if profiler is not None:
        profiler.at(start)
    clock = StepClock(device)
    for step in range(start + 1, options.steps + 1):
        rate = learning_rate(
            step - 1, options.lr, options.lr_warmup, options.steps
        )
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        values = training_step(
            state.strategy,
            state.optimizer,
            batches,
            options.clip,
            options.bf16,
        )
        mark = clock.mark(step, values)
        last = step == options.steps
        if not last:
            batches = training.on(device, step)
        if unread is not None:
            reporter.step(unread)
        unread = mark
        pause = profiler is not None and profiler.at(step)
        evaluates = options.eval_every and (
            last or step % options.eval_every == 0
        )
        saves = state.folder is not None and (
            last or (options.save_every and step % options.save_every == 0)
        )
        if last or evaluates or saves or pause:
            reporter.step(unread)
            unread = None
        if evaluates:
            loss = held_out_loss(
                state.strategy, held_out, device, options.bf16
            )
            reporter.held_out(step, loss)
        if saves:
            state.save(step)
        if evaluates or saves or pause:
            clock.restart()
