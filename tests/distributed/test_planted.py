"""The tests of the tests: every planted bug is caught, by the right check.

The bugs go through `parity.verify` with the checks that the real class
passes here, and a table of what caught them ends the report of the session.
"""

import math
from collections.abc import Callable

import pytest
from parity import VALUES, Mismatch, compare_ranks, verify
from planted.data_parallel import BUGS, NUM_MICROBATCHES, RANKS, Bug
from pool import Pool, RankError
from training_cases import Case, Training, train_cases

from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel


def case_of(strategy, awkward: bool, naive: bool) -> Case:
    checks = (*VALUES, "traffic", "overlap")
    return Case(
        strategy,
        {} if naive else {"bucket_mib": 0.001},
        awkward=awkward,
        num_microbatches=NUM_MICROBATCHES,
        checks=checks[:-1] if naive else checks,
    )


def is_naive(strategy: type) -> bool:
    return issubclass(strategy, NaiveDataParallel)


def of_bug(bug: Bug) -> Case:
    return case_of(bug.strategy, bug.awkward, is_naive(bug.strategy))


@pytest.fixture(scope="module")
def trainings(pool4: Pool) -> dict[str, list[Training]]:
    """The trainings with all bugs that let one end, in one call."""
    ending = [bug for bug in BUGS if bug.caught_by != "refusal"]
    by_rank = pool4.run(train_cases, [of_bug(bug) for bug in ending])
    by_bug = zip(*by_rank, strict=True)
    return {
        bug.name: list(ranks)
        for bug, ranks in zip(ending, by_bug, strict=True)
    }


def catch(
    pool: Pool, bug: Bug, trainings: dict[str, list[Training]]
) -> tuple[str, float]:
    """Return the check that fails, or `refusal` if the class objects."""
    try:
        if bug.name in trainings:
            compare_ranks(of_bug(bug), trainings[bug.name])
        else:
            verify(pool, of_bug(bug))
    except Mismatch as mismatch:
        return mismatch.check, mismatch.ratio
    except RankError as error:
        # Only the class's own sentence counts, not any crash of the bug.
        for text in error.failures.values():
            assert "run all backward passes but the last inside" in text
        return "refusal", math.nan
    return "nothing", math.nan


@pytest.mark.parametrize(
    ("strategy", "awkward"),
    [
        (OverlappedDataParallel, False),
        (OverlappedDataParallel, True),
        (NaiveDataParallel, False),
        (NaiveDataParallel, True),
    ],
)
def test_the_real_classes_pass_the_same_checks(
    pool4: Pool, strategy: type, awkward: bool
) -> None:
    assert pool4.world == RANKS
    verify(pool4, case_of(strategy, awkward, is_naive(strategy)))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(
    pool4: Pool,
    trainings: dict[str, list[Training]],
    record_property: Callable[[str, object], None],
    bug: Bug,
) -> None:
    caught, ratio = catch(pool4, bug, trainings)
    shown = "" if math.isnan(ratio) else f"{ratio:.6g}"
    record_property("planted bug", (bug.name, caught, shown))
    assert caught == bug.caught_by
    if bug.ratio is not None:
        assert ratio == pytest.approx(bug.ratio, rel=1e-6)
