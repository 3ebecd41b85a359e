"""Layouts: the arithmetic of every layout up to 64 ranks, and real groups."""

import itertools

import pytest
import torch
import torch.distributed as dist
from pool import Pool
from torch.testing._internal.distributed.fake_pg import FakeStore

from workshop.errors import UserError
from workshop.groups import make_groups
from workshop.layout import AXES, Coordinate, Layout

LARGEST = 64


def every_layout(largest: int) -> list[Layout]:
    return [
        Layout(dp, tp, pp, ep)
        for dp, tp, pp in itertools.product(range(1, largest + 1), repeat=3)
        if dp * tp * pp <= largest
        for ep in range(1, dp + 1)
        if dp % ep == 0
    ]


def test_coordinates_and_ranks_are_a_bijection_in_every_layout() -> None:
    for layout in every_layout(LARGEST):
        every = [layout.coordinate(rank) for rank in range(layout.world_size)]
        assert len(set(every)) == layout.dp * layout.tp * layout.pp
        assert [layout.rank(*at) for at in every] == list(range(len(every)))
        for at in every:
            assert 0 <= at.pp < layout.pp
            assert 0 <= at.dp < layout.dp
            assert 0 <= at.tp < layout.tp


def test_groups_of_every_axis_partition_the_world_in_every_layout() -> None:
    for layout in every_layout(LARGEST):
        sizes = {axis: getattr(layout, axis, None) for axis in AXES}
        sizes["expert_dp"] = layout.dp // layout.ep
        for axis, size in sizes.items():
            groups = layout.ranks(axis)
            assert {len(group) for group in groups} == {size}
            members = sorted(itertools.chain(*groups))
            assert members == list(range(layout.world_size))


def test_ranks_of_a_group_differ_in_its_axis_alone() -> None:
    for layout in every_layout(LARGEST):
        for axis in ("dp", "tp", "pp"):
            for group in layout.ranks(axis):
                at = [layout.coordinate(rank) for rank in group]
                indices = [getattr(where, axis) for where in at]
                assert indices == list(range(len(group)))
                rest = {where._replace(**{axis: 0}) for where in at}
                assert len(rest) == 1


def test_an_expert_group_and_a_group_of_copies_share_one_rank() -> None:
    for layout in every_layout(LARGEST):
        copies = layout.ranks("expert_dp")
        for group in layout.ranks("ep"):
            data = next(g for g in layout.ranks("dp") if group[0] in g)
            assert set(group) <= set(data)
            for copy in copies:
                assert len(set(group) & set(copy)) == (copy[0] in data)


@pytest.mark.parametrize("gpus_per_node", [2, 4, 8])
def test_tensor_parallel_groups_stay_inside_a_node(
    gpus_per_node: int,
) -> None:
    for layout in every_layout(LARGEST):
        if gpus_per_node % layout.tp == 0:
            for group in layout.ranks("tp"):
                assert len({rank // gpus_per_node for rank in group}) == 1


def test_the_order_of_the_axes() -> None:
    layout = Layout(dp=2, tp=2, pp=2, ep=2)
    assert layout.ranks("tp") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.ranks("dp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert layout.ranks("pp") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert layout.ranks("ep") == layout.ranks("dp")
    assert layout.coordinate(6) == Coordinate(pp=1, dp=1, tp=0)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: Layout.for_world(6, tp=2, pp=2), ("6", "tp=2", "4")),
        (lambda: Layout.for_world(0), ("world size 0",)),
        (lambda: Layout.for_world(6, ep=4), ("dp=6", "ep=4")),
        (lambda: Layout(dp=3, ep=2), ("dp=3", "ep=2")),
        (lambda: Layout(tp=0), ("tp=0",)),
        (lambda: Layout(dp=-1), ("dp=-1",)),
        (lambda: Layout(dp=2, tp=2).check_world(3), ("dp=2", "4", "3")),
    ],
)
def test_an_impossible_layout_is_one_sentence(make, values) -> None:
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and message.count(". ") == 0
    assert all(value in message for value in values), message


def test_data_parallel_size_fills_the_world() -> None:
    assert Layout.for_world(8, tp=2, pp=2).dp == 2
    assert Layout.for_world(3) == Layout(dp=3)


@pytest.mark.parametrize("rank", [0, 21, 63])
def test_sixty_four_ranks_in_one_process(rank: int) -> None:
    layout = Layout(dp=4, tp=8, pp=2)
    store = FakeStore()
    dist.init_process_group("fake", store=store, rank=rank, world_size=64)
    try:
        groups = make_groups(layout)
        for axis in ("dp", "tp", "pp"):
            mine = next(g for g in layout.ranks(axis) if rank in g)
            made = getattr(groups, axis)
            assert dist.get_process_group_ranks(made) == mine
        assert groups.at == layout.coordinate(rank)
        with pytest.raises(UserError, match="needs 2 ranks and 64"):
            make_groups(Layout(dp=2))
    finally:
        dist.destroy_process_group()


def sum_over_each_axis(rank: int, world: int, tp: int, pp: int) -> dict:
    groups = make_groups(Layout.for_world(world, tp=tp, pp=pp))
    sums = {}
    for axis in ("dp", "tp", "pp"):
        total = torch.tensor([10.0**rank])
        dist.all_reduce(total, group=getattr(groups, axis))
        sums[axis] = int(total.item())
    return sums


def test_real_groups_talk_to_their_own_ranks(pool4: Pool) -> None:
    sums = pool4.run(sum_over_each_axis, 2, 2)
    assert [s["tp"] for s in sums] == [11, 11, 1100, 1100]
    assert [s["pp"] for s in sums] == [101, 1010, 101, 1010]
    assert [s["dp"] for s in sums] == [1, 10, 100, 1000]
