"""The training loop: queue a step, then read the one before.

The host is always one step ahead of the device.  While the device computes
step n, the host fetches the batches of step n + 1 and reads the loss and
the time of step n - 1.
"""

from dataclasses import dataclass
from typing import Protocol

from workshop.data.batches import Batches
from workshop.job.clock import Mark, StepClock
from workshop.job.stop import Stop
from workshop.training.checkpoints import Checkpoints
from workshop.training.evaluate import held_out_loss
from workshop.training.report import Reporter
from workshop.training.schedule import learning_rate
from workshop.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """How long a run is, and how often it does more than a step.

    `lr` is the peak of the schedule and `lr_warmup` its rising steps.
    `eval_every` and `save_every` count steps, and 0 means only at the end
    (for the evaluation: not at all).
    """

    steps: int
    lr: float
    lr_warmup: int = 0
    eval_every: int = 0
    save_every: int = 0


class Profiler(Protocol):
    """What a run can be watched by: `workshop.profiling` has it."""

    def at(self, step: int) -> bool:
        """Note that `step` has been queued; return whether time was lost."""


def train(
    trainer: Trainer,
    training: Batches,
    held_out: Batches,
    options: Options,
    reporter: Reporter,
    checkpoints: Checkpoints | None = None,
    profiler: Profiler | None = None,
    start: int = 0,
    stop: Stop | None = None,
) -> None:
    """Train from step `start` to `options.steps`, or until told to `stop`.

    Step n of the log is the n-th update.  Without `checkpoints` none are
    made, and `stop` is not asked.
    """
    device = reporter.job.device
    batches = training.on(device, start)
    unread: Mark | None = None
    if profiler is not None:
        profiler.at(start)
    clock = StepClock(device)
    for step in range(start + 1, options.steps + 1):
        rate = learning_rate(
            step - 1, options.lr, options.lr_warmup, options.steps
        )
        mark = clock.mark(step, trainer.step(batches, rate))
        last = step == options.steps
        if not last:
            batches = training.on(device, step)
        if unread is not None:
            reporter.step(unread)
        unread = mark
        stops = (
            not last
            and stop is not None
            and checkpoints is not None
            and stop.after(step)
        )
        pause = profiler is not None and profiler.at(step)
        evaluates = options.eval_every and (
            last or step % options.eval_every == 0
        )
        saves = checkpoints is not None and (
            last
            or stops
            or (options.save_every and step % options.save_every == 0)
        )
        if last or evaluates or saves or pause:
            reporter.step(unread)
            unread = None
        if evaluates:
            loss = held_out_loss(trainer, held_out, device)
            reporter.held_out(step, loss)
        if saves:
            checkpoints.save(step, training.taken(step))
        if stops:
            return
        if evaluates or saves or pause:
            clock.restart()
