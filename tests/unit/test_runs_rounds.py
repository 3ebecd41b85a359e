"""Rounds inside one process count as repeats of a measurement."""

from workshop.job.metrics import MetricsWriter
from workshop.records.summary import summarise


def test_rounds_are_values_of_their_own(tmp_path):
    """The label `round` leaves the key and keeps the spread."""
    path = tmp_path / "metrics.0.jsonl"
    with MetricsWriter(path) as writer:
        for turn, value in enumerate([3.0, 1.0, 8.0]):
            writer.measure("speed", value, "tokens/s", who="us", round=turn)
        writer.measure("speed", 5.0, "tokens/s", who="them")
        writer.measure("speed", 7.0, "tokens/s", who="them")
    summary = summarise([path], 2)
    assert set(summary) == {"speed{who=us}", "speed{who=them}"}
    ours = summary["speed{who=us}"]
    assert ours["values"] == [3.0, 1.0, 8.0]
    assert (ours["median"], ours["min"], ours["max"]) == (3.0, 1.0, 8.0)
    assert summary["speed{who=them}"]["values"] == [6.0]


def test_the_last_loss_is_that_of_the_last_step_or_none(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        for step, loss in enumerate((5.0, 4.0, float("nan")), start=1):
            writer.step(step=step, loss=loss)
    summary = summarise([path], 2)
    assert summary["first_loss"]["median"] == 5.0
    assert "last_loss" not in summary
