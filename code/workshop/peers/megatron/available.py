"""Whether megatron-core can run here, and what."""

import importlib.util

import torch

from workshop.errors import UserError


SCHEDULES = ("1f1b", "interleaved")


def check_schedule(schedule: str) -> None:
    """Refuse a pipeline schedule that megatron-core has not.

    It would run 1F1B in its place, without a word.

    Raises:
        UserError: naming those that it has.
    """
    if schedule not in SCHEDULES:
        raise UserError(
            f"megatron-core has no {schedule} schedule: choose 1f1b, or "
            "interleaved with --virtual-stages"
        )


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
