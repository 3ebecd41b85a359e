"""Describe the Slurm node that this runs on, in a file of its own.

srun --ntasks-per-node 1 python -m workshop.records.node FOLDER
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from workshop import doctor


def describe() -> dict:
    """Return the node's Slurm name and `workshop.doctor.describe()`."""
    description = doctor.describe()
    name = os.environ.get("SLURMD_NODENAME", description["host"]["name"])
    return {"node": name, **description}


def host(node: dict) -> dict:
    """Return the part of a node's description that stands in `hosts`."""
    return {
        "node": node["node"],
        "host_name": node["host"]["name"],
        "boot_id": node["host"]["boot_id"],
        "cpu": node["cpu"]["model"],
        "gpus": [
            {"model": gpu["model"], "host_index": gpu["host_index"]}
            for gpu in node["gpus"]
        ],
    }


def layout(hosts: list[dict], slurm: bool) -> str:
    """Say in words what a run ran on, two nodes of one host included."""
    if not slurm:
        return "one machine, without Slurm"
    machines = {host["boot_id"] or host["host_name"] for host in hosts}
    nodes = f"{_count(len(hosts))} Slurm node{'s' * (len(hosts) > 1)}"
    if len(hosts) == 1:
        return nodes
    if len(machines) == len(hosts):
        return f"{nodes} on hosts of their own"
    on = f"{_count(len(machines))} host{'s' * (len(machines) > 1)}"
    return f"{nodes} on {on}"


def gpus(hosts: list[dict]) -> dict[str, int]:
    """Count the distinct GPUs of a run by model, over all its hosts."""
    seen = {
        (host["boot_id"], gpu["host_index"], gpu["model"])
        for host in hosts
        for gpu in host["gpus"]
    }
    counts: dict[str, int] = {}
    for _, _, model in sorted(seen, key=str):
        counts[model] = counts.get(model, 0) + 1
    return counts


def _count(number: int) -> str:
    words = ("no", "one", "two", "three", "four")
    return words[number] if number < len(words) else str(number)


SMI = "nvidia-smi.txt"
SMI_TIMEOUT_S = 20


def nvidia_smi() -> str:
    """Return what `nvidia-smi` and `nvidia-smi topo -m` print, as it is.

    The table of processes is left out: they may be of other people. It is
    empty where the program is missing or fails.
    """
    parts = []
    for words in (["nvidia-smi"], ["nvidia-smi", "topo", "-m"]):
        try:
            done = subprocess.run(
                words,
                check=True,
                capture_output=True,
                text=True,
                timeout=SMI_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            continue
        table, processes, _ = done.stdout.partition("| Processes:")
        lines = table.splitlines()[: -1 if processes else None]
        printed = "\n".join(line.rstrip() for line in lines).rstrip()
        parts.append(f"$ {' '.join(words)}\n{printed}\n")
    return "\n".join(parts)


def main() -> None:
    """Write the description into the folder of the first argument."""
    described = describe()
    folder, name = Path(sys.argv[1]), described["node"]
    (folder / f"{name}.json").write_text(json.dumps(described))
    if printed := nvidia_smi():
        (folder / f"{name}.{SMI}").write_text(printed)


if __name__ == "__main__":
    main()
