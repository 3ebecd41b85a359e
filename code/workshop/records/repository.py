"""Which commit a run measured, with git or without."""

import os
import subprocess
from pathlib import Path

from workshop.errors import UserError


def commit(root: Path, required: bool = True) -> dict:
    """Return `commit` and `dirty` of a checkout.

    `WORKSHOP_COMMIT` and `WORKSHOP_DIRTY` stand in where a copy of the
    tree has no history. Records themselves do not make a tree dirty: one
    run's record would otherwise taint the next. A run that is not
    `required` to name its commit, a small one on a laptop, says unknown.
    """
    if given := os.environ.get("WORKSHOP_COMMIT"):
        dirty = os.environ.get("WORKSHOP_DIRTY", "0") != "0"
        return {"commit": given, "dirty": dirty}
    try:
        head = _git(root, "rev-parse", "HEAD")
        status = _git(root, "status", "--porcelain", ":!book/runs")
    except (OSError, subprocess.CalledProcessError):
        if not required:
            return {"commit": "unknown", "dirty": True}
        raise UserError(
            "this tree has no git history to name its commit: set "
            "WORKSHOP_COMMIT to the commit it was copied from."
        ) from None
    return {"commit": head, "dirty": bool(status)}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
