"""Sequence parallelism: traffic, memory, and the gradients it must sum."""

import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist
from pool import Pool
from tensor_cases import (
    BATCH,
    HIDDEN,
    LAYERS,
    SEQUENCE,
    Case,
    split,
    train_rank,
)
from torch import Tensor, nn

from workshop.collectives import count
from workshop.errors import UserError
from workshop.parallel.tensor.mappings import (
    copy_to,
    gather_from,
    gather_tokens,
    reduce_from,
    reduce_scatter_tokens,
)
from workshop.parallel.tensor.sequence import finish_gradients


@pytest.mark.parametrize("fixture", ["pool2", "pool4"])
def test_the_same_bytes_as_tensor_parallelism(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    """A reduce-scatter and an all-gather are an all-reduce, cut in two.

    To gather the inputs of column-parallel layers again in backward costs
    half an all-reduce for each: 5 passes over the wire where there were 4.
    """
    pool: Pool = request.getfixturevalue(fixture)
    cases = [Case(), Case(True, overlap=False), Case(True, overlap=True)]
    t, activations = pool.world, 8 * BATCH * SEQUENCE * HIDDEN
    for tensor, sequence, again in pool.run(train_rank, cases):
        assert sequence.sent == tensor.sent
        extra = (2 * LAYERS + 1) * activations * (t - 1) / t
        assert again.sent == tensor.sent + extra


def test_the_fused_layers_bring_their_operators_along() -> None:
    """torch has them only where its symmetric memory was imported."""
    seek = (
        "import torch, workshop.parallel.tensor.fused;"
        "torch.ops.symm_mem.fused_all_gather_matmul;"
        "torch.ops.symm_mem.fused_matmul_reduce_scatter"
    )
    subprocess.run([sys.executable, "-c", seek], check=True)


def kept_by_a_block(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that a block keeps for backward."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            # Held, so that no other gets its address.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model.blocks[0](x.requires_grad_())
    return sum(storage.nbytes() for storage in kept.values())


def activations(rank: int, world: int, case: Case) -> tuple[set, int]:
    """Return shapes between the layers, and the bytes kept for backward."""
    model, _ = split(case, dist.group.WORLD)
    shapes = set()
    for block in model.blocks:
        for part in (block.norm1, block.norm2, block.dropout, block):
            part.register_forward_hook(
                lambda _, args, out: shapes.add(tuple(out.shape))
            )
    own = SEQUENCE // world if case.sequence_parallel else SEQUENCE
    x = torch.randn(BATCH, own, HIDDEN).double()
    return shapes, kept_by_a_block(model, x)


def test_every_rank_holds_its_tokens_alone(pool2: Pool) -> None:
    """Between the split layers b·s/t tokens, so all that is kept is 1/t."""
    x = torch.randn(BATCH, SEQUENCE, HIDDEN).double()
    dense = kept_by_a_block(Case().model(), x)
    for case, own in ((Case(), SEQUENCE), (Case(True), SEQUENCE // 2)):
        for shapes, size in pool2.run(activations, case):
            assert shapes == {(BATCH, own, HIDDEN)}
            if case.sequence_parallel:
                assert size == pytest.approx(dense / 2, rel=0.02)
            else:
                assert dense / 2 < size < dense


def finish(rank: int, world: int) -> tuple:
    """Return what `finish_gradients` sends and leaves, by dtype."""
    model, placement = split(Case(sequence_parallel=True), dist.group.WORLD)
    model.head.float()
    memory = {}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.full_like(parameter, rank + 1)
        memory[name] = parameter.grad.data_ptr()
    model.blocks[0].norm1.weight.grad = None
    with count() as ledger:
        finish_gradients(model, placement, dist.group.WORLD)
    sums = {
        name: parameter.grad.unique().tolist()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    in_place = all(
        parameter.grad.data_ptr() == memory[name]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    )
    return sums, [entry.message_bytes for entry in ledger.entries], in_place


def test_partial_gradients_travel_as_one_message(pool2: Pool) -> None:
    """One for each dtype; the sum is where the gradient was."""
    names = [name for name, _ in Case().model().named_parameters()]
    for rank, (sums, messages, in_place) in enumerate(pool2.run(finish)):
        assert in_place and sums.keys() == set(names) - {
            "blocks.0.norm1.weight"
        }
        for name, values in sums.items():
            replicated = (
                "norm" in name
                or "position" in name
                or name.endswith(("output.bias", "down.bias"))
            )
            assert values == [3] if replicated else [rank + 1]
        in_double = 4 * LAYERS - 1 + SEQUENCE + 2 * LAYERS
        assert sorted(messages) == [2 * HIDDEN * 4, in_double * HIDDEN * 8]


def mappings(rank: int, world: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return output and input's gradient of each mapping."""
    group = dist.group.WORLD.group_name
    mapped = {}
    for mapping in (
        copy_to,
        reduce_from,
        gather_from,
        gather_tokens,
        reduce_scatter_tokens,
    ):
        x = torch.arange(24.0).view(2, 3, 4) + 100 * rank
        if mapping is reduce_scatter_tokens:
            x = x.view(2, 4, 3)
        x.requires_grad_()
        y = mapping(x, group)
        y.backward(torch.arange(y.numel()).view_as(y) * (rank + 1.0))
        mapped[mapping.__name__] = y.detach(), x.grad
    return mapped


def check_mapping(
    got: dict[str, tuple[Tensor, Tensor]],
    name: str,
    y: Tensor,
    gradient: Tensor,
) -> None:
    torch.testing.assert_close(got[name][0], y)
    torch.testing.assert_close(got[name][1], gradient)


def test_each_mapping_and_its_conjugate(pool2: Pool) -> None:
    """What the table in `tensor_mappings` says, on two ranks."""
    x = torch.arange(24.0).view(2, 3, 4)
    both = torch.stack([x, x + 100])
    for rank, got in enumerate(pool2.run(mappings)):
        check = partial(check_mapping, got)
        own = x + 100 * rank
        check("copy_to", own, 3 * x)
        check("reduce_from", both.sum(0), x * (rank + 1))
        wide = torch.arange(48.0).view(2, 3, 8) * (rank + 1)
        side = slice(4 * rank, 4 * rank + 4)
        check("gather_from", torch.cat([x, x + 100], -1), wide[..., side])
        # Tokens laid end to end: 6 on each rank, in 2 rows of 3.
        tokens = torch.arange(48.0).view(2, 2, 3, 4)
        check("gather_tokens", both.view(2, 6, 4), 3 * tokens[rank])
        run = both.sum(0).view(2, 2, 2, 3)[rank]
        part = torch.arange(12.0).view(2, 2, 3)
        whole = torch.cat([part, 2 * part]).view(2, 4, 3)
        check("reduce_scatter_tokens", run, whole)


def cut_unevenly(rank: int, world: int) -> str:
    """Return what cutting 5 tokens into 2 says."""
    with pytest.raises(UserError) as refused:
        reduce_scatter_tokens(
            torch.ones(2, 5, 5), dist.group.WORLD.group_name
        )
    return str(refused.value)


def test_an_activation_that_does_not_divide_is_refused(pool2: Pool) -> None:
    for says in pool2.run(cut_unevenly):
        assert "of 5 cannot be cut into 2 equal" in says
