"""What the runs over layouts choose, before any rank starts."""

from functools import partial

import pytest

from workshop.bench.contestants import named, one_strategy_each
from workshop.errors import UserError
from workshop.estimate.pipeline import bubble_over_total
from workshop.lab1 import (
    check_layouts,
    compare_ddp,
    compare_layouts,
    compare_megatron,
    measure_links,
    one_rank,
    out_of_memory,
    pretrain_options,
    sweep_pipeline,
)

GIVEN = (measure_links, one_rank, pretrain_options)
ENTRY_POINTS = (
    *GIVEN,
    check_layouts,
    compare_ddp,
    compare_layouts,
    compare_megatron,
    out_of_memory,
    sweep_pipeline,
)


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


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sizes", [(16, 4, 16), (2, 1, 8), (64, 1, 8)])
def test_compared_layouts_take_the_same_batch(world, sizes) -> None:
    batch = sizes[1] * sizes[2]
    for each in one_strategy_each(world, *sizes):
        assert each.layout.sequences == batch, each.name
        assert each.sequences(world) == batch * (world if each.alone else 1)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="batch of 6 sequences"):
        named("dp4", 2, 1, 6)


@pytest.mark.parametrize(
    "option, smallest",
    [
        ("--steps", 1),
        ("--rounds", 1),
        ("--micro-batch", 1),
        ("--warmup-steps", 0),
        ("--max-mib", 1),
        ("--micro-batches", 1),
        ("--num-microbatches", 1),
        ("--piece", 1),
    ],
)
def test_no_entry_point_takes_a_count_that_is_none(
    monkeypatch, option, smallest
) -> None:
    """Each has some of these options; those it has, it checks."""
    checked = 0
    for module in ENTRY_POINTS:
        argv = [option, str(smallest - 1)]
        monkeypatch.setattr("sys.argv", [module.__name__, *argv])
        parse = partial(module.parse, argv if module in GIVEN else None)
        if module not in GIVEN:
            parse = module.parse
        with pytest.raises(UserError) as refused:
            parse()
        if "unrecognized" not in str(refused.value):
            says = str(refused.value)
            assert option in says and "is too small" in says
            checked += 1
    assert checked


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


SIZED = {
    compare_ddp: ("steps", "micro_batch", "warmup_steps"),
    compare_layouts: ("steps", "piece", "num_microbatches"),
    compare_megatron: ("steps", "piece", "num_microbatches"),
    one_rank: ("steps", "rounds", "num_microbatches", "micro_batch"),
    out_of_memory: ("steps",),
    sweep_pipeline: ("steps", "micro_batch"),
}


@pytest.mark.parametrize("module", SIZED)
def test_sizes_that_are_given_win_over_the_small_ones(
    monkeypatch, module
) -> None:
    words = ["--small", "--model", "gpt2-small"]
    for name in SIZED[module]:
        words += ["--" + name.replace("_", "-"), "7"]
    monkeypatch.setattr("sys.argv", [module.__name__, *words])
    args = module.parse()
    assert args.small and args.model == "gpt2-small"
    assert [getattr(args, name) for name in SIZED[module]] == [
        7 for _ in SIZED[module]
    ]
    monkeypatch.setattr("sys.argv", [module.__name__, "--small"])
    assert module.parse().model != "gpt2-small"
