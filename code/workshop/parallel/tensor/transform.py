"""Tensor parallelism: every layer split over the ranks of a group.

    model = GPT(config)                      # the same weights on all ranks
    placement = apply(model, PLAN, group)    # each rank keeps its part
    model(tokens, targets).backward()        # the same batch on all ranks
    finish_gradients(model, placement, group)    # sequence parallelism only

Shoeybi et al. 2019 (arXiv:1909.08053), section 3: the first matrix of MLP
and attention is split by columns and the second by rows, so that a layer
needs one all-reduce of b·s·h elements for each of the two in forward and one
in backward. Outside the layers, one follows the embedding and one, in
backward, precedes the final LayerNorm; the loss takes three of b·s.
"""

from collections.abc import Mapping

from torch import nn
from torch.distributed import ProcessGroup

from workshop.errors import UserError
from workshop.models.gpt import GPTConfig
from workshop.parallel.placement import PARTIAL, WHOLE, Placement
from workshop.parallel.tensor.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorRegion,
    VocabParallelEmbedding,
    VocabParallelHead,
)
from workshop.parallel.tensor.sequence import (
    SequenceParallelEmbedding,
    check_sequence,
    finish_gradients,
)
from workshop.parallel.tensor.sharding import (
    PLAN,
    shard_of,
    shard_tensor,
    style_of,
)

__all__ = ["PLAN", "apply", "finish_gradients", "shard_tensor"]


def apply(
    model: nn.Module,
    plan: Mapping[str, str],
    group: ProcessGroup,
    sequence_parallel: bool = False,
    overlap: bool = True,
) -> dict[str, Placement]:
    """Split a dense model over a group, in place.

    Parameters keep their names. The result says where each of them lies:
    split, whole, or whole with a gradient that `finish_gradients` has to
    sum. Compile the model, wrap it and make its optimizer afterwards.

    Args:
        model: a GPT with `.config`, or a pipeline stage of one, which lacks
            some of `embedding`, `blocks` and `head`. All ranks of the group
            have the same weights.
        plan: module path pattern to style; see `PLAN`.
        sequence_parallel: split the tokens between the split layers.
        overlap: hide communication behind the products of the same layer.

    Every rank of the group calls it at the same time.

    Raises:
        UserError: the group's size does not divide the heads or, under
            sequence parallelism, the sequence.
    """
    size, rank = group.size(), group.rank()
    check(model.config, size, sequence_parallel)
    sequence_parallel = sequence_parallel and size > 1
    shards = {
        name: shard_of(name, parameter.shape, plan) if size > 1 else None
        for name, parameter in model.named_parameters()
    }
    if size > 1:
        fused = sequence_parallel and overlap and _fused(model, group)
        region = TensorRegion(
            group.group_name, rank, size, sequence_parallel, overlap, fused
        )
        for path, module in list(model.named_modules()):
            style = style_of(path, plan)
            if style != "replicated":
                layer = _split(module, path, style, plan, region, model)
                model.set_submodule(path, layer)
        embedding = getattr(model, "embedding", None)
        if sequence_parallel and hasattr(embedding, "position"):
            model.embedding = SequenceParallelEmbedding(embedding, region)
    whole = PARTIAL if sequence_parallel else WHOLE
    return {
        name: Placement(tp=shard or whole) for name, shard in shards.items()
    }


def _fused(model: nn.Module, group: ProcessGroup) -> bool:
    """Tell whether the layers of `fused` are to be had, all ranks alike."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return False
    from workshop.parallel.tensor.fused import ready

    return ready(group, device)


def check(config: GPTConfig, size: int, sequence_parallel: bool) -> None:
    """Refuse a model that `size` ranks cannot share.

    Raises:
        UserError: naming the model's number and the ranks.
    """
    if config.heads % size:
        raise UserError(
            f"{config.heads} attention heads are not divisible by the tensor "
            f"parallel size {size}, and every rank takes whole heads: choose "
            f"a size that divides {config.heads}."
        )
    if config.attention_dropout:
        raise UserError(
            "each rank has other heads, and would drop the same elements of "
            "each: leave attention_dropout out under tensor parallelism"
        )
    if sequence_parallel:
        check_sequence(config.sequence, size)


def _split(
    module: nn.Module,
    path: str,
    style: str,
    plan: Mapping[str, str],
    region: TensorRegion,
    model: nn.Module,
) -> nn.Module:
    """Return the parallel layer that takes the place of a dense one."""
    parts = {}
    # The head's LayerNorm stays as it is, and is no parameter of its own.
    for name, dense in module.named_parameters(recurse=False):
        part = shard_tensor(
            f"{path}.{name}", dense.detach(), plan, region.rank, region.size
        )
        parts[name] = nn.Parameter(part, requires_grad=dense.requires_grad)
    if style == "head":
        return VocabParallelHead(
            module.norm, model.config.vocabulary, region, parts.get("weight")
        )
    if style == "vocab":
        vocabulary = model.config.vocabulary
        return VocabParallelEmbedding(parts["weight"], region, vocabulary)
    layer = RowParallelLinear if style == "row" else ColumnParallelLinear
    return layer(parts["weight"], parts.get("bias"), region)
