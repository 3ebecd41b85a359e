"""How much longer the same kernel takes in another step, place by place.

A kernel's name and grid do not tell what it computes: a persistent kernel
launches one block for each multiprocessor whatever the sizes, so products
of 0.2 and of 4 ms share both.  What tells is its place in the step: the
k-th launch of a name and grid computes the same in every step of a model.
So a step that sends messages is compared with one that sends none, launch
by launch.

Of messages only kernels count as met: they hold multiprocessors, which a
product then lacks; a copy, to a peer or into a bucket, holds none.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workshop.errors import UserError
from workshop.profiling.events import Activity, activities, read
from workshop.profiling.groups import MATRIX, kernel_group
from workshop.profiling.intervals import Interval, intersection, length, union

LEAST_MATCHED = 0.95
COPY = "Memcpy"
TRACE = "artifacts/{}/trace.json.gz"
Key = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """One place: its µs in a silent step and in one with messages.

    `met` is the share of the latter during which a message's kernel ran.
    """

    group: str
    silent: float
    talking: float
    met: float

    @property
    def ratio(self) -> float:
        """How many times as long the kernel takes beside messages."""
        return self.talking / self.silent

    @property
    def longer(self) -> float:
        """How many µs longer."""
        return self.talking - self.silent


def activities_of(folder: str | Path, contestant: str) -> list[Activity]:
    """Return the step that a comparison kept of one of its contestants.

    Args:
        folder: the run's.

    Raises:
        UserError: it has kept none.
    """
    path = Path(folder) / TRACE.format(contestant)
    return activities(read(path)["traceEvents"])


def pairs(silent: Sequence[Activity], talking: Sequence[Activity]) -> list:
    """Return a `Pair` for each place of a step.

    Args:
        silent: `events.activities` of one step without messages.
        talking: of one step of the same model with them.  Its window may
            begin elsewhere in the step: both are turned to begin at a
            kernel that runs once.

    A kernel that one of the steps launches more often (copies of an
    averaging library, say) has no place in the other and no pair.

    Raises:
        UserError: the steps are not of the same model: less than 95 % of
            the silent one's time has a place in the other.
    """
    alone, beside = _compute(silent), _compute(talking)
    first = _once(alone, beside)
    launches = _by_key(_turned(beside, first))
    messages = union(
        (a.begin, a.end)
        for a in talking
        if a.kind == "communication" and not a.name.startswith(COPY)
    )
    matched = [
        Pair(kernel_group(a.name), _us(a), _us(b), _met(b, messages))
        for key, those in _by_key(_turned(alone, first)).items()
        if len(those) == len(launches[key])
        for a, b in zip(those, launches[key], strict=True)
    ]
    share = sum(pair.silent for pair in matched) / sum(map(_us, alone))
    if share < LEAST_MATCHED:
        raise UserError(
            f"only {share:.0%} of the step without messages has a place in "
            "the other one: compare steps of one model and one batch"
        )
    return matched


def account(
    silent: Sequence[Activity], talking: Sequence[Activity]
) -> dict[str, float]:
    """Return where a step's compute time grew beside messages.

    Times are in ms. Of the places (`pairs`): `ratio`, of all their time;
    `longer`, and its parts `products_met` (matrix products that met a
    message's kernel for any part of their time), `products_unmet` and
    `others`; `beyond`, what the products that met messages lost beyond the
    ratio of those that met none, which is the most that messages beside them
    can have cost, and `under`, for how long they met them; `met` and
    `unmet`, the ratios of both; `worst`, the largest ratio of one product;
    `products` and `doubled`, how many there are and how many took twice as
    long; `elsewhere`, the kernels of the step with messages that have no
    place in the other.
    """
    matched = pairs(silent, talking)
    products = [pair for pair in matched if pair.group == MATRIX]
    others = [pair for pair in matched if pair.group != MATRIX]
    met = [pair for pair in products if pair.met > 0]
    unmet = [pair for pair in products if pair.met == 0]
    everything = sum(map(_us, _compute(talking)))
    share = ratio(unmet)
    return {
        "ratio": ratio(matched),
        "met": ratio(met),
        "unmet": share,
        "worst": max((pair.ratio for pair in products), default=1.0),
        "products": len(products),
        "doubled": sum(pair.ratio >= 2 for pair in products),
        "longer": _longer(matched),
        "products_met": _longer(met),
        "products_unmet": _longer(unmet),
        "others": _longer(others),
        "beyond": sum(p.talking - share * p.silent for p in met) / 1e3,
        "under": sum(p.met * p.talking for p in met) / 1e3,
        "elsewhere": (everything - sum(p.talking for p in matched)) / 1e3,
    }


def ratio(those: list[Pair]) -> float:
    """Return how many times as long these take together; of none, 1."""
    before = sum(pair.silent for pair in those)
    return sum(pair.talking for pair in those) / before if before else 1.0


def _longer(those: list[Pair]) -> float:
    return sum(pair.longer for pair in those) / 1e3


def _us(a: Activity) -> float:
    return a.end - a.begin


def _compute(step: Sequence[Activity]) -> list[Activity]:
    return [a for a in step if a.kind == "compute" and a.end > a.begin]


def _met(a: Activity, messages: list[Interval]) -> float:
    return length(intersection([(a.begin, a.end)], messages)) / _us(a)


def _by_key(step: list[Activity]) -> dict[Key, list[Activity]]:
    keyed: dict[Key, list[Activity]] = defaultdict(list)
    for a in step:
        keyed[a.name, a.shape].append(a)
    return keyed


def _once(alone: list[Activity], beside: list[Activity]) -> Key:
    """Return the first kernel of a step that runs once in both."""
    here, there = _by_key(alone), _by_key(beside)
    for key, those in here.items():
        if len(those) == len(there[key]) == 1:
            return key
    raise UserError(
        "no kernel runs once in both steps, so that they cannot be laid "
        "side by side: compare steps of one model and one batch"
    )


def _turned(step: list[Activity], first: Key) -> list[Activity]:
    """Return a step from its launch of `first` on, what was before last."""
    at = next(i for i, a in enumerate(step) if (a.name, a.shape) == first)
    return [*step[at:], *step[:at]]
