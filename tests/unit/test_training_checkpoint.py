"""Checkpoints: complete or absent, and never loaded into the wrong model."""

import contextlib
import itertools
import json
import os
import resource

import pytest
import torch

from workshop.errors import UserError
from workshop.training import checkpoint

CONFIG = {"name": "tiny", "layers": 2, "vocabulary": 1024}
STATE = {
    "model": {"weight": torch.arange(6.0).view(2, 3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.1},
    "random": [{"cpu": torch.get_rng_state()}],
}


def test_a_state_comes_back_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path, 3, STATE, CONFIG)
    assert checkpoint.latest(tmp_path) == path
    step, state = checkpoint.load(path, CONFIG)
    assert step == 3
    torch.testing.assert_close(state, STATE, rtol=0, atol=0)


def test_only_the_newest_stay(tmp_path):
    for step in (8, 9, 10, 11):
        checkpoint.save(tmp_path, step, STATE, CONFIG, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-00000011"]


class Killed(BaseException):
    """Stands for the signal that nothing catches."""


@pytest.mark.parametrize("step", [1, 2])
def test_a_save_killed_at_any_moment_leaves_one_to_resume_from(
    tmp_path, monkeypatch, step
):
    """Another checkpoint of the same step, or the next one."""

    def save_killed_after(calls: int, folder) -> bool:
        def dying(function):
            def call(*arguments, **options):
                nonlocal calls
                calls -= 1
                if calls < 0:
                    raise Killed
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, dying(getattr(os, name)))
            with contextlib.suppress(Killed):
                checkpoint.save(folder, step, STATE, CONFIG, keep=1)
                return False
        return True

    for moment in itertools.count():
        folder = tmp_path / str(moment)
        checkpoint.save(folder, 1, STATE, CONFIG)
        killed = save_killed_after(moment, folder)
        newest = checkpoint.latest(folder)
        there, state = checkpoint.load(newest, CONFIG)
        assert there in (1, step) and state.keys() == STATE.keys()
        checkpoint.save(folder, 3, STATE, CONFIG, keep=1)
        assert os.listdir(folder) == ["step-00000003"], moment
        if not killed:
            break
    assert there == step and moment > 8


def test_a_new_run_is_refused_where_another_ran(tmp_path):
    checkpoint.refuse_used(tmp_path / "absent")
    checkpoint.refuse_used(tmp_path)
    kept = checkpoint.save(tmp_path, 4, STATE, CONFIG)
    says = f"{tmp_path} has the checkpoint step-00000004 of another run"
    with pytest.raises(UserError, match=f"{says}.*--resume"):
        checkpoint.refuse_used(tmp_path)
    with pytest.raises(UserError, match=says):
        checkpoint.save(tmp_path, 1, STATE, CONFIG)
    assert os.listdir(tmp_path) == [kept.name]


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, room):
    before = checkpoint.save(tmp_path, 1, STATE, CONFIG)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(UserError, match="cannot be written") as full:
            checkpoint.save(tmp_path, 2, STATE, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(full.value) and "enforce" not in str(full.value)
    assert os.listdir(tmp_path) == [before.name]


def test_what_torch_cannot_save_is_no_full_disk(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="CUDA error"):
        checkpoint.save(tmp_path, 2, STATE, CONFIG)


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


def _truncate(path):
    file = path / "state.pt"
    os.truncate(file, file.stat().st_size // 2)


def _flip(path):
    file = path / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _remove(path):
    (path / "state.pt").unlink()


def _spoil(path):
    (path / "manifest.json").write_text("{")


def _forget(path):
    (path / "manifest.json").write_text('{"format": 1}')


def _manifest(text=None, **fields):
    """Return what writes another manifest, or other fields into it."""

    def harm(path):
        file = path / "manifest.json"
        changed = {**json.loads(file.read_text()), **fields}
        file.write_text(text or json.dumps(changed))

    return harm


@pytest.mark.parametrize(
    "harm, says",
    [
        (_truncate, r"state.pt has \d+ of \d+ bytes"),
        (_flip, "SHA-256"),
        (_remove, "FileNotFoundError"),
        (_spoil, "JSONDecodeError"),
        (_forget, "KeyError"),
        (_manifest("null"), "TypeError"),
        (_manifest("[1, 2]"), "TypeError"),
        (_manifest('"text"'), "TypeError"),
        (_manifest("[" * 10**5), "RecursionError"),
        (_manifest(step=2), "manifest.json is of step 2"),
        (_manifest(step="1"), "manifest.json is of step 1"),
        (_manifest(step=True), "manifest.json is of step True"),
        (_manifest(config=None), "no config in manifest.json"),
        (_manifest(config=[]), "no config in manifest.json"),
        (_manifest(bytes=None), r"state.pt has \d+ of None bytes"),
        (_manifest(sha256=None), "SHA-256"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path, harm, says):
    path = checkpoint.save(tmp_path, 1, STATE, CONFIG)
    harm(path)
    with pytest.raises(UserError, match=f"{path} is damaged .*{says}") as e:
        checkpoint.load(path, CONFIG)
    assert "\n" not in str(e.value)


def test_another_models_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, CONFIG)
    with pytest.raises(UserError, match="layers is 2 there, 12 here"):
        checkpoint.load(path, {**CONFIG, "layers": 12})


def test_another_format_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, CONFIG)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["format"] = 99
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has format 99"):
        checkpoint.load(path, CONFIG)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file", 1, STATE, CONFIG)
