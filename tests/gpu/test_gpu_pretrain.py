"""Pretraining on NCCL: well-formed metrics, and one loss for all ways."""

import json
import math

import pytest
from pretrain_runs import pretrain as in_pool
from pretrain_runs import values

FIELDS = {
    "step",
    "loss",
    "grad_norm",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "tflops_per_gpu",
    "mfu",
    "memory_gib",
    "step_time_s",
    "warmup",
}
STEPS = 7


@pytest.fixture
def pretrain(launch):
    def run(way: str, *arguments: str):
        return launch(
            "workshop.lab1.pretrain_gpt",
            "--steps",
            str(STEPS),
            "--warmup-steps",
            "2",
            "--data-parallel",
            way,
            "--corpus-mib",
            "0.2",
            *arguments,
        )

    return run


def losses(done) -> list[float]:
    return [event["loss"] for event in done.of("step")]


def test_all_ways_train_on_nccl_with_the_same_losses(
    pretrain, nccl2, tmp_path
):
    overlapped = pretrain("overlapped", "--trace")
    steps = overlapped.of("step")
    assert [s["step"] for s in steps] == list(range(1, STEPS + 1))
    for s in steps:
        assert s.keys() >= FIELDS
        assert (
            all(math.isfinite(s[f]) for f in FIELDS - {"mfu"})
            and s["memory_gib"] > 0
        )
    (meta,) = overlapped.of("meta")
    assert meta["world_size"] == 2 and meta["device"] != "cpu"

    profile = json.loads((overlapped.artifacts / "profile.json").read_text())
    assert len(profile["steps"]) == 3
    assert 0 <= profile["overlap_fraction"] <= 1
    assert profile["communication_ms"] > 0 and profile["compute_ms"] > 0
    assert (overlapped.artifacts / "trace.json.gz").stat().st_size < 300_000
    names = {m["name"] for m in overlapped.of("measure")}
    assert {"overlap_fraction", "exposed_communication_ms"} <= names

    for way in ("naive", "overlapped-collective", "ddp"):
        options = ("--steps", str(STEPS), "--data-parallel", way)
        first, _ = nccl2.run(in_pool, tmp_path, *options, timeout=120)
        # float32 sums in another order, a few updates long
        assert [loss for _, loss, _ in values(first)] == pytest.approx(
            losses(overlapped), rel=1e-3
        ), way


def test_one_gpu_trains_compiled_in_bf16(launch):
    done = launch(
        "workshop.lab1.pretrain_gpt",
        "--steps",
        "8",
        "--compile",
        "--bf16",
        ranks=1,
    )
    curve = losses(done)
    assert curve[-1] < curve[0]
