"""The tests of the tests, for tensor and sequence parallelism.

Every planted bug goes through `tensor_cases.verify` with the checks that the
real code passes here. A dropped collective is also a wrong count; leaving
the traffic out shows that the numbers alone give it away.
"""

from collections.abc import Callable

import pytest
from parity import Mismatch
from planted.tensor_parallel import BUGS, RANKS, Bug
from pool import Pool
from tensor_cases import Case, Training, train_rank, verify


@pytest.fixture(scope="module")
def trainings(pool2: Pool) -> dict[str, list[Training]]:
    """Train with every bug, all in one call; ranks' trainings by name."""
    assert pool2.world == RANKS
    ranks = pool2.run(train_rank, [bug.case for bug in BUGS])
    by_bug = zip(*ranks, strict=True)
    return {
        bug.name: list(of_bug)
        for bug, of_bug in zip(BUGS, by_bug, strict=True)
    }


def test_the_real_code_passes_the_same_checks(pool2: Pool) -> None:
    cases = [
        Case(),
        Case(dropout=0.1),
        Case(sequence_parallel=True),
    ]
    ranks = pool2.run(train_rank, cases)
    for case, of_case in zip(cases, zip(*ranks, strict=True), strict=True):
        verify(case, list(of_case))


def test_a_name_stands_for_one_bug() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(
    trainings: dict[str, list[Training]],
    record_property: Callable[[str, object], None],
    bug: Bug,
) -> None:
    caught, shown = "nothing", ""
    try:
        verify(bug.case, trainings[bug.name], traffic=False)
    except Mismatch as mismatch:
        caught, shown = mismatch.check, f"{mismatch.ratio:.6g}"
    record_property("planted bug", (bug.name, caught, shown))
    assert caught == bug.caught_by
    if bug.ratio is not None:
        assert float(shown) == pytest.approx(bug.ratio, rel=1e-6)
