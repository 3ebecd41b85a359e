"""One folder to carry to a GPU host that has no network.

It holds Slurm's packages (`debs/`) and the Python wheels that such a host
lacks (`wheels/`, listed in `slurm/cluster/bundle.txt`).
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm.local import packages
from workshop.slurm.local.packages import Report

PYTHON = "3.12"
# pip compares platform tags letter by letter, so all older ones are named.
GLIBC = ("2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")


def requirements() -> list[str]:
    """Return the wheels to carry, in the versions of requirements.txt.

    Raises:
        UserError: requirements.txt does not pin one of them.
    """
    lines = (root() / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0]: line for line in lines}
    listed = root() / "slurm" / "cluster" / "bundle.txt"
    names = [line.partition("#")[0].strip() for line in listed.open()]
    names = [name for name in names if name]
    if unknown := [name for name in names if name not in pinned]:
        raise UserError(
            f"{listed} asks for {', '.join(unknown)}, which requirements.txt "
            "does not pin: write its name as there, without a version"
        )
    return [pinned[name] for name in names]


def make(folder: Path, report: Report) -> int:
    """Fill `folder` with packages and wheels, return its bytes.

    Raises:
        UserError: something cannot be downloaded.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --out")
    foreign = folder.is_dir() and any(folder.iterdir())
    if foreign and not (folder / "debs").is_dir():
        raise UserError(
            f"{folder} holds something else than a bundle, which would "
            "replace it: choose another --out"
        )
    debs = packages.download(packages.folder() / "debs", report)
    partial = packages.folder() / "bundle.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "debs").mkdir(parents=True)
    report("copying Slurm's packages")
    for deb in debs:
        shutil.copy2(deb, partial / "debs")
    if wanted := requirements():
        report(f"downloading {len(wanted)} wheels")
        _download_wheels(wanted, partial / "wheels")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(partial, folder)
    return size(folder)


def _download_wheels(wanted: list[str], to: Path) -> None:
    machine = platform.machine()
    command = [sys.executable, "-m", "pip", "download", "--quiet"]
    command += ["--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={PYTHON}"]
    command += ["--implementation=cp", f"--dest={to}"]
    for glibc in GLIBC:
        command.append(f"--platform=manylinux_{glibc}_{machine}")
    command += [f"--platform=manylinux2014_{machine}", *wanted]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(
            f"the wheels {', '.join(wanted)} cannot be downloaded "
            f"({said[-1]}): check slurm/cluster/bundle.txt and the network"
        )


def size(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
