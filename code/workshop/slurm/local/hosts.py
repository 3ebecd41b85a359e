"""Names for the nodes, so that jobs can reach them by name.

Where the system allows it every node gets its own host name and its own
/etc/hosts, in UTS and mount namespaces (see namespaces(7)): as root, or
as a user who may make user namespaces.
"""

import os
import socket
import subprocess
from pathlib import Path

IN_NODE = """#!/bin/bash
# in-node NAME COMMAND...: run COMMAND with the host name NAME.
name=$1
shift
setup='hostname "$0" && mount --bind "{base}/hosts" /etc/hosts && exec "$@"'
if [ "$(id -u)" = 0 ]; then
  exec unshare -m -u bash -c "$setup" "$name" "$@"
fi
exec unshare -r -m -u bash -c "$setup" "$name" \\
  unshare -U --map-user=$(id -u) --map-group=$(id -g) -- "$@"
"""


def mark(base: Path) -> str:
    """Return the comment that marks our lines in /etc/hosts."""
    return f"# workshop cluster {base}"


def write_files(base: Path, names: tuple[str, ...]) -> None:
    """Write the nodes' hosts file and the script that enters a node."""
    try:
        known = Path("/etc/hosts").read_text()
    except OSError:
        known = "127.0.0.1 localhost\n"
    ours = "".join(f"127.0.0.1 {name}\n" for name in names)
    (base / "hosts").write_text(known.rstrip("\n") + "\n" + ours)
    script = base / "bin" / "in-node"
    script.write_text(IN_NODE.format(base=base))
    script.chmod(0o755)


def namespaces_work(base: Path) -> bool:
    """Say whether this user may give a process its own host name."""
    probe = [str(base / "bin" / "in-node"), "probe", "true"]
    return (
        subprocess.run(probe, capture_output=True, check=False).returncode
        == 0
    )


def choose_names(base: Path, count: int) -> tuple[tuple[str, ...], bool]:
    """Return the nodes' names and whether each is its own host name.

    Without namespaces the names go into /etc/hosts; where that may not be
    written, the nodes are called by addresses of the loopback interface.
    """
    names = tuple(f"node{number}" for number in range(1, count + 1))
    write_files(base, names)
    if namespaces_work(base):
        return names, True
    unknown = [name for name in names if not _resolves(name)]
    if unknown and os.access("/etc/hosts", os.W_OK):
        with open("/etc/hosts", "a") as hosts:
            hosts.writelines(
                f"127.0.0.1 {name} {mark(base)}\n" for name in unknown
            )
    elif unknown:
        names = tuple(f"127.0.0.{n}" for n in range(1, count + 1))
    return names, False


def forget(base: Path) -> None:
    """Take our lines out of /etc/hosts again."""
    hosts = Path("/etc/hosts")
    try:
        lines = hosts.read_text().splitlines(keepends=True)
    except OSError:
        return
    rest = [line for line in lines if not line.rstrip().endswith(mark(base))]
    if len(rest) < len(lines):
        # Written in place: in a container the file is a bind mount.
        hosts.write_text("".join(rest))


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
