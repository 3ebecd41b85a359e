"""A layout's step, predicted from what its ranks took alone."""

import pytest
from fabricated import Fabricated

from workshop.errors import UserError
from workshop.estimate.communication import link
from workshop.records.predict.ranks import predict

LINKS = {axis: link(20.0, 300.0) for axis in ("dp", "tp", "pp")}


@pytest.fixture
def ranks():
    """A run of one_rank: one device, two stages, two tensor ranks."""
    summary = {}
    stages = [("dp1", 0, 60), ("pp2", 0, 32), ("pp2", 1, 30), ("tp2", 0, 31)]
    for name, stage, work in stages:
        key = f"{{layout={name},micro_batch=4,stage={stage}}}"
        for part, share in (("forward", 1 / 3), ("backward", 2 / 3)):
            summary[f"{part}_ms{key}"] = {"median": work * share}
        summary[f"update_ms{key}"] = {"median": 8.0 - stage}
    return Fabricated(summary, meta={"model": "gpt-1.3b"})


def test_a_layout_is_predicted_from_its_ranks(ranks):
    alone = predict(ranks, "dp1", 4, {})
    assert alone["total"] == pytest.approx(0.068)
    both = predict(ranks, "pp2", 4, LINKS, num_microbatches=8)
    assert both["compute"] == pytest.approx(8 * 0.031)
    assert both["imbalance"] == pytest.approx(8 * 0.001)
    assert both["bubble"] == pytest.approx(0.030)
    assert both["optimizer"] == pytest.approx(0.008)
    with pytest.raises(UserError, match="not measured tp4"):
        predict(ranks, "tp4", 4, LINKS)
    with pytest.raises(UserError, match="micro-batches of 16"):
        predict(ranks, "tp2", 16, LINKS)
