"""Tensor, sequence and pipeline parallelism on two GPUs, over NCCL."""

import json
import os
from pathlib import Path

import pytest
from pool import Pool
from pretrain_runs import pretrain, values

LIMIT = 180

ATTENTION = "--tensor-parallel-size 2"
STAGES = "--pipeline-parallel-size 2"
WIDE = "bf16-weights-float32-gradients"


@pytest.mark.parametrize(("ranks", "layouts"), [(2, 6), (4, 16)])
def test_every_layout_has_the_dense_gradients(
    launch, ranks: int, layouts: int
) -> None:
    run = launch("workshop.lab1.check_layouts", ranks=ranks)
    errors = {
        event["labels"]["layout"]: event["value"]
        for event in run.of("measure")
        if event["name"] == "gradient_error"
    }
    assert len(errors) == layouts, sorted(errors)
    wrong = {name: error for name, error in errors.items() if error > 1e-9}
    assert not wrong, wrong


@pytest.mark.parametrize(
    "flags",
    [
        ATTENTION,
        f"{ATTENTION} --sequence-parallel",
        f"{STAGES} --schedule interleaved --virtual-stages 2",
        STAGES,
    ],
)
def test_compiled_trainings_learn_as_two_copies_do(
    nccl2: Pool, tmp_path, flags: str
) -> None:
    """The same global batch, bf16 weights: losses agree but for rounding."""

    def losses(*argv: str) -> list[float]:
        options = ("--model", "mini", "--steps", "8", "--micro-batch", "2",
                   "--compile", "--bf16-weights", "--warmup-steps", "2",
                   *argv)  # fmt: skip
        first, _ = nccl2.run(pretrain, tmp_path, *options, timeout=LIMIT)
        return [loss for _, loss, _ in values(first)]

    copies = losses("--num-microbatches", "2")
    assert len(copies) == 8 and copies[-1] < copies[0]
    split = losses("--num-microbatches", "4", *flags.split())
    assert split == pytest.approx(copies, rel=2e-2)


@pytest.mark.parametrize(
    "flags",
    [
        f"--precision {WIDE}",
        f"--precision {WIDE} {ATTENTION} --sequence-parallel",
        "--precision fp8 --recompute full",
        "--precision fp16 --attention core --recompute selective",
        f"--precision fp16-weights --recompute full {STAGES}",
    ],
)
def test_a_recipe_trains_by_itself(launch, flags: str) -> None:
    """In a fresh process, with what it loads alone."""
    run = launch(
        "workshop.lab1.pretrain_gpt", "--model", "mini", "--steps", "6",
        "--micro-batch", "2", "--num-microbatches", "2", "--compile",
        "--warmup-steps", "2", "--warmup", "0", *flags.split(),
    )  # fmt: skip
    losses = [event["loss"] for event in run.of("step")]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_a_profile_shows_stages_memory_and_communication(launch) -> None:
    run = launch(
        "workshop.lab1.pretrain_gpt", "--model", "mini", "--steps", "8",
        "--warmup-steps", "2", "--profile", "--num-microbatches", "4",
        *STAGES.split(),
    )  # fmt: skip
    profile = json.loads((run.artifacts / "profile.json").read_text())
    assert len(profile["ranks"]) == 2
    for rank in profile["ranks"]:
        assert rank["ranges"], "no forward or backward was found"
        assert rank["memory"], "no memory was found"
    names = {event["name"] for event in run.of("measure")}
    assert {"compute_ms", "communication_ms", "bubble_fraction"} <= names


@pytest.mark.usefixtures("two_gpus", "alone")
def test_a_pipeline_of_real_size_has_the_bubble_of_the_formula(
    launch,
) -> None:
    """Eight micro-batches of GPT-2 small: within half of the formula.

    With stages of s and f seconds, s the slower, a step takes m s + f, of
    which f is bubble. The imbalance of s beyond the mean, I, is measured
    beside it, so the bubble is (1 - 2 I) / (m + 1): less than the formula
    of equal stages, and equal to it for I = 0.
    """
    run = launch(
        "workshop.lab1.sweep_pipeline", "--model", "gpt2-small",
        "--micro-batch", "8", "--rounds", "1", "--steps", "3",
    )  # fmt: skip
    bubble, imbalance = (
        {
            event["labels"]["m"]: event["value"]
            for event in run.of("measure")
            if event["name"] == name and event["labels"]["schedule"] == "1f1b"
        }
        for name in ("bubble", "imbalance")
    )
    due = (1 - 2 * imbalance[8]) / 9
    assert bubble[8] == pytest.approx(due, rel=0.5), (bubble, imbalance)
    assert bubble[32] < bubble[4] < bubble[1]


def test_out_of_memory_is_one_sentence(launch) -> None:
    """In a tenth of the memory, so that other tests keep theirs."""
    run = launch(
        "a_tenth_of_the_memory", "--model", "gpt2-small", "--micro-batch",
        "512", "--steps", "3", "--bf16-weights", ranks=1, expect=2,
        PYTHONPATH=f"{Path(__file__).parents[1]}:{os.environ['PYTHONPATH']}",
    )  # fmt: skip
    lines = [x for x in run.stderr.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1 and "out of memory" in lines[0]
    # torchrun shows where its own code heard of it, and nothing of ours.
    assert "workshop/training" not in run.stderr
