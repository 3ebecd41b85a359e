"""Where the repository, its records and its caches lie on this machine."""

import os
from pathlib import Path

from workshop import private


def root() -> Path:
    """Return the repository's root: `WORKSHOP_ROOT`, else found from here."""
    if given := os.environ.get("WORKSHOP_ROOT"):
        return Path(given).resolve()
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).parents):
        if (folder / "slurm" / "experiments").is_dir():
            return folder.resolve()
    raise FileNotFoundError(
        "no workshop checkout here: run this inside the repository, "
        "or set WORKSHOP_ROOT to its folder"
    )


def records() -> Path:
    """Return the folder of the recorded runs, one folder each."""
    return root() / "book" / "runs"


def cache() -> Path:
    """Return the folder for what can be made again (tokenizers).

    Raises `UserError` when `WORKSHOP_CACHE` names one that others may fill.
    """
    if given := os.environ.get("WORKSHOP_CACHE"):
        remedy = "let WORKSHOP_CACHE name a folder of yours"
        return private.make(Path(given).absolute(), remedy)
    folder = root() / ".cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
