"""What a built book depends on, as one hash: equal hash, equal pages."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("book", "code", "slurm", "benchmarks", "tests")
FILES = (
    "_config.yml",
    "_toc.yml",
    "requirements-torch.txt",
    "requirements.txt",
    "package-lock.json",
    "pyproject.toml",
    "README.md",
)
IGNORED = {
    "__pycache__",
    ".ipynb_checkpoints",
    ".pytest_cache",
    "logs",
    ".staging",
}


def files(root: Path) -> Iterator[Path]:
    """Yield every input file in a fixed order."""
    for name in FILES:
        if (root / name).is_file():
            yield root / name
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            parts = path.relative_to(root).parts
            egg = any(part.endswith(".egg-info") for part in parts)
            if path.is_file() and not IGNORED.intersection(parts) and not egg:
                yield path


def digest(root: Path = ROOT) -> str:
    """Return the hash of all inputs, the mode of the recorded cells too."""
    sha = hashlib.sha256()
    sha.update(os.environ.get("WORKSHOP_RUN", "replay").encode())
    for path in files(root):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0")
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def stamp(root: Path = ROOT) -> Path:
    """Return the file that a successful build leaves behind."""
    return root / "_build" / "book-inputs"


def fresh(root: Path = ROOT) -> bool:
    """Say whether the built pages are of exactly these inputs."""
    path = stamp(root)
    built = root / "_build" / "html" / "index.html"
    there = path.is_file() and built.is_file()
    return there and path.read_text() == digest(root)
