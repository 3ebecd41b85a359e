"""Ours beside megatron-core: names of layouts, the table, the command."""

import copy
import json
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch._dynamo
from launching import launch_ranks

import workshop.peers.megatron
from workshop.bench.contestants import named
from workshop.bench.megatron import ready
from workshop.errors import UserError
from workshop.job.launch import Job
from workshop.lab1 import compare_megatron
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.peers.megatron.kernels import PARTS, side_by_side
from workshop.profiling.groups import GROUPS


@pytest.mark.parametrize(
    ("name", "layout", "micro_batches"),
    [
        ("dp2", Layout(dp=2), (16, 1)),
        ("tp2", Layout(tp=2), (32, 1)),
        ("tp4-sp", Layout(tp=4, sequence_parallel=True), (32, 1)),
        ("pp2", Layout(pp=2), (4, 8)),
        ("dp2-tp2-pp2", Layout(dp=2, tp=2, pp=2), (4, 4)),
        (
            "pp2-v3",
            Layout(
                pp=2,
                schedule="interleaved",
                virtual_stages=3,
                num_microbatches=8,
            ),
            (4, 8),
        ),
    ],
)
def test_a_name_is_a_layout(name, layout, micro_batches) -> None:
    b, m = micro_batches
    due = layout.replace(micro_batch=b, num_microbatches=m)
    assert named(name, 16, 4, 8).layout == due


@pytest.mark.parametrize(
    "name", ["", "tp", "tp2-", "-tp2", "ep2", "tp-2", "pp2cut12", "tp2-tp2"]
)
def test_another_name_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as refused:
        named(name, 16, 4, 8)
    assert "\n" not in str(refused.value)


def profile_of(ranks: list[float]) -> dict:
    """Return a profile in which all times of a rank are one number."""
    return {
        "ranks": [
            {
                **dict.fromkeys(PARTS, ms),
                "groups": dict.fromkeys(GROUPS, ms),
                "kernels": [{"name": f"kernel of {ms}", "ms": ms}],
            }
            for ms in ranks
        ]
    }


def test_profiles_stand_side_by_side(tmp_path: Path) -> None:
    for name, ranks in {"ours": [1.0, 3.0], "megatron": [5.0, 6.0]}.items():
        (tmp_path / name).mkdir()
        text = json.dumps(profile_of(ranks))
        (tmp_path / name / "profile.json").write_text(text)
    lines = side_by_side(tmp_path, ["ours", "megatron"]).splitlines()
    assert lines[0].split()[-2:] == ["ours", "megatron"]
    assert len(lines) == 1 + len(PARTS) + len(GROUPS)
    assert all(line.split()[-2:] == ["2.00", "5.50"] for line in lines[1:])
    whole = json.loads((tmp_path / "kernels.json").read_text())
    assert whole["megatron"]["parts"]["attention"] == 5.5
    assert whole["ours"]["kernels"][0]["name"] == "kernel of 1.0"


def test_the_command_rehearses_ours_without_a_gpu(tmp_path: Path) -> None:
    command = compare_megatron.__doc__.splitlines()[0].split()
    module, *words = command[command.index("-m") + 1 :]
    words += ("--layouts", "tp2", "--rounds", "1", "--profile", "tp2")
    done = launch_ranks(module, *words, ranks=2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "megatron-core computes on GPUs alone: only ours" in done.stdout
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    meta, *events = [json.loads(line) for line in lines]
    assert meta["contestants"] == ["ours"] and meta["small"]
    labels = {"contestant": "ours", "layout": "tp2", "round": 0}
    turn = {e["name"]: e for e in events if e["labels"] == labels}
    assert {"tokens_per_s", "tflops_per_gpu", "loss"} <= turn.keys()
    assert all(event["value"] > 0 for event in turn.values())
    whole = json.loads((tmp_path / "tp2" / "kernels.json").read_text())
    assert whole["ours"]["parts"]["matrix products"] > 0


def test_a_layout_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    module = compare_megatron.__name__
    done = launch_ranks(module, "--layouts", "dp4", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: dp4: dp=4 × tp=1 × pp=1 needs 4 ranks and 1 were launched: "
        "launch 4, or change the sizes (choose others with --layouts)\n"
    )


@pytest.mark.parametrize("fails", [False, True])
def test_what_megatron_core_needs_of_dynamo_ends_with_its_turn(
    monkeypatch, fails
) -> None:
    """Ours, in the next round, compiles as if it had never been there."""
    key, seen = "automatic_dynamic_shapes", []
    before = copy.deepcopy(torch._dynamo.config.get_config_copy())

    def trainer(*arguments):
        seen.append(getattr(torch._dynamo.config, key))
        if fails:
            raise ZeroDivisionError
        return "trainer"

    peer = types.ModuleType("workshop.peers.megatron.trainer")
    peer.Settings = lambda *arguments, **options: None
    peer.model_parallel = lambda layout: nullcontext()
    peer.MegatronTrainer = trainer
    monkeypatch.setitem(sys.modules, peer.__name__, peer)
    monkeypatch.setattr(workshop.peers.megatron, "trainer", peer, False)
    job = Job(0, 1, torch.device("cpu"))
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        contestant = named("dp1", 1, 1, 1)
        with ready("megatron", contestant, CONFIGS["tiny"], job) as made:
            assert made == "trainer"
    assert seen == [False]
    assert torch._dynamo.config.get_config_copy() == before
