r"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.pretrain_gpt

Pretrains a GPT on dp × tp × pp ranks, on GPUs (NCCL) or on the CPU (gloo).
With no arguments all ranks are data parallel, and it trains the tiny model
for 50 steps.  One process, with no torchrun, works as well:
python -m workshop.lab1.pretrain_gpt

Two ranks that share each layer, and the tokens between the layers:

  torchrun --standalone --nproc-per-node 2 -m workshop.lab1.pretrain_gpt \
    --tensor-parallel-size 2 --sequence-parallel

A pipeline of two stages, four micro-batches a step:

  torchrun --standalone --nproc-per-node 2 -m workshop.lab1.pretrain_gpt \
    --pipeline-parallel-size 2 --num-microbatches 4

Two stages of two ranks each:

  torchrun --standalone --nproc-per-node 4 -m workshop.lab1.pretrain_gpt \
    --tensor-parallel-size 2 --pipeline-parallel-size 2 --num-microbatches 4
"""

import dataclasses
import os
import sys
from argparse import Namespace
from pathlib import Path

from workshop.errors import UserError
from workshop.groups import Groups, make_groups
from workshop.job.failures import joined, memory_explained
from workshop.job.launch import Job, leave_words, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.stop import CODE, NOTHING_KEPT, Stop
from workshop.lab1.pretrain_options import (
    config_of,
    layout_of,
    parse,
    recipe_of,
    text_of,
)
from workshop.models.gpt import seeded, size_of
from workshop.parallel.random_streams import seed_streams
from workshop.training import checkpoint, fit
from workshop.training.checkpoints import Checkpoints
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.loop import Options, Profiler, train
from workshop.training.report import Reporter
from workshop.training.text import Text


def main() -> None:
    """Train as the command line says."""
    with joined() as job:
        said = run(job, together(parse))
    if said:
        leave_words(said)
        sys.exit(CODE)


def run(job: Job, args: Namespace) -> str | None:
    """Prepare the text, and train where out of memory is one sentence.

    Returns what to say of a run that a signal has stopped, None of one that
    is done.
    """
    layout = together(lambda: layout_of(args, job.world_size))
    if args.checkpoint and not args.resume:
        together(lambda: checkpoint.refuse_used(args.checkpoint))
    warning = fit.warning(layout)
    if warning and job.first:
        print(warning, file=sys.stderr, flush=True)
    text = text_of(job, args)
    parameters = size_of(config_of(args))
    with memory_explained(parameters, layout.tp, layout.pp, job.device):
        return train_on(job, args, make_groups(layout), text)


def train_on(
    job: Job, args: Namespace, groups: Groups, text: Text
) -> str | None:
    """Build the model in its layout, resume if asked, and train it.

    Returns as `run` does.
    """
    config, layout = config_of(args), groups.layout
    trainer = LayoutTrainer(
        lambda: seeded(config, args.seed, job.device), groups, recipe_of(args)
    )
    seed_streams(args.seed + 1, layout, groups.at)
    checkpoints = checkpoints_of(args, job, trainer, text)
    start, taken = checkpoints.resume() if args.resume else (0, 0)
    training, held_out = text.batches(
        config.sequence, layout, groups.at.dp, args.seed
    )
    writer = together(lambda: writer_of(args, job, start))
    profiler, slow = together(lambda: profiler_of(args, job, writer, start))
    reporter = Reporter.of_run(
        job,
        writer,
        args.model,
        layout,
        args.log_every,
        warmup_until=start + args.warmup_steps + slow,
        skips=trainer.recipe.kind.scaled,
    )
    left_out = ("metrics", "model")
    described = {k: v for k, v in vars(args).items() if k not in left_out}
    reporter.begin(args.model, layout, text, **described)
    if args.resume:
        reporter.say(where_it_resumes(args, start))
    options = Options(
        args.steps, args.lr, args.warmup, args.eval_every, args.save_every
    )
    stop = Stop(job, keeps=checkpoints is not None)
    if job.first and not checkpoints and "SLURM_JOB_ID" in os.environ:
        print(NOTHING_KEPT, file=sys.stderr, flush=True)
    with stop.listening():
        train(
            trainer,
            training.resumed(start, taken),
            held_out,
            options,
            reporter,
            checkpoints,
            profiler,
            start,
            stop,
        )
    reporter.memory_of_ranks()
    writer.close()
    if not stop.stopped:
        return None
    said = (
        f"stopped by a signal, and the checkpoint in {args.checkpoint} is "
        f"whole: go on with --resume (exit code {CODE})"
    )
    reporter.say(said)
    return said


def checkpoints_of(
    args: Namespace, job: Job, trainer: LayoutTrainer, text: Text
) -> Checkpoints | None:
    """Return where checkpoints go, and whose they are; None without."""
    if not args.checkpoint:
        return None
    some = next(iter(trainer.parameters.values()))
    described = {
        "name": args.model,
        **dataclasses.asdict(config_of(args)),
        "weights": str(some.dtype),
        "tokenizer_sha256": text.tokenizer.sha256,
        "corpus_sha256": text.corpus.sha256,
        "seed": args.seed,
    }
    layout = trainer.groups.layout
    folder = Path(args.checkpoint)
    return Checkpoints(trainer, job, layout, folder, described)


def writer_of(args: Namespace, job: Job, start: int) -> MetricsWriter:
    """Return where rank 0 writes metrics, and events for TensorBoard."""
    path = metrics_path(args.metrics) if job.first else None
    if not (args.tensorboard and job.first):
        return MetricsWriter(path, start)
    from workshop.job.tensorboard import ScalarWriter

    return ScalarWriter(path, args.tensorboard, start)


def where_it_resumes(args: Namespace, start: int) -> str:
    """Return the line that says from which step a run goes on."""
    if start == 0:
        return f"no checkpoint in {args.checkpoint} yet: starting at step 1"
    if start >= args.steps:
        return f"step {start} is done and --steps asks for {args.steps}"
    return f"resuming after step {start}"


def profiler_of(
    args: Namespace, job: Job, writer: MetricsWriter, start: int
) -> tuple[Profiler | None, int]:
    """Return this rank's profiler, and how many steps it slows down.

    `--trace` profiles rank 0 alone; without either flag there is none.

    Raises:
        UserError: the run is too short for it.
    """
    if not (args.profile or args.trace):
        return None, 0
    from workshop.profiling.profile import PROFILED, Profiler

    after = start + args.warmup_steps
    if args.steps < after + PROFILED:
        flag = "--profile" if args.profile else "--trace"
        raise UserError(
            f"{flag} records {PROFILED} steps after step {after} and --steps "
            f"is {args.steps}: give {after + PROFILED} or more"
        )
    folder = os.environ.get("WORKSHOP_ARTIFACTS", ".")
    profiler = Profiler(folder, job, start, after, writer, args.profile)
    return profiler, PROFILED


if __name__ == "__main__":
    main()
