"""A real Slurm cluster on one machine, and whether Slurm answers here."""

from workshop.slurm.access import available, environment, running, site
from workshop.slurm.local.availability import possible
from workshop.slurm.local.lifecycle import start, stop

__all__ = [
    "available",
    "environment",
    "possible",
    "running",
    "site",
    "start",
    "stop",
]
