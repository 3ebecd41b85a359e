"""What one local cluster is: its nodes, GPUs, ports and folder."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from workshop.errors import UserError

FIRST_PORT = 16817
LONGEST_BASE = 70


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
    `local_name` that its own name leads to 127.0.0.1.
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

    def path(self, *parts: str) -> Path:
        """Return a path inside the cluster's folder."""
        return Path(self.base, *parts)

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
    """Return the layout of the cluster under `base`, None if none is."""
    try:
        fields = json.loads((base / "layout.json").read_text())
        fields["names"] = tuple(fields["names"])
        fields["gpus"] = tuple(fields["gpus"])
        return Layout(**fields)
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        # Interrupted while it was made, or made by another version.
        return None


def check_base(base: Path) -> None:
    """Refuse a folder that Slurm cannot use or that is not ours."""
    if len(str(base)) > LONGEST_BASE:
        raise UserError(
            f"the cluster's folder {base} has {len(str(base))} characters, "
            f"and Unix sockets allow it {LONGEST_BASE}: choose a shorter "
            "one with --base or WORKSHOP_SLURM_BASE"
        )
    if not base.is_absolute():
        raise UserError(f"the cluster's folder {base} must be absolute")
    foreign = base.exists() and not (base / "layout.json").is_file()
    if foreign and (not base.is_dir() or any(base.iterdir())):
        raise UserError(
            f"{base} exists and holds something else than a cluster: "
            "remove it, or choose another folder with --base"
        )


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def loopback_only() -> bool:
    """Say whether this machine's only IPv4 address is its loopback."""
    try:
        socket.getaddrinfo(
            "127.0.0.1",
            None,
            socket.AF_INET,
            socket.SOCK_STREAM,
            flags=socket.AI_ADDRCONFIG,
        )
    except socket.gaierror:
        return True
    return False


def local_name() -> bool:
    """Say whether this machine's name leads to 127.0.0.1 and no further."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except socket.gaierror:
        return False
    return {address[4][0] for address in found} == {"127.0.0.1"}


def choose_ports(first: int | None, count: int) -> int:
    """Return the first of `count` free ports in a row.

    Args:
        first: the port to begin with; None takes the usual one or, when
            something else listens there, the next free block.

    Raises:
        UserError: a port that was asked for is taken.
    """
    if first is not None:
        if first < 1024 or first + count > 65536:
            raise UserError(
                f"port {first} is out of range: choose one between 1024 "
                f"and {65536 - count}"
            )
        for port in range(first, first + count):
            if not port_is_free(port):
                raise UserError(
                    f"port {port} is taken by another program: choose "
                    f"{count} free ones in a row with --port"
                )
        return first
    for start in range(FIRST_PORT, FIRST_PORT + 8000, 20):
        if all(port_is_free(p) for p in range(start, start + count)):
            return start
    raise UserError(
        f"no {count} free ports in a row from {FIRST_PORT} on: stop other "
        "servers, or name a port with --port"
    )
