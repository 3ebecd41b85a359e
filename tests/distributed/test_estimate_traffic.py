"""The traffic by formula equals what every rank of a layout counts."""

from collections import Counter
from dataclasses import asdict

import pytest
import torch
from pool import Pool, groups_closed

from workshop.collectives import count
from workshop.estimate.communication import sent_bytes, traffic
from workshop.estimate.data_parallel import gradients, in_buckets
from workshop.groups import Groups, make_groups
from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.stages import make_stages
from workshop.parallel.tensor import transform as tensor_parallel

CONFIG = GPTConfig(5, 16, 4, 8, 37)
BUCKET_MIB = 0.02

TWO = [
    {"dp": 2},
    {"dp": 2, "num_microbatches": 3},
    {"tp": 2},
    {"tp": 2, "num_microbatches": 3},
    {"tp": 2, "sequence_parallel": True},
    {"pp": 2},
    {"pp": 2, "num_microbatches": 3, "schedule": "gpipe"},
    {
        "pp": 2,
        "num_microbatches": 4,
        "schedule": "interleaved",
        "virtual_stages": 2,
    },
]
FOUR = [
    {"tp": 4, "sequence_parallel": True, "num_microbatches": 2},
    {"pp": 4, "num_microbatches": 5},
    {"tp": 2, "pp": 2, "num_microbatches": 2},
    {"tp": 2, "pp": 2, "num_microbatches": 2, "sequence_parallel": True},
    {"dp": 2, "tp": 2},
    {"dp": 2, "pp": 2, "num_microbatches": 2},
]


@groups_closed()
def counted(rank: int, world: int, layout: Layout, overlapped: bool) -> list:
    """Run a step; return the ledger's entries of this rank."""
    groups = make_groups(layout)
    torch.manual_seed(0)
    chunks = [GPT(CONFIG).double()]
    p, v = layout.pp, layout.virtual_stages
    if p > 1:
        chunks = make_stages(chunks[0], CONFIG, groups.at.pp, p, v)
    models, placements = [], []
    for chunk in chunks:
        placements.append(
            tensor_parallel.apply(
                chunk,
                tensor_parallel.PLAN,
                groups.tp,
                layout.sequence_parallel,
            )
        )
        if layout.dp > 1 and overlapped:
            models.append(
                OverlappedDataParallel(chunk, groups.dp, BUCKET_MIB)
            )
        elif layout.dp > 1:
            models.append(NaiveDataParallel(chunk, groups.dp))
        else:
            models.append(chunk)
    b, m, s = layout.micro_batch, layout.num_microbatches, 8
    tokens = torch.randint(0, CONFIG.vocabulary, (m, b, s))
    batches = [(one, one) for one in tokens]
    if p == 1:
        with count() as ledger:
            for i, (x, y) in enumerate(batches):
                if layout.dp > 1 and i < m - 1:
                    with models[0].no_sync():
                        models[0](x, y).backward()
                else:
                    models[0](x, y).backward()
            finish(models, chunks, placements, groups)
        return ledger.entries
    share = layout.tp if layout.sequence_parallel else 1
    schedule = make_schedule(layout.schedule, p, m, v)
    shape = (b, s // share, CONFIG.hidden)
    pipeline = Pipeline(models, schedule, groups.pp, shape)
    with count() as ledger:
        pipeline.forward_backward(batches)
        finish(models, chunks, placements, groups)
        pipeline.finish_gradients()
    pipeline.close()
    return ledger.entries


def finish(
    models: list, chunks: list, placements: list, groups: Groups
) -> None:
    for model in models:
        if groups.layout.dp > 1:
            model.finish()
    if groups.layout.tp > 1:
        for chunk, placement in zip(chunks, placements, strict=True):
            tensor_parallel.finish_gradients(chunk, placement, groups.tp)


def totals(entries: list) -> Counter:
    """Return operation and size -> messages' elements, bytes, ring bytes."""
    sums: Counter = Counter()
    for one in entries:
        # The scalar loss, and the other end of a send, which costs nothing.
        if one.operation in ("broadcast", "receive"):
            continue
        key = one.operation, one.group_size
        sums[*key, "elements"] += one.elements
        sums[*key, "bytes"] += one.message_bytes
        sums[*key, "sent"] += float(one.ring_bytes)
    return sums


def predicted(entries: list[dict]) -> Counter:
    sums: Counter = Counter()
    for one in entries:
        key = one["operation"], one["ranks"]
        elements = one["times"] * one["elements"]
        size = elements * one["element_bytes"]
        sums[*key, "elements"] += elements
        sums[*key, "bytes"] += size
        sums[*key, "sent"] += sent_bytes(one["operation"], size, one["ranks"])
    return sums


def compare(pool: Pool, sizes: dict, overlapped: bool = False) -> None:
    layout = Layout(micro_batch=2, **sizes)
    for rank, ledger in enumerate(pool.run(counted, layout, overlapped)):
        at = layout.coordinate(rank)
        expected = traffic(asdict(CONFIG), layout, at.pp, element_bytes=8)
        sums = totals(ledger)
        assert sums.keys() == predicted(expected).keys()
        for key, value in predicted(expected).items():
            assert sums[key] == pytest.approx(value, rel=1e-12), key


@pytest.mark.parametrize("sizes", TWO, ids=str)
def test_two_ranks(pool2: Pool, sizes: dict) -> None:
    compare(pool2, sizes)


@pytest.mark.parametrize("sizes", FOUR, ids=str)
def test_four_ranks(pool4: Pool, sizes: dict) -> None:
    compare(pool4, sizes)


@pytest.mark.parametrize("overlapped", [False, True])
def test_the_messages_of_data_parallelism_one_by_one(
    pool2: Pool, overlapped: bool
) -> None:
    layout = Layout(dp=2, micro_batch=2)
    expected = gradients(asdict(CONFIG), layout)
    if overlapped:
        expected = in_buckets(expected, BUCKET_MIB, element_bytes=8)
        assert len(expected) > 3
    for ledger in pool2.run(counted, layout, overlapped):
        sizes = [one.elements for one in ledger]
        if not overlapped:
            sizes.reverse()
        assert sizes == [elements for elements, _ in expected]
