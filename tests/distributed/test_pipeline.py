"""A pipeline equals the dense model, whatever its schedule."""

from pipeline_cases import Case, verify
from pool import Pool

from workshop.parallel.data_parallel import (
    NaiveDataParallel,
    OverlappedDataParallel,
)

PLAIN = [
    Case(schedule, m)
    for schedule in ("gpipe", "1f1b")
    for m in (1, 2, 3, 4, 8)
]


def test_two_stages_equal_the_dense_model(pool2: Pool) -> None:
    interleaved = [
        Case("interleaved", m, v) for m in (2, 4, 8) for v in (2, 4)
    ]
    verify(pool2, PLAIN + interleaved)


def test_four_stages_equal_the_dense_model(pool4: Pool) -> None:
    verify(pool4, PLAIN + [Case("interleaved", m, v=2) for m in (4, 8)])
