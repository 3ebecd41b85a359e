"""The papers' tables agree with their formulas."""

import pytest

from workshop.estimate.parameters import (
    gpt_parameters,
    narayanan_parameters,
)
from workshop.estimate.published import NARAYANAN_2021, SHOEYBI_2019

PEAK = 312  # TFLOP/s of an A100


@pytest.mark.parametrize("row", SHOEYBI_2019, ids=lambda r: f"{r.billions}B")
def test_table_1_of_2019_at_its_printed_precision(row) -> None:
    P = gpt_parameters(row.layers, row.hidden, 1024, 51200)
    assert f"{P / 1e9:.1f}" == str(row.billions)
    assert row.hidden == 96 * row.heads
    assert row.heads % row.tensor == 0
    assert row.gpus == 64 * row.tensor


@pytest.mark.parametrize(
    "row", NARAYANAN_2021, ids=lambda r: f"{r.billions}B"
)
def test_table_1_of_2021_agrees_with_itself(row) -> None:
    P = narayanan_parameters(row.layers, row.hidden, 2048, 51200)
    assert f"{P / 1e9:.1f}" == str(row.billions)
    assert row.tensor * row.pipeline * row.data == row.gpus
    assert row.batch % row.data == 0
    assert round(100 * row.tflops / PEAK) == row.percent
    # Both are rounded: to 1 TFLOP/s of each GPU and to 0.1 PFLOP/s of all.
    pflops = row.gpus * row.tflops / 1e3
    assert pflops == pytest.approx(row.pflops, abs=row.gpus * 5e-4 + 0.05)
