"""measure_links on gloo ranks: every part, and its whole launch."""

import json
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from launching import launch_ranks

from workshop.bench.links.all_reduce import all_reduce_curve, check_sum
from workshop.bench.links.send_recv import message_matrix
from workshop.lab1 import measure_links

CPU, MODULE = torch.device("cpu"), measure_links.__name__


def curve(rank, world):
    return all_reduce_curve(CPU, [8, 4096, 65536], dist.group.WORLD)


def matrix(rank, world):
    return message_matrix(CPU, 65536, dist.group.WORLD, repeats=3)


def wrong_sum(rank, world):
    real = dist.all_reduce

    def forgets_the_last(tensor, **keywords):
        if rank == world - 1:
            tensor = tensor.zero_()
        return real(tensor, **keywords)

    dist.all_reduce = forgets_the_last
    try:
        check_sum(CPU)
    finally:
        dist.all_reduce = real


def test_all_ranks_get_the_same_curve(pool2):
    first, second = pool2.run(curve)
    assert first == second
    assert [p.bytes for p in first] == [8, 4096, 65536]
    assert all(p.seconds > 0 and p.repeats == 20 for p in first)
    assert first[-1].algorithm_bandwidth > first[0].algorithm_bandwidth
    # n = 2: each rank sends as many bytes as the message has
    assert first[0].bus_bandwidth == first[0].algorithm_bandwidth


def test_every_ordered_pair_of_ranks_exchanges_messages(pool4):
    first, *others = pool4.run(matrix)
    assert all(other == first for other in others)
    pairs = [(m.source, m.target) for m in first]
    assert pairs == [(i, j) for i in range(4) for j in range(4) if i != j]
    assert all(
        min(m.unidirectional, m.bidirectional, m.latency) > 0 for m in first
    )


def test_a_wrong_sum_is_never_timed(pool2):
    with pytest.raises(RuntimeError, match="gave 1.0 where the sum is 3.0"):
        pool2.run(wrong_sum)


def test_the_launch_command_writes_every_measure(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    done = launch_ranks(MODULE, ranks=2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 MiB" in done.stdout and "0 → 1" in done.stdout
    meta, *measures = map(json.loads, metrics.read_text().splitlines())
    assert meta["event"] == "meta" and meta["backend"] == "gloo"
    assert (meta["world_size"], meta["nodes"], meta["hosts"]) == (2, 1, 1)
    assert {m["event"] for m in measures} == {"measure"}
    counts = Counter(m["name"] for m in measures)
    sizes = 18  # 8 B doubled up to 1 MiB
    fitted = {name for name in counts if name.startswith("all_reduce_fit")}
    fitted |= {"all_reduce_alpha", "all_reduce_beta"} & set(counts)
    assert {n: c for n, c in counts.items() if n not in fitted} == {
        "device_copy": 2,
        "matmul": 2,
        "p2p_bandwidth": 2,
        "p2p_latency": 2,
        "send_recv_bandwidth": 4,
        "send_recv_latency": 2,
        "all_reduce_time": sizes,
        "all_reduce_algbw": sizes,
        "all_reduce_busbw": sizes,
    }
    # on a busy machine no bandwidth may fit; then nothing is written of it
    assert len(fitted) in (0, 4)
    assert all(m["value"] > 0 for m in measures if m["name"] not in fitted)
    keys = [(m["name"], str(sorted(m["labels"].items()))) for m in measures]
    assert len(set(keys)) == len(keys)


def test_a_message_of_no_size_is_refused_in_one_sentence():
    done = launch_ranks(MODULE, "--max-mib", 0)
    assert done.returncode == 2
    assert done.stderr == "error: --max-mib 0 is too small: give 1 or more\n"


def test_one_plain_process_measures_its_own_device(tmp_path):
    path = tmp_path / "metrics.jsonl"
    done = launch_ranks(MODULE, "--metrics", path)
    assert done.returncode == 0, done.stderr
    assert "nobody to exchange messages with" in done.stdout
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {e.get("name") for e in events} == {
        None,
        "device_copy",
        "matmul",
        "p2p_bandwidth",
        "p2p_latency",
    }
