"""What the runs over layouts choose, before any rank starts."""

import pytest

from workshop.bench.contestants import one_strategy_each
from workshop.estimate.pipeline import bubble_over_total
from workshop.lab1 import check_layouts, sweep_pipeline


def test_every_layout_of_four_ranks_is_checked() -> None:
    layouts = check_layouts.layouts(4)
    names = [check_layouts.name_of(each) for each in layouts]
    assert len(set(names)) == len(names) == 16
    sizes = {(each.dp, each.tp, each.pp) for each in layouts}
    assert sizes == {
        (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2), (1, 1, 4)
    }  # fmt: skip
    assert "tp2 × pp2, sequence parallel, interleaved" in names
    # Four stages of two chunks would need eight layers.
    assert "pp4, interleaved" not in names


def test_a_size_that_does_not_divide_the_model_is_left_out() -> None:
    sizes = {(each.tp, each.pp) for each in check_layouts.layouts(3)}
    assert sizes == {(1, 1)}


def test_layouts_count_what_all_ranks_process() -> None:
    sequences = {
        c.name: c.sequences(2) for c in one_strategy_each(2, 16, 4, 16)
    }
    assert sequences == {
        "alone": 32, "dp2": 32, "tp2": 16, "tp2-sp": 16, "pp2": 64
    }  # fmt: skip


@pytest.mark.parametrize(
    "p, m, v, share",
    [(2, 1, 1, 1 / 2), (2, 16, 1, 1 / 17), (4, 8, 2, 3 / 19)],
)
def test_the_predicted_share_of_the_bubble(p, m, v, share) -> None:
    assert bubble_over_total(p, m, v) == pytest.approx(share)


def test_interleaving_takes_multiples_of_the_stages() -> None:
    chosen = sweep_pipeline.settings(8)
    assert ("interleaved", 16) in chosen
    assert ("interleaved", 4) not in chosen
    assert [m for name, m in chosen if name == "1f1b"] == [1, 2, 4, 8, 16, 32]
