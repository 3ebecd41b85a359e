"""measure_links on real GPUs: every number there, and plausible."""

import math

import torch


def test_measure_links_fills_every_table(two_gpus, launch):
    done = launch("workshop.lab1.measure_links", "--max-mib", "64")
    (meta,) = done.of("meta")
    assert meta["backend"] == "nccl"
    assert meta["devices"] == [torch.cuda.get_device_name(0)] * 2
    values = {
        (m["name"], *sorted(map(str, m["labels"].items()))): m["value"]
        for m in done.of("measure")
    }
    assert len(values) == len(done.of("measure"))
    assert all(math.isfinite(value) for value in values.values())

    copies = [
        (m["labels"], m["value"])
        for m in done.of("measure")
        if m["name"] == "p2p_bandwidth"
    ]
    gpus = range(torch.cuda.device_count())
    for path in ("direct", "staged"):
        one_way = {
            (labels["from"], labels["to"]): value
            for labels, value in copies
            if labels["path"] == path
            and labels["direction"] == "unidirectional"
        }
        assert set(one_way) == {(i, j) for i in gpus for j in gpus}
        # PCIe 3.0 ×4 moves 4 GB/s, and no memory moves 20 TB/s
        assert all(1 < value < 20_000 for value in one_way.values())

    for m in done.of("measure"):
        if m["name"] == "device_copy":
            assert 100 < m["value"] < 20_000
        if m["name"] == "matmul":
            assert 10 < m["value"] < 5_000
        if m["name"] in ("all_reduce_time", "p2p_latency"):
            assert 0 < m["value"] < 1e6
    times = {
        m["labels"]["bytes"]: m["value"]
        for m in done.of("measure")
        if m["name"] == "all_reduce_time"
    }
    assert (min(times), max(times)) == (8, 64 * 2**20)
    assert times[64 * 2**20] > times[8]


def test_more_ranks_than_gpus_is_one_sentence(launch):
    done = launch(
        "workshop.lab1.measure_links",
        ranks=2,
        expect=1,
        CUDA_VISIBLE_DEVICES="0",
    )
    errors = [
        line for line in done.stderr.splitlines() if line.startswith("error:")
    ]
    assert len(errors) == 1 and "1 GPU:" in errors[0]
