"""megatron-core on GPUs learns what ours learns, in the same layouts."""

from importlib.util import find_spec

import pytest


@pytest.mark.skipif(
    find_spec("megatron") is None,
    reason="needs megatron-core: workshop cluster bundle carries its wheel",
)
def test_both_sides_have_the_same_losses(launch) -> None:
    """Same weights and batches in bf16: losses agree but for rounding."""
    run = launch(
        "workshop.lab1.compare_megatron", "--small", "--rounds", "1",
        "--layouts", "tp2-sp,pp2",
    )  # fmt: skip
    losses_of: dict[str, dict[str, float]] = {}
    for event in run.of("measure"):
        if event["name"] == "loss":
            labels = event["labels"]
            side = losses_of.setdefault(labels["layout"], {})
            side[labels["contestant"]] = event["value"]
    assert sorted(losses_of) == ["pp2", "tp2-sp"]
    for layout, losses in losses_of.items():
        assert sorted(losses) == ["megatron", "megatron-flash", "ours"]
        ours = losses.pop("ours")
        for other, loss in losses.items():
            assert loss == pytest.approx(ours, rel=5e-3), (layout, other)
