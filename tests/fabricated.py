"""A record that no job wrote, for tests of what is drawn from records."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Fabricated:
    """What a figure needs of a run; without events its meta is the first."""

    summary: dict = field(default_factory=dict)
    folder: Path = Path("nowhere")
    name: str = "lab1/fabricated"
    meta: dict = field(default_factory=dict)
    events: list = field(default_factory=list)

    def metrics(self, repeat: int = 0) -> list[dict]:
        """Return the events of every repeat alike."""
        return self.events or [{"event": "meta", **self.meta}]


def entry(value: float, spread: float = 0.1) -> dict:
    """Return a measure's statistics, its range `spread` to both sides."""
    return {
        "median": value,
        "min": value * (1 - spread),
        "max": value * (1 + spread),
        "values": [value],
        "repeats": 1,
        "unit": "",
    }
