"""The α-β fit, the sizes, and what an all-reduce's bandwidth means."""

import pytest
import torch

from workshop.bench.links import point_to_point
from workshop.bench.links.all_reduce import Point, message_sizes, repeats_of
from workshop.bench.links.fit import fit_alpha_beta
from workshop.bench.links.point_to_point import copy_matrix, staged_copy
from workshop.bench.links.report import bytes_text


def test_the_fit_recovers_alpha_and_beta_exactly():
    sizes = message_sizes(2**30)
    fit = fit_alpha_beta(sizes, [20e-6 + size / 300e9 for size in sizes])
    assert fit.alpha == pytest.approx(20e-6, rel=1e-9)
    assert fit.beta == pytest.approx(300e9, rel=1e-9)
    assert fit.largest_error < 1e-9
    assert fit.seconds(300e9) == pytest.approx(1 + 20e-6)


def test_the_fit_hears_short_messages_as_well_as_long_ones():
    # Plain least squares would give all weight to the last two points.
    sizes, seconds = [8, 64, 512, 2**29, 2**30], [1e-5, 1e-5, 1e-5, 1, 2.2]
    fit = fit_alpha_beta(sizes, seconds)
    assert fit.alpha == pytest.approx(1e-5, rel=0.05)
    assert 0 < fit.typical_error <= fit.largest_error < 0.1


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([8, 8], [1e-5, 1e-5], "two sizes"),
        ([8, 1024], [2e-5, 1e-5], "do not grow"),
    ],
)
def test_points_without_a_bandwidth_are_refused(sizes, seconds, message):
    with pytest.raises(ValueError, match=message):
        fit_alpha_beta(sizes, seconds)


def test_sizes_run_from_8_bytes_to_the_largest():
    sizes = message_sizes(2**30)
    assert (sizes[0], sizes[-1], len(sizes)) == (8, 2**30, 28)
    assert message_sizes(100, factor=4) == [8, 32, 100]


def test_the_longest_messages_are_repeated_less_often():
    assert [repeats_of(2**k) for k in (3, 26, 28, 30)] == [20, 20, 10, 5]


@pytest.mark.parametrize(("world", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_bus_bandwidth_is_that_of_nccl_tests(world, factor):
    point = Point(bytes=1000, seconds=1e-6, repeats=20, world=world)
    assert point.algorithm_bandwidth == pytest.approx(1e9)
    assert point.bus_bandwidth == pytest.approx(factor * 1e9)


def test_a_staged_copy_moves_every_byte(monkeypatch):
    made = []
    empty = torch.empty

    def poisoned(*size, **keywords):
        keywords.pop("pin_memory", None)
        made.append(empty(*size, **keywords).fill_(255))
        return made[-1]

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(point_to_point, "CHUNK_BYTES", 300)
    cpu = torch.device("cpu")
    staged_copy(cpu, cpu, 1000)()
    assert len(made) == 2 and all(bool((t == 1).all()) for t in made)


def test_the_copy_matrix_is_square_on_every_path():
    cpu = torch.device("cpu")
    copies = copy_matrix([cpu, cpu], 4096, repeats=2)
    assert [(c.path, c.source, c.target) for c in copies] == [
        (path, i, j)
        for path in ("direct", "staged")
        for i in range(2)
        for j in range(2)
    ]
    for c in copies:
        assert c.unidirectional > 0 and c.latency > 0
        assert (c.bidirectional is None) == (c.source == c.target)


def test_sizes_are_written_as_people_do():
    texts = [bytes_text(n) for n in (8, 2048, 3 * 2**20, 2**30)]
    assert texts == ["8 B", "2 KiB", "3 MiB", "1 GiB"]
