"""The metrics file and the log line."""

import errno
import json
import os
import re
import resource
import sys
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from workshop.errors import UserError, one_sentence
from workshop.job.metrics import (
    UNITS,
    MetricsWriter,
    format_step,
    metrics_path,
)
from workshop.job.tensorboard import ScalarWriter

STEP = {
    "step": 12,
    "loss": 10.12341,
    "grad_norm": 1.2341,
    "tokens_per_s": 123456.4,
    "tokens_per_s_per_gpu": 61728.2,
    "tflops_per_gpu": 523.14,
    "mfu": 0.5287,
    "memory_gib": 55.94,
}


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_line_has_fixed_fields():
    assert format_step(STEP) == (
        "step   12 | loss 10.1234 | grad_norm 1.234 | tokens/s 123,456 | "
        "tokens/s/GPU 61,728 | TFLOP/s/GPU 523.1 | MFU 52.9 % | "
        "mem 55.9 GiB"
    )


def test_an_unknown_peak_shows_as_not_available():
    line = format_step({**STEP, "mfu": None})
    assert "| MFU n/a |" in line
    names = [re.match(r"[A-Za-z_/]+", f)[0] for f in line.split(" | ")]
    full = [
        re.match(r"[A-Za-z_/]+", f)[0] for f in format_step(STEP).split(" | ")
    ]
    assert names == full


def test_events_are_on_disk_as_soon_as_they_are_written(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.meta(seed=1)
    writer.step(**STEP)
    writer.measure("all_reduce_busbw", 331.2, "GB/s", bytes=1024)
    assert events(path) == [
        {"event": "meta", "units": UNITS, "seed": 1},
        {"event": "step", **STEP},
        {
            "event": "measure",
            "name": "all_reduce_busbw",
            "value": 331.2,
            "unit": "GB/s",
            "labels": {"bytes": 1024},
        },
    ]
    writer.close()
    with MetricsWriter(path) as fresh:
        fresh.meta(seed=2)
    assert events(path) == [{"event": "meta", "units": UNITS, "seed": 2}]


def test_a_resumed_run_continues_the_file_where_it_resumes(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.meta(seed=1)
        for step in (1, 2, 3):
            writer.measure("held_out_loss", 1.0, "nats", step=step)
            writer.step(step=step)
    with open(path, "a") as file:
        file.write('{"event": "step", "st')
    with MetricsWriter(path, resumed_at=2) as writer:
        writer.meta(seed=1)
        writer.step(step=3)
    seen = [
        (e["event"], e.get("step", e.get("labels", {}).get("step")))
        for e in events(path)
    ]
    assert seen == [
        ("meta", None),
        ("measure", 1),
        ("step", 1),
        ("measure", 2),
        ("step", 2),
        ("step", 3),
    ]


def test_a_line_without_its_end_is_cut_off(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.meta(seed=1)
        writer.step(step=1)
    os.truncate(path, path.stat().st_size - 1)
    with MetricsWriter(path, resumed_at=1) as writer:
        writer.step(step=2)
    assert [event.get("step") for event in events(path)] == [None, 2]


def test_the_old_meta_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.meta(seed=1)
        writer.step(step=1)
    kept = path.read_bytes()

    def no_room(self, content):
        with self.open("wb") as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(UserError, match="cannot be written"):
        MetricsWriter(path, resumed_at=1).meta(seed=2)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "[]\n", "null\n", "\0\xff", '{"event": "step"}\n', "{"]
)
def test_what_is_no_metrics_file_is_begun_anew(tmp_path, text):
    path = tmp_path / "m.jsonl"
    path.write_text(text, encoding="latin-1")
    with MetricsWriter(path, resumed_at=2) as writer:
        writer.meta(seed=1)
    assert [event["event"] for event in events(path)] == ["meta"]


@pytest.fixture
def no_room():
    """A disk where no file of this process grows beyond 200 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_loses_no_step(tmp_path, no_room):
    path = tmp_path / "m.jsonl"
    with pytest.raises(UserError, match="m.jsonl cannot be written .*large"):
        with MetricsWriter(path) as writer:
            writer._write({"event": "meta"})
            for step in range(99):
                writer.step(step=step)
    whole = path.read_text().splitlines()[:-1]
    assert [json.loads(line).get("step") for line in whole[1:4]] == [0, 1, 2]
    kept = path.read_bytes()
    with pytest.raises(UserError, match="cannot be written"):
        with MetricsWriter(path, resumed_at=99) as writer:
            writer.step(step=100, text="x" * 200)
    assert path.read_bytes().startswith(kept[: kept.rindex(b"\n")])


def test_tensorboard_on_a_full_disk_is_one_sentence(
    tmp_path, no_room, monkeypatch
):
    # TensorBoard's own thread shows what it met, too.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(UserError, match="events .*large.*--tensorboard"):
        with ScalarWriter(None, tmp_path / "events") as writer:
            for step in range(2000):
                writer.step(**{**STEP, "step": step})


def test_a_full_disk_is_told_from_other_errors(capsys):
    @one_sentence
    def fails(number, *file):
        raise OSError(number, os.strerror(number), *file)

    for number, says in (
        (errno.ENOSPC, "the disk has no room for a/file"),
        (errno.ENOENT, "a/file cannot be used"),
    ):
        with pytest.raises(SystemExit):
            fails(number, "a/file")
        assert says in capsys.readouterr().err
    with pytest.raises(BrokenPipeError):
        fails(errno.EPIPE)


def test_a_resumed_run_says_what_has_changed_since(tmp_path):
    path = tmp_path / "m.jsonl"
    for resumed_at, tokens in ((0, 512), (1, 256), (2, 256), (3, 128)):
        with MetricsWriter(path, resumed_at=resumed_at) as writer:
            writer.meta(seed=1, tokens_per_step=tokens)
            writer.step(step=resumed_at + 1)
    meta, *steps = events(path)
    assert meta["tokens_per_step"] == 128
    assert meta["resumed"] == [
        {"until_step": 1, "tokens_per_step": 512},
        {"until_step": 3, "tokens_per_step": 256},
    ]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]


def test_a_diverged_loss_stays_valid_json(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.step(step=1, loss=float("nan"))
    assert events(path)[0]["loss"] == "nan"


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with MetricsWriter(None) as writer:
        writer.meta(seed=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        MetricsWriter(tmp_path / "file" / "metrics.jsonl")


def test_the_argument_wins_over_the_launch_variable(monkeypatch):
    monkeypatch.setenv("WORKSHOP_METRICS", "from-variable")
    assert metrics_path("given") == "given"
    assert metrics_path(None) == "from-variable"
    monkeypatch.delenv("WORKSHOP_METRICS")
    assert metrics_path(None) is None


def scalars(folder):
    """Read event files as TensorBoard does: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_losses_and_speeds_back(tmp_path):
    with ScalarWriter(None, tmp_path / "events") as writer:
        writer.meta(seed=1)
        for step in (1, 2, 3):
            writer.step(**{**STEP, "step": step, "loss": 4.0 / step})
        writer.step(**{**STEP, "step": 4, "mfu": None, "loss": 0.5})
        writer.measure("held_out_loss", 2.5, "nats/token", step=3)
        writer.measure("all_reduce_time", 9.0, "us", bytes=1024)
    curves = scalars(tmp_path / "events")
    losses = [(1, 4.0), (2, 2.0), (3, pytest.approx(4 / 3)), (4, 0.5)]
    assert curves["loss/training"] == losses
    assert curves["loss/held-out"] == [(3, 2.5)]
    assert curves["speed/tokens per s"][0] == (1, pytest.approx(123456.4))
    assert [step for step, _ in curves["speed/MFU"]] == [1, 2, 3]
    assert set(curves) == {
        "loss/training", "loss/held-out", "gradient norm",
        "speed/tokens per s", "speed/MFU", "memory (GiB)",
    }  # fmt: skip


def test_a_resumed_run_replaces_what_tensorboard_had(tmp_path):
    for start, loss in ((0, 4.0), (2, 1.0)):
        with ScalarWriter(None, tmp_path, start) as writer:
            for step in range(start + 1, 5):
                writer.step(step=step, loss=loss)
    assert scalars(tmp_path)["loss/training"] == [
        (1, 4.0), (2, 4.0), (3, 1.0), (4, 1.0),
    ]  # fmt: skip


def test_without_tensorboard_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        ScalarWriter(None, tmp_path / "events")
    assert not (tmp_path / "events").exists()
    MetricsWriter(tmp_path / "metrics.jsonl").close()


def test_an_unwritable_tensorboard_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        ScalarWriter(None, tmp_path / "file" / "events")
