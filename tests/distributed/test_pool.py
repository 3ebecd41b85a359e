"""The pool itself: results, exceptions, hangs, deaths, and what follows."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from pool import Pool, RankError


def sum_of_ranks(rank: int, world: int, scale: float) -> tuple[float, int]:
    total = torch.tensor([rank * scale], dtype=torch.float64)
    dist.all_reduce(total)
    return total.item(), os.getpid()


def raise_on(rank: int, world: int, bad: int) -> None:
    print(f"rank {rank} says hello")
    if rank == bad:
        raise ValueError(f"planted on rank {rank}")
    dist.barrier()


def raise_everywhere(rank: int, world: int) -> None:
    raise KeyError(f"planted on rank {rank}")


def miss_a_barrier(rank: int, world: int, absent: int) -> None:
    if rank != absent:
        wait_at_the_barrier()


def wait_at_the_barrier() -> None:
    dist.barrier()


def die_on(rank: int, world: int, victim: int) -> None:
    if rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def return_what_cannot_travel(rank: int, world: int) -> object:
    return lambda: None


def assert_works(pool: Pool) -> None:
    world = pool.world
    totals = [total for total, _ in pool.run(sum_of_ranks, 2.0)]
    assert totals == [world * (world - 1.0)] * world


def test_results_come_in_the_order_of_the_ranks(pool4: Pool) -> None:
    answers = pool4.run(sum_of_ranks, 0.5)
    assert [total for total, _ in answers] == [3.0] * 4
    assert len({pid for _, pid in answers}) == 4


def test_ranks_stay_for_the_next_call(pool2: Pool) -> None:
    first = [pid for _, pid in pool2.run(sum_of_ranks, 1.0)]
    assert [pid for _, pid in pool2.run(sum_of_ranks, 1.0)] == first


def test_an_exception_names_its_rank_and_where_the_other_waits(
    pool2: Pool,
) -> None:
    with pytest.raises(RankError) as caught:
        pool2.run(raise_on, 1)
    failures = caught.value.failures
    assert "ValueError: planted on rank 1" in failures[1]
    assert "rank 1 says hello" in failures[1]
    assert "in raise_on" in failures[0]
    assert "ValueError" not in failures[0]
    assert_works(pool2)


def test_the_tracebacks_of_all_ranks_come_back(pool2: Pool) -> None:
    with pytest.raises(RankError) as caught:
        pool2.run(raise_everywhere)
    text = str(caught.value)
    for rank in range(2):
        assert f"KeyError: 'planted on rank {rank}'" in text
    assert "failed on rank 0, 1 of 2" in text
    assert_works(pool2)


def test_a_hang_names_the_rank_and_what_it_was_doing(pool2: Pool) -> None:
    # Long enough for rank 0 to return, however busy the machine.
    with pytest.raises(RankError) as caught:
        pool2.run(miss_a_barrier, 0, timeout=5)
    failures = caught.value.failures
    assert list(failures) == [1]
    assert "rank 1 hangs" in failures[1]
    assert "in wait_at_the_barrier" in failures[1]
    assert_works(pool2)


def test_a_dead_rank_is_reported_and_replaced(pool2: Pool) -> None:
    before = {pid for _, pid in pool2.run(sum_of_ranks, 1.0)}
    with pytest.raises(RankError) as caught:
        pool2.run(die_on, 0)
    assert "rank 0 died" in caught.value.failures[0]
    assert "exit code -9" in caught.value.failures[0]
    assert not before & {pid for _, pid in pool2.run(sum_of_ranks, 1.0)}


def test_a_result_that_cannot_travel_is_an_error(pool2: Pool) -> None:
    with pytest.raises(RankError, match="pickle"):
        pool2.run(return_what_cannot_travel)
    assert_works(pool2)


def test_stopping_leaves_no_rank_behind() -> None:
    with Pool(2) as pool:
        pids = [pid for _, pid in pool.run(sum_of_ranks, 1.0)]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
