"""Wrong ways to put our GPT into megatron-core, each by its own patch.

They are context managers around the building and the running of its model,
by name in `BUGS`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch


@contextmanager
def patched(target: str, replacement: Any) -> Iterator[None]:
    with mock.patch(f"workshop.peers.megatron.{target}", replacement):
        yield


@contextmanager
def qkv_cut_across() -> Iterator[None]:
    """The rows of Q, K and V are cut as they lie, not by heads."""
    with (
        patched("weights.heads_together", lambda tensor, heads: tensor),
        patched("weights.kinds_together", lambda tensor, heads: tensor),
    ):
        yield


@contextmanager
def unmarked_norms() -> Iterator[None]:
    """LayerNorm's gradients are not summed under sequence parallelism."""

    class Unmarked(torch.nn.LayerNorm):
        def __init__(self, config, hidden_size, eps=1e-5):
            super().__init__(hidden_size, eps)

    with patched("model.LayerNorm", Unmarked):
        yield


@contextmanager
def exact_gelu() -> Iterator[None]:
    """The activation is megatron-core's default, not the tanh form."""
    with patched("model.partial", lambda function, **options: function):
        yield


@contextmanager
def default_messages() -> Iterator[None]:
    """An interleaved schedule keeps megatron-core's default messages."""
    from workshop.peers.megatron import model

    def config(**options: Any) -> object:
        options |= {"overlap_p2p_comm": False, "batch_p2p_comm": True}
        return real(**options)

    real = model.TransformerConfig
    with patched("model.TransformerConfig", config):
        yield


@contextmanager
def unmarked_cuts() -> Iterator[None]:
    """megatron-core draws no weights, and so marks none as cut."""
    from workshop.peers.megatron import model

    real = model.TransformerConfig
    with patched(
        "model.TransformerConfig",
        lambda **options: real(**options | {"perform_initialization": False}),
    ):
        yield


@contextmanager
def decaying_vectors() -> Iterator[None]:
    """Nothing applies the multiple of the weight decay that vectors have."""
    with patched("trainer.get_standard_config_overrides", lambda _: {}):
        yield


BUGS: dict[str, Callable] = {
    "QKV cut across, megatron-core": qkv_cut_across,
    "LayerNorm unmarked, megatron-core": unmarked_norms,
    "exact GELU, megatron-core": exact_gelu,
    "default messages, megatron-core": default_messages,
    "parts not in the norm, megatron-core": unmarked_cuts,
    "decay of vectors, megatron-core": decaying_vectors,
}
