"""Which Slurm this machine uses: the site's own, or the local cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from workshop.errors import UserError
from workshop.slurm.local import daemons, lifecycle, packages, programs
from workshop.slurm.local.layout import default_base, load

SINFO_TIMEOUT_S = 20


def running(base: Path | None = None) -> bool:
    """Say whether the local cluster runs."""
    base = base or default_base()
    return load(base) is not None and lifecycle.is_up(base)


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
        return daemons.environment(default_base())
    why = possible()
    remedy = (
        f"and {why}" if why else "start one with `workshop cluster start`"
    )
    raise UserError(f"sbatch not found: no Slurm cluster runs here, {remedy}")


def available() -> bool:
    """Say whether Slurm's commands work here now."""
    return running() or site()


def possible() -> str | None:
    """Return None if Slurm runs or could run here, else why it cannot."""
    if sys.platform != "linux":
        return f"Slurm runs on Linux and this is {sys.platform}"
    if running() or site():
        return None
    if programs.installed() or packages.is_unpacked():
        return None
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "Slurm is not installed and this system has no apt to fetch it"
    return packages.refused()
