"""A real Slurm cluster on one machine, and the jobs sent to Slurm."""

from workshop.slurm.local.access import (
    available,
    environment,
    possible,
    running,
    site,
)
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
