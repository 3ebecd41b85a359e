"""Dropout drops the same where activations are the same, else another."""

import torch
from pool import Pool
from tensor_cases import Case, split
from torch import Tensor
from training_cases import groups_of

from workshop.layout import Layout
from workshop.parallel.random_streams import seed_streams, stream

SEED = 7


def masks(rank: int, world: int, layout: Layout) -> tuple:
    """Return this rank's coordinate and the masks of its dropouts.

    The first passes of a model, the same passes again after seeding, and
    the last of them again after restoring the state between them.
    """
    groups = groups_of(layout)
    case = Case(layout.sequence_parallel, dropout=0.5)
    model, _ = split(case, groups.tp)
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(
                lambda _, args, out: seen.append((out == 0) & (args[0] != 0))
            )

    def draw() -> Tensor:
        seen.clear()
        model(*case.batch(0))
        return torch.stack(seen)

    seed_streams(SEED, layout, groups.at)
    first = draw()
    state = torch.get_rng_state()
    second = draw()
    torch.set_rng_state(state)
    restored = draw()
    seed_streams(SEED, layout, groups.at)
    again = draw()
    return groups.at, first, second, again, restored


def test_masks_on_four_ranks(pool4: Pool) -> None:
    """tp: equal if replicated, different if tokens are split. dp: never."""
    for sequence_parallel in (False, True):
        layout = Layout(dp=2, tp=2, sequence_parallel=sequence_parallel)
        masked = pool4.run(masks, layout)
        by_place = {(at.dp, at.tp): first for at, first, *_ in masked}
        for dp in range(2):
            a, b = by_place[dp, 0], by_place[dp, 1]
            assert torch.equal(a, b) != sequence_parallel
            assert a.float().mean().item() > 0.3
        for tp in range(2):
            assert not torch.equal(by_place[0, tp], by_place[1, tp])
        for _, first, second, again, restored in masked:
            assert not torch.equal(first, second)
            assert torch.equal(first, again)
            assert torch.equal(second, restored)
            # Five dropouts, none of which repeats another.
            assert len({tuple(m.flatten().tolist()) for m in first}) == 5


def test_streams_are_shared_by_tensor_parallel_ranks_alone() -> None:
    layout = Layout(dp=2, tp=4, pp=3)
    split = layout.replace(sequence_parallel=True)
    places = [layout.coordinate(rank) for rank in range(layout.world_size)]
    shared = {stream(layout, at) for at in places}
    own = {stream(split, at) for at in places}
    assert len(shared) == 2 * 3
    assert len(own) == 2 * 3 * 4
    for at in places:
        first = at._replace(tp=0)
        assert stream(layout, at) == stream(layout, first)
