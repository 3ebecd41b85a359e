"""The checks of chapter 01's exercises; its view of machines and links."""

from types import SimpleNamespace

import pytest

from workshop.exercises import cluster as exercises
from workshop.notebook.machine import machine
from workshop.records.predict.links import alpha_beta


def bucket_time(sizes, limit, alpha, beta):
    messages, room = 0, -1
    for size in sizes:
        if size > room:
            messages, room = messages + 1, limit
        room -= size
    return messages * alpha + sum(sizes) / beta


def one_by_one(sizes, limit, alpha, beta):
    return len(sizes) * alpha + sum(sizes) / beta


def any_room(sizes, limit, alpha, beta):
    rooms = []
    for size in sizes:
        fits = [i for i, room in enumerate(rooms) if size <= room]
        if fits:
            rooms[fits[0]] -= size
        else:
            rooms.append(limit - size)
    return len(rooms) * alpha + sum(sizes) / beta


def left_open(sizes, limit, alpha, beta):
    messages, room = 0, -1
    for size in sizes:
        messages += size > room
        if size <= limit:
            room = (room if size <= room else limit) - size
    return messages * alpha + sum(sizes) / beta


def by_order_of(*links):
    """Return an answer that believes in an order of links, best first."""

    def known(link):
        return next(
            i for i, each in enumerate(links) if link.startswith(each)
        )

    return lambda matrix: min(
        WAYS, key=lambda way: max(known(matrix[i][j]) for i, j in way)
    )


WAYS = [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]]


def best_pairs(matrix):
    return max(
        WAYS,
        key=lambda way: min(exercises.rank_of(matrix[i][j]) for i, j in way),
    )


def nearest_first(matrix):
    return max(
        WAYS,
        key=lambda way: max(exercises.rank_of(matrix[i][j]) for i, j in way),
    )


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (
            exercises.check_half_length,
            lambda alpha, beta: alpha * beta,
            lambda alpha, beta: beta / alpha,
        ),
        (exercises.check_bucket_time, bucket_time, one_by_one),
        (exercises.check_pairs, best_pairs, lambda m: [(0, 1), (2, 3)]),
        (exercises.check_pairs, best_pairs, lambda m: [(0, 1), (1, 2)]),
        (exercises.check_bucket_time, bucket_time, any_room),
        (exercises.check_bucket_time, bucket_time, left_open),
        (exercises.check_pairs, best_pairs, nearest_first),
        *(
            (exercises.check_pairs, best_pairs, by_order_of(*wrong.split()))
            for wrong in (
                "NV PIX PXB PHB NODE SYS",
                "NV4 NV12 NV1 PIX PXB PHB NODE SYS",
                "NV12 NV4 NV1 PXB PIX PHB NODE SYS",
                "NV12 NV4 NV1 PIX PHB PXB NODE SYS",
                "NV12 NV4 NV1 PIX PXB NODE PHB SYS",
                "NV12 NV4 NV1 PIX PXB PHB SYS NODE",
            )
        ),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong
) -> None:
    assert check(right) == exercises.RIGHT
    assert check(wrong) not in (exercises.RIGHT, exercises.MISSING)
    assert check(None) == exercises.MISSING


def record(gpus: int) -> dict:
    """Return the parts of a record that describe hardware."""
    model = {"model": "GPU X", "memory_gib": 80.0, "multiprocessors": 100}
    table = {
        "devices": ["GPU0", "GPU1", "NIC0"],
        "matrix": [["X", "NV4", "SYS"], ["NV4", "X", "SYS"], ["SYS"] * 3],
        "nvlink": [{"gpu": i, "links": 4, "gb_per_s": 100.0} for i in (0, 1)],
    }
    return {
        "layout": "two Slurm nodes on one host",
        "hosts": [
            {
                "node": f"node{n + 1}",
                "gpus": [{"host_index": n}] if gpus else [],
            }
            for n in (0, 1)
        ],
        "hardware": {
            "gpus": [model] * gpus,
            "links": table if gpus else None,
            "peer_access": [[True] * gpus] * gpus or None,
            "cpu": {
                "model": "CPU Y",
                "usable": 16,
                "memory_gib": 250.0,
                "memory_limit_gib": 128.0 if gpus else None,
            },
        },
        "transports": {"channels": {"P2P/CUMEM": 8} if gpus else {}},
    }


def test_a_machine_with_gpus_names_links_and_transports() -> None:
    text = machine(SimpleNamespace(record=record(2)))
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines["layout"] == "two Slurm nodes on one host"
    assert lines["node2"] == "GPU 1 of its host"
    assert lines["GPU0-GPU1"] == "NV4" and "NIC0" not in text
    assert "4 links a GPU, 100 GB/s each way" in text
    assert "limited to 128" in lines["memory"]
    assert "P2P/CUMEM" in text and "peer access  yes" in text


def test_a_machine_without_gpus_says_so_and_leaves_the_rest_out() -> None:
    text = machine(SimpleNamespace(record=record(0)))
    assert "node1   no GPU" in text
    assert not {"NVLink", "NCCL used", "peer access"} & {
        line.split("  ")[0] for line in text.splitlines()
    }


def test_a_link_is_its_fit_or_its_shortest_and_longest_message() -> None:
    summary = {
        "all_reduce_time{bytes=8}": {"median": 20.0},
        "all_reduce_time{bytes=64}": {"median": 30.0},
        "all_reduce_time{bytes=1024}": {"median": 10.0},
    }
    run = SimpleNamespace(name="lab1/x", summary=summary)
    assert alpha_beta(run) == pytest.approx((20e-6, 1024 / 10e-6))
    summary["all_reduce_alpha"] = {"median": 21.0}
    summary["all_reduce_beta"] = {"median": 300.0}
    assert alpha_beta(run) == pytest.approx((21e-6, 300e9))
