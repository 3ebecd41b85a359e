"""Slurm's packages, obtained with apt and unpacked without root.

apt itself works out which packages belong to Slurm on the running
release: it is asked what an empty machine would have to install.  The
`.deb` files are unpacked into a folder of the repository, so nothing on
the machine changes.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm.local import programs

Report = Callable[[str], None]

WANTED = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "munge",
)
KEPT = re.compile(r"lib|zlib1g$|munge$|slurm")
# These belong to the C library or to the compiler, and a newer machine's
# own are always right.
LEFT = re.compile(r"libc6$|libgcc-s1$|libstdc\+\+6$|libcrypt1$|libpam-mod")
APT_TIMEOUT_S = 300


def folder() -> Path:
    """Return the folder of the repository that holds the packages."""
    return root() / ".slurm"


def unpacked() -> Path:
    """Return the folder where the packages are, or would be, unpacked."""
    return folder() / "unpacked"


def is_unpacked() -> bool:
    """Say whether the packages were obtained and unpacked before."""
    if not (unpacked() / "complete").is_file():
        return False
    return all(programs.find(unpacked(), name) for name in programs.NEEDED)


def obtain(bundle: Path | None, report: Report) -> Path:
    """Unpack Slurm below `.slurm/` unless it is there, return the folder.

    Args:
        bundle: a folder made by `workshop cluster bundle`; None fetches
            the packages with apt.

    Raises:
        UserError: the bundle is incomplete, or apt cannot get packages.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_unpacked():
            debs = carried(bundle) if bundle else _downloaded(report)
            report("unpacking Slurm")
            unpack(debs, unpacked())
    return unpacked()


def carried(bundle: Path) -> list[Path]:
    """Return the packages of a bundle; `UserError` if it has none."""
    debs = sorted((bundle / "debs").glob("*.deb"))
    if not debs:
        raise UserError(
            f"{bundle} holds no Slurm packages (no debs/*.deb): make it "
            "with `workshop cluster bundle` on a machine with network"
        )
    return debs


def _downloaded(report: Report) -> list[Path]:
    memory = folder() / "refused"
    try:
        debs = download(folder() / "debs", report)
    except UserError as error:
        memory.write_text(str(error))
        raise
    memory.unlink(missing_ok=True)
    return debs


def refused() -> str | None:
    """Return why the last attempt to get packages failed, if it did."""
    try:
        return (folder() / "refused").read_text()
    except FileNotFoundError:
        return None


def unpack(debs: list[Path], to: Path) -> None:
    """Unpack every package of `debs` into `to`, all or nothing."""
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for deb in debs:
        done = subprocess.run(
            ["dpkg", "-x", str(deb), str(partial)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise UserError(
                f"the package {deb} cannot be unpacked "
                f"({_last_line(done.stderr)}): delete it and start again"
            )
    (partial / "complete").write_text("")
    shutil.rmtree(to, ignore_errors=True)
    partial.rename(to)


def download(to: Path, report: Report) -> list[Path]:
    """Download Slurm's packages for this release, return the files.

    Raises:
        UserError: apt is missing, or has no packages and no network.
    """
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise UserError(
                f"Slurm is not installed and {tool} is missing: use Debian "
                "or Ubuntu, or install Slurm with this system's packages"
            )
    to.mkdir(parents=True, exist_ok=True)
    options, names = _resolve(report)
    present = {path.name.split("_")[0] for path in to.glob("*.deb")}
    missing = [name for name in names if name not in present]
    if missing:
        _fetch(options, missing, to, len(names), report)
    wanted = set(names)
    return sorted(
        path for path in to.glob("*.deb") if path.name.split("_")[0] in wanted
    )


def _fetch(
    options: list[str], names: list[str], to: Path, total: int, report: Report
) -> None:
    command = ["apt-get", "-q", *options, "download", *names]
    with (folder() / "apt.log").open("w") as log:
        process = subprocess.Popen(command, cwd=to, stdout=log, stderr=log)
        try:
            ends = time.monotonic() + APT_TIMEOUT_S
            while process.poll() is None and time.monotonic() < ends:
                have = len(list(to.glob("*.deb")))
                report(f"downloading Slurm's packages: {have} of {total}")
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        why = _last_error((folder() / "apt.log").read_text())
        raise UserError(
            f"Slurm's packages cannot be downloaded ({why}): connect to a "
            "network, or carry a bundle here and pass --bundle"
        )


def _resolve(report: Report) -> tuple[list[str], list[str]]:
    """Return the apt options that worked and the packages to download."""
    report("asking apt which packages Slurm needs")
    (folder() / "apt").mkdir(parents=True, exist_ok=True)
    empty = folder() / "apt" / "status"
    empty.write_text("")
    options = ["-o", f"APT::Sandbox::User={_user()}"]
    names = _simulate([*options, "-o", f"Dir::State::status={empty}"])
    if names:
        return options, names
    report("fetching apt's package lists")
    own = folder() / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (own / part).mkdir(parents=True, exist_ok=True)
    options += ["-o", f"Dir::State::Lists={own}/lists"]
    options += ["-o", f"Dir::Cache={own}/cache"]
    updated = subprocess.run(
        ["apt-get", "-q", *options, "update"],
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
        check=False,
    )
    names = _simulate([*options, "-o", f"Dir::State::status={empty}"])
    if not names:
        why = _last_error(updated.stdout + updated.stderr)
        raise UserError(
            f"apt offers no Slurm here ({why}): connect to a network, or "
            "carry a bundle here and pass --bundle"
        )
    return options, names


def _simulate(options: list[str]) -> list[str]:
    command = ["apt-get", "-q", "--simulate", *options]
    command += ["--no-install-recommends", "install", *WANTED]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return []
    names = re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE)
    return [n for n in names if KEPT.match(n) and not LEFT.match(n)]


def _user() -> str:
    """Return who apt downloads as: its own user cannot write our folder."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"


def _last_error(text: str) -> str:
    for mark in ("E: ", "W: Failed", "Err:"):
        errors = [x for x in text.splitlines() if x.startswith(mark)]
        if errors:
            return errors[-1].removeprefix("E: ").removeprefix("W: ").strip()
    return _last_line(text)
