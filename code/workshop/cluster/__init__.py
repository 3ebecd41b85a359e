"""A real Slurm cluster on one machine, and the jobs sent to Slurm."""

from workshop.cluster.lifecycle import start, stop
from workshop.cluster.site import (
    available,
    environment,
    possible,
    running,
    site,
)

__all__ = [
    "available",
    "environment",
    "possible",
    "running",
    "site",
    "start",
    "stop",
]
