"""The measures of a run by name and labels, which figures and models read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from workshop.errors import UserError

_KEY = re.compile(r"([^{]+)(?:\{(.*)\})?", re.DOTALL)
# A label's value may hold commas: only one before `name=` ends it.
_NEXT = re.compile(r",(?=[A-Za-z_]\w*=)")


class Record(Protocol):
    """What a figure needs of a run: `workshop.records.load.Run` has it."""

    name: str
    summary: Mapping[str, dict]
    folder: Path

    def metrics(self, repeat: int) -> list[dict]:
        """Return the events that one repeat wrote."""


def split(key: str) -> tuple[str, dict[str, str]]:
    """Return the name and the labels of a summary's `name{label=value,...}`.

    The inverse of `workshop.records.summary.measure_key`.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return key, {}
    pairs = (part.split("=", 1) for part in _NEXT.split(match[2] or ""))
    return match[1], dict(pair for pair in pairs if len(pair) == 2)


def values(run: Record, name: str) -> list[tuple[dict[str, str], dict]]:
    """Return the labels and the statistics of each measure `name`.

    Raises:
        UserError: the run measured nothing by that name.
    """
    measures = [
        (labels, entry)
        for (measure, labels), entry in zip(
            map(split, run.summary), run.summary.values(), strict=True
        )
        if measure == name
    ]
    if not measures:
        raise UserError(
            f"the run {run.name} has no measure {name}: draw another run, "
            "or record this one again"
        )
    return measures
