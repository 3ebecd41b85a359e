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

import torch
from torch import nn

from workshop.data.batches import Batches
from workshop.data.corpus import Corpus, load_corpus
from workshop.data.tokenizer import TrainedTokenizer, tokenizer_for
from workshop.data.tokens import encoded
from workshop.errors import UserError
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.groups import Groups, make_groups
from workshop.job.failures import joined, memory_explained
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.tensorboard import ScalarWriter
from workshop.lab1.pretrain_options import layout_of, parse
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.parallel.random_streams import seed_streams
from workshop.profiling import profile
from workshop.training.hybrid import make_strategy
from workshop.training.layout import Layout
from workshop.training.loop import Options, train
from workshop.training.optimizer import make_optimizer
from workshop.training.report import Reporter
from workshop.training.state import TrainingState

TINY_MIB = 1.0


def main() -> None:
    """Train as the command line says."""
    with joined() as job:
        run(job, together(parse))


def run(job: Job, args: Namespace) -> None:
    """Prepare data and model, resume if asked, and train."""
    config, layout = CONFIGS[args.model], layout_of(args)
    dims = together(
        lambda: layout.dims(job.world_size, config, args.num_microbatches)
    )
    warning = layout.warning(dims)
    if warning and job.first:
        print(warning, file=sys.stderr, flush=True)
    with torch.device("meta"):
        parameters = num_parameters(GPT(config))
    data = prepare(job, args)
    with memory_explained(parameters, dims.tp, dims.pp, job.device):
        train_on(job, args, layout, make_groups(dims), parameters, data)


def train_on(
    job: Job,
    args: Namespace,
    layout: Layout,
    groups: Groups,
    parameters: int,
    data: tuple[Corpus, TrainedTokenizer, tuple],
) -> None:
    """Build the model of `parameters` in its layout, and train it."""
    corpus, trained, tokens = data
    config, dims = CONFIGS[args.model], groups.dims
    state = state_of(job, args, layout, groups, trained)
    seed_streams(args.seed + 1, dims, groups.at, args.sequence_parallel)
    start = state.resume() if args.resume else 0
    batches = [
        together(
            lambda part=part: Batches(
                part,
                config.sequence,
                args.micro_batch,
                args.num_microbatches,
                groups.at.dp,
                dims.dp,
                args.seed,
            )
        )
        for part in tokens
    ]
    path = metrics_path(args.metrics) if job.first else None
    events = args.tensorboard if job.first else None
    writer = together(
        lambda: (
            ScalarWriter(path, events, start)
            if events
            else MetricsWriter(path, start)
        )
    )
    flops = flops_per_token(
        parameters, config.layers, config.hidden, config.sequence
    )
    name = device_name(job)
    profiler = together(lambda: profiler_of(args, job, writer, start))
    reporter = Reporter(
        job,
        writer,
        batches[0].global_batch * config.sequence,
        flops,
        peak_flops(name),
        args.log_every,
        start + args.warmup_steps + profiled_steps(args),
    )
    writer.meta(
        **{k: v for k, v in vars(args).items() if k != "metrics"},
        data_parallel_size=dims.dp,
        parameters=parameters,
        tokens_per_step=reporter.tokens_per_step,
        flops_per_token=flops,
        peak_flops=reporter.peak_flops,
        device=name,
        world_size=job.world_size,
        corpus_sha256=corpus.sha256,
        tokenizer_sha256=trained.sha256,
        tokens_in_corpus=len(tokens[0]),
    )
    reporter.say(
        f"{args.model}: {parameters:,} parameters on {job.world_size} × "
        f"{name}, dp {dims.dp} × tp {dims.tp} × pp {dims.pp}, "
        f"{reporter.tokens_per_step:,} tokens a step"
    )
    if args.resume:
        reporter.say(where_it_resumes(args, start))
    train(
        state,
        *batches,
        Options(
            args.steps,
            args.lr,
            args.warmup,
            args.clip,
            args.bf16,
            args.eval_every,
            args.save_every,
        ),
        reporter,
        profiler,
        start,
    )
    reporter.memory_of_ranks()
    writer.close()


def state_of(
    job: Job,
    args: Namespace,
    layout: Layout,
    groups: Groups,
    trained: TrainedTokenizer,
) -> TrainingState:
    """Return the model, spread over the ranks, and its optimizer."""
    config = CONFIGS[args.model]
    torch.manual_seed(args.seed)
    with torch.device(job.device):
        module = GPT(config)
    if args.bf16_weights:
        module.bfloat16()
    weights = str(next(module.parameters()).dtype)
    strategy = make_strategy(
        module,
        layout,
        groups,
        args.micro_batch,
        args.num_microbatches,
        "inductor" if args.compile else None,
    )
    del module  # frees what other ranks hold, before the optimizer's states
    return TrainingState(
        strategy,
        make_optimizer(nn.ModuleList(strategy.chunks), args.lr),
        job,
        layout,
        Path(args.checkpoint) if args.checkpoint else None,
        {
            "name": args.model,
            **dataclasses.asdict(config),
            "weights": weights,
            "tokenizer_sha256": trained.sha256,
        },
    )


def prepare(
    job: Job, args: Namespace
) -> tuple[Corpus, TrainedTokenizer, tuple]:
    """Return corpus, tokenizer and tokens; rank 0 makes what is missing.

    The other ranks come second and find it in the cache; those of another
    node, where the cache is not shared, make it there.
    """
    mib = args.corpus_mib
    if mib is None and args.model in ("tiny", "mini"):
        mib = TINY_MIB

    def make() -> tuple[Corpus, TrainedTokenizer, tuple]:
        corpus = load_corpus(args.corpus, args.hf_dataset, mib)
        trained = tokenizer_for(corpus, args.vocabulary, show=job.first)
        if trained.vocabulary > CONFIGS[args.model].vocabulary:
            raise UserError(
                f"the tokenizer has {trained.vocabulary} entries and the "
                f"model {args.model} room for "
                f"{CONFIGS[args.model].vocabulary}: lower --vocabulary"
            )
        return corpus, trained, encoded(corpus, trained, show=job.first)

    first = together(lambda: make() if job.first else None)
    return together(lambda: first or make())


def where_it_resumes(args: Namespace, start: int) -> str:
    """Return the line that says from which step a run goes on."""
    if start == 0:
        return f"no checkpoint in {args.checkpoint} yet: starting at step 1"
    if start >= args.steps:
        return f"step {start} is done and --steps asks for {args.steps}"
    return f"resuming after step {start}"


def device_name(job: Job) -> str:
    """Return the GPU's name as the driver gives it, or cpu."""
    if job.device.type == "cuda":
        return torch.cuda.get_device_name(job.device)
    return "cpu"


def profiled_steps(args: Namespace) -> int:
    """Return how many steps after the warmup a profiler slows down."""
    if args.profile:
        return profile.PROFILED
    return profile.STEPS if args.trace else 0


def profiler_of(
    args: Namespace, job: Job, writer: MetricsWriter, start: int
) -> profile.StepTrace | profile.RankProfile | None:
    """Return this rank's profiler: `--trace` has one on rank 0 alone.

    Raises `UserError` when the run is too short for it.
    """
    steps = profiled_steps(args)
    if not steps:
        return None
    after = start + args.warmup_steps
    if args.steps < after + steps:
        flag = "--profile" if args.profile else "--trace"
        raise UserError(
            f"{flag} records {steps} steps after step {after} and --steps "
            f"is {args.steps}: give {after + steps} or more"
        )
    folder = os.environ.get("WORKSHOP_ARTIFACTS", ".")
    if args.profile:
        return profile.RankProfile(folder, job, start, after, writer)
    return profile.StepTrace(folder, after, writer) if job.first else None


if __name__ == "__main__":
    main()
