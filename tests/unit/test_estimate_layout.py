"""What a rank holds, by formula, against the model and its stages."""

import ast
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import workshop.estimate
from workshop.errors import UserError
from workshop.estimate.cut import balanced_cut
from workshop.estimate.parameters import gpt_parameters
from workshop.estimate.stages import (
    chunks_of,
    rank_parameters,
    tokens_per_step,
)
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPT, GPTConfig
from workshop.parallel.pipeline.stages import cut, make_stages

SMALL = GPTConfig(7, 16, 2, 8, 37)
FILES = (
    "layout",
    "schedules",
    "errors",
    "estimate/communication",
    "estimate/cut",
    "estimate/data_parallel",
    "estimate/memory",
    "estimate/narayanan",
    "estimate/pipeline",
    "estimate/stages",
    "estimate/time",
)


@pytest.mark.parametrize("name", FILES)
def test_the_files_run_in_the_page(name):
    """Imports from this package alone and no syntax MicroPython lacks."""
    path = Path(workshop.estimate.__file__).parents[1] / f"{name}.py"
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assert len(nodes) > 10
    for node in nodes:
        assert not isinstance(node, (ast.Match, ast.AsyncFunctionDef))
        assert not (isinstance(node, ast.arguments) and node.posonlyargs)
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] in (
                ["math"],
                ["sys"],
                ["errno"],
            )
        if isinstance(node, ast.ImportFrom):
            own = "workshop.estimate", "workshop.errors", "workshop.schedules"
            # functools only where a decorator runs, which no page does.
            other = ("collections", "functools")
            assert node.module.startswith(own) or node.module in other


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("p", "v"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 3)])
def test_the_cut_is_that_of_the_pipeline(name, p, v):
    config = CONFIGS[name]
    if config.layers < p * v:
        with pytest.raises(ValueError, match="fewer layers"):
            balanced_cut(asdict(config), p * v, p)
        return
    expected = [len(r) for r in cut(config, p * v, ranks=p)]
    assert balanced_cut(asdict(config), p * v, p) == expected


def test_gpt_1_3b_is_cut_into_13_and_11():
    assert balanced_cut(asdict(CONFIGS["gpt-1.3b"]), 2) == [13, 11]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("p", "v"), [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_the_parameters_of_a_stage_equal_the_module(p, v, bias):
    config = GPTConfig(7, 16, 2, 8, 37, bias=bias)
    schedule = "interleaved" if v > 1 else "1f1b"
    spread = Layout(
        pp=p, num_microbatches=p, schedule=schedule, virtual_stages=v
    )
    total = 0
    for stage in range(p):
        stages = make_stages(GPT(config), config, stage, p, v)
        counted = rank_parameters(asdict(config), spread, stage)
        parameters = [q for one in stages for q in one.parameters()]
        assert counted["total"] == sum(q.numel() for q in parameters)
        assert counted["tied_copy"] == sum(
            one.get_parameter(name).numel()
            for one in stages
            for name in one.copies
        )
        total += counted["total"] - counted["tied_copy"]
    sizes = (config.layers, config.hidden, config.sequence)
    assert total == gpt_parameters(*sizes, config.vocabulary, bias=bias)


def test_a_cut_by_hand_is_kept():
    spread = Layout(pp=2, cut=[3, 4])
    assert chunks_of(asdict(SMALL), spread, 0) == [(3, True, False)]
    assert chunks_of(asdict(SMALL), spread, 1) == [(4, False, True)]


@pytest.mark.parametrize("wrong", [[7], [1, 2, 4], [7, 0]])
def test_a_cut_names_the_layers_of_every_chunk(wrong):
    with pytest.raises(UserError, match="each of the 2 chunks"):
        Layout(pp=2, cut=wrong)


def test_a_cut_must_have_all_layers_once():
    with pytest.raises(ValueError, match="have all layers"):
        chunks_of(asdict(SMALL), Layout(pp=2, cut=[3, 3]), 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tp": 0},
        {"schedule": "fifo"},
        {"pp": 2, "virtual_stages": 2, "num_microbatches": 2},
        {
            "pp": 2,
            "schedule": "interleaved",
            "virtual_stages": 2,
            "num_microbatches": 3,
        },
    ],
)
def test_sizes_that_make_no_layout_are_refused(wrong):
    with pytest.raises(UserError):
        Layout(**wrong)


def test_ranks_and_tokens_of_a_step():
    spread = Layout(dp=3, tp=2, pp=2, micro_batch=5, num_microbatches=4)
    assert spread.world_size == 12
    batch = torch.zeros(3 * 4 * 5, SMALL.sequence)
    assert tokens_per_step(asdict(SMALL), spread) == batch.numel()


def test_the_copies_of_an_expert_are_ep_ranks_apart():
    spread = Layout(dp=4, ep=2)
    assert spread.ranks("ep") == [[0, 1], [2, 3]]
    assert spread.ranks("expert_dp") == [[0, 2], [1, 3]]


def test_a_name_is_read_and_told():
    assert Layout(dp=4, tp=2, sequence_parallel=True).name == "tp2-sp-dp4"
    assert Layout.from_name("pp3-cut2", layers=7).cut == (2, 3, 2)
    for wrong in ("tp2-sp3", "tp"):
        with pytest.raises(UserError, match="need a number, others none"):
            Layout.from_name(wrong)
