"""Where a contestant's compute time grew, as part of an expression.

    by_place("lab1/compare-data-parallel", "ddp", "products_met")

It is read from the two steps that the run kept of `alone` and of the
contestant, whenever it is asked for: the record holds the steps and not
what was concluded from them.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from workshop.errors import UserError
from workshop.profiling import by_place as step
from workshop.records.experiments import near
from workshop.records.load import Run

SILENT = "alone"


def by_place(
    loader: Callable[[str], Run], name: str, contestant: str, part: str
) -> float:
    """Return one number of `workshop.profiling.by_place.account`.

    Args:
        loader: finds records.
        name: of a run of `workshop.lab1.compare_ddp` with `--trace`.

    Raises:
        UserError: the run kept no such step, or there is no such part.
    """
    folder = Path(loader(name).folder)
    kept = folder / step.TRACE.format(contestant)
    parts = _account(folder, contestant, _age(kept))
    if part not in parts:
        raise UserError(f"by_place knows no {part!r}{near(part, parts)}.")
    return parts[part]


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=32)
def _account(folder: Path, contestant: str, age: int) -> dict[str, float]:
    """Read both steps once, for as long as the file stays as it is."""
    silent = step.activities_of(folder, SILENT)
    return step.account(silent, step.activities_of(folder, contestant))
