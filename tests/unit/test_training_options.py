"""The command line of the pretraining, and what it refuses."""

import pytest
import torch

from workshop.errors import UserError
from workshop.job.launch import local_device
from workshop.lab1 import megatron_options
from workshop.lab1.pretrain_options import config_of, parse, recipe_of
from workshop.peers.megatron.available import check_schedule
from workshop.schedules import SCHEDULES
from workshop.training.trainer import PRECISIONS

WIDE = "bf16-weights-float32-gradients"


def test_each_model_has_its_defaults():
    tiny, small = parse([]), parse(["--model", "gpt2-small"])
    assert (tiny.vocabulary, small.vocabulary) == (1024, 16384)
    assert tiny.lr > small.lr == 6e-4
    assert parse(["--lr", "0.5", "--vocabulary", "300"]).lr == 0.5


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--steps", "0"], "--steps 0 is too small"),
        (["--micro-batch", "0"], "--micro-batch 0 is too small"),
        (["--accumulation", "-1"], "--num-microbatches -1 is too small"),
        (["--log-every", "0"], "--log-every 0 is too small"),
        (["--clip", "nan"], "--clip nan is too small"),
        (["--seed", "9" * 23], "--seed 9{23} is too large"),
        (["--steps", "9" * 23], "--steps 9{23} is too large"),
        (["--seed", "9" * 5000], "invalid int value: '9{50,290}: see"),
        (["--lr", "0"], "--lr 0 is too small"),
        (["--lr", "inf"], "--lr inf is too large: give a finite number"),
        (["--clip", "inf"], "--clip inf is too large"),
        (["--bucket-mib", "inf"], "--bucket-mib inf is too large"),
        (["--corpus-mib", "inf"], "--corpus-mib inf is too large"),
        (["--corpus-mib", "nan"], "--corpus-mib nan is too small"),
        (["--vocabulary", "0"], "--vocabulary 0 is too small"),
        (["--seed", "9" * 23], "--seed 9+ is too large"),
        (["--bucket-mib", "0"], "--bucket-mib 0 is too small"),
        (["--model", "gpt-9"], "invalid choice: 'gpt-9'"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--banana"], "unrecognized arguments: --banana"),
        (["--resume"], "--resume needs .* --checkpoint"),
        (["--save-every", "5"], "--save-every needs .* --checkpoint"),
        (["--recompute-every", "0"], "--recompute-every 0 is too small"),
        (["--precision", "fp7"], "invalid choice: 'fp7'"),
        (["--bf16", "--precision", "fp16"], "not allowed with argument"),
        (
            f"--precision {WIDE} --data-parallel ddp".split(),
            "DDP sends gradients in the precision of the weights",
        ),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(argv, says):
    with pytest.raises(UserError, match=says):
        parse(argv)


@pytest.mark.parametrize(
    "flags, precision",
    [
        ("", "float32"),
        ("--bf16", "bf16"),
        ("--bf16-weights", "bf16-weights"),
        *((f"--precision {name}", name) for name in PRECISIONS),
    ],
)
def test_flags_choose_the_precision(flags: str, precision: str) -> None:
    assert recipe_of(parse(flags.split())).precision == precision


def test_a_run_recomputes_as_it_is_told() -> None:
    args = parse(
        "--attention core --recompute full --recompute-every 2".split()
    )
    recipe = recipe_of(args)
    assert (recipe.recompute, recipe.recompute_every) == ("full", 2)
    assert config_of(args).attention == "core"


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count, ranks, local):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setenv("LOCAL_RANK", str(local))

    return pretend


def test_a_rank_takes_the_gpu_of_its_place_on_the_node(gpus):
    gpus(4, ranks=4, local=3)
    assert local_device() == torch.device("cuda", 3)
    gpus(0, ranks=4, local=3)
    assert local_device() == torch.device("cpu")


def test_more_ranks_than_gpus_are_refused(gpus):
    gpus(1, ranks=2, local=0)
    with pytest.raises(UserError, match="2 ranks .* with 1 GPU: launch"):
        local_device()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_megatron_core_never_runs_another_schedule_in_silence(schedule):
    if schedule in ("1f1b", "interleaved"):
        check_schedule(schedule)
        return
    with pytest.raises(UserError, match=f"no {schedule} schedule"):
        check_schedule(schedule)
    arguments = ["--pipeline-parallel-size", "2", "--schedule", schedule]
    with pytest.raises(UserError, match=f"no {schedule} schedule"):
        megatron_options.parse(["--model", "tiny", *arguments])
