"""Split layers under torch.compile: no graph break, the same numbers."""

import pytest
import torch
import torch.distributed as dist
from pool import Pool
from tensor_cases import (
    BATCH,
    HIDDEN,
    SEQUENCE,
    Case,
    split,
    train_rank,
    verify,
)
from torch._dynamo.utils import counters
from torch.library import opcheck

from workshop.parallel.tensor.linear import (
    column_linear,
    column_linear_backward,
    row_linear,
)
from workshop.parallel.tensor.mappings import (
    all_gather,
    all_reduce,
    own_last,
    sum_own_tokens,
)

LAYOUTS = [
    Case(sequence_parallel, overlap)
    for sequence_parallel in (False, True)
    for overlap in (False, True)
]


def explain(rank: int, world: int) -> list[tuple[int, int]]:
    """Return graph breaks and graphs of a block, for each layout."""
    graphs = []
    torch._dynamo.reset()
    for case in LAYOUTS:
        model, _ = split(case, dist.group.WORLD)
        own = SEQUENCE // world if case.sequence_parallel else SEQUENCE
        x = torch.randn(BATCH, own, HIDDEN).double().requires_grad_()
        seen = torch._dynamo.explain(model.blocks[0])(x)
        graphs.append((seen.graph_break_count, seen.graph_count))
    return graphs


def test_a_block_is_one_graph(pool2: Pool) -> None:
    for graphs in pool2.run(explain):
        assert graphs == [(0, 1)] * len(LAYOUTS)


def graphs(rank: int, world: int) -> list[int]:
    """Return how many graphs a step compiles, tokens whole and split."""
    graphs = []
    for sequence_parallel in (False, True):
        case = Case(sequence_parallel, backend="eager")
        model, _ = split(case, dist.group.WORLD)
        counters.clear()
        model(*case.batch(0)).backward()
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs


def test_all_blocks_share_a_graph(pool2: Pool) -> None:
    """One for the embedding, one for the blocks, one for the head."""
    assert pool2.run(graphs) == [[3, 3]] * 2


def test_a_compiled_model_is_the_same_and_sends_the_same(
    pool2: Pool,
) -> None:
    """Every part of it in one graph (fullgraph), forward and backward.

    Dropout draws from the generator that code without a compiler uses.
    Without code generation, which takes a minute here: the runs on GPUs
    have it.
    """
    cases = [
        Case(dropout=0.1, backend="aot_eager"),
        Case(sequence_parallel=True, backend="aot_eager"),
    ]
    ranks = pool2.run(train_rank, cases)
    for case, of_case in zip(cases, zip(*ranks, strict=True), strict=True):
        verify(case, list(of_case))


def check_operators(rank: int, world: int) -> int:
    """Check what the compiler is told about each operator; count them."""
    group = dist.group.WORLD.group_name
    x = torch.randn(3, 4, 6).double()
    weight, bias = torch.randn(5, 6).double(), torch.randn(5).double()
    calls = [
        (all_reduce, (x, group, True)),
        (all_gather, (x, group)),
        (sum_own_tokens, (x, group)),
        (own_last, (x, group)),
    ]
    for split_tokens in (False, True):
        y = torch.randn(3, 8 if split_tokens else 4, 5).double()
        calls += [
            (column_linear, (x, weight, bias, group, split_tokens)),
            (column_linear, (x, weight, None, group, split_tokens)),
            (row_linear, (x, weight, group, split_tokens)),
            *(
                (
                    column_linear_backward,
                    (y, x, weight, group, split_tokens, train_weight),
                )
                for train_weight in (False, True)
            ),
        ]
    for operator, args in calls:
        opcheck(
            operator,
            args,
            test_utils=("test_schema", "test_faketensor"),
        )
    return len(calls)


def test_shapes_that_the_compiler_assumes_are_the_real_ones(
    pool2: Pool,
) -> None:
    assert pool2.run(check_operators) == [14, 14]


def differentiate(rank: int, world: int, split_tokens: bool) -> list[float]:
    """Return errors of the operators' gradients against finite differences.

    The loss is that of all tokens. Moving one weight of one rank moves it,
    and so does moving the input, which all ranks have.
    """
    torch.manual_seed(rank)
    group = dist.group.WORLD.group_name
    part = torch.randn(5, 6).double().requires_grad_()
    torch.manual_seed(9)
    x = torch.randn(2, 4, 6).double().requires_grad_()

    def loss(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        own = x.view(world, 2, -1, 6)[rank] if split_tokens else x
        y = column_linear(own, part, None, group, split_tokens)
        z = row_linear(y.tanh(), part.t(), group, split_tokens)
        return z.square().sum()

    def slope(x_step: torch.Tensor, part_step: torch.Tensor) -> float:
        moved = loss(x + x_step, part + part_step)
        moved -= loss(x - x_step, part - part_step)
        if split_tokens:
            moved = all_reduce(moved, group)
        return moved.item() / 2e-5

    of_part, of_x = torch.autograd.grad(loss(x, part), (part, x))
    if split_tokens:
        of_x = all_reduce(of_x, group)
    still, still_part = torch.zeros_like(x), torch.zeros_like(part)
    errors = []
    with torch.no_grad():
        for member in range(world):
            step = torch.zeros_like(part)
            step[1, 2] = 1e-5 if member == rank else 0
            grown = slope(still, step)
            if member == rank:
                errors.append(grown - of_part[1, 2].item())
        step = torch.zeros_like(x)
        step[1, 3, 2] = 1e-5
        errors.append(slope(step, still_part) - of_x[1, 3, 2].item())
    return errors


def test_gradients_are_finite_differences(pool2: Pool) -> None:
    for split_tokens in (False, True):
        for errors in pool2.run(differentiate, split_tokens):
            assert errors == pytest.approx([0, 0], abs=1e-6)
