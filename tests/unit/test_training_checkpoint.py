"""Checkpoints: complete or absent, and never loaded into the wrong model."""

import json
import os

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


def test_a_killed_save_leaves_the_one_before(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path, 1, STATE, CONFIG)

    class Killed(BaseException):
        """Stands for the signal that nothing catches."""

    def killed(*_):
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path, 2, STATE, CONFIG)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == first
    assert checkpoint.load(first, CONFIG)[0] == 1
    checkpoint.save(tmp_path, 2, STATE, CONFIG)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000002"]


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


@pytest.mark.parametrize(
    "harm, says",
    [
        (_truncate, r"state.pt has \d+ of \d+ bytes"),
        (_flip, "SHA-256"),
        (_remove, "FileNotFoundError"),
        (_spoil, "JSONDecodeError"),
        (_forget, "KeyError"),
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
