"""Formulas for parameters and operations against the real model."""

import ast
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import workshop.estimate
from workshop.estimate.flops import (
    flops_per_token,
    matmul_flops_per_token,
)
from workshop.estimate.parameters import (
    gpt_parameters,
    narayanan_parameters,
)
from workshop.models.gpt import CONFIGS, GPT, GPTConfig, num_parameters

SIZES = [(1, 32, 2, 16, 64), (3, 64, 4, 32, 256), (2, 48, 3, 24, 101)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_parameters_equal_the_module(sizes, bias):
    layers, hidden, _, sequence, vocabulary = sizes
    model = GPT(GPTConfig(*sizes, bias=bias))
    assert num_parameters(model) == gpt_parameters(
        layers, hidden, sequence, vocabulary, bias=bias
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_the_named_models(name):
    c = CONFIGS[name]
    with torch.device("meta"):
        model = GPT(c)
    assert num_parameters(model) == gpt_parameters(
        c.layers, c.hidden, c.sequence, c.vocabulary
    )


def test_gpt2_small_and_the_term_that_narayanan_leaves_out():
    assert gpt_parameters(12, 768, 1024, 50257) == 124_439_808
    assert narayanan_parameters(12, 768, 1024, 50257) == 124_438_272


@pytest.mark.parametrize(
    "billions, hidden, layers",
    [
        ("1.7", 2304, 24),
        ("3.6", 3072, 30),
        ("7.5", 4096, 36),
        ("18.4", 6144, 40),
        ("39.1", 8192, 48),
        ("76.1", 10240, 60),
        ("145.6", 12288, 80),
        ("310.1", 16384, 96),
        ("529.6", 20480, 105),
        ("1008.0", 25600, 128),
    ],
)
def test_table_1_of_narayanan(billions, hidden, layers):
    count = narayanan_parameters(layers, hidden, 2048, 51200)
    assert f"{count / 1e9:.1f}" == billions


@pytest.mark.parametrize("sizes", SIZES)
def test_flops_equal_the_counted_ones(sizes):
    layers, hidden, _, sequence, vocabulary = sizes
    model = GPT(GPTConfig(*sizes))
    tokens = torch.randint(0, vocabulary, (2, sequence))
    # The counter has no formula for the CPU's fused attention.
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(tokens, tokens).backward()
    exact = matmul_flops_per_token(layers, hidden, sequence, vocabulary)
    assert counter.get_total_flops() == tokens.numel() * exact
    convention = flops_per_token(
        num_parameters(model), layers, hidden, sequence
    )
    # 13 L h + 2 h parameters of biases and LayerNorms, s h of positions
    left_over = 13 * layers * hidden + 2 * hidden + sequence * hidden
    assert convention - exact == 6 * left_over


@pytest.mark.parametrize("name", ["parameters", "flops", "hardware"])
def test_the_files_run_in_the_page(name):
    """No import and no syntax that MicroPython lacks."""
    path = Path(workshop.estimate.__file__).with_name(f"{name}.py")
    forbidden = (ast.Import, ast.ImportFrom, ast.Match, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, forbidden), ast.dump(node)
        assert not (isinstance(node, ast.arguments) and node.posonlyargs)
