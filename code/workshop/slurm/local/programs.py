"""Slurm's programs: where they are, and the wrappers that start them."""

import platform
import shlex
import shutil
import stat
from pathlib import Path

from workshop.errors import UserError

NAMES = [
    "sinfo",
    "squeue",
    "sbatch",
    "srun",
    "salloc",
    "scancel",
    "scontrol",
    "sacct",
    "sacctmgr",
    "sattach",
    "sbcast",
    "sdiag",
    "sprio",
    "sreport",
    "sshare",
    "sstat",
    "strigger",
    "munge",
    "unmunge",
    "slurmctld",
    "slurmd",
    "slurmstepd",
    "munged",
]
NEEDED = ("slurmctld", "slurmd", "slurmstepd", "munged", "srun", "sbatch")
# machine: (the folder of its libraries, its dynamic linker)
MACHINES = {
    "x86_64": ("x86_64-linux-gnu", "/lib64/ld-linux-x86-64.so.2"),
    "aarch64": ("aarch64-linux-gnu", "/lib/ld-linux-aarch64.so.1"),
}


def libraries(prefix: Path) -> Path:
    """Return the folder of the shared libraries below `prefix`."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise UserError(
            f"the local cluster knows x86_64 and aarch64, not {machine}"
        )
    return prefix / "usr" / "lib" / MACHINES[machine][0]


def find(prefix: Path, name: str) -> Path | None:
    """Return the program `name` below `prefix`, None if it is not there.

    Debian's daemons of this release are called `slurmctld-wlm` and get
    their plain name from a link that unpacking does not make.
    """
    for place in ("bin", "sbin"):
        for suffix in ("", "-wlm"):
            path = prefix / "usr" / place / (name + suffix)
            if path.is_file():
                return path
    return None


def installed() -> bool:
    """Say whether Debian's own Slurm and munge packages are installed."""
    if platform.machine() not in MACHINES:
        return False
    return all(find(Path("/"), name) for name in NEEDED)


def write_wrappers(prefix: Path, folder: Path) -> list[Path]:
    """Write one small script per program of `prefix` into `folder`.

    Returns what has to stay where it is for the scripts to work.

    A daemon that finds itself called `slurmctld-wlm` forgets the GPUs,
    so argv[0] is set.  The libraries of unpacked packages are named to
    the dynamic linker, since LD_LIBRARY_PATH would leak into the jobs.

    Raises:
        UserError: a program that the cluster needs is missing.
    """
    needed = []
    for name in NAMES:
        program = find(prefix, name)
        if program is None:
            if name in NEEDED:
                raise UserError(
                    f"{name} is missing below {prefix.resolve()}: delete "
                    "that folder and start again, or install slurm-wlm and "
                    "munge"
                )
            continue
        script = folder / name
        script.write_text(_wrapper(prefix, program, name))
        script.chmod(script.stat().st_mode | stat.S_IXUSR | 0o055)
        needed.append(program)
    return [*needed, libraries(prefix) / "slurm-wlm"]


def _wrapper(prefix: Path, program: Path, name: str) -> str:
    if prefix.resolve() == Path("/"):
        shell = shutil.which("bash")
        return f'#!{shell}\nexec -a {name} {program} "$@"\n'
    own = libraries(prefix)
    linker = MACHINES[platform.machine()][1]
    paths = f"{own}/slurm-wlm:{own}:{prefix}/lib/{own.name}"
    words = [linker, "--library-path", paths, "--argv0", name, str(program)]
    return f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
