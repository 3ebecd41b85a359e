"""Which GPUs the nodes of the local cluster get: real ones or stand-ins."""

import re
import shutil
import subprocess
from pathlib import Path

from workshop.errors import UserError


def real_devices() -> list[str]:
    """Return one device file per NVIDIA GPU of this machine, in order."""
    devices = [
        str(path)
        for path in Path("/dev").glob("nvidia*")
        if re.fullmatch(r"nvidia\d+", path.name)
    ]
    devices.sort(key=lambda path: int(path.removeprefix("/dev/nvidia")))
    if devices and (count := _listed_by_driver()) is not None:
        # A container may see device files of GPUs that it was not given.
        devices = devices[:count]
    return devices


def _listed_by_driver() -> int | None:
    if not shutil.which("nvidia-smi"):
        return None
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.split("\n"))


def choose(
    nodes: int, gpus_per_node: int | None, real: bool | None
) -> tuple[int, tuple[str, ...], bool]:
    """Return GPUs per node, the devices (empty: stand-ins), and if real.

    Args:
        gpus_per_node: None shares the real GPUs out evenly, or pretends
            two on every node of a machine without GPUs.
        real: True insists on GPUs, False on stand-ins, None takes GPUs
            where the machine has any.

    Raises:
        UserError: the machine has fewer GPUs than asked for.
    """
    devices = [] if real is False else real_devices()
    if not devices and real:
        raise UserError(
            "--real asks for GPUs and this machine has none: leave it out "
            "for stand-ins that the CPU computes for"
        )
    if not devices:
        return 2 if gpus_per_node is None else gpus_per_node, (), False
    if gpus_per_node is None:
        gpus_per_node = max(1, len(devices) // nodes)
    if (wanted := nodes * gpus_per_node) > len(devices):
        raise UserError(
            f"{nodes} nodes of {gpus_per_node} need {wanted} GPUs and this "
            f"machine has {len(devices)}: lower --nodes or "
            "--gpus-per-node, or pass --pretend for stand-ins"
        )
    return gpus_per_node, tuple(devices[:wanted]), True
