"""Collectives: their results, and the traffic that the ledger counts."""

from fractions import Fraction

import pytest
import torch
import torch.distributed as dist
from pool import Pool

from workshop import collectives
from workshop.collectives import count, ring_bytes


def run_all(rank: int, world: int, async_op: bool) -> dict:
    group = dist.group.WORLD
    mine = torch.arange(8, dtype=torch.float64) + 100 * rank
    reduced, sent = mine.clone(), mine.clone()
    part = torch.empty(8 // world, dtype=torch.float64)
    whole = torch.empty(8 * world, dtype=torch.float64)
    with count() as ledger:
        works = [
            collectives.all_reduce(reduced, group, async_op=async_op),
            collectives.reduce_scatter(part, mine, group, async_op=async_op),
            collectives.all_gather(whole, mine, group, async_op=async_op),
            collectives.broadcast(sent, group, 1, async_op=async_op),
        ]
        if async_op:
            for work in works:
                work.wait()
    return {
        "reduced": reduced,
        "part": part,
        "whole": whole,
        "sent": sent,
        "handles": [work is not None for work in works],
        "bytes": {e.operation: e.ring_bytes for e in ledger.entries},
        "calls": ledger.calls,
        "elements": ledger.elements,
        "total": ledger.bytes_sent,
    }


def check_all(pool: Pool, async_op: bool) -> None:
    world = pool.world
    base = torch.arange(8, dtype=torch.float64)
    total = base * world + 100 * sum(range(world))
    parts = total.chunk(world)
    for rank, got in enumerate(pool.run(run_all, async_op)):
        torch.testing.assert_close(got["reduced"], total)
        torch.testing.assert_close(got["part"], parts[rank])
        gathered = torch.cat([base + 100 * r for r in range(world)])
        torch.testing.assert_close(got["whole"], gathered)
        torch.testing.assert_close(got["sent"], base + 100)
        assert got["handles"] == [async_op] * 4
        last = (rank - 1) % world == world - 1
        assert got["bytes"] == {
            "all_reduce": Fraction(2 * (world - 1) * 64, world),
            "reduce_scatter": Fraction((world - 1) * 64, world),
            "all_gather": Fraction((world - 1) * 64 * world, world),
            "broadcast": 0 if last else 64,
        }
        assert got["calls"] == 4
        assert got["elements"] == 8 + 8 + 8 * world + 8
        assert got["total"] == sum(got["bytes"].values())


@pytest.mark.parametrize("async_op", [False, True])
def test_results_and_bytes_on_two_ranks(pool2: Pool, async_op: bool) -> None:
    check_all(pool2, async_op)


def test_results_and_bytes_on_four_ranks(pool4: Pool) -> None:
    check_all(pool4, async_op=True)


def pass_chunks_around(world: int) -> list[int]:
    """Gather in a real ring, a chunk a step; return the chunks sent."""
    held = [{rank} for rank in range(world)]
    sent = [0] * world
    for step in range(world - 1):
        chunks = [(rank - step) % world for rank in range(world)]
        for rank, chunk in enumerate(chunks):
            assert chunk in held[rank]
            sent[rank] += 1
        for rank, chunk in enumerate(chunks):
            held[(rank + 1) % world].add(chunk)
    assert all(chunks == set(range(world)) for chunks in held)
    return sent


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8, 64])
def test_the_formulas_equal_a_ring_that_passes_chunks(world: int) -> None:
    message = 4 * world * 5
    chunk = message // world
    once = {sent * chunk for sent in pass_chunks_around(world)}
    assert once == {ring_bytes("all_gather", message, world)}
    assert once == {ring_bytes("reduce_scatter", message, world)}
    assert {2 * s for s in once} == {ring_bytes("all_reduce", message, world)}
    chain = [ring_bytes("broadcast", message, world, p) for p in range(world)]
    assert chain == [message] * (world - 1) + [0]


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(KeyError, match="gossip"):
        ring_bytes("gossip", 8, 2)


def count_in_and_out(rank: int, world: int) -> dict:
    group, tensor = dist.group.WORLD, torch.ones(3, dtype=torch.bfloat16)
    collectives.all_reduce(tensor, group)
    with count() as outer:
        collectives.all_reduce(tensor, group)
        with count() as inner:
            collectives.all_reduce(tensor, group)
        collectives.all_reduce(tensor, group)
    try:
        with count() as broken:
            raise ValueError
    except ValueError:
        collectives.all_reduce(tensor, group)
    return {
        "outer": (outer.calls, outer.message_bytes),
        "inner": (inner.calls, inner.message_bytes),
        "broken": broken.calls,
        "left": collectives._open,
    }


def test_counting_ends_with_its_context(pool2: Pool) -> None:
    for got in pool2.run(count_in_and_out):
        assert got == {
            "outer": (3, 18),
            "inner": (1, 6),
            "broken": 0,
            "left": (),
        }
