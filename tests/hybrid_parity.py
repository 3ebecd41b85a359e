"""The invariants of a hybrid layout, against the dense model.

`verify` trains cases in their layouts and dense, and compares loss, gradient
norm, gradients and weights. The planted bugs go through the same `compare`.
"""

import math

from hybrid_cases import Case, Training, Unequal, assemble, train_dense
from hybrid_cases import train_rank as train
from parity import TOLERANCE, Mismatch
from parity import compare as tensors
from pool import LIMIT, Pool

CHECKS = ("report", "gradients", "copies", "weights")


def verify(pool: Pool, cases: list[Case], timeout: float = LIMIT) -> None:
    """Train the cases on all ranks of the pool, and compare each.

    Raises:
        Mismatch: from the first check of a case that fails.
        RankError: a rank raised, died or hung.
    """
    by_rank = pool.run(train, cases, timeout=timeout)
    for number, case in enumerate(cases):
        try:
            compare(case, [trainings[number] for trainings in by_rank])
        except Mismatch as mismatch:
            mismatch.add_note(f"in {case}")
            raise


def compare(case: Case, ranks: list[Training]) -> None:
    """Compare a training with the dense one, the first step first.

    Raises:
        Mismatch: the check that fails, with the ratio that it saw.
    """
    dense = train_dense(case.dense)
    try:
        for step, (loss, norm) in enumerate(dense.reports):
            for rank, training in enumerate(ranks):
                report = training.reports[step]
                check(f"rank {rank}, loss", report[0], loss)
                check(f"rank {rank}, norm", report[1], norm)
            parts = [training.gradients[step] for training in ranks]
            whole = assemble(case.layout, parts)
            tensors("gradients", 0, whole, dense.gradients[step])
        whole = assemble(
            case.layout, [training.weights for training in ranks]
        )
    except Unequal as unequal:
        raise Mismatch("copies", unequal.ratio, str(unequal)) from None
    tensors("weights", 0, whole, dense.weights)


def check(what: str, got: float, due: float) -> None:
    """Compare a number that the step reports."""
    if not math.isclose(got, due, rel_tol=TOLERANCE):
        raise Mismatch("report", got / due, f"{what} is {got}, due is {due}")
