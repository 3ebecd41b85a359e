"""Create or refresh `.venv` from the pinned requirements; instant if fresh.

Runs under the interpreter that the environment will use, standard library
only: `python3.11 tools/environment.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("requirements-torch.txt", "requirements.txt", "pyproject.toml")
SUPPORTED = ((3, 11), (3, 12))
ADVICE = {
    r"No space left|ENOSPC|Errno 28\b|quota exceeded": "free some disk space",
    r"Retrying \(|Failed to establish|Name or service|name resolution"
    r"|timed out|ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|SSLError|ProxyError": (
        "check the network"
    ),
}


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
            "'make book PYTHON=/path/to/python3.12'"
        )
    parts = ("venv", "ensurepip")
    if any(importlib.util.find_spec(part) is None for part in parts):
        name = f"python{version[0]}.{version[1]}-venv"
        fail(
            f"{sys.executable} has no working venv module; install the "
            f"package {name} ('sudo apt install {name}') or name another "
            "interpreter with 'make book PYTHON=/path/to/python3.12'"
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


def run(command: list[str], env: dict | None = None) -> tuple[int, str]:
    """Run a program; show and return what it says of errors."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    lines = []
    for line in process.stderr:
        sys.stderr.write(line)
        lines.append(line)
    return process.wait(), "".join(lines)


def because(said: str) -> str:
    """Return a failed program's own reason, and what can be done."""
    reasons = [
        line.partition(" ")[2].strip()
        for line in said.splitlines()
        if re.match(r"ERROR: |npm (error|ERR!) ", line)
    ]
    advice = [
        todo for sign, todo in ADVICE.items() if re.search(sign, said, re.I)
    ][:1] or ["mend that"]
    reason = " / ".join(reasons[-2:]) or "its own words are above"
    return f" ({reason}); {advice[0]}, then run the same command again"


def downloads(report: dict) -> list[str]:
    """Return the addresses that an installation needs, if CUDA is in it.

    Args:
        report: of `pip install --dry-run --report`.
    """
    wheels = {
        item["metadata"]["name"]: item["download_info"]["url"]
        for item in report["install"]
    }
    cuda = [name for name in wheels if re.match(r"nvidia-(cu|nccl)", name)]
    return list(wheels.values()) if cuda else []


def size(address: str) -> int:
    """Return the bytes behind an address, 0 if it does not say."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.headers.get("Content-Length", 0))
    except (OSError, ValueError):
        return 0


def announce_cuda(install: list[object]) -> None:
    """Say how much torch brings before it is downloaded, if it is CUDA."""
    done = subprocess.run(
        [*map(str, install), "--dry-run", "--quiet", "--report", "-"],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    # What is wrong is said by the installation itself.
    wheels = downloads(json.loads(done.stdout)) if not done.returncode else []
    if wheels:
        with ThreadPoolExecutor(8) as pool:
            total = sum(pool.map(size, wheels)) / 1e9
        much = f"about {total:.1f} GB" if total >= 0.1 else "gigabytes"
        print(
            f"      torch comes with CUDA here: {much} to download and more "
            "than that on disk.\n      Without a GPU the CPU build will do: "
            "stop with Ctrl-C and run\n      'make environment "
            "TORCH_INDEX=URL', the CPU index that PyTorch's installation\n"
            "      page names",
            flush=True,
        )


def step(number: int, title: str, *command: object) -> None:
    """Run one step of the installation and say how long it took."""
    print(f"[{number}/5] {title}", flush=True)
    began = time.monotonic()
    code, said = run(list(map(str, command)))
    if code:
        fail(f"could not {title[0].lower()}{title[1:]}{because(said)}")
    print(f"      {time.monotonic() - began:.0f} s", flush=True)


def relative_link(folder: Path) -> None:
    """Let `.venv` find the project whatever the locale and the path are.

    Python reads `.pth` files in the locale's encoding, in which the path
    of the checkout may not exist; one relative to the file always does.
    """
    for link in folder.glob("lib/python3.*/site-packages/__editable__*.pth"):
        link.write_text(os.path.relpath(ROOT / "code", link.parent) + "\n")


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
    # Letters of the path that another locale does not know.
    os.environ["LC_ALL"] = "C.UTF-8"
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
    torch = [*pip, "-c", "requirements.txt", "-r", "requirements-torch.txt"]
    if index := os.environ.get("TORCH_INDEX"):
        # A local version such as +cpu is newer than the plain one.
        torch += ["--extra-index-url", index]
    announce_cuda(torch)
    step(2, "Install torch", *torch)
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
    relative_link(folder)
    step(5, "Check the environment", python, "-m", "pip", "check")
    stamp.write_text(wanted)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on")
