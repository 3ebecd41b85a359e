"""Checks for the exercises of chapter 02: each gives a hint, never a value.

An answer of None is one that was not given yet.
"""

from collections.abc import Callable
from math import isclose

import torch
import torch.distributed as dist
from torch import nn

from workshop.collectives import count
from workshop.estimate.memory import rank_bytes
from workshop.estimate.parameters import gpt_parameters
from workshop.exercises.verdict import MISSING, RIGHT
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPTConfig
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.profiling.intervals import (
    Interval,
    intersection,
    length,
    union,
)

EXACT = 1e-9
# Below what 4h is worth in gpt2-small's head, above its biases and positions.
NEAR_ENOUGH = 3e-3


def check_peak(answer: Callable[[GPTConfig, int], float] | None) -> str:
    """Judge a function of a GPT's configuration and a micro-batch.

    It returns the bytes at the peak of a step of one GPU with bfloat16
    weights, one micro-batch and compiled blocks, without the workspace.
    """
    if answer is None:
        return MISSING
    for name, batch in (("gpt-1.3b", 16), ("gpt-1.3b", 4), ("gpt2-small", 8)):
        config = CONFIGS[name]
        parts = _peak(config, batch)
        due, given = sum(parts.values()), answer(config, batch)
        if isclose(given, due, rel_tol=NEAR_ENOUGH):
            continue
        gradients = 2 * gpt_parameters(
            config.layers, config.hidden, config.sequence, config.vocabulary
        )
        hint = "which of states, layers and logits is off? Print each."
        if isclose(given, due + gradients, rel_tol=NEAR_ENOUGH):
            hint = "which tensors are not there yet when backward begins?"
        for part, size in parts.items():
            if isclose(given, due - size, rel_tol=NEAR_ENOUGH):
                hint = f"what has become of the {part}?"
        side = "too much" if given > due else "too little"
        return f"Not yet, {side} for {name} with {batch} sequences: {hint}"
    return RIGHT


def _peak(config: GPTConfig, batch: int) -> dict[str, float]:
    model = {
        "layers": config.layers, "hidden": config.hidden,
        "heads": config.heads, "sequence": config.sequence,
        "vocabulary": config.vocabulary,
    }  # fmt: skip
    parts = rank_bytes(model, Layout(micro_batch=batch))
    states = parts["weights"] + parts["optimizer"]
    return {
        "states": states,
        "layers": parts["layers"],
        "logits": parts["logits"],
    }


def check_exposed(
    answer: Callable[[list[Interval], list[Interval]], float] | None,
) -> str:
    """Judge a function of compute and message intervals, in ms.

    It returns the ms in which a message is under way and nothing computes.
    """
    if answer is None:
        return MISSING
    for what, compute, messages in (
        ("a message after all kernels", [(0, 4)], [(5, 7)]),
        ("a message over a gap", [(0, 2), (3, 6)], [(1, 5)]),
        ("two messages at once", [(0, 2)], [(1, 4), (3, 6)]),
        ("kernels on two streams", [(0, 3), (1, 5)], [(0, 6)]),
        ("a kernel inside another's time", [(0, 6), (1, 2)], [(1, 9)]),
        ("lists in no order", [(4, 6), (0, 2)], [(5, 8), (1, 3)]),
        ("a step without kernels", [], [(1, 3)]),
    ):
        talk = union(messages)
        due = length(talk) - length(intersection(talk, union(compute)))
        if not isclose(answer(compute, messages), due, abs_tol=EXACT):
            return f"Not yet: look again at {what}: {compute}, {messages}."
    return RIGHT


def check_reducer(
    answer: Callable[[nn.Module, dist.ProcessGroup], object] | None,
    group: dist.ProcessGroup,
    device: torch.device,
) -> str:
    """Judge a reducer that averages gradients while backward runs.

    Every rank of `group` calls this.  The reducer is made of a module and a
    group, its hooks send by `collectives.all_reduce`, and `finish()`
    returns when every `.grad` is the mean over the ranks.
    """
    if answer is None:
        return MISSING
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6, device=device) for _ in range(4)]
    module = nn.Sequential(*layers).double()
    parameters = list(module.parameters())
    torch.manual_seed(1 + dist.get_rank(group))
    batch = torch.randn(3, 6, dtype=torch.float64, device=device)
    module(batch).square().sum().backward()
    due = [parameter.grad.clone() for parameter in parameters]
    for gradient in due:
        dist.all_reduce(gradient, group=group)
        gradient /= dist.get_world_size(group)
    module.zero_grad()
    reducer, at_arrival = answer(module, group), []
    with count() as ledger:
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(
                lambda _: at_arrival.append(ledger.calls)
            )
        module(batch).square().sum().backward()
        reducer.finish()
    for (name, parameter), mean in zip(
        module.named_parameters(), due, strict=True
    ):
        if not torch.allclose(parameter.grad, mean):
            ratio = float(parameter.grad.norm() / mean.norm())
            return (
                f"Not yet: {name} has no mean over the ranks; its norm is "
                f"{ratio:.3g} times as long as it should be."
            )
    if at_arrival[-1] == 0:
        return (
            "Not yet: the values are right, and no message had left when "
            "the last gradient arrived: send from a hook, not in finish()."
        )
    if ledger.calls > len(parameters):
        return "Not yet: more messages than gradients: each is due once."
    if at_arrival[-2] == 0:
        return "Not yet: all messages leave at once: send them as they come."
    return RIGHT


class Suspect(NaiveDataParallel):
    """Data parallelism with a planted bug: find what it leaves local."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that are averaged."""
        return [
            (name, parameter)
            for name, parameter in super().trainable()
            if not (name.endswith("bias") and "up" in name.split("."))
        ]


def check_suspect(answer: set[str] | None, module: nn.Module) -> str:
    """Judge the names of the parameters that `Suspect` leaves local."""
    if answer is None:
        return MISSING
    every = {name for name, _ in module.named_parameters()}
    if unknown := sorted(set(answer) - every):
        return f"Not yet: the model has no parameter {unknown[0]!r}."
    one = Suspect(module, dist.group.WORLD)
    local = every - {name for name, _ in one.trainable()}
    if wrong := sorted(set(answer) - local):
        return (
            f"Not yet: {wrong[0]} is the mean over the ranks: compare each "
            "gradient with the dense model's for the whole batch."
        )
    if set(answer) != local:
        return "Not yet: those are local, and others too: look at each block."
    return RIGHT
