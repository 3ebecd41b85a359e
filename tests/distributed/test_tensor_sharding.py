"""Dense tensors to the ranks' parts and back, without any process."""

import pytest
import torch
from torch import Tensor

from workshop.errors import UserError
from workshop.models.gpt import GPT, Attention, GPTConfig
from workshop.parallel.tensor.sharding import PLAN, shard_of, shard_tensor

CONFIG = GPTConfig(layers=2, hidden=16, heads=4, sequence=8, vocabulary=37)


def numbered() -> dict[str, Tensor]:
    """Return a dense state in which no two elements are equal."""
    state, start = {}, 1
    for name, parameter in GPT(CONFIG).named_parameters():
        count = parameter.numel()
        state[name] = torch.arange(start, start + count).view_as(parameter)
        start += count
    return state


@pytest.mark.parametrize("size", [1, 2, 4])
def test_there_and_back(size: int) -> None:
    """Every parameter of the model, its odd vocabulary included."""
    dense = numbered()
    for name, tensor in dense.items():
        parts = [
            shard_tensor(name, tensor, PLAN, rank, size)
            for rank in range(size)
        ]
        shard = shard_of(name, tensor.shape, PLAN)
        joined = parts[0] if shard is None else shard.whole(parts)
        assert torch.equal(joined, tensor)


@pytest.mark.parametrize("size", [2, 4])
def test_every_element_is_on_one_rank_or_on_all(size: int) -> None:
    """Split parameters have t-th parts without overlap; others are whole."""
    for name, tensor in numbered().items():
        parts = [
            shard_tensor(name, tensor, PLAN, r, size) for r in range(size)
        ]
        if shard_of(name, tensor.shape, PLAN) is None:
            assert all(part is tensor for part in parts)
            continue
        there = torch.cat([part.flatten() for part in parts])
        if name == "embedding.token.weight":
            extra = -37 % size * CONFIG.hidden
            assert (there == 0).sum() == extra
            there = there[there != 0]
        assert torch.equal(there.sort().values, tensor.flatten())
        assert len({part.shape for part in parts}) == 1


def test_which_parameters_are_split() -> None:
    """All of the plan's weights, and the biases of column layers alone."""
    leaves = {
        name.removeprefix("blocks.1.")
        for name, tensor in numbered().items()
        if shard_of(name, tensor.shape, PLAN)
        and not name.startswith("blocks.0.")
    }
    assert leaves == {
        "embedding.token.weight",
        "attention.qkv.weight",
        "attention.qkv.bias",
        "attention.output.weight",
        "mlp.up.weight",
        "mlp.up.bias",
        "mlp.down.weight",
    }


def test_a_rank_has_whole_heads_with_all_of_q_k_and_v() -> None:
    """A dense attention of a rank's part is that rank's heads."""
    torch.manual_seed(0)
    name = "blocks.0.attention.qkv.weight"
    dense = Attention(CONFIG).double()
    x = torch.randn(2, 8, 16).double()
    whole = dense.qkv(x).unflatten(-1, (3, 4, 4))
    for rank in range(2):
        weight = shard_tensor(name, dense.qkv.weight, PLAN, rank, 2)
        bias = shard_tensor(
            name.replace("weight", "bias"), dense.qkv.bias, PLAN, rank, 2
        )
        own = torch.nn.functional.linear(x, weight, bias)
        due = whole[..., 2 * rank : 2 * rank + 2, :]
        torch.testing.assert_close(own.unflatten(-1, (3, 2, 4)), due)


def test_parts_have_memory_of_their_own() -> None:
    """The dense model can be freed, and changing a part changes no other."""
    for name, tensor in numbered().items():
        if shard := shard_of(name, tensor.shape, PLAN):
            part = shard_tensor(name, tensor, PLAN, 0, 2)
            assert part.is_contiguous()
            assert part.untyped_storage().nbytes() == part.nbytes
            again = shard.whole([part, part])
            assert again.data_ptr() != part.data_ptr()


def test_a_dimension_that_does_not_divide_is_named() -> None:
    with pytest.raises(UserError, match=r"mlp\.up\.weight.* of 6 .* 4 ranks"):
        shard_tensor("blocks.0.mlp.up.weight", torch.ones(6, 2), PLAN, 0, 4)
