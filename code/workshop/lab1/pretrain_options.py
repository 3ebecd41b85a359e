"""The command line of `workshop.lab1.pretrain_gpt`, checked."""

import argparse
import os
from dataclasses import replace

from workshop.errors import UserError
from workshop.job.launch import Job
from workshop.job.options import Parser, check_numbers
from workshop.layout import Layout
from workshop.models.gpt import ATTENTIONS, CONFIGS, GPTConfig
from workshop.parallel.data.ways import WAYS
from workshop.schedules import SCHEDULES
from workshop.training.fit import check_fit
from workshop.training.text import (
    TOKENIZER,
    TOKENIZER_OF_TINY,
    Text,
    default_vocabulary,
    prepare,
)
from workshop.training.trainer import PRECISIONS, RECOMPUTE, Recipe

# Brown et al. 2020 (arXiv:2005.14165), table 2.1, for the larger sizes.
PEAK_LR = {
    "tiny": 3e-3,
    "mini": 3e-3,
    "gpt2-small": 6e-4,
    "gpt-1.3b": 2e-4,
    "gpt-10b": 1e-4,
}


def parser_of(prog: str) -> Parser:
    """Return the parser of the program `prog`."""
    parser = Parser(
        prog=prog,
        description="Pretrain a GPT on dp × tp × pp ranks.",
    )
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="tiny", help="its size")
    add("--steps", type=int, default=50, help="updates of the weights")
    add("--micro-batch", type=int, default=4, help="sequences at once")
    add(
        "--num-microbatches",
        "--accumulation",
        type=int,
        default=1,
        help="micro-batches whose gradients add up before an update",
    )
    add(
        "--tensor-parallel-size",
        type=int,
        default=1,
        help="ranks that share each layer; neighbours, inside a node",
    )
    add(
        "--sequence-parallel",
        action="store_true",
        help="split activations by tokens outside the shared products",
    )
    add(
        "--pipeline-parallel-size",
        type=int,
        default=1,
        help="stages that the layers are cut into",
    )
    add("--schedule", choices=SCHEDULES, default="1f1b", help="of a pipeline")
    add(
        "--virtual-stages",
        type=int,
        default=1,
        help="stages a rank has under --schedule interleaved",
    )
    add(
        "--data-parallel",
        choices=WAYS,
        default="overlapped",
        help="average after backward, during it, or by torch's own",
    )
    add("--bucket-mib", type=float, default=100.0, help="of gradients")
    add("--compile", action="store_true", help="torch.compile each block")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="float32",
        help="the numbers that a step is made of",
    )
    for short, what in (
        ("bf16", "autocast to bfloat16; weights and gradients stay float32"),
        ("bf16-weights", "bfloat16 weights and gradients, float32 masters"),
    ):
        precision.add_argument(
            f"--{short}",
            dest="precision",
            action="store_const",
            const=short,
            help=what,
        )
    add(
        "--attention",
        choices=ATTENTIONS,
        default="flash",
        help="one kernel, or s × s matrices that are written and kept",
    )
    add(
        "--recompute",
        choices=RECOMPUTE,
        default="none",
        help="what backward computes again in place of keeping it: nothing, "
        "attention's core, or all of a block but its input",
    )
    add(
        "--recompute-every",
        type=int,
        default=1,
        metavar="N",
        help="of every N blocks one, the first",
    )
    add(
        "--lr",
        type=float,
        help="peak learning rate; each model has its own",
    )
    add("--warmup", type=int, default=5, help="steps until --lr is reached")
    add("--clip", type=float, default=1.0, help="largest norm, 0: any")
    add("--seed", type=int, default=1, help="of weights and batches")
    add("--corpus", metavar="PATH", help="text file or folder of them")
    add("--hf-dataset", metavar="NAME", help="Hugging Face NAME[:CONFIG]")
    add(
        "--corpus-mib",
        type=float,
        help="use only its first MiB of text; tiny and mini take 1",
    )
    add(
        "--vocabulary",
        type=int,
        help=f"tokenizer entries, {TOKENIZER_OF_TINY} for tiny and mini, "
        f"{TOKENIZER} for the others",
    )
    add("--checkpoint", metavar="DIR", help="folder for checkpoints")
    add(
        "--save-every",
        type=int,
        default=0,
        help="steps between checkpoints, 0: only the last step, and the one "
        "at which SIGUSR1 or SIGTERM stops the run",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from --checkpoint, as a job does that Slurm requeues",
    )
    add(
        "--eval-every",
        type=int,
        default=0,
        help="steps between held-out losses, 0: never",
    )
    add("--log-every", type=int, default=1, help="steps between lines")
    add(
        "--warmup-steps",
        type=int,
        default=5,
        help="first steps, left out of summaries: they compile and connect",
    )
    add("--metrics", metavar="PATH", help="JSONL file of every step")
    add("--tensorboard", metavar="DIR", help="event files of losses")
    profiler = parser.add_mutually_exclusive_group()
    profiler.add_argument(
        "--trace",
        action="store_true",
        help="trace a few steps of rank 0 after --warmup-steps, into "
        "$WORKSHOP_ARTIFACTS/trace.json.gz",
    )
    profiler.add_argument(
        "--profile",
        action="store_true",
        help="profile a few steps of every rank after them, into "
        "$WORKSHOP_ARTIFACTS/profile.txt and traces beside it",
    )
    return parser


def parse(
    argv: list[str] | None = None, parser: Parser | None = None
) -> argparse.Namespace:
    """Return the arguments of a run, as `parser` (default: ours) knows them.

    Raises `UserError` for an argument that is unknown or out of range.
    """
    args = (parser or parser_of("pretrain_gpt")).parse_args(argv)
    if args.lr is None:
        args.lr = PEAK_LR[args.model]
    # Slurm counts how often it has started a job again.
    if args.checkpoint and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        args.resume = True
    if args.vocabulary is None:
        args.vocabulary = default_vocabulary(args.model)
    _check(args)
    return args


def layout_of(args: argparse.Namespace, world_size: int) -> Layout:
    """Return the layout that the arguments ask for, over `world_size` ranks.

    Raises:
        UserError: the world, the model or the micro-batches do not fit.
    """
    layout = Layout.for_world(
        world_size,
        tp=args.tensor_parallel_size,
        pp=args.pipeline_parallel_size,
        sequence_parallel=args.sequence_parallel,
        schedule=args.schedule,
        virtual_stages=args.virtual_stages,
        micro_batch=args.micro_batch,
        num_microbatches=args.num_microbatches,
    )
    check_fit(CONFIGS[args.model], layout, args.data_parallel)
    return layout


def config_of(args: argparse.Namespace) -> GPTConfig:
    """Return the sizes of the model that the arguments ask for."""
    return replace(CONFIGS[args.model], attention=args.attention)


def text_of(job: Job, args: argparse.Namespace) -> Text:
    """Return the text that the arguments ask for; all ranks call it."""
    return prepare(
        job,
        args.model,
        args.corpus,
        args.hf_dataset,
        args.corpus_mib,
        args.vocabulary,
    )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return how a step computes, as the arguments ask for."""
    return Recipe(
        precision=args.precision,
        clip=args.clip,
        data_parallel=args.data_parallel,
        bucket_mib=args.bucket_mib,
        backend="inductor" if args.compile else None,
        recompute=args.recompute,
        recompute_every=args.recompute_every,
    )


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    least = {
        "steps": 1,
        "micro_batch": 1,
        "num_microbatches": 1,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "virtual_stages": 1,
        "log_every": 1,
        "warmup": 0,
        "clip": 0,
        "seed": 0,
        "save_every": 0,
        "eval_every": 0,
        "warmup_steps": 0,
        "vocabulary": 1,
        "recompute_every": 1,
    }
    check_numbers(args, least, ("lr", "bucket_mib", "corpus_mib"))
    wide = PRECISIONS[args.precision].wide_gradients
    if wide and args.data_parallel == "ddp":
        raise UserError(
            "torch's DDP sends gradients in the precision of the weights: "
            f"choose another --precision than {args.precision}, or another "
            "--data-parallel"
        )
    if (args.resume or args.save_every) and not args.checkpoint:
        option = "--resume" if args.resume else "--save-every"
        raise UserError(
            f"{option} needs to know where checkpoints are: "
            "name the folder with --checkpoint"
        )
