"""What a run writes down: one JSON object a line, and one log line a step.

A file begins with one `meta` event that describes the run, then holds
`step` events (one a training step) and `measure` events (one value each,
with labels).  Each line is flushed as it is written, so that a run that is
killed leaves every finished step behind.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from workshop.errors import UserError

UNITS = {
    "grad_norm": "",
    "loss": "nats/token",
    "memory_gib": "GiB",
    "mfu": "",
    "step_time_s": "s",
    "tflops_per_gpu": "TFLOP/s",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_per_gpu": "tokens/s",
}
"""Of the fields of a step; each file names its own, so these may change."""


def metrics_path(argument: str | None) -> str | None:
    """Return `--metrics`, else the launch variable `WORKSHOP_METRICS`."""
    return argument or os.environ.get("WORKSHOP_METRICS") or None


class MetricsWriter:
    """Write events to `path`; with `path=None` every call does nothing.

    Only rank 0 of a job should be given a path.  An existing file is
    replaced.  With `resumed_at=n` it is continued: what an interrupted run
    wrote after step n, from where it will be repeated, is cut off, and the
    meta event becomes that of the run that goes on.

    Raises `UserError` when the file cannot be opened or written, on a full
    disk say.
    """

    def __init__(
        self, path: str | os.PathLike | None, resumed_at: int = 0
    ) -> None:
        self._file, self._path = None, path
        self._before, self._resumed_at = None, resumed_at
        if path is None:
            return
        with self._writable():
            kept = _bytes_until(Path(path), resumed_at) if resumed_at else 0
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if kept:
                os.truncate(path, kept)
                with open(path, encoding="utf-8") as lines:
                    self._before = json.loads(next(lines))
            mode = "a" if kept else "w"
            self._file = open(path, mode, encoding="utf-8")  # noqa: SIM115

    def meta(self, **fields: object) -> None:
        """Write what describes the whole run; once, before the rest.

        A file that is continued has one already: what has changed since is
        replaced, and stands under `resumed` as it was until that step.
        """
        meta = {"event": "meta", "units": UNITS, **fields}
        before = self._before
        if before is None:
            self._write(meta)
            return
        now = {**before, **json.loads(_line(meta))}
        was = {key: old for key, old in before.items() if now[key] != old}
        if was:
            until = {"until_step": self._resumed_at, **was}
            now["resumed"] = [*before.get("resumed", []), until]
        if now != before:
            self._replace_meta(now)

    def step(self, **fields: object) -> None:
        """Write one training step: the fields of `format_step`, and more."""
        self._write({"event": "step", **fields})

    def measure(
        self, name: str, value: float, unit: str, **labels: object
    ) -> None:
        """Write one measured value with its unit and its labels."""
        self._write(
            {
                "event": "measure",
                "name": name,
                "value": value,
                "unit": unit,
                "labels": labels,
            }
        )

    def close(self) -> None:
        """Close the file; later events are lost."""
        if self._file is not None:
            file, self._file = self._file, None
            with self._writable():
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, event: dict) -> None:
        if self._file is None:
            return
        with self._writable():
            self._file.write(_line(event) + "\n")
            self._file.flush()

    def _replace_meta(self, event: dict) -> None:
        """Exchange the first line; the old file stays until the new is."""
        path = Path(self._path)
        beside = path.with_name(f".{path.name}.partial")
        with self._writable():
            self._file.close()
            try:
                _, _, rest = path.read_bytes().partition(b"\n")
                beside.write_bytes(f"{_line(event)}\n".encode() + rest)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the metrics file {self._path} cannot be written "
                f"({error.strerror}): name another one with --metrics"
            ) from None


def format_step(fields: dict) -> str:
    """Return the log line of one step, always with the same fields.

    `fields` is a step event: `step`, `loss`, `grad_norm`, `tokens_per_s`,
    `tokens_per_s_per_gpu`, `tflops_per_gpu`, `mfu` (a fraction, or None
    where the device's peak is unknown) and `memory_gib`.  A missing value
    shows as n/a.
    """
    return " | ".join(
        f"{label} {_shown(fields.get(key), form, scale)}{unit}"
        if fields.get(key) is not None
        else f"{label} n/a"
        for label, key, form, scale, unit in _FIELDS
    )


_FIELDS = (
    ("step", "step", "4d", 1, ""),
    ("loss", "loss", ".4f", 1, ""),
    ("grad_norm", "grad_norm", ".3f", 1, ""),
    ("tokens/s", "tokens_per_s", ",.0f", 1, ""),
    ("tokens/s/GPU", "tokens_per_s_per_gpu", ",.0f", 1, ""),
    ("TFLOP/s/GPU", "tflops_per_gpu", ".1f", 1, ""),
    ("MFU", "mfu", ".1f", 100, " %"),
    ("mem", "memory_gib", ".1f", 1, " GiB"),
)


def _bytes_until(path: Path, step: int) -> int:
    """Return the length of a file's events up to a step, 0 without meta."""
    length = 0
    for line in path.read_bytes().splitlines(True) if path.is_file() else []:
        try:
            event = json.loads(line)
            at = event.get("step", event.get("labels", {}).get("step", 0))
            goes_on = line.endswith(b"\n") and at <= step
            meta = event.get("event") == "meta"
        except (ValueError, AttributeError, TypeError, RecursionError):
            break  # what was being written at the end, or not by us
        if not goes_on or not (length or meta):
            break
        length += len(line)
    return length


def _line(event: dict) -> str:
    return json.dumps({k: _jsonable(v) for k, v in event.items()})


def _shown(value: float, form: str, scale: int) -> str:
    return format(value * scale, form)


def _jsonable(value: object) -> object:
    """NaN and infinity are not JSON: a diverged loss is written as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
