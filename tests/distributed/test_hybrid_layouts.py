"""Every layout of 2, 4 and 8 ranks trains what the dense model trains.

Loss, gradient norm, every gradient and every weight, over two steps, in
float64: for all dp · tp · pp, num_microbatches and schedules, sequence
parallelism on and off.
"""

from dataclasses import replace

import pytest
from hybrid_cases import Case, names, of
from hybrid_parity import verify
from pool import Pool

from workshop.errors import UserError
from workshop.layout import Layout

CLIP = 0.05
CHUNKS = {"schedule": "interleaved", "virtual_stages": 2}


def sizes(world: int) -> list[dict]:
    """Return every tensor × pipeline × sequence parallel layout."""
    each = [size for size in (1, 2, 4, 8) if size <= world]
    return [
        {"tp": tp, "pp": pp, "sequence_parallel": sp}
        for tp in each
        for pp in each
        if tp * pp <= world
        for sp in ((False, True) if tp > 1 else (False,))
    ]


def cases(world: int) -> list[Case]:
    """Return each layout with 1, 2 and 4 micro-batches and all schedules.

    Four ranks take one step of each; the variants below take two.
    """
    every = []
    for size in sizes(world):
        plain = size["pp"] == 1
        # On four ranks two are like four, only fewer.
        for m in (1, 4) if world > 2 else (1, 2, 4):
            every.append(Case(of(world, m=m, **size)))
        if not plain:
            every.append(Case(of(world, m=4, schedule="gpipe", **size)))
        if size["pp"] == 2:
            for m in (2, 4):
                every.append(Case(of(world, m=m, **CHUNKS, **size)))
    if world > 2:
        every = [replace(case, steps=1) for case in every]
    return every


def variants(world: int) -> list[Case]:
    """Return other optimizers, models and ways to average, with clipping."""
    every = []
    for size in sizes(world):
        layout = of(world, m=2, **size)
        every.append(Case(layout, optimizer="adamw", clip=CLIP))
        if world == 2:
            every.append(Case(layout, clip=CLIP, awkward=True))
        every.append(Case(layout, clip=CLIP, tied=False, awkward=world > 2))
        if world == 2 or size["tp"] == size["pp"] == 2:
            every.append(Case(layout, recompute="full"))
            core = {"attention": "core", "recompute": "selective"}
            every.append(Case(layout, **core))
    for way in ("naive", "overlapped-collective", "ddp"):
        every.append(Case(of(world, m=2), data_parallel=way))
    every.append(Case(of(world, pp=2, m=2), data_parallel="naive"))
    if world > 2:
        every.append(Case(of(world, tp=2, m=2), data_parallel="ddp"))
        every.append(Case(of(world, pp=2, m=4), bucket_mib=0.001))
        every.append(Case(of(world, pp=2, m=2, cut=(3, 1))))
    return every


def ignoring(world: int) -> list[Case]:
    """Return layouts whose micro-batches differ in tokens that count.

    A first micro-batch may have none at all.
    """
    if world == 2:
        return [Case(of(2, m=2, **size), ignored=True) for size in sizes(2)]
    return [
        Case(of(4, tp=2, pp=2, m=2, sequence_parallel=True), ignored=True),
        Case(of(4, tp=2, m=2), ignored=True, compiled=True),
        Case(of(4, pp=2, m=4, **CHUNKS), ignored=True),
        Case(of(4, m=4), ignored=True, data_parallel="ddp"),
    ]


def of_eight() -> list[Case]:
    """Return one layout of eight ranks for each way to mix all three."""
    split = {"sequence_parallel": True}
    return [
        Case(of(8, tp=2, pp=2, m=2, **split, **CHUNKS), clip=CLIP),
        Case(of(8, tp=2, pp=4, m=2), optimizer="adamw"),
        Case(of(8, tp=4, pp=2, m=2, **split)),
        Case(of(8, tp=2, m=2, **split), awkward=True),
        Case(of(8, pp=4)),
    ]


@pytest.mark.parametrize("make", [cases, variants, ignoring])
def test_two_ranks(pool2: Pool, make) -> None:
    verify(pool2, make(2))


@pytest.mark.parametrize("make", [cases, variants, ignoring])
def test_four_ranks(pool4: Pool, make) -> None:
    verify(pool4, make(4))


def test_eight_ranks(pool8: Pool) -> None:
    verify(pool8, of_eight())


@pytest.mark.long
def test_every_layout_of_eight_ranks(pool8: Pool) -> None:
    cases = [
        Case(of(8, m=2, **size), deep=True, clip=CLIP) for size in sizes(8)
    ]
    assert len(cases) == 16
    verify(pool8, cases, timeout=500)


def test_compiled_blocks_on_two_ranks(pool2: Pool) -> None:
    """Each block is one graph, communication included."""
    split = of(2, tp=2, m=2, sequence_parallel=True)
    cases = [
        Case(split),
        Case(of(2, pp=2, m=2)),
        Case(split, recompute="full"),
    ]
    cases.append(Case(split, attention="core", recompute="selective"))
    verify(pool2, [replace(case, compiled=True) for case in cases])


@pytest.mark.long
def test_compiled_blocks_in_four_ranks(pool4: Pool) -> None:
    layouts = [
        of(4, tp=2, pp=2, m=2, sequence_parallel=True),
        of(4, pp=2, m=2),
        of(4, tp=2, m=2),
    ]
    verify(pool4, [Case(layout, compiled=True) for layout in layouts])


def test_every_layout_is_there() -> None:
    covered = names(cases(4))
    assert len(set(covered)) == len(covered)
    for part in ("tp4 pp1", "tp1 pp4", "tp2 pp2", "sp", "interleaved", "m1"):
        assert any(part in name for name in covered)


def trained_unasked(rank: int, world: int, layout: Layout) -> str:
    """Return what a trainer says of targets that nobody told it of."""
    trainer = Case(layout).trainer()
    batches = Case(layout, ignored=True).batches(0, trainer.groups.at.dp)
    with pytest.raises(UserError) as refused:
        trainer.step(batches, 0.1)
    return str(refused.value)


def test_ignored_targets_are_refused_where_none_are_expected(
    pool2: Pool,
) -> None:
    says = pool2.run(trained_unasked, of(2, tp=2, m=2))
    assert all("ignored_targets=True" in each for each in says)
