"""Data parallelism equals the dense model: ours, and torch's beside it."""

import gc
import time
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from parity import VALUES, verify
from pool import Pool, RankError
from training_cases import CONFIG, Case, torch_ddp, train_rank

from workshop.models.gpt import GPT
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.data.ways import data_parallel

SMALL, MEDIUM, WHOLE = 0.001, 0.02, 64.0
STRATEGIES = {
    "naive": (NaiveDataParallel, {}, (*VALUES, "traffic")),
    "overlapped-small": (
        OverlappedDataParallel,
        {"bucket_mib": SMALL},
        (*VALUES, "traffic", "overlap"),
    ),
    "overlapped-medium": (
        OverlappedDataParallel,
        {"bucket_mib": MEDIUM},
        (*VALUES, "traffic", "overlap"),
    ),
    "overlapped-whole": (
        OverlappedDataParallel,
        {"bucket_mib": WHOLE},
        (*VALUES, "traffic"),
    ),
    "torch-ddp": (torch_ddp, {"mib": MEDIUM}, VALUES),
}


@pytest.fixture(scope="module")
def pools(pool2: Pool, pool4: Pool) -> Iterator[dict[int, Pool]]:
    with Pool(1) as pool1:
        yield {1: pool1, 2: pool2, 4: pool4}


@pytest.mark.parametrize(
    ("ranks", "optimizer", "num_microbatches"),
    [
        (1, "sgd", 3),
        (2, "sgd", 3),
        (2, "adamw", 1),
        pytest.param(2, "sgd", 1, marks=pytest.mark.long),
        pytest.param(2, "adamw", 3, marks=pytest.mark.long),
        (4, "sgd", 3),
        pytest.param(4, "adamw", 1, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("awkward", [False, True], ids=["gpt", "awkward"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_parity_with_the_dense_model(
    pools: dict[int, Pool],
    name: str,
    optimizer: str,
    num_microbatches: int,
    awkward: bool,
    ranks: int,
) -> None:
    strategy, options, checks = STRATEGIES[name]
    case = Case(
        strategy,
        options,
        awkward,
        optimizer,
        num_microbatches,
        checks=checks,
    )
    verify(pools[ranks], case)


@pytest.mark.parametrize(
    ("mib", "least"), [(SMALL, 10), (MEDIUM, 3), (WHOLE, 1)]
)
def test_all_buckets_but_the_last_leave_before_backward_ends(
    pool2: Pool, mib: float, least: int
) -> None:
    case = Case(OverlappedDataParallel, {"bucket_mib": mib})
    for training in pool2.run(train_rank, case):
        assert training.started >= least - 1
        assert (training.started == 0) == (least == 1)


def test_the_naive_version_sends_after_backward(pool2: Pool) -> None:
    for training in pool2.run(train_rank, Case(NaiveDataParallel)):
        assert training.started == 0
        assert all(training.bytes_sent)


@pytest.mark.parametrize(
    "strategy", [NaiveDataParallel, OverlappedDataParallel]
)
def test_an_unused_parameter_must_be_allowed(pool2: Pool, strategy) -> None:
    with pytest.raises(RankError, match="for unused.*unused=True"):
        pool2.run(train_with_an_unused_parameter, strategy)


def train_with_an_unused_parameter(rank: int, world: int, strategy) -> None:
    case = Case(strategy, awkward=True)
    model = strategy(case.model(rank), dist.group.WORLD)
    model(*case.batch(0, 1)).backward()
    model.finish()


def use_on_one_rank_only(rank: int, world: int, strategy) -> dict:
    torch.manual_seed(0)
    both = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(2, 1), "b": torch.nn.Linear(2, 1)}
    ).double()
    model = strategy(both, dist.group.WORLD, unused=True)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    (both["a"](x) if rank == 0 else both["b"](x)).sum().backward()
    model.finish()
    return {name: p.grad for name, p in both.named_parameters()}


@pytest.mark.parametrize(
    "strategy", [NaiveDataParallel, OverlappedDataParallel]
)
def test_a_parameter_that_some_ranks_use_counts_as_zero_elsewhere(
    pool2: Pool, strategy
) -> None:
    half = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    for gradients in pool2.run(use_on_one_rank_only, strategy):
        torch.testing.assert_close(gradients["a.weight"], half)
        torch.testing.assert_close(gradients["b.weight"], half)


def average_two_types(rank: int, world: int, bucket_mib: float) -> dict:
    """Step twice over weights of two types; rank 1 leaves one out at last."""
    torch.manual_seed(0)
    narrow = torch.nn.Linear(2, 3, bias=False)
    wide = torch.nn.Linear(2, 3, bias=False)
    last = torch.nn.Linear(2, 3, bias=False)
    both = torch.nn.ModuleDict({"a": narrow, "b": wide.double(), "c": last})
    model = OverlappedDataParallel(
        both, dist.group.WORLD, bucket_mib=bucket_mib, unused=True
    )
    for step in range(2):
        model.zero_grad(set_to_none=True)
        x = torch.tensor([1.0, 2.0]) * (rank + 1)
        loss = both["a"](x).sum() + both["b"](x.double()).sum()
        if step == 0 or rank == 0:
            loss = loss + both["c"](x).sum()
        loss.backward()
        model.finish()
    return {name: p.grad for name, p in both.named_parameters()}


@pytest.mark.parametrize("bucket_mib", [SMALL / 100, WHOLE])
def test_types_and_what_one_rank_leaves_out_later_are_averaged(
    pool2: Pool, bucket_mib: float
) -> None:
    # Rank r's gradient is (r + 1) (1, 2) in every row; c's of rank 1 is 0.
    row = torch.tensor([1.0, 2.0])
    due = {"a": 1.5 * row, "b": 1.5 * row.double(), "c": 0.5 * row}
    for gradients in pool2.run(average_two_types, bucket_mib):
        for name, gradient in gradients.items():
            expected = due[name[0]].expand(3, 2)
            torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def backward_twice(rank: int, world: int) -> None:
    torch.manual_seed(0)
    model = OverlappedDataParallel(GPT(CONFIG), dist.group.WORLD)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    for _ in range(2):
        model(tokens, tokens).backward()


def test_a_second_backward_outside_no_sync_is_refused(pool2: Pool) -> None:
    with pytest.raises(RankError, match=r"second gradient.*no_sync\(\)"):
        pool2.run(backward_twice)


def let_go(rank: int, world: int) -> int:
    """Return how many parameters and buckets outlive their wrapper."""
    model = OverlappedDataParallel(
        GPT(CONFIG).double(), dist.group.WORLD, bucket_mib=0.01
    )
    tokens = torch.zeros(2, CONFIG.sequence, dtype=torch.int64)
    model(tokens, tokens).backward()
    model.finish()
    held = [*model.parameters(), *(bucket.flat for bucket in model.buckets)]
    watched = [weakref.ref(one) for one in (model, model.module, *held)]
    del model, held
    # gloo's thread lets go of the last message a moment after its end.
    ends = time.monotonic() + 30
    while (alive := sum(one() is not None for one in watched)) and (
        time.monotonic() < ends
    ):
        gc.collect()
        time.sleep(0.01)
    return alive


def test_a_wrapper_is_freed_with_its_model_and_buckets(pool2: Pool) -> None:
    assert pool2.run(let_go) == [0, 0]


def nothing_trainable(rank: int, world: int) -> str:
    model = GPT(CONFIG).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to average") as refused:
        OverlappedDataParallel(model, dist.group.WORLD)
    return str(refused.value)


def test_nothing_trainable_is_refused(pool2: Pool) -> None:
    assert all("leave data parallelism out" in s
               for s in pool2.run(nothing_trainable))  # fmt: skip


def caps_of(rank: int, world: int) -> tuple[float, float]:
    """Return the bucket of torch's DDP and the largest of ours, in MiB."""
    device, group = torch.device("cpu"), dist.group.WORLD
    ddp, ours = (
        data_parallel(GPT(CONFIG), way, group, device, MEDIUM)
        for way in ("ddp", "overlapped-collective")
    )
    sizes = [
        bucket.elements * 4 / 2**20
        for bucket in ours.buckets
        if len(bucket.parameters) > 1
    ]
    return ddp.bucket_bytes_cap / 2**20, max(sizes)


def test_ddp_and_ours_have_buckets_of_one_size(pool2: Pool) -> None:
    for theirs, ours in pool2.run(caps_of):
        assert theirs == pytest.approx(MEDIUM, rel=1e-3)
        assert MEDIUM / 4 < ours <= MEDIUM
