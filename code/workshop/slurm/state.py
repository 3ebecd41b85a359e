"""What a local cluster leaves on disk: its shape, its daemons, its programs.

The client reads it here; `workshop.slurm.local` makes it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from workshop import private

ANOTHER = (
    "choose another folder with --base or WORKSHOP_SLURM_BASE, or remove "
    "this one if it was a cluster's"
)


def default_base() -> Path:
    """Return where the cluster lives: `WORKSHOP_SLURM_BASE`, else /tmp."""
    given = os.environ.get("WORKSHOP_SLURM_BASE")
    return Path(given or f"/tmp/workshop-slurm-{os.getuid()}")


@dataclass(frozen=True)
class Layout:
    """The shape of a cluster whose nodes all live on this machine.

    `gpus` lists one character device per GPU, node by node: with two
    nodes of two GPUs the first two belong to the first node.  `real`
    says whether they are GPUs or stand-ins.  `own_names` says whether
    each node has its own host name in its own namespaces.
    `loopback_only` says that the machine has no network interface up, and
    `local_name` that its own name leads to 127.0.0.1.  `programs` are
    the files that must be there for its commands to work.
    """

    base: str
    names: tuple[str, ...]
    gpus_per_node: int
    gpus: tuple[str, ...]
    real: bool
    hide_gpus: bool
    own_names: bool
    loopback_only: bool
    local_name: bool
    port: int
    cpus_per_node: int
    memory_mib: int
    programs: tuple[str, ...] = ()

    def path(self, *parts: str) -> Path:
        """Return a path inside the cluster's folder."""
        return Path(self.base, *parts)

    def daemons(self) -> dict[str, tuple[str, Path]]:
        """Return each daemon's program and pid file, by its name in words."""
        nodes = {
            f"slurmd of {name}": (
                "slurmd",
                self.path("run", f"slurmd.{name}.pid"),
            )
            for name in self.names
        }
        return {
            "munged": ("munged", self.path("run", "munged.pid")),
            "slurmctld": ("slurmctld", self.path("run", "slurmctld.pid")),
            **nodes,
        }

    def slurmd_port(self, node: int) -> int:
        """Return the port of the slurmd of node number `node`, from 0."""
        return self.port + 1 + node

    def node_gpus(self, node: int) -> tuple[str, ...]:
        """Return the GPU devices of node number `node`, from 0."""
        first = node * self.gpus_per_node
        return self.gpus[first : first + self.gpus_per_node]

    def save(self) -> None:
        """Write the layout where `load` finds it."""
        self.path("layout.json").write_text(json.dumps(asdict(self)))


def load(base: Path) -> Layout | None:
    """Return the layout of the cluster under `base`, None if none is.

    Raises:
        UserError: others could have laid it there: its programs would run
            as this user.
    """
    private.check(base, ANOTHER, private.ALONE)
    try:
        fields = json.loads((base / "layout.json").read_text())
        fields["names"] = tuple(fields["names"])
        fields["gpus"] = tuple(fields["gpus"])
        fields["programs"] = tuple(fields.get("programs", ()))
        return Layout(**fields)
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        # Interrupted while it was made, or made by another version.
        return None


def alive(layout: Layout) -> set[str]:
    """Return the names of the cluster's daemons that run."""
    return {
        name
        for name, (program, pid_file) in layout.daemons().items()
        if daemon_pid(pid_file, program)
    }


def daemon_pid(pid_file: Path, program: str) -> int | None:
    """Return the process id in `pid_file` if it is `program` of our cluster.

    After a restart of the machine the number may be someone else's, or
    that of another cluster's daemon.
    """
    conf = pid_file.parent.parent / "slurm.conf"
    try:
        process = psutil.Process(int(pid_file.read_text()))
        words = {Path(word).name for word in process.cmdline()}
        ours = process.environ().get("SLURM_CONF") == str(conf)
        ours = ours and process.uids().real == os.getuid()
    except (OSError, ValueError, psutil.Error):
        return None
    return process.pid if program in words and ours else None


def broken(layout: Layout) -> str | None:
    """Return what is wrong with a cluster that was started, None if nothing.

    A cluster of which no daemon runs is wrong as well: it was not stopped.
    """
    gone = [file for file in layout.programs if not Path(file).exists()]
    if gone:
        return f"its program {gone[0]} is gone"
    running = alive(layout)
    dead = [name for name in layout.daemons() if name not in running]
    if not dead:
        return None
    return f"{', '.join(dead)} {'is' if len(dead) == 1 else 'are'} dead"


def environment(base: Path) -> dict[str, str]:
    """Return this process's variables, set for the cluster under `base`.

    Variables of a Slurm job that we may run in, and of its GPUs, are
    left out: they would be taken for options of the commands.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM", "SBATCH_", "SRUN_", "SALLOC_"))
    }
    kept["SLURM_CONF"] = str(base / "slurm.conf")
    programs = str(base / "bin")
    rest = [p for p in kept.get("PATH", "").split(":") if p != programs]
    kept["PATH"] = ":".join([programs, *rest])
    return kept
