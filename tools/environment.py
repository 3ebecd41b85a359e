"""Create or refresh `.venv` from the pinned requirements; instant if fresh.

Runs under the interpreter that the environment will use, standard library
only: `python3.11 tools/environment.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("requirements-torch.txt", "requirements.txt", "pyproject.toml")
SUPPORTED = ((3, 11), (3, 12))


def fail(message: str) -> None:
    """End with one sentence."""
    raise SystemExit(f"error: {message}")


def digest(root: Path) -> str:
    """Return the hash of everything that decides what is installed."""
    sha = hashlib.sha256(platform.python_version().encode())
    for name in SOURCES:
        sha.update(name.encode() + b"\0" + (root / name).read_bytes())
    return sha.hexdigest()


def check_interpreter(version: tuple[int, int]) -> None:
    """Refuse an interpreter that cannot hold the environment."""
    if version not in SUPPORTED:
        fail(
            f"this project needs Python 3.11 or 3.12 and this is "
            f"{version[0]}.{version[1]}; name another one with "
            "'make PYTHON=/path/to/python3.12'"
        )
    parts = ("venv", "ensurepip")
    if any(importlib.util.find_spec(part) is None for part in parts):
        name = f"python{version[0]}.{version[1]}-venv"
        fail(
            f"{sys.executable} has no working venv module; install the "
            f"package {name} ('sudo apt install {name}') or name another "
            "interpreter with 'make PYTHON=/path/to/python3.12'"
        )


def python_of(folder: Path) -> str | None:
    """Return the version of a venv's interpreter, None if it cannot run."""
    try:
        done = subprocess.run(
            [
                folder / "bin" / "python",
                "-c",
                "import platform; print(platform.python_version())",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def step(number: int, title: str, *command: object) -> None:
    """Run one step of the installation and say how long it took."""
    print(f"[{number}/5] {title}", flush=True)
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), cwd=ROOT, check=False)
    if done.returncode:
        fail(
            f"could not {title[0].lower()}{title[1:]} (its own words are "
            "above); check the network and the free disk space, then run "
            "the same command again"
        )
    print(f"      {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Make the environment match the requirements."""
    folder = ROOT / ".venv"
    stamp = folder / "workshop-environment"
    wanted = digest(ROOT)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    check_interpreter(sys.version_info[:2])
    if folder.exists() and python_of(folder) != platform.python_version():
        print("the environment is of another Python: it is made again")
        shutil.rmtree(folder)
    stamp.unlink(missing_ok=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    step(
        1,
        "Create the environment .venv",
        sys.executable,
        "-m",
        "venv",
        folder,
    )
    step(
        2,
        "Install torch",
        *pip,
        "-c",
        "requirements.txt",
        "-r",
        "requirements-torch.txt",
    )
    step(3, "Install the pinned packages", *pip, "-r", "requirements.txt")
    step(
        4,
        "Install this project",
        *pip,
        "--no-deps",
        "--no-build-isolation",
        "-e",
        ".",
    )
    step(5, "Check the environment", python, "-m", "pip", "check")
    stamp.write_text(wanted)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on")
