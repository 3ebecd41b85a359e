"""Batches are a function of step and rank, and miss or repeat nothing."""

import numpy as np
import pytest
import torch

from workshop.data.batches import Batches
from workshop.errors import UserError

TOKENS = np.arange(8 * 100 + 1, dtype=np.uint16)


def make(**changes):
    fields = {"sequence": 8, "micro_batch": 3, "seed": 5, **changes}
    return Batches(TOKENS, **fields)


def taken(step, world_size, accumulation, micro_batch):
    return [
        i
        for rank in range(world_size)
        for micro_step in range(accumulation)
        for i in make(
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
            micro_batch=micro_batch,
        ).indices(step, micro_step)
    ]


@pytest.mark.parametrize(
    "layout", [(1, 1, 20), (2, 1, 10), (4, 5, 1), (5, 2, 2)]
)
def test_an_epoch_takes_every_sequence_once(layout):
    epoch = [i for step in range(5) for i in taken(step, *layout)]
    assert sorted(epoch) == list(range(100))
    second = [i for step in range(5, 10) for i in taken(step, *layout)]
    assert sorted(second) == list(range(100)) and second != epoch


@pytest.mark.parametrize("layout", [(2, 1, 6), (3, 2, 2), (4, 3, 1)])
def test_the_global_batch_does_not_depend_on_the_layout(layout):
    for step in (0, 7, 8, 9, 1000):
        assert sorted(taken(step, *layout)) == sorted(taken(step, 1, 1, 12))


def test_a_step_across_two_epochs_is_still_disjoint_in_each():
    flat = [i for step in range(100) for i in taken(step, 1, 1, 3)]
    for epoch in range(3):
        part = flat[100 * epoch : 100 * (epoch + 1)]
        assert sorted(part) == list(range(100))


def test_any_step_can_be_asked_for_first():
    forward = [make().at(step) for step in range(4)]
    for step in (3, 0, 2, 1):
        for a, b in zip(make().at(step), forward[step], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("before, after", [((2, 1, 4), (1, 2, 2)),
                                           ((1, 1, 3), (2, 3, 2))])  # fmt: skip
def test_another_global_batch_goes_on_where_the_first_stopped(before, after):
    """Four steps of the one, then five of the other: nothing comes twice."""

    def dealt(steps, layout, **resumed):
        world_size, accumulation, micro_batch = layout
        ranks = [
            make(
                rank=rank,
                world_size=world_size,
                accumulation=accumulation,
                micro_batch=micro_batch,
            )
            for rank in range(world_size)
        ]
        if resumed:
            ranks = [rank.resumed(**resumed) for rank in ranks]
        places = [
            place
            for step in steps
            for rank in ranks
            for i in range(accumulation)
            for place in rank.positions(step, i)
        ]
        return sorted(places), ranks[0].taken(steps.stop)

    first, taken = dealt(range(4), before)
    second, end = dealt(range(4, 9), after, step=4, taken=taken)
    assert first + second == list(range(end))


def test_another_seed_is_another_order():
    assert list(make().indices(0)) != list(make(seed=6).indices(0))


def test_targets_are_the_tokens_shifted_by_one():
    tokens, targets = make().at(0)
    assert tokens.shape == targets.shape == (3, 8)
    assert tokens.dtype == targets.dtype == torch.int64
    assert torch.equal(tokens + 1, targets)
    assert torch.equal(tokens[:, 0] // 8, torch.tensor(make().indices(0)))


def test_all_micro_batches_of_a_step_come_together():
    batches = make(accumulation=2, rank=1, world_size=2)
    both = batches.on(torch.device("cpu"), 4)
    assert len(both) == 2
    assert torch.equal(both[1][0], batches.at(4, 1)[0])


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(UserError, match="800 tokens, fewer than one"):
        Batches(TOKENS[:800], sequence=800, micro_batch=1)


def test_a_peer_refuses_targets_that_count_in_no_loss() -> None:
    """And says what it needs; it has no recipe to ask for."""
    from workshop.peers.nanogpt import NanoGPTTrainer

    tokens = torch.zeros(2, 4, dtype=torch.int64)
    trainer = NanoGPTTrainer(None, alone=True, clip=1.0)
    for call in (lambda b: trainer.step(b, 0.1), trainer.loss):
        with pytest.raises(UserError, match="give it targets that all count"):
            call([(tokens, tokens - 100)])
