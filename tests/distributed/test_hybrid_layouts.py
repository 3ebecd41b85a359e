"""Every layout of 2, 4 and 8 ranks trains what the dense model trains.

Loss, gradient norm, every gradient and every weight, over two steps, in
float64: for all dp · tp · pp, num_microbatches and schedules, sequence
parallelism on and off.
"""

from dataclasses import replace

import pytest
from hybrid_cases import Case, names
from hybrid_parity import verify
from pool import Pool

from workshop.training.layout import Layout

CLIP = 0.05


def layouts(world: int) -> list[Layout]:
    """Return every tensor × pipeline × sequence parallel layout."""
    sizes = [size for size in (1, 2, 4, 8) if size <= world]
    return [
        Layout(tp, pp, sp)
        for tp in sizes
        for pp in sizes
        if tp * pp <= world
        for sp in ((False, True) if tp > 1 else (False,))
    ]


def cases(world: int) -> list[Case]:
    """Return each layout with 1, 2 and 4 micro-batches and all schedules."""
    found = []
    for layout in layouts(world):
        plain = layout.pipeline == 1
        # Without a pipeline two are like four, only fewer.
        for m in (1, 4) if plain and world > 2 else (1, 2, 4):
            found.append(Case(layout, m))
        if not plain:
            found.append(Case(replace(layout, schedule="gpipe"), 4))
        if layout.pipeline == 2:
            chunks = replace(layout, schedule="interleaved", virtual_stages=2)
            found += [Case(chunks, 2), Case(chunks, 4)]
    return found


def variants(world: int) -> list[Case]:
    """Return other optimizers, models and ways to average, with clipping."""
    found = []
    for layout in layouts(world):
        found.append(Case(layout, 2, optimizer="adamw", clip=CLIP))
        found.append(Case(layout, 2, clip=CLIP, awkward=True))
    for way in ("naive", "ddp"):
        found.append(Case(Layout(data_parallel=way), 2))
    found.append(Case(Layout(pipeline=2, data_parallel="naive"), 2))
    if world > 2:
        found.append(Case(Layout(tensor=2, data_parallel="ddp"), 2))
        found.append(Case(Layout(pipeline=2, bucket_mib=0.001), 4))
    return found


def of_eight() -> list[Case]:
    """Return one layout of eight ranks for each way to mix all three."""
    chunks = {"schedule": "interleaved", "virtual_stages": 2}
    return [
        Case(Layout(2, 2, True, **chunks), 2, clip=CLIP),
        Case(Layout(2, 4), 2, optimizer="adamw"),
        Case(Layout(4, 2, True), 2),
        Case(Layout(2, 1, True), 2, awkward=True),
        Case(Layout(1, 4), 1),
    ]


@pytest.mark.parametrize("make", [cases, variants])
def test_two_ranks(pool2: Pool, make) -> None:
    verify(pool2, make(2), timeout=120)


@pytest.mark.parametrize("make", [cases, variants])
def test_four_ranks(pool4: Pool, make) -> None:
    verify(pool4, make(4), timeout=240)


def test_eight_ranks(pool8: Pool) -> None:
    verify(pool8, of_eight(), timeout=120)


@pytest.mark.long
def test_every_layout_of_eight_ranks(pool8: Pool) -> None:
    cases = [Case(layout, 2, deep=True, clip=CLIP) for layout in layouts(8)]
    assert len(cases) == 16
    verify(pool8, cases, timeout=500)


def test_compiled_blocks_in_four_ranks(pool4: Pool) -> None:
    """Each block is one graph, communication included."""
    layouts = [Layout(2, 2, True), Layout(1, 2), Layout(2)]
    verify(pool4, [Case(layout, 2, compiled=True) for layout in layouts], 240)


def test_every_layout_is_there() -> None:
    found = names(cases(4))
    assert len(set(found)) == len(found)
    for part in ("tp4 pp1", "tp1 pp4", "tp2 pp2", "sp", "interleaved", "m1"):
        assert any(part in name for name in found)
