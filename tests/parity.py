"""The invariants of a data parallel strategy, against the dense model.

`verify` trains a `Case` dense and in parallel and compares the two with
`CHECKS`. The planted bugs go through the very same `verify`.
"""

from pool import Pool
from torch import Tensor
from training_cases import Case, Training, train_dense, train_rank

TOLERANCE = 1e-9
VALUES = ("start", "gradients", "weights", "report")


class Mismatch(AssertionError):
    """A check failed: which one, and the ratio of what it compared."""

    def __init__(self, check: str, ratio: float, message: str) -> None:
        super().__init__(f"{check}: {message} (ratio {ratio:.6g})")
        self.check = check
        self.ratio = ratio


def compare(
    check: str,
    rank: int,
    got: dict[str, Tensor],
    dense: dict[str, Tensor],
    tolerance: float = TOLERANCE,
) -> None:
    """Compare tensor by tensor; the ratio of their norms names many bugs."""
    if got.keys() != dense.keys():
        names = sorted(got.keys() ^ dense.keys())
        raise Mismatch(check, float("nan"), f"rank {rank} alone has {names}")
    worst, where, ratio = 0.0, "", 1.0
    for name, reference in dense.items():
        norm = reference.norm().item()
        error = (got[name] - reference).norm().item()
        relative = error / norm if norm else error
        # Not `relative > worst`: that is false for a NaN.
        if not relative <= worst:
            worst, where = relative, name
            ratio = got[name].norm().item() / norm if norm else error
    if not worst <= tolerance:
        raise Mismatch(
            check, ratio, f"rank {rank}, {where}: relative error {worst:.3g}"
        )


def check_start(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Every rank starts with the weights and buffers of rank 0."""
    for rank, training in enumerate(ranks):
        compare("start", rank, training.start, dense.start)


def check_gradients(
    case: Case, dense: Training, ranks: list[Training]
) -> None:
    """The gradient of every parameter in every step is the dense one.

    The first step that differs is the one to report: after it the weights
    differ too, and no ratio means anything.
    """
    for step, reference in enumerate(dense.gradients):
        for rank, training in enumerate(ranks):
            compare("gradients", rank, training.gradients[step], reference)


def check_weights(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Weights and optimizer state end as those of the dense training."""
    for rank, training in enumerate(ranks):
        compare("weights", rank, training.weights, dense.weights)


def check_report(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Loss and global norm that a step reports, in float32, are the dense."""
    for rank, training in enumerate(ranks):
        steps = zip(training.reports, dense.reports, strict=True)
        for step, pair in enumerate(steps):
            for name, (got, due) in zip(
                ("loss", "norm"), zip(*pair, strict=True), strict=True
            ):
                if not abs(got / due - 1) <= 1e-6:
                    message = f"rank {rank}, {name} of step {step}"
                    raise Mismatch("report", got / due, message)


def check_traffic(case: Case, dense: Training, ranks: list[Training]) -> None:
    """Every step sends exactly 2(n-1)/n of the gradient's bytes."""
    n = len(ranks)
    for rank, training in enumerate(ranks):
        due = 2 * (n - 1) * training.gradient_bytes / n
        for sent in training.bytes_sent:
            if sent != due:
                ratio = sent / due if due else float("inf")
                message = f"rank {rank} sent {sent} bytes, due are {due}"
                raise Mismatch("traffic", ratio, message)


def check_overlap(case: Case, dense: Training, ranks: list[Training]) -> None:
    """The first all-reduce starts before the last gradient has arrived."""
    for rank, training in enumerate(ranks):
        if training.started == 0:
            message = f"rank {rank} sent nothing before backward ended"
            raise Mismatch("overlap", 0.0, message)


CHECKS = {
    "start": check_start,
    "gradients": check_gradients,
    "weights": check_weights,
    "report": check_report,
    "traffic": check_traffic,
    "overlap": check_overlap,
}


def verify(pool: Pool, case: Case) -> None:
    """Train dense and in parallel, and run the case's checks in order.

    Raises:
        Mismatch: from the first check that fails.
        RankError: a rank raised, died or hung.
    """
    compare_ranks(case, pool.run(train_rank, case))


def compare_ranks(case: Case, ranks: list[Training]) -> None:
    """Run a case's checks on what its ranks trained.

    Raises:
        Mismatch: from the first check that fails.
    """
    dense = train_dense(case, len(ranks))
    for name in case.checks:
        CHECKS[name](case, dense, ranks)
