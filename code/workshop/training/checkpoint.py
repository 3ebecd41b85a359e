"""Checkpoints that are complete or not there, and that are checked on load.

A checkpoint is a folder `step-00000100` with two files: `state.pt`, which
torch wrote, and `manifest.json` with the format's version, the step, the
configuration, and the size and SHA-256 of the state.  It is written under
another name, flushed to the disk and renamed, so that a job killed at any
moment leaves the previous checkpoint as the latest: under its own name, or,
where the same step was saved again, as `.replaced-step-00000100`.
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

    Raises `UserError` when the folder cannot be written, or has a later step
    and so belongs to another run.
    """
    folder = Path(folder)
    final = folder / _name(step)
    partial = folder / f".partial-{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_used(folder, after=step)
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
        _put(partial, final)
        kept = _checkpoints(folder)[-keep:]
        for old in _named(folder):
            if old in kept:
                continue
            # Renamed first: what is half removed must not look complete.
            os.replace(old, partial)
            shutil.rmtree(partial)
    except (OSError, RuntimeError) as error:
        # torch.save makes another error of the one that the disk gave.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"the checkpoint {final} cannot be written ({cause.strerror}): "
            "name a folder with room and permission by --checkpoint"
        ) from None
    return final


def refuse_used(folder: str | os.PathLike, after: int = -1) -> None:
    """Raise `UserError` if `folder` has a checkpoint later than `after`.

    A new run would mix its own with them, and `--resume` take the latest.
    """
    newest = latest(folder)
    if newest is not None and _step(newest) > after:
        raise UserError(
            f"{folder} has the checkpoint {newest.name} of another run: go "
            "on from it with --resume, or name an empty folder with "
            "--checkpoint"
        )


def latest(folder: str | os.PathLike) -> Path | None:
    """Return the newest checkpoint in `folder`, or None without any."""
    checkpoints = _checkpoints(Path(folder))
    return checkpoints[-1] if checkpoints else None


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
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        reason = f"{type(error).__name__} in {MANIFEST} or {STATE}"
        raise UserError(damaged.format(reason)) from None
    if version != FORMAT:
        raise UserError(
            f"the checkpoint {checkpoint} has format {version}, and this "
            f"code reads format {FORMAT}: use the code that wrote it"
        )
    if not isinstance(saved, dict):
        raise UserError(damaged.format(f"no config in {MANIFEST}"))
    name = checkpoint.name.removeprefix(".replaced-")
    if type(step) is not int or name != _name(step):
        reason = f"{MANIFEST} is of step {step}"
        raise UserError(damaged.format(reason))
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


def _put(partial: Path, final: Path) -> None:
    """Rename a whole checkpoint; one of the same step stays until then."""
    replaced = final.with_name(f".replaced-{final.name}")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    os.replace(partial, final)
    _flush_folder(final.parent)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints, the oldest first."""
    # A replaced one comes first and counts where no other is in its place.
    complete = {_step(path): path for path in _named(folder)}
    return [complete[step] for step in sorted(complete)]


def _named(folder: Path) -> list[Path]:
    """Return all that is called like a checkpoint, replaced ones first."""
    if not folder.is_dir():
        return []
    pattern = re.compile(r"(\.replaced-)?step-\d{8,}")
    return sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name))


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
