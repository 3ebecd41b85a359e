"""The command line of training with megatron-core: ours, less what is ours.

Its flags are those of `pretrain_gpt` and mean the same. All but `TAKEN` are
refused, so that no flag is without effect.
"""

import argparse

from workshop.errors import UserError
from workshop.lab1 import pretrain_options
from workshop.peers.megatron.available import check_schedule

ATTENTIONS = ("local", "flash")
PRECISIONS = ("float32", "bf16-weights")
TAKEN = {
    "model",
    "steps",
    "micro_batch",
    "num_microbatches",
    "tensor_parallel_size",
    "sequence_parallel",
    "pipeline_parallel_size",
    "schedule",
    "virtual_stages",
    "attention",
    "precision",
    "lr",
    "warmup",
    "clip",
    "seed",
    "corpus",
    "hf_dataset",
    "corpus_mib",
    "vocabulary",
    "log_every",
    "warmup_steps",
    "metrics",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments: those of `pretrain_gpt`, and `attention`.

    Raises:
        UserError: a flag is unknown, out of range or of no effect here.
    """
    parser = pretrain_options.parser_of("pretrain_gpt_megatron")
    # argparse cannot write a usage of which whole groups are left out.
    parser.usage = "%(prog)s [OPTIONS]"
    for action in parser._actions:
        if action.dest not in {*TAKEN, "help"}:
            action.help = argparse.SUPPRESS
        if action.dest == "attention":
            action.choices, action.default = ATTENTIONS, "local"
            action.help = "megatron-core's unfused one, or torch's fused one"
    args = pretrain_options.parse(argv, parser)
    if args.precision not in PRECISIONS:
        raise UserError(
            f"--precision {args.precision} is for pretrain_gpt: choose "
            f"{' or '.join(PRECISIONS)} with megatron-core"
        )
    defaults = vars(pretrain_options.parse(["--model", args.model]))
    for name, value in defaults.items():
        if name not in TAKEN and getattr(args, name) != value:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} is for pretrain_gpt, megatron-core goes its "
                "own way there: leave it out"
            )
    check_schedule(args.schedule)
    return args
