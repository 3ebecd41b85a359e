"""From a mark to the metrics: rates, warmup, and an unknown peak."""

import json

import pytest
import torch

from workshop.errors import UserError
from workshop.job.clock import Mark, StepClock
from workshop.job.launch import Job
from workshop.job.metrics import MetricsWriter
from workshop.training.report import Reporter

CPU = torch.device("cpu")


def report(path, rank=0, peak=4e6, log_every=2):
    with MetricsWriter(path) as writer:
        reporter = Reporter(
            Job(rank, 2, CPU), writer, 1000, 3000.0, peak, log_every, 1
        )
        for step in (1, 2):
            values = torch.tensor([5.5, 0.25])
            reporter.step(Mark(step, values, None, 10.0, 10.5))
        reporter.held_out(2, 4.5)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rates_follow_from_the_time_of_the_step(tmp_path, capsys):
    first, second, held_out = report(tmp_path / "m.jsonl")
    assert second["tokens_per_s"] == 2000
    assert second["tokens_per_s_per_gpu"] == 1000
    assert second["tflops_per_gpu"] == pytest.approx(3e-6)
    assert second["mfu"] == pytest.approx(0.75)
    assert second["loss"] == 5.5 and second["grad_norm"] == 0.25
    assert second["step_time_s"] == 0.5 and second["memory_gib"] > 0
    assert first["warmup"] and not second["warmup"]
    assert held_out["name"] == "held_out_loss" and held_out["value"] == 4.5
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step    2"] * 2
    assert "MFU 75.0 %" in lines[0]


def test_an_unknown_peak_gives_no_mfu(tmp_path, capsys):
    _, second, _ = report(tmp_path / "m.jsonl", peak=None)
    assert second["mfu"] is None
    assert "MFU n/a" in capsys.readouterr().out


def test_other_ranks_print_nothing(tmp_path, capsys):
    report(tmp_path / "m.jsonl", rank=1)
    assert capsys.readouterr().out == ""


def test_the_clock_measures_between_marks(monkeypatch):
    now = iter([1.0, 2.5, 7.0, 7.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = StepClock(CPU)
    assert clock.mark(1, torch.tensor([3.0])).read() == ([3.0], 1.5)
    clock.restart()
    assert clock.mark(2, torch.tensor([4.0])).read() == ([4.0], 0.25)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "values, says",
    [
        ([float("nan"), 1.0], "its loss is nan in step 3"),
        ([2.0, float("inf")], "its gradient norm is inf in step 3"),
    ],
)
def test_a_diverged_step_is_written_and_ends_every_rank(
    tmp_path, rank, values, says
):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path if rank == 0 else None) as writer:
        reporter = Reporter(Job(rank, 2, CPU), writer, 8, 1.0, None, 1, 0)
        with pytest.raises(UserError, match=says):
            reporter.step(Mark(3, torch.tensor(values), None, 1.0, 2.0))
        with pytest.raises(UserError, match="evaluation after step 3"):
            reporter.held_out(3, float("inf"))
    if rank == 0:
        (step, _) = path.read_text().splitlines()
        loss, norm = json.loads(step)["loss"], json.loads(step)["grad_norm"]
        assert "nan" in (loss, norm) or "inf" in (loss, norm)
