"""Our weights as megatron-core stores them, and back.

Two things differ.  The names: its `decoder.layers.3.mlp.linear_fc1.weight`
is our `blocks.3.mlp.up.weight`, and it counts the layers of a pipeline stage
from 0.  And the rows of the fused QKV matrix: ours are all queries, then all
keys, then all values; its rows go head by head, with query, key and value of
a head together, so that a cut between heads takes a whole head along.

Every function works on any tensor of a parameter's shape: a weight, its
gradient, an optimizer's moment.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from workshop.errors import UserError

NAMES = {
    "embedding.word_embeddings.weight": "embedding.token.weight",
    "embedding.position_embeddings.weight": "embedding.position.weight",
    "decoder.final_layernorm": "head.norm",
    "output_layer.weight": "embedding.token.weight",
}
IN_A_LAYER = {
    "input_layernorm": "norm1",
    "self_attention.linear_qkv": "attention.qkv",
    "self_attention.linear_proj": "attention.output",
    "pre_mlp_layernorm": "norm2",
    "mlp.linear_fc1": "mlp.up",
    "mlp.linear_fc2": "mlp.down",
}
# Which dimension tensor parallelism cuts (Shoeybi et al. 2019, section 3).
CUT = {
    "embedding.token.weight": 0,
    "attention.qkv.weight": 0,
    "attention.qkv.bias": 0,
    "mlp.up.weight": 0,
    "mlp.up.bias": 0,
    "attention.output.weight": 1,
    "mlp.down.weight": 1,
}
LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")


def dense_name(name: str, first_layer: int) -> str:
    """Return our name of a parameter of a stage.

    Args:
        name: its name in the stage's GPTModel.
        first_layer: the 0-based number of the stage's first layer.

    Raises:
        KeyError: no parameter of this model is called so.
    """
    if match := LAYER.match(name):
        number, part, kind = match.groups()
        layer = first_layer + int(number)
        return f"blocks.{layer}.{IN_A_LAYER[part]}.{kind}"
    if name in NAMES:
        return NAMES[name]
    part, _, kind = name.rpartition(".")
    return f"{NAMES[part]}.{kind}"


def heads_together(tensor: Tensor, heads: int) -> Tensor:
    """Reorder QKV rows (3, heads, d) to (heads, 3, d); `(3h, ...)` both."""
    rows = tensor.unflatten(0, (3, heads, -1))
    return rows.transpose(0, 1).flatten(0, 2)


def kinds_together(tensor: Tensor, heads: int) -> Tensor:
    """Reorder QKV rows (heads, 3, d) to (3, heads, d); `(3h, ...)` both."""
    rows = tensor.unflatten(0, (heads, 3, -1))
    return rows.transpose(0, 1).flatten(0, 2)


def cut_dimension(name: str) -> int | None:
    """Return the dimension that the ranks share, None if all hold it all."""
    dims = [dim for ending, dim in CUT.items() if name.endswith(ending)]
    return dims[0] if dims else None


def shard(
    name: str, tensor: Tensor, heads: int, rank: int, size: int
) -> Tensor:
    """Return megatron-core's part of one of our tensors.

    Args:
        name: our name of the parameter.
        tensor: our tensor, whole.
        heads: attention heads of the whole model.
        rank, size: of the tensor parallel group.

    Raises:
        UserError: the dimension that is cut does not divide by `size`.
    """
    dim = cut_dimension(name)
    if dim is None:
        return tensor
    cut_by = heads if ".qkv." in name else tensor.shape[dim]
    if cut_by % size:
        unit = "heads" if ".qkv." in name else f"entries of {name}"
        raise UserError(
            f"{cut_by} {unit} do not divide by the tensor parallel size "
            f"{size}: choose a size that divides {cut_by}"
        )
    if ".qkv." in name:
        tensor = heads_together(tensor, heads)
    return tensor.chunk(size, dim)[rank]


def unshard(name: str, parts: list[Tensor], heads: int) -> Tensor:
    """Return our tensor from the parts of a tensor parallel group.

    The inverse of `shard`; of a tensor that is not cut every rank holds all
    of it, and the first rank's is returned.
    """
    dim = cut_dimension(name)
    if dim is None:
        return parts[0]
    tensor = torch.cat(parts, dim)
    return kinds_together(tensor, heads) if ".qkv." in name else tensor


def named(stage: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Return the parameters of a stage under our names.

    `stage` is megatron-core's GPTModel, wrapped or not.
    """
    while hasattr(stage, "module"):
        stage = stage.module
    layers = stage.decoder.layers
    first = layers[0].layer_number - 1 if len(layers) else 0
    for name, parameter in stage.named_parameters():
        yield dense_name(name, first), parameter


@torch.no_grad()
def load(
    stage: nn.Module,
    dense: Mapping[str, Tensor],
    heads: int,
    rank: int,
    size: int,
) -> None:
    """Copy our dense weights into a stage of megatron-core's model.

    Args:
        stage: a GPTModel, wrapped or not.
        dense: our whole state dict.
        heads: attention heads of the whole model.
        rank, size: of the tensor parallel group.

    Raises:
        UserError: the sizes do not divide, or the shapes do not fit.
    """
    for name, parameter in named(stage):
        part = shard(name, dense[name], heads, rank, size)
        if part.shape != parameter.shape:
            raise UserError(
                f"{name} is {tuple(part.shape)} here and "
                f"{tuple(parameter.shape)} in megatron-core's model: build "
                "both with the same sizes"
            )
        parameter.copy_(part)
