"""How an experiment is launched: its command line and its variables.

This file shapes what is measured, so its syntax tree is part of every
run's fingerprint.
"""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from workshop.records.experiments import Experiment, Size

_PER_NODE = (
    "exec torchrun --nnodes {nodes} --node-rank $SLURM_NODEID "
    "--nproc-per-node {ranks} --master-addr {address} "
    "--master-port {port} {rest}"
)


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave: the first node's address and a port of the job."""

    nodes: int
    address: str
    port: int


def command(
    experiment: Experiment, size: Size, allocation: Allocation | None = None
) -> list[str]:
    """Return the command line of one repeat, with bare program names.

    One node: torchrun on its loopback address. More: srun starts one
    launcher a node with a static rendezvous, which gives rank 0 to the
    first node.
    """
    if experiment.launch == "pytest":
        plugin = ["-p", "workshop.records.pytest_measures"]
        return ["python", "-m", "pytest", *plugin, *size.args]
    rest = ["-m", experiment.module, *size.args]
    if experiment.launch == "python":
        return ["python", *rest]
    ranks = str(size.gpus_per_node)
    if size.nodes == 1:
        alone = ["-m", "workshop.job.one_node", "--nproc-per-node", ranks]
        return ["python", *alone, *rest]
    if allocation is None or allocation.nodes != size.nodes:
        raise ValueError(f"{experiment.name} needs {size.nodes} Slurm nodes")
    inner = _PER_NODE.format(
        nodes=size.nodes,
        ranks=ranks,
        address=allocation.address,
        port=allocation.port,
        rest=shlex.join(rest),
    )
    tasks = ["--nodes", str(size.nodes), "--ntasks", str(size.nodes)]
    tasks += ["--ntasks-per-node", "1"]
    return ["srun", *tasks, "--kill-on-bad-exit=1", "bash", "-c", inner]


def executable(argv: list[str], path: str) -> list[str]:
    """Return the command with `python` and `torchrun` of this interpreter.

    `path` is the PATH on which other programs are looked up.
    """
    program, *rest = argv
    if program == "python":
        return [sys.executable, *rest]
    if shutil.which("torchrun", path=path):
        return argv
    module = [sys.executable, "-m", "torch.distributed.run"]
    inner = argv[-1].replace("torchrun", shlex.join(module), 1)
    return [*argv[:-1], inner]


def path_variables(root: Path) -> dict[str, str]:
    """Return the environment with this interpreter and code/ in front."""
    env = dict(os.environ)
    scripts = str(Path(sys.executable).parent)
    code = str(root / "code")
    given = env.get("PYTHONPATH", "")
    env["PATH"] = f"{scripts}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONPATH"] = f"{code}{os.pathsep}{given}" if given else code
    return env


def variables(root: Path, folder: Path, repeat: int) -> dict[str, str]:
    """Return the environment of one repeat that writes into `folder`."""
    env = path_variables(root)
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("OMP_NUM_THREADS", "1")
    env["WORKSHOP_ROOT"] = str(root)
    env["WORKSHOP_METRICS"] = str(folder / f"metrics.{repeat}.jsonl")
    env["WORKSHOP_ARTIFACTS"] = str(folder / "artifacts")
    env["WORKSHOP_REPEAT"] = str(repeat)
    env["WORKSHOP_LOADED"] = str(folder / ".loaded")
    env["NCCL_DEBUG"] = "INFO"
    env["NCCL_DEBUG_FILE"] = str(folder / ".nccl" / f"{repeat}.%h.%p.log")
    return env
