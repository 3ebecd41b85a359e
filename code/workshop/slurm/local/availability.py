"""Whether Slurm can be had on this machine."""

import shutil
import sys

from workshop.slurm.access import available
from workshop.slurm.local import packages, programs


def possible() -> str | None:
    """Return None if Slurm runs or could run here, else why it cannot."""
    if sys.platform != "linux":
        return f"Slurm runs on Linux and this is {sys.platform}"
    if available():
        return None
    if programs.installed() or packages.is_unpacked():
        return None
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "Slurm is not installed and this system has no apt to fetch it"
    return packages.refused()
