"""Small file operations that the records depend on."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from workshop.errors import UserError

_DURATION = re.compile(r"(\d+)\s*(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_file(path: Path) -> bool:
    """Whether a plain file is there; a path that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # too long, or behind a closed door
        return False


def read_text(path: Path) -> str:
    """Return the text of a plain file; a pipe or a device is never opened.

    Raises:
        UserError: it is no plain file, cannot be read, or is not UTF-8.
    """
    why = "is no plain file"
    if is_file(path):
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
        except UnicodeDecodeError:
            why = "is not text in UTF-8"
    raise UserError(f"{path.name} {why}: restore it or repeat the run.")


def loads(text: str) -> object:
    """Return the value of a JSON text; only finite numbers are any.

    Raises `ValueError`, also for what is nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        if "\\ud" in text.lower():  # half a character can never be shown
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# Folders and files that come and go beside the sources.
PASSING = {"__pycache__", ".ipynb_checkpoints", "logs", ".staging"}


def tree_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of every file under files and folders of `root`.

    By its path, in a fixed order, without what comes and goes.
    """
    digests = {}
    for name in names:
        top = root / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            parts = path.relative_to(root).parts
            egg = any(part.endswith(".egg-info") for part in parts)
            if path.is_file() and not PASSING.intersection(parts) and not egg:
                digests["/".join(parts)] = sha256(path)
    return digests


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new, whole."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def short(value: object) -> str:
    """Return a value as a sentence can show it, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits or levels
        return "too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def seconds(text: object, what: str) -> int:
    """Return the seconds of a duration such as `90s`, `4m` or `1h`."""
    match = _DURATION.fullmatch(text.strip()) if type(text) is str else None
    if not match:
        raise UserError(
            f"{what} is {short(text)}, which is no duration: "
            "write a whole number and s, m or h, such as 90s or 4m."
        )
    return int(match[1]) * _SECONDS[match[2]]
