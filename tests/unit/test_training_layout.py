"""Which layouts are refused, each in one sentence, and which are slow."""

import pytest

from workshop.errors import UserError
from workshop.lab1 import pretrain_options
from workshop.lab1.pretrain_options import layout_of, parse
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPTConfig
from workshop.training.fit import warning

CONFIG = GPTConfig(layers=4, hidden=48, heads=6, sequence=10, vocabulary=37)
PIPELINE = "--pipeline-parallel-size 2"
CHUNKS = f"{PIPELINE} --schedule interleaved --virtual-stages"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Six heads, four layers and ten tokens, to be indivisible by."""
    configs = {**CONFIGS, "tiny": CONFIG}
    monkeypatch.setattr(pretrain_options, "CONFIGS", configs)


@pytest.mark.parametrize(
    ("argv", "world", "expected"),
    [
        ("", 6, (6, 1, 1)),
        ("--tensor-parallel-size 2 --sequence-parallel", 4, (2, 2, 1)),
        ("--pipeline-parallel-size 4", 4, (1, 1, 4)),
        ("--pipeline-parallel-size 2 --schedule gpipe", 6, (3, 1, 2)),
        (
            f"{CHUNKS} 2 --num-microbatches 6 --tensor-parallel-size 3",
            12,
            (2, 3, 2),
        ),
    ],
)
def test_what_is_left_of_the_world_is_data_parallel(argv, world, expected):
    layout = layout_of(parse(argv.split()), world)
    assert (layout.dp, layout.tp, layout.pp) == expected


@pytest.mark.parametrize(
    ("argv", "world", "says"),
    [
        ("--tensor-parallel-size 2", 3, "world size 3 is not divisible"),
        ("--tensor-parallel-size 4", 4, "6 attention heads are not"),
        (
            "--tensor-parallel-size 3 --sequence-parallel",
            3,
            "10 tokens is not divisible by the tensor parallel size 3",
        ),
        ("--sequence-parallel", 2, "(--tensor-parallel-size)"),
        ("--schedule gpipe", 2, "(--pipeline-parallel-size)"),
        ("--virtual-stages 2", 2, "(--pipeline-parallel-size)"),
        ("--pipeline-parallel-size 5", 5, "cannot be cut into 5"),
        (
            "--pipeline-parallel-size 2 --virtual-stages 2",
            2,
            "choose interleaved",
        ),
        (
            "--pipeline-parallel-size 2 --schedule interleaved",
            2,
            "needs 2 or more virtual stages",
        ),
        (
            f"{CHUNKS} 2 --num-microbatches 3",
            2,
            "3 micro-batches are not a multiple of the 2",
        ),
        (
            f"{CHUNKS} 3 --num-microbatches 2",
            2,
            "cannot be cut into 6",
        ),
        (
            "--pipeline-parallel-size 2 --data-parallel ddp",
            4,
            "choose overlapped or naive",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(argv, world, says):
    with pytest.raises(UserError) as refused:
        layout_of(parse(argv.split()), world)
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("option", ["tensor", "pipeline"])
def test_a_size_of_zero_is_refused(option):
    with pytest.raises(UserError, match=f"--{option}-parallel-size 0 is too"):
        parse([f"--{option}-parallel-size", "0"])


def test_the_old_name_of_num_microbatches_still_works():
    assert parse(["--accumulation", "3"]).num_microbatches == 3


@pytest.mark.parametrize(
    ("node", "tp", "slow"),
    [(2, 2, False), (2, 4, True), (3, 2, True), (8, 4, False)],
)
def test_a_tensor_group_over_two_nodes_is_warned_of(
    monkeypatch, node, tp, slow
):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(node))
    said = warning(Layout(dp=12, tp=tp))
    assert bool(said) == slow
    if slow:
        assert f"group of {tp} ranks crosses nodes of {node}" in said
