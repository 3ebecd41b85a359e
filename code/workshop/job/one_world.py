"""Whether the processes that Slurm or MPI started know of each other."""

import os
from collections.abc import Mapping

from workshop.errors import UserError

# How many processes a step of Slurm has, or a launch of MPI.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
NUMBERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def check(env: Mapping[str, str] = os.environ) -> None:
    """Refuse processes that would each do the whole work, in one folder.

    `srun --ntasks=2 python -m ...` starts two that are no ranks of one
    world, and `srun --ntasks=2 torchrun --standalone ...` two worlds.

    Raises:
        UserError: there are several; its text is empty for all of them but
            the first, so that it is said once.
    """
    started = _number(env, COUNTS, 1)
    # torchrun says how many of its launchers have found each other.
    joined = int(env.get("GROUP_WORLD_SIZE", 1)) if "RANK" in env else 1
    if started == 1 or joined == started:
        return
    if _number(env, NUMBERS, 0) or int(env.get("RANK", 0)):
        raise UserError("")
    raise UserError(
        f"{started} tasks were started that do not know of each other, and "
        "each would do the whole work: start one launcher a node, as in "
        "`srun --ntasks-per-node=1 torchrun ...` (see slurm/*.sbatch)"
    )


def _number(
    env: Mapping[str, str], names: tuple[str, ...], default: int
) -> int:
    given = [env[name] for name in names if env.get(name, "").isdigit()]
    return int(given[0]) if given else default
