"""Checkpoints that are complete or not there, and that are checked on load.

A checkpoint is a folder `step-00000100` with two files: `state.pt`, which
torch wrote, and `manifest.json` with the format's version, the step, the
configuration, and the size and SHA-256 of the state.  It is written under
another name, flushed to the disk and renamed, so that a job killed at any
moment leaves the previous checkpoint as the latest.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from workshop.errors import UserError

FORMAT = 4
STATE = "state.pt"
MANIFEST = "manifest.json"


def save(
    folder: str | os.PathLike,
    step: int,
    state: dict[str, Any],
    config: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write the checkpoint after `step` steps and return its folder.

    `state` holds tensors and plain values; `config` (JSON values) says which
    model this is.  The `keep` newest checkpoints stay.  One rank calls it.

    Raises `UserError` when the folder cannot be written.
    """
    folder = Path(folder)
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.glob(".partial-*"):
            shutil.rmtree(left_behind)
        partial.mkdir()
        with open(partial / STATE, "wb") as file:
            torch.save(state, file)
            _flush(file)
        manifest = {
            "format": FORMAT,
            "step": step,
            "config": config,
            "bytes": (partial / STATE).stat().st_size,
            "sha256": _sha256(partial / STATE),
        }
        with open(partial / MANIFEST, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            _flush(file)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        _flush_folder(folder)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    except OSError as error:
        raise UserError(
            f"the checkpoint {final} cannot be written ({error.strerror}): "
            "name a folder with room and permission by --checkpoint"
        ) from None
    return final


def latest(folder: str | os.PathLike) -> Path | None:
    """Return the newest checkpoint in `folder`, or None without any."""
    found = _checkpoints(Path(folder))
    return found[-1] if found else None


def load(
    checkpoint: str | os.PathLike, config: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Return the step and the state (on the CPU) of a checkpoint.

    `config` must equal the one it was saved with.  Raises `UserError` when
    it belongs to another model, to another version of this format, or when
    it is incomplete or damaged.
    """
    checkpoint = Path(checkpoint)
    damaged = (
        f"the checkpoint {checkpoint} is damaged ({{}}): delete it, and "
        "--resume takes the one before"
    )
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        version, step = manifest["format"], manifest["step"]
        saved, size = manifest["config"], manifest["bytes"]
        digest = manifest["sha256"]
        on_disk = (checkpoint / STATE).stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__} in {MANIFEST} or {STATE}"
        raise UserError(damaged.format(reason)) from None
    if version != FORMAT:
        raise UserError(
            f"the checkpoint {checkpoint} has format {version}, and this "
            f"code reads format {FORMAT}: use the code that wrote it"
        )
    if saved != config:
        raise UserError(
            f"the checkpoint {checkpoint} is of another model "
            f"({_difference(saved, config)}): use the arguments that it "
            "was made with, or another --checkpoint folder"
        )
    if on_disk != size:
        reason = f"{STATE} has {on_disk} of {size} bytes"
        raise UserError(damaged.format(reason))
    if _sha256(checkpoint / STATE) != digest:
        reason = f"the SHA-256 of {STATE} differs"
        raise UserError(damaged.format(reason))
    try:
        # Mapped, since each rank of a large model reads its part alone.
        state = torch.load(
            checkpoint / STATE,
            map_location="cpu",
            weights_only=True,
            mmap=True,
        )
    except (RuntimeError, pickle.UnpicklingError):
        raise UserError(damaged.format("torch cannot read it")) from None
    return step, state


def _checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints, the oldest first."""
    if not folder.is_dir():
        return []
    pattern = re.compile(r"step-\d{8,}")
    return sorted(
        (p for p in folder.iterdir() if pattern.fullmatch(p.name)),
        key=lambda p: int(p.name.removeprefix("step-")),
    )


def _difference(saved: dict, config: dict) -> str:
    """Name the first value that differs."""
    for key in sorted({*saved, *config}):
        if saved.get(key) != config.get(key):
            return f"{key} is {saved.get(key)} there, {config.get(key)} here"
    return "its configuration differs"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """A rename is only durable once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
