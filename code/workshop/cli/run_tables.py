"""A run's summary as tables: one a metric, a row for every set of labels."""

import sys
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workshop.records.values import split

STATISTICS = ("median", "min", "max", "repeats", "unit")
WIDE = 10_000
"""Columns of what is no terminal: nothing is folded there."""


def console() -> Console:
    """Return where tables go: as wide as the terminal, else unlimited."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def tables(summary: Mapping[str, dict]) -> Iterator[Table]:
    """Yield the metrics without labels together, then each of the others.

    Names are folded where they do not fit, and never cut.
    """
    plain: list[tuple[list[str], dict]] = []
    labelled: dict[tuple[str, tuple[str, ...]], list] = {}
    for key, entry in summary.items():
        name, labels = split(key)
        if labels:
            rows = labelled.setdefault((name, tuple(labels)), [])
            rows.append((list(labels.values()), entry))
        else:
            plain.append(([name], entry))
    if plain:
        yield _table("", ["metric"], plain)
    for (name, labels), rows in labelled.items():
        yield _table(name, list(labels), rows)


def _table(title: str, heads: list[str], rows: list) -> Table:
    title = escape(title) or None
    table = Table(box=None, title=title, title_justify="left")
    for head in heads:
        table.add_column(escape(head), overflow="fold")
    for statistic in STATISTICS:
        right = statistic != "unit"
        table.add_column(
            statistic, justify="right" if right else "left", no_wrap=True
        )
    for first, entry in rows:
        numbers = [f"{entry[part]:.6g}" for part in STATISTICS[:3]]
        last = (str(entry["repeats"]), escape(entry["unit"]))
        table.add_row(*map(escape, first), *numbers, *last)
    return table
