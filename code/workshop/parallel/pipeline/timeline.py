"""Timelines of a pipeline, simulated or executed, and what they show."""

from typing import NamedTuple

from workshop.parallel.pipeline.schedule import Operation


class Timed(NamedTuple):
    """An operation with its start and end, in one unit of time for all."""

    operation: Operation
    start: float
    end: float


class Bubble(NamedTuple):
    """Where the time of a pipeline step goes, as shares of the makespan.

    `busy` is the mean share in which a rank computes. The rest is
    `imbalance`, what the slowest rank computes beyond the mean, and
    `bubble`, what the slowest rank too spends waiting.
    """

    busy: float
    imbalance: float
    bubble: float


class Timeline:
    """What each rank did and when.

    Args:
        ranks: for every rank its operations in the order of execution.
    """

    def __init__(self, ranks: list[list[Timed]]) -> None:
        self.ranks = ranks

    @classmethod
    def from_rows(cls, rows: list[list[list]]) -> "Timeline":
        """Return the timeline whose `rows()` these are."""
        return cls(
            [
                [
                    Timed(Operation(kind, microbatch, chunk), start, end)
                    for kind, microbatch, chunk, start, end in operations
                ]
                for operations in rows
            ]
        )

    def rows(self) -> list[list[list]]:
        """Return it as JSON holds it, for the artifact of a run.

        For every rank a list of [kind, micro-batch, chunk, start, end].
        """
        return [
            [[*operation, start, end] for operation, start, end in timed]
            for timed in self.ranks
        ]

    @property
    def start(self) -> float:
        """When the first operation of any rank starts."""
        return min(ops[0].start for ops in self.ranks)

    @property
    def makespan(self) -> float:
        """The time from the first start to the last end on any rank."""
        return max(ops[-1].end for ops in self.ranks) - self.start

    @property
    def busy(self) -> list[float]:
        """The time in which each rank computes."""
        return [sum(end - start for _, start, end in r) for r in self.ranks]

    @property
    def bubble_over_ideal(self) -> float:
        """The idle time of the slowest rank over its computing time.

        (p-1)/m for GPipe and 1F1B, (p-1)/(vm) interleaved, when all stages
        cost the same (Narayanan et al. 2021, sections 2.2.1 and 2.2.2).
        """
        ideal = max(self.busy)
        return (self.makespan - ideal) / ideal

    def shares(self) -> Bubble:
        """Return the shares of computing, imbalance and bubble.

        Their sum is 1. With equal stages the bubble is (p-1)/(m+p-1).
        """
        total, busy = self.makespan, self.busy
        mean = sum(busy) / len(busy)
        return Bubble(
            mean / total,
            (max(busy) - mean) / total,
            (total - max(busy)) / total,
        )
