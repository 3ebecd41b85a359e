"""Executed cells and parsed pages are kept only while their inputs last.

jupyter-cache knows the cells alone. The path of the cache therefore carries
a hash of the code, the Slurm files, the records and the mode, and all pages
are read again when it changes.
"""

import os
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from workshop import paths
from workshop.records import files

KEPT = 4
CELLS = (
    "code",
    "slurm",
    "book/runs",
    "requirements.txt",
    "requirements-torch.txt",
)
PAGES = (*CELLS, "book/_ext", "_config.yml")


def fingerprint(root: Path, inputs: tuple[str, ...], mode: str) -> str:
    """Return a short hash of files and folders and of the mode."""
    return files.digest([mode, files.tree_digests(root, inputs)])[:16]


def prune(folder: Path, keep: str) -> None:
    """Keep the newest few caches, the current one among them."""
    old = [p for p in folder.glob("*") if p.is_dir() and p.name != keep]
    old.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in old[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def choose(app: Sphinx, config: Config) -> None:
    """Point jupyter-cache at the folder for the present inputs."""
    mode = os.environ.get("WORKSHOP_RUN", "replay")
    cells = fingerprint(paths.root(), CELLS, mode)
    app.workshop_inputs = fingerprint(paths.root(), PAGES, mode)
    folder = Path(app.outdir).parent / ".jupyter_cache"
    prune(folder, cells)
    config.nb_execution_cache_path = str(folder / cells)


def outdated(
    app: Sphinx,
    env: BuildEnvironment,
    added: set[str],
    changed: set[str],
    removed: set[str],
) -> list[str]:
    """Return every page when the inputs are not those of the last build."""
    before = getattr(env, "workshop_inputs", None)
    env.workshop_inputs = app.workshop_inputs
    return [] if before == app.workshop_inputs else sorted(env.found_docs)


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("config-inited", choose)
    app.connect("env-get-outdated", outdated)
