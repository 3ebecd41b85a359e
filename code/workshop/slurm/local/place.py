"""Where a new local cluster may lie, and which ports it may take."""

import re
import socket
from pathlib import Path

from workshop import private
from workshop.errors import UserError
from workshop.slurm.state import ANOTHER

FIRST_PORT = 16817
LONGEST_BASE = 70


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
    if not re.fullmatch(r"[A-Za-z0-9._/+@-]+", str(base)):
        raise UserError(
            f"the cluster's folder {base!s} has a character that Slurm's "
            "settings cannot hold: choose one of plain letters and digits "
            "with --base or WORKSHOP_SLURM_BASE"
        )
    if _holds_something_else(base):
        raise UserError(
            f"{base} exists and holds something else than a cluster: "
            "remove it, or choose another folder with --base"
        )
    private.check(base, ANOTHER, private.ALONE)


def _holds_something_else(base: Path) -> bool:
    try:
        if not base.exists() or (base / "layout.json").is_file():
            return False
        return not base.is_dir() or any(base.iterdir())
    except PermissionError:  # another user's, and refused as such
        return False


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
        addresses = socket.getaddrinfo(socket.gethostname(), None)
    except socket.gaierror:
        return False
    return {address[4][0] for address in addresses} == {"127.0.0.1"}


def check_ports(first: int, count: int) -> None:
    """Refuse ports that there are not, or that belong to the system."""
    if first < 1024 or first + count > 65536:
        raise UserError(
            f"port {first} is out of range: choose one between 1024 "
            f"and {65536 - count}"
        )


def choose_ports(first: int | None, count: int) -> int:
    """Return the first of `count` free ports in a row.

    Args:
        first: the port to begin with; None takes the usual one or, when
            something else listens there, the next free block.

    Raises:
        UserError: a port that was asked for is taken.
    """
    if first is not None:
        check_ports(first, count)
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
