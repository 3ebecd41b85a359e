"""Summarise the raw metrics of a run: a pure function, run at every check.

A number of the book is a median over repeats of the median over the steps
of one repeat; steps marked as warmup do not count.
"""

import math
from pathlib import Path
from statistics import median

from workshop.errors import UserError
from workshop.records.files import loads, read_text

# Of the fields of a step, in records of version 1. Later metrics files name
# their own, in their meta event.
UNITS_OF_1 = {
    "grad_norm": "",
    "loss": "nats/token",
    "first_loss": "nats/token",
    "last_loss": "nats/token",
    "memory_gib": "GiB",
    "mfu": "",
    "step_time_s": "s",
    "tflops_per_gpu": "TFLOP/s",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_per_gpu": "tokens/s",
}
# What each event has at least.
EVENTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "meta": {},
    "step": {"step": int},
    "measure": {"name": str, "value": (int, float, str)},
}


def read_events(path: Path) -> list[dict]:
    """Return the events of a metrics file, one a line."""
    events = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            event = loads(line)
        except ValueError:
            event = None
        if not _is_event(event):
            raise UserError(
                f"line {number} of {path.name} is not a meta, step or "
                "measure event in JSON: repeat the run."
            )
        events.append(event)
    return events


def _is_event(event: object) -> bool:
    kind = event.get("event") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in EVENTS:
        return False
    needed = EVENTS[kind]
    named = [event.get("labels", {}), event.get("units", {})]
    if not all(isinstance(each, dict) for each in named):
        return False
    texts = [event.get("unit", ""), *named[1].values()]
    labels = named[0].values()
    return (
        all(isinstance(event.get(key), kind) for key, kind in needed.items())
        and all(isinstance(text, str) for text in texts)
        and not any(isinstance(label, dict | list) for label in labels)
    )


def summarise(files: list[Path], version: int) -> dict[str, dict]:
    """Return median, min, max and values over repeats, for each metric.

    `version` is that of the record, whose rules hold.

    Each file is one repeat, or several where measures have the label
    `round`. The result maps a field of the step events, or
    a measure's `name{label=value,...}`, to a dictionary with `median`,
    `min`, `max`, `values` (one a repeat), `repeats` and `unit`.
    """
    values: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for path in files:
        events = read_events(path)
        of_steps = UNITS_OF_1 if version == 1 else _units(events)
        for key, value in _steps(events).items():
            values.setdefault(key, []).append(value)
            units.setdefault(key, of_steps.get(key, ""))
        for key, (rounds, unit) in _measures(events).items():
            values.setdefault(key, []).extend(rounds)
            units.setdefault(key, unit)
    return {
        key: {
            "median": median(numbers),
            "min": min(numbers),
            "max": max(numbers),
            "values": numbers,
            "repeats": len(numbers),
            "unit": units[key],
        }
        for key, numbers in sorted(values.items())
    }


def measure_key(name: str, labels: dict) -> str:
    """Return the summary's key of a measure: `name{a=1,b=x}`, sorted."""
    inside = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    return f"{name}{{{inside}}}" if inside else name


def _units(events: list[dict]) -> dict[str, str]:
    """Return the units of the steps' fields, as the meta event names them."""
    named = [e.get("units", {}) for e in events if e["event"] == "meta"]
    units = dict(named[0]) if named else {}
    for derived in ("first_loss", "last_loss"):
        units[derived] = units.get("loss", "")
    return units


def _steps(events: list[dict]) -> dict[str, float]:
    steps = [event for event in events if event["event"] == "step"]
    counted = [step for step in steps if not step.get("warmup")]
    columns: dict[str, list[float]] = {}
    for step in counted:
        for key, value in step.items():
            if key != "step" and _is_number(value):
                columns.setdefault(key, []).append(value)
    medians = {key: median(column) for key, column in columns.items()}
    # The very first and last step's, or none: not the last finite one.
    for name, step in zip(
        ("first_loss", "last_loss"), steps[:1] + steps[-1:], strict=False
    ):
        if _is_number(step.get("loss")):
            medians[name] = step["loss"]
    return medians


def _is_number(value: object) -> bool:
    """NaN and infinity are written as text, and leave the summary."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _measures(events: list[dict]) -> dict[str, tuple[list[float], str]]:
    """Return each measure's values, one for each of its rounds.

    The label `round` is no part of the key: a process that measures in
    several rounds has repeated its measurement itself.
    """
    columns: dict[str, dict[object, list[float]]] = {}
    units: dict[str, str] = {}
    for event in events:
        if event["event"] == "measure" and _is_number(event["value"]):
            labels = dict(event.get("labels", {}))
            turn = labels.pop("round", None)
            key = measure_key(event["name"], labels)
            column = columns.setdefault(key, {})
            column.setdefault(turn, []).append(event["value"])
            units.setdefault(key, event.get("unit", ""))
    return {
        key: ([median(values) for values in column.values()], units[key])
        for key, column in columns.items()
    }
