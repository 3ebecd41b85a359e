"""The host: processor, memory and its limit, operating system, identity."""

import os
import platform
import socket
from pathlib import Path

import psutil

# cgroup v2, then v1; a container's limit stands in one of these
_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def cpu() -> dict:
    """Return the processor's model, its cores and the memory in GiB.

    `threads` are the logical processors of the machine, `usable` those
    that this process may run on; `memory_limit_gib` is a control group's
    limit, None when memory is not limited.
    """
    total = psutil.virtual_memory().total
    limit = memory_limit()
    return {
        "model": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": os.cpu_count(),
        "usable": _usable(),
        "memory_gib": round(total / 2**30, 1),
        "memory_limit_gib": (
            round(limit / 2**30, 1) if limit and limit < total else None
        ),
    }


def memory_limit() -> int | None:
    """Return the control group's memory limit in bytes, None without."""
    for place in _LIMITS:
        text = _read(place)
        if text and text.isdigit():
            return int(text)
    return None


def host_identity() -> dict:
    """Return host name, boot, kernel, operating system, architecture.

    `boot_id` changes at every start of the machine and is one for all
    containers and Slurm nodes on it: two records with the same value ran
    on the same host, whatever their host names say.
    """
    return {
        "name": socket.gethostname(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        "kernel": f"{platform.system()} {platform.release()}",
        "os": _operating_system(),
        "machine": platform.machine(),
    }


def _cpu_model() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "cpu model"):
            return value.strip()
    return platform.processor() or None


def _usable() -> int | None:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _operating_system() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return platform.platform() or None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
