"""What a built book depends on, as one hash: equal hash, equal pages."""

import os
from pathlib import Path

from workshop.records import files

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("book", "code", "slurm", "tests")
FILES = (
    "_config.yml",
    "_toc.yml",
    "requirements-torch.txt",
    "requirements.txt",
    "package-lock.json",
    "pyproject.toml",
    "README.md",
)


def digest(root: Path = ROOT) -> str:
    """Return the hash of all inputs, the mode of the recorded cells too."""
    mode = os.environ.get("WORKSHOP_RUN", "replay")
    return files.digest([mode, files.tree_digests(root, (*FILES, *FOLDERS))])


def stamp(root: Path = ROOT) -> Path:
    """Return the file that a successful build leaves behind."""
    return root / "_build" / "book-inputs"


def fresh(root: Path = ROOT) -> bool:
    """Say whether the built pages are of exactly these inputs."""
    path = stamp(root)
    built = root / "_build" / "html" / "index.html"
    there = path.is_file() and built.is_file()
    return there and path.read_text() == digest(root)
