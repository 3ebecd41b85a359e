"""Which Slurm this machine uses: the site's own, or the local cluster."""

import os
import shutil
import subprocess
from pathlib import Path

from workshop.errors import UserError
from workshop.slurm import state
from workshop.slurm.state import default_base, load

SINFO_TIMEOUT_S = 20


def running(base: Path | None = None) -> bool:
    """Say whether the local cluster runs, all of it."""
    layout = load(base or default_base())
    return layout is not None and state.broken(layout) is None


def refuse_broken() -> None:
    """Raise a UserError if only a part of the local cluster still runs."""
    layout = load(default_base())
    if layout and state.alive(layout) and (wrong := state.broken(layout)):
        raise UserError(
            f"of the local cluster {wrong}: mend it with `workshop cluster "
            "start`"
        )


def site() -> bool:
    """Say whether this machine belongs to a Slurm cluster of its own."""
    if not shutil.which("sbatch"):
        return False
    local = str(default_base())
    if os.environ.get("SLURM_CONF", local).startswith(local + "/"):
        return False
    if os.environ.get("SLURM_CONF"):
        return True
    try:
        asked = subprocess.run(
            ["sinfo", "--noheader"],
            capture_output=True,
            timeout=SINFO_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def environment() -> dict[str, str]:
    """Return the variables with which Slurm's commands work here.

    The site's Slurm goes first, then the local cluster.

    Raises:
        UserError: neither answers.
    """
    if site():
        return dict(os.environ)
    if running():
        return state.environment(default_base())
    refuse_broken()
    raise UserError(
        "sbatch not found: no Slurm cluster runs here, start one with "
        "`workshop cluster start`"
    )


def available() -> bool:
    """Say whether Slurm's commands work here now."""
    return running() or site()
