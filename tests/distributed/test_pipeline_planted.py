"""Every planted bug of a pipeline is caught, by the right check."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from parity import Mismatch
from pipeline_cases import Step, compare_steps, train_rank, verify
from planted.pipeline import BUGS, Bug
from pool import Pool, RankError

from workshop.parallel.pipeline.executor import Pipeline

ON_TWO = [bug for bug in BUGS if bug.dp == 1]


@pytest.fixture(scope="module")
def steps(pool2: Pool) -> dict[str, list[Step]]:
    """The steps of all bugs on two ranks, in one call of the pool."""
    by_rank = pool2.run(train_rank, [bug.case for bug in ON_TWO])
    by_bug = zip(*by_rank, strict=True)
    return {
        bug.name: list(ranks)
        for bug, ranks in zip(ON_TWO, by_bug, strict=True)
    }


def catch(bug: Bug, pool: Pool, steps: dict) -> tuple[str, float]:
    """Return the check that fails, or `refusal` if a class objects."""
    try:
        if bug in ON_TWO:
            compare_steps(bug.case, steps[bug.name])
        else:
            verify(pool, [bug.case])
    except Mismatch as mismatch:
        return mismatch.check, mismatch.ratio
    except RankError as error:
        # Only the class's own sentence counts, not any crash of the bug.
        assert "run all backward passes but the last inside" in str(error)
        return "refusal", math.nan
    return "nothing", math.nan


def test_the_real_pipeline_passes_the_same_checks(
    pool2: Pool, pool4: Pool
) -> None:
    for pool, dp in ((pool2, 1), (pool4, 2)):
        cases = {bug.case for bug in BUGS if bug.dp == dp}
        verify(pool, [replace(case, pipeline=Pipeline) for case in cases])


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(
    pool4: Pool,
    steps: dict[str, list[Step]],
    record_property: Callable[[str, object], None],
    bug: Bug,
) -> None:
    caught, ratio = catch(bug, pool4, steps)
    shown = "" if math.isnan(ratio) else f"{ratio:.6g}"
    record_property("planted bug", (bug.name, caught, shown))
    assert caught == bug.caught_by
    if bug.ratio is not None:
        assert ratio == pytest.approx(bug.ratio, rel=1e-6)
