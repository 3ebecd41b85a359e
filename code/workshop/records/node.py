"""Describe the Slurm node that this runs on, in a file of its own.

srun --ntasks-per-node 1 python -m workshop.records.node FOLDER
"""

import json
import os
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


def main() -> None:
    """Write the description into the folder of the first argument."""
    described = describe()
    file = Path(sys.argv[1]) / f"{described['node']}.json"
    file.write_text(json.dumps(described))


if __name__ == "__main__":
    main()
