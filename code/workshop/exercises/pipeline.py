"""The check of an exercise of chapter 03: a pipeline's step to repair.

Two stages of one model live in one process; the answer is the step that
takes micro-batches through them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop.exercises.verdict import MISSING, RIGHT

MICRO_BATCHES, WORDS, HIDDEN = 3, 7, 4
LAYERS = [
    f"{stage}.layer.{what}"
    for stage in ("first", "second")
    for what in ("weight", "bias")
]
Batch = tuple[Tensor, Tensor]


class First(nn.Module):
    """The first stage: tokens (n,) to activations (n, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(WORDS, HIDDEN))
        self.layer = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, tokens: Tensor) -> Tensor:
        """Look the tokens up and take them through a layer."""
        return torch.tanh(self.layer(self.embedding[tokens]))


class Second(nn.Module):
    """The last stage, with a copy of the embedding as its output layer."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(HIDDEN, HIDDEN)
        self.embedding = nn.Parameter(embedding.detach().clone())

    def forward(self, activations: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the targets (n,)."""
        return F.cross_entropy(
            self.layer(activations) @ self.embedding.T, targets
        )


def check_pipeline_step(
    answer: Callable[[First, Second, list[Batch]], float] | None,
) -> str:
    """Judge a step of two stages: its loss and the gradients that it leaves.

    The function gets both stages and the micro-batches, pairs of tokens
    and targets; it returns the loss of the whole batch. Both copies of the
    embedding must end with the gradient of the tied one.
    """
    if answer is None:
        return MISSING
    torch.manual_seed(0)
    first = First().double()
    second = Second(first.embedding).double()
    tokens = torch.randint(WORDS, (MICRO_BATCHES, 2, 5))
    batches = [(each[0], each[1]) for each in tokens]
    due = _dense(first, second, batches)
    said = answer(first, second, batches)
    if said is None:
        return "Not yet: it returns no loss."
    loss = said.item() if isinstance(said, Tensor) else float(said)
    grads = {
        name: parameter.grad
        for stage, module in (("first", first), ("second", second))
        for name, parameter in module.named_parameters(prefix=stage)
    }
    if grads["first.layer.weight"] is None:
        return (
            "Not yet: the first stage has no gradient. The second one knows "
            "the gradient of what it received: who carries it back?"
        )
    for name in ("second.layer.weight", "first.layer.weight"):
        ratio = (grads[name].norm() / due[name].norm()).item()
        if abs(ratio - 1) > 1e-9:
            return (
                f"Not yet: the gradient of {name} is {ratio:.3f} times as "
                f"long as the dense one, with {MICRO_BATCHES} micro-batches."
            )
    for name in LAYERS:
        grad = grads[name]
        if grad is None or not torch.allclose(grad, due[name]):
            return (
                f"Not yet: the gradient of {name} is not the dense one, "
                "whatever its length."
            )
    for name in ("first.embedding", "second.embedding"):
        if not torch.allclose(grads[name], due["embedding"]):
            return (
                f"Not yet: the gradient of {name} is not that of the tied "
                "embedding: it is used at both ends."
            )
    if abs(loss - due["loss"].item()) > 1e-9:
        return "Not yet: the gradients are right, and the loss is not."
    return RIGHT


def _dense(
    first: First, second: Second, batches: list[Batch]
) -> dict[str, Tensor]:
    """Return loss and gradients of the one model that both stages are."""
    tied = first.embedding.detach().clone().requires_grad_()
    tokens, targets = (torch.cat(each) for each in zip(*batches, strict=True))
    activations = torch.tanh(first.layer(tied[tokens]))
    loss = F.cross_entropy(second.layer(activations) @ tied.T, targets)
    layers = [*first.layer.parameters(), *second.layer.parameters()]
    wanted, names = [*layers, tied], [*LAYERS, "embedding"]
    gradients = torch.autograd.grad(loss, wanted)
    return {"loss": loss.detach(), **dict(zip(names, gradients, strict=True))}
