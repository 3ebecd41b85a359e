"""What tests of the estimates share: counting what autograd keeps."""

import torch
from torch import Tensor, nn


def kept_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes that autograd keeps, parameters left out."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    weights |= {
        p.untyped_storage().data_ptr()
        for p in inputs
        if isinstance(p, nn.Parameter)
    }
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = module(*inputs)
    assert result.requires_grad
    return sum(kept.values())
