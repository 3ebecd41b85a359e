"""GPT with the shape of GPT-2: pre-LayerNorm, dense, tied or not.

The model knows nothing of parallelism; the strategies are applied to it from
outside. Radford et al. 2019 give the shape; Shoeybi et al. 2019
(arXiv:1909.08053) pad the vocabulary as we do.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


ATTENTIONS = ("flash", "core")


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: `layers` L, `hidden` h, `heads` a, `sequence` s.

    `vocabulary` is the padded size V of the embedding, at least the
    tokenizer's. `dropout` applies to the embedding and to both outputs of a
    block, `attention_dropout` to the attention's probabilities. `tied` heads
    use the token embedding's weight, others have one of their own, as
    GPT-J's. `attention` is `flash`, one kernel that never writes the s × s
    matrix (Dao et al. 2022, arXiv:2205.14135), or `core`, which writes it as
    the papers' formulas count it.
    """

    layers: int
    hidden: int
    heads: int
    sequence: int
    vocabulary: int
    bias: bool = True
    dropout: float = 0.0
    tied: bool = True
    attention: str = "flash"
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"attention {self.attention!r} is none of "
                f"{', '.join(ATTENTIONS)}: choose one"
            )
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden size {self.hidden} is not divisible by "
                f"{self.heads} heads: change one of them"
            )


CONFIGS = {
    "tiny": GPTConfig(2, 64, 2, 64, 1024),
    "mini": GPTConfig(8, 64, 4, 64, 1024),
    "gpt2-small": GPTConfig(12, 768, 12, 1024, 50304),
    "gpt-1.3b": GPTConfig(24, 2048, 16, 1024, 50304),
    "gpt-10b": GPTConfig(48, 4096, 32, 1024, 50304),
}


class Embedding(nn.Module):
    """Sum of token and learned position embeddings."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.hidden)
        self.position = nn.Embedding(config.sequence, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, s) to activations (b, s, h)."""
        x = self.token(tokens) + self.positions(tokens)
        # Autocast leaves embeddings in float32. The residual stream would
        # stay there, at twice the memory traffic of every block.
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.dropout(x)

    def positions(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings of tokens (b, s), as (s, h)."""
        return self.position(
            torch.arange(tokens.shape[1], device=tokens.device)
        )


class Attention(nn.Module):
    """Causal self-attention, over as many heads as `qkv` has outputs for."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        h = config.hidden
        self.head_size = h // config.heads
        self.written_out = config.attention == "core"
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(h, 3 * h, bias=config.bias)
        self.output = nn.Linear(h, h, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, h) to (b, s, h)."""
        qkv = self.qkv(x).unflatten(-1, (3, -1, self.head_size))
        # Split before the heads are moved forward: backward then stacks the
        # three gradients where qkv wants them, in one pass.
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        y = self.core(q, k, v)
        return self.output(y.transpose(1, 2).flatten(-2))

    def core(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries, keys and values, all (b, a, s, d), to (b, a, s, d).

        What grows with s²: softmax(q kᵀ / √d) v over the past of each token.
        """
        dropout = self.dropout if self.training else 0.0
        if not self.written_out:
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True
            )
        scores = q @ k.transpose(-1, -2) * self.head_size**-0.5
        future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return F.dropout(weights.to(v.dtype), dropout) @ v


class MLP(nn.Module):
    """Two linear layers, h to 4h to h, with GELU (tanh form) between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        h = config.hidden
        self.up = nn.Linear(h, 4 * h, bias=config.bias)
        self.down = nn.Linear(4 * h, h, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, h) to (b, s, h)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """One transformer layer, LayerNorm before attention and before MLP."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden, bias=config.bias)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, h) to (b, s, h)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Head(nn.Module):
    """Final LayerNorm and the projection onto the vocabulary."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden, bias=config.bias)
        self.weight = None
        if not config.tied:
            size = (config.vocabulary, config.hidden)
            self.weight = nn.Parameter(torch.empty(size))

    def forward(
        self, x: Tensor, tied: Tensor | None, targets: Tensor | None
    ) -> Tensor:
        """Map (b, s, h) to logits or to the mean loss.

        `tied` is the embedding's weight (V, h), None for a head with one of
        its own.  With `targets` (b, s) the result is the scalar
        cross-entropy in nats a token, without them the logits (b, s, V).
        """
        weight = self.weight if tied is None else tied
        logits = F.linear(self.norm(x), weight)
        if targets is None:
            return logits
        if logits.itemsize < 4:
            logits = logits.float()  # a sum over V needs its precision
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def call(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block."""
    return block(x)


class GPT(nn.Module):
    """The dense model, which every strategy is tested against.

    `run(block, x)` runs a block; recomputation puts its own way here.
    """

    run = staticmethod(call)

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(
            Block(config) for _ in range(config.layers)
        )
        self.head = Head(config)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw weights as GPT-2 does: N(0, 0.02), residual outputs smaller.

        The outputs of attention and MLP are scaled by 1/sqrt(2L), so that
        the variance of the residual stream does not grow with depth.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.fill_(1.0)
                continue
            std = 0.02
            if name.endswith(("output.weight", "down.weight")):
                std /= math.sqrt(2 * self.config.layers)
            parameter.normal_(0.0, std)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss over `targets`, or logits without them.

        `tokens` and `targets` are int64 of shape (b, s), s at most the
        configured sequence.
        """
        x = self.embedding(tokens)
        for block in self.blocks:
            x = self.run(block, x)
        tied = self.embedding.token.weight if self.config.tied else None
        return self.head(x, tied, targets)


def seeded(config: GPTConfig, seed: int, device: torch.device) -> GPT:
    """Return a model on a device, the same on every rank for a seed."""
    torch.manual_seed(seed)
    with torch.device(device):
        return GPT(config)


@cache
def size_of(config: GPTConfig) -> int:
    """Return a model's parameters without making it, a tied one once."""
    with torch.device("meta"):
        return num_parameters(GPT(config))


def num_parameters(model: nn.Module) -> int:
    """Count parameters, a tied one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def compile_blocks(model: GPT, backend: str = "inductor") -> GPT:
    """Compile the model in place, block by block, with torch.compile.

    One graph for the whole model would deliver every gradient when its
    single backward call returns, and nothing could be sent before that. With
    a graph for each block the gradients of a block are there as soon as its
    backward ends, and all blocks share one compilation. A pipeline stage may
    lack embedding or head.
    """
    ends = [getattr(model, name, None) for name in ("embedding", "head")]
    for part in (*ends, *model.blocks.children()):
        if part is not None:
            part.compile(fullgraph=True, dynamic=False, backend=backend)
    return model
