"""Tensor, sequence and pipeline parallelism on two GPUs, over NCCL."""

import json

import pytest

ATTENTION = "--tensor-parallel-size 2"
STAGES = "--pipeline-parallel-size 2 --num-microbatches 4"


@pytest.mark.usefixtures("two_gpus")
def test_every_layout_of_two_gpus_has_the_dense_gradients(launch) -> None:
    run = launch("workshop.lab1.check_layouts")
    found = {
        event["labels"]["layout"]: event["value"]
        for event in run.of("measure")
        if event["name"] == "gradient_error"
    }
    assert len(found) == 6, sorted(found)
    wrong = {name: error for name, error in found.items() if error > 1e-9}
    assert not wrong, wrong


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    "flags",
    [
        ATTENTION,
        f"{ATTENTION} --sequence-parallel",
        STAGES,
        f"{STAGES} --schedule interleaved --virtual-stages 2",
    ],
)
def test_a_compiled_training_learns_as_on_one_gpu(launch, flags) -> None:
    """The same global batch, bf16 weights: losses agree to their bits."""
    common = [
        "--model", "mini", "--steps", "8", "--micro-batch", "2",
        "--compile", "--bf16-weights", "--warmup-steps", "2",
    ]  # fmt: skip
    ways = [(1, ["--num-microbatches", "4"]), (2, flags.split())]
    if "--num-microbatches" not in flags:
        ways[1][1].extend(["--num-microbatches", "4"])
    losses = []
    for ranks, more in ways:
        run = launch("workshop.lab1.pretrain_gpt", *common, *more,
                     ranks=ranks)  # fmt: skip
        losses.append([event["loss"] for event in run.of("step")])
    assert len(losses[0]) == 8 and losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.usefixtures("two_gpus")
def test_a_profile_shows_stages_memory_and_communication(launch) -> None:
    run = launch(
        "workshop.lab1.pretrain_gpt", "--model", "mini", "--steps", "8",
        "--warmup-steps", "2", "--profile", *STAGES.split(),
    )  # fmt: skip
    profile = json.loads((run.artifacts / "profile.json").read_text())
    assert len(profile["ranks"]) == 2
    for rank in profile["ranks"]:
        assert rank["ranges"], "no forward or backward was found"
        assert rank["memory"], "no memory was found"
    names = {event["name"] for event in run.of("measure")}
    assert {"compute_ms", "communication_ms", "bubble_fraction"} <= names


@pytest.mark.usefixtures("two_gpus")
def test_a_pipeline_of_real_size_has_the_bubble_of_the_formula(
    launch,
) -> None:
    """Eight micro-batches of GPT-2 small: within half of the formula."""
    run = launch(
        "workshop.lab1.sweep_pipeline", "--model", "gpt2-small",
        "--micro-batch", "8", "--rounds", "1",
    )  # fmt: skip
    found = {
        (event["labels"]["schedule"], event["labels"]["m"]): event["value"]
        for event in run.of("measure")
        if event["name"] == "bubble"
    }
    assert found["1f1b", 8] == pytest.approx(1 / 9, rel=0.5)
    assert found["1f1b", 32] < found["1f1b", 4] < found["1f1b", 1]


def test_out_of_memory_is_one_sentence(launch) -> None:
    run = launch(
        "workshop.lab1.pretrain_gpt", "--model", "gpt-1.3b",
        "--micro-batch", "512", "--steps", "3", "--bf16-weights",
        ranks=1, expect=2,
    )  # fmt: skip
    lines = [x for x in run.stderr.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1 and "out of memory" in lines[0]
    assert "Traceback" not in run.stderr
