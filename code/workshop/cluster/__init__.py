"""A real Slurm cluster on one machine, and the jobs sent to Slurm."""

from workshop.cluster.access import (
    available,
    environment,
    possible,
    running,
    site,
)
from workshop.cluster.lifecycle import start, stop

__all__ = [
    "available",
    "environment",
    "possible",
    "running",
    "site",
    "start",
    "stop",
]
