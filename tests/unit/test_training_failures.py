"""Out of memory in one sentence: asked for, there, needed, what to do."""

import resource
import time
from datetime import timedelta

import psutil
import pytest
import torch
import torch.distributed as dist

from workshop.errors import UserError
from workshop.job import failures
from workshop.job.failures import is_lost_connection, memory_explained

CPU = torch.device("cpu")
CUDA_SAYS = (
    "CUDA out of memory. Tried to allocate 12.30 GiB. GPU 0 has a total "
    "capacity of 139.80 GiB of which 3.10 GiB is free."
)


def sentence(error: Exception, parameters: int, tp: int = 1) -> str:
    with (
        pytest.raises(UserError) as raised,
        memory_explained(parameters, tp, 1, CPU),
    ):
        raise error
    return str(raised.value)


def test_it_says_what_was_asked_for_and_what_the_states_need() -> None:
    says = sentence(torch.OutOfMemoryError(CUDA_SAYS), 2**20, tp=4)
    total = psutil.virtual_memory().total / 2**30
    assert "asked for 12.30 GiB more" in says
    assert f"has {total:.1f} GiB" in says
    assert "alone take about 0.0 GiB a rank with tp=4 × pp=1: lower" in says
    assert "\n" not in says


def test_a_smaller_batch_is_no_remedy_where_the_states_do_not_fit() -> None:
    says = sentence(torch.OutOfMemoryError(CUDA_SAYS), 2**44)
    assert "262144.0 GiB a rank" in says
    assert "--micro-batch" not in says
    assert "raise --tensor-parallel-size or --pipeline" in says


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with (
        pytest.raises(UserError, match=r"asked for 1048576.00 GiB more"),
        memory_explained(10, 1, 1, CPU),
    ):
        torch.empty(2**48)


def test_a_limit_of_the_process_is_what_it_has(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**30, 2**31))
    says = sentence(torch.OutOfMemoryError(CUDA_SAYS), 10)
    assert "the process has 1.0 GiB" in says


GLOO_SAYS = (
    "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection "
    "closed by peer [127.0.0.1]:4311."
)


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("the client socket has timed out"),
        dist.DistStoreError("wait timeout"),
        dist.DistBackendError("NCCL communicator was aborted"),
        RuntimeError(GLOO_SAYS),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_c10d_raises_is_a_lost_connection(error) -> None:
    assert is_lost_connection(error)


def test_what_a_lost_connection_has_caused_is_one() -> None:
    stuck = RuntimeError("rank 0 waited for B3")
    stuck.__cause__ = RuntimeError(GLOO_SAYS)
    assert is_lost_connection(stuck)
    stuck.__cause__ = ValueError("hands over another shape")
    assert not is_lost_connection(stuck)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        ConnectionError("Connection to the data server was lost"),
        RuntimeError("no Connection to gloo/transport/tcp/pair.cc:553"),
        KeyError("gloo"),
        ValueError(GLOO_SAYS),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_only_speaks_of_it_is_the_ranks_own(error) -> None:
    assert not is_lost_connection(error)


@pytest.fixture
def store(monkeypatch):
    """The store that the ranks of a job share."""
    shared = dist.HashStore()
    monkeypatch.setattr(
        dist.distributed_c10d, "_get_default_store", lambda: shared
    )
    return shared


def test_a_name_that_is_there_is_not_waited_for(store) -> None:
    store.set(failures.KEY, "1")
    begin = time.monotonic()
    failures.wait_for_name()
    assert time.monotonic() - begin < failures.PATIENCE.total_seconds() / 4


def test_patience_ends_without_a_name(store, monkeypatch) -> None:
    monkeypatch.setattr(failures, "PATIENCE", timedelta(milliseconds=50))
    begin = time.monotonic()
    failures.wait_for_name()
    assert time.monotonic() - begin >= 0.05


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the reader ran out of memory cards"),
        OSError("can't allocate memory for the socket"),
        RuntimeError("said: CUDA out of memory"),
    ],
)
def test_memory_in_a_message_is_no_lack_of_it(error) -> None:
    with (
        pytest.raises(type(error), match=str(error)),
        memory_explained(10, 1, 1, CPU),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes"),
        memory_explained(10, 1, 1, CPU),
    ):
        raise RuntimeError("shapes cannot be multiplied")
