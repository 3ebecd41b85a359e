"""Kernels beside messages, matched by place: made steps, worked by hand."""

from statistics import median

import pytest

from workshop.errors import UserError
from workshop.profiling.by_place import account, pairs
from workshop.profiling.events import Activity

PERSISTENT = ("nvjet_tst_192x192_coo", "[2, 66, 1]")
PRODUCTS = (203.0, 573.0, 763.0, 4400.0)
"""µs of products of four sizes: one kernel, one grid."""


def step(*kernels, messages=(), begin=0.0) -> list[Activity]:
    """Return kernels (name, grid, µs) one after the other, and messages."""
    done, now = [], begin
    for name, grid, us in kernels:
        done.append(Activity(name, grid, "compute", (0, 7), now, now + us))
        now += us
    done += [
        Activity("ncclDevKernel", "", "communication", (0, 20), *span)
        for span in messages
    ]
    return sorted(done, key=lambda a: a.begin)


def products(factor=1.0, met_factor=1.0):
    """Return a step: an embedding, then each product, twice."""
    each = [(*PERSISTENT, us * factor) for us in PRODUCTS]
    each[3] = (*PERSISTENT, PRODUCTS[3] * met_factor)
    return [("embedding", "[8]", 10.0), *each]


def by_name_and_grid(activities: list[Activity]) -> float:
    """Return the slowdown as one would have it from one step alone.

    The median of a kernel's launches beside messages over that of the same
    name and grid without.
    """
    spans = [
        (a.begin, a.end) for a in activities if a.name.startswith("nccl")
    ]
    times: dict[bool, list[float]] = {False: [], True: []}
    for a in activities:
        if (a.name, a.shape) == PERSISTENT:
            met = any(b < a.end and e > a.begin for b, e in spans)
            times[met].append(a.end - a.begin)
    return median(times[True]) / median(times[False])


def test_one_grid_for_all_sizes_is_no_slowdown():
    silent = step(*products())
    talking = step(*products(), messages=[(1600.0, 5000.0)])
    assert by_name_and_grid(talking) > 5  # the artifact
    numbers = account(silent, talking)
    for name in ("ratio", "met", "unmet", "worst"):
        assert numbers[name] == pytest.approx(1.0), name
    assert numbers["longer"] == pytest.approx(0.0)
    assert numbers["doubled"] == 0 and numbers["products"] == 4


def test_what_is_slower_is_found_and_shared_out():
    silent = step(*products())
    talking = step(*products(1.02, 1.5), messages=[(1600.0, 9000.0)])
    numbers = account(silent, talking)
    assert numbers["met"] == pytest.approx(1.5)
    assert numbers["unmet"] == pytest.approx(1.02)
    assert numbers["products_met"] == pytest.approx(2.2)
    assert numbers["products_unmet"] == pytest.approx(0.02 * 1.539)
    assert numbers["beyond"] == pytest.approx(0.48 * 4.4)
    parts = ("products_met", "products_unmet", "others")
    assert numbers["longer"] == pytest.approx(sum(map(numbers.get, parts)))


def test_a_copy_holds_no_multiprocessor_and_so_is_met_by_none():
    """Packing beside a product is no message that can cost it a wave."""
    silent = step(*products())
    talking = step(*products(1.02, 1.5), messages=[(1600.0, 9000.0)])
    copies = [
        Activity(f"Memcpy {way} (Device -> Device)", "", "communication",
                 (0, 20), 0.0, 1500.0)
        for way in ("DtoD", "PtoP")
    ]  # fmt: skip
    assert account(silent, [*copies, *talking]) == account(silent, talking)
    alone = account(silent, [*copies, *step(*products(1.02, 1.5))])
    assert alone["products_met"] == alone["under"] == 0


def test_a_window_that_begins_elsewhere_is_turned():
    kernels = products()
    silent = step(*kernels)
    (*_, last) = turned = step(*kernels[3:], *kernels[:3])
    assert last.name == PERSISTENT[0]
    assert {pair.ratio for pair in pairs(silent, turned)} == {1.0}


def test_a_kernel_of_one_step_alone_has_no_place():
    silent = step(*products())
    talking = step(*products(), ("copy", "[4]", 500.0))
    assert len(pairs(silent, talking)) == 5
    assert account(silent, talking)["elsewhere"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ([("embedding", "[8]", 10.0), (*PERSISTENT, 9.0)], "only 0%"),
        ([("another", "[8]", 10.0)], "no kernel runs once in both"),
    ],
)
def test_steps_of_two_models_are_refused(other, why):
    with pytest.raises(UserError, match=why):
        pairs(step(*products()), step(*other))
