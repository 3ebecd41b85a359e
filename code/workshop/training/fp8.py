"""Products of 8-bit numbers, with a scale for each tensor.

Micikevicius et al. 2022 (arXiv:2209.05433): weights and activations in E4M3,
which has more digits, gradients in E5M2, which has more range. A tensor is
multiplied by what brings its largest element to the end of the range, and
the product, which adds up in float32, is divided again. The scale is that of
the tensor itself and not of an earlier step's, so that nothing overflows;
to find it costs a pass over the tensor.

Only products inside blocks are in 8 bits. Embedding, head, LayerNorm,
attention and all that is added up stay as they are.
"""

from typing import Any

import torch
from torch import Tensor, nn

from workshop.errors import UserError

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""What rows and columns of a scaled product are multiples of."""
SMALLEST = 1e-12


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x in 8 bits, and what to multiply it by to have x again."""
    largest = torch.finfo(dtype).max
    scale = largest / x.abs().amax().float().clamp(min=SMALLEST)
    narrow = (x.float() * scale).clamp(-largest, largest).to(dtype)
    return narrow, 1 / scale


def product(
    a: Tensor, b: Tensor, scales: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Tensor:
    """Return a (n, k) times b (k, m) in `dtype`; b lies column by column."""
    return torch._scaled_mm(
        a, b, scale_a=scales[0], scale_b=scales[1], out_dtype=dtype
    )


def by_columns(x: Tensor) -> Tensor:
    """Return a matrix whose columns lie one behind the other in memory."""
    return x.t().contiguous().t()


class Product(torch.autograd.Function):
    """x (n, i) times weight (o, i) transposed; it keeps both in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Return (n, o) in x's precision."""
        x8, of_x = quantised(x, FORWARD)
        w8, of_w = quantised(weight, FORWARD)
        ctx.save_for_backward(x8, of_x, w8, of_w)
        return product(x8, w8.t(), (of_x, of_w), x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of the weight."""
        x8, of_x, w8, of_w = ctx.saved_tensors
        g8, of_g = quantised(gradient, BACKWARD)
        dtype = gradient.dtype
        x_gradient = product(g8, by_columns(w8), (of_g, of_w), dtype)
        w_gradient = product(
            g8.t().contiguous(), by_columns(x8), (of_g, of_x), dtype
        )
        return x_gradient, w_gradient


class Linear(nn.Linear):
    """A linear layer whose products are in 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., i) to (..., o)."""
        y = Product.apply(x.flatten(0, -2), self.weight)
        if self.bias is not None:
            y = y + self.bias
        return y.unflatten(0, x.shape[:-1])


def use_fp8(chunk: nn.Module, rows: int) -> None:
    """Let the linear layers of a model's or a stage's blocks use 8 bits.

    Args:
        chunk: with `blocks`.
        rows: tokens of a micro-batch.

    Raises:
        UserError: they are shared by tensor parallel ranks, their sizes or
            the micro-batch do not fit, or the GPU has no such products.
    """
    layers = [m for m in chunk.blocks.modules() if type(m) is nn.Linear]
    if not layers:
        raise UserError(
            "the layers are shared by tensor parallel ranks, and products "
            "in 8 bits are for whole ones: choose another --precision"
        )
    device = layers[0].weight.device
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 9):
            name = torch.cuda.get_device_name(device)
            raise UserError(
                f"{name} has no products of 8 bits, Ada and Hopper have "
                "them: choose another --precision"
            )
    if rows % MULTIPLE:
        raise UserError(
            f"a micro-batch of {rows} tokens is no multiple of {MULTIPLE}, "
            "as products in 8 bits need it: choose another --micro-batch or "
            "--precision"
        )
    for layer in layers:
        if any(size % MULTIPLE for size in layer.weight.shape):
            raise UserError(
                f"a layer of {tuple(layer.weight.shape)} is no multiple of "
                f"{MULTIPLE} each way, as products in 8 bits need it: choose "
                "another model or --precision"
            )
        # Another class and no new attribute: compiled blocks stay alike.
        layer.__class__ = Linear
