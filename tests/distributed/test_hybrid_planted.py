"""Every bug of hybrid layouts that is planted is caught, by its check."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hybrid_cases import train_rank
from hybrid_parity import compare
from parity import Mismatch
from planted.hybrid import BUGS, Bug
from pool import Pool


@pytest.fixture(scope="module")
def trained(pool4: Pool) -> dict[str, list]:
    """Every bug's training, of all ranks; one call of the pool for all."""
    cases = [replace(bug.case, plant=bug.plant) for bug in BUGS]
    by_rank = pool4.run(train_rank, cases)
    by_bug = zip(*by_rank, strict=True)
    return {
        bug.name: list(ranks) for bug, ranks in zip(BUGS, by_bug, strict=True)
    }


def test_the_same_trainings_without_bugs_pass(pool4: Pool) -> None:
    cases = list(dict.fromkeys(bug.case for bug in BUGS))
    by_rank = pool4.run(train_rank, cases)
    for case, ranks in zip(cases, zip(*by_rank, strict=True), strict=True):
        compare(case, list(ranks))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(
    trained: dict[str, list],
    record_property: Callable[[str, object], None],
    bug: Bug,
) -> None:
    with pytest.raises(Mismatch) as caught:
        compare(bug.case, trained[bug.name])
    check, ratio = caught.value.check, caught.value.ratio
    record_property("planted bug", (bug.name, check, f"{ratio:.6g}"))
    assert check == bug.caught_by
    if bug.ratio is not None:
        assert ratio == pytest.approx(bug.ratio, rel=1e-6)
