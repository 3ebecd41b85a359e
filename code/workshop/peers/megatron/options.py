"""The command line of training with megatron-core: ours, less what is ours.

Its flags are those of `pretrain_gpt` and mean the same. All but `TAKEN` are
refused, so that no flag is without effect.
"""

import argparse
import importlib.util

import torch

from workshop.errors import UserError
from workshop.lab1 import pretrain_options

ATTENTIONS = ("local", "flash")
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
    "bf16_weights",
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
    own = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    own.add_argument("--attention", choices=ATTENTIONS, default="local")
    try:
        mine, rest = own.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}: see --help") from None
    args = pretrain_options.parse(rest)
    defaults = vars(pretrain_options.parse(["--model", args.model]))
    for name, value in vars(args).items():
        if name not in TAKEN and value != defaults[name]:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} is for pretrain_gpt, megatron-core goes its "
                "own way there: leave it out"
            )
    if args.schedule == "gpipe":
        raise UserError(
            "megatron-core has no GPipe schedule: choose 1f1b, or "
            "interleaved with --virtual-stages"
        )
    args.attention = mine.attention
    return args


def require() -> None:
    """Check that megatron-core can run here.

    Raises:
        UserError: it is not installed, or there is no GPU.
    """
    if importlib.util.find_spec("megatron") is None:
        raise UserError(
            "megatron-core is not installed: pip install "
            "megatron-core==0.16.1, or on a host without network take the "
            "wheel from `workshop cluster bundle`"
        )
    if not torch.cuda.is_available():
        raise UserError(
            "megatron-core's model computes on GPUs alone and there is none "
            "here: run workshop.lab1.pretrain_gpt, which takes the same "
            "arguments, or watch its schedules on the CPU in "
            "tests/distributed/test_megatron.py"
        )
