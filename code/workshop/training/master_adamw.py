"""AdamW that keeps float32 master weights for 16-bit parameters.

With bfloat16 parameters and gradients the states take 2 + 2 + 12 bytes a
parameter, the 16Ψ of the ZeRO paper (Rajbhandari et al. 2019,
arXiv:1910.02054, section 3.1), and no step casts weights back and forth as
autocast does. The update of a tensor is one compiled kernel that reads and
writes everything once; all small tensors share one such kernel, because to
launch a kernel for each bias costs more than the arithmetic.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def _update(
    narrow: Tensor | None,
    gradient: Tensor,
    master: Tensor,
    mean: Tensor,
    variance: Tensor,
    scalars: Tensor,
) -> None:
    """Update one flat tensor in place (Loshchilov and Hutter 2019).

    `narrow` is the 16-bit parameter of `master`, if there is one. `scalars`
    holds the clip coefficient, 1 - beta1, 1 - beta2, the decay factor
    1 - lr * weight_decay, the step size lr / (1 - beta1^t),
    1 / sqrt(1 - beta2^t) and epsilon.
    """
    clip, rate1, rate2, decay, size, correction, epsilon = scalars.unbind()
    gradient = gradient.to(master.dtype) * clip
    mean.copy_(mean + rate1 * (gradient - mean))
    variance.copy_(variance + rate2 * (gradient * gradient - variance))
    denominator = variance.sqrt() * correction + epsilon
    master.copy_(master * decay - size * mean / denominator)
    if narrow is not None:
        narrow.copy_(master)


# Elements up to which 16-bit parameters of a group are updated together.
SMALL = 2**16


class Flat:
    """Small 16-bit parameters whose float32 states lie side by side.

    The states of each parameter become views of this object's flat ones, so
    that reading or saving them does not change.
    """

    NAMES = ("master", "mean", "variance")

    def __init__(
        self, parameters: list[nn.Parameter], state: dict[nn.Parameter, dict]
    ) -> None:
        self.parameters = parameters
        for name in self.NAMES:
            rows = [state[p][name].view(-1) for p in parameters]
            setattr(self, name, torch.cat(rows))
            for p, view in zip(parameters, self.views(name), strict=True):
                state[p][name] = view
        self.gradient = torch.empty_like(self.master)
        self.masters = self.views("master")
        self.gradients = self.views("gradient")

    def views(self, name: str) -> list[Tensor]:
        """Return a flat state as views, one in each parameter's shape."""
        sizes = [p.numel() for p in self.parameters]
        parts = getattr(self, name).split(sizes)
        pairs = zip(parts, self.parameters, strict=True)
        return [part.view_as(p) for part, p in pairs]

    def step(self, update: Callable[..., None], scalars: Tensor) -> None:
        """Update all of them; each must have a gradient."""
        gradients = [p.grad for p in self.parameters]
        torch._foreach_copy_(self.gradients, gradients)
        states = [getattr(self, name) for name in self.NAMES]
        update(None, self.gradient, *states, scalars)
        torch._foreach_copy_(self.parameters, self.masters)


class MasterAdamW(Optimizer):
    """AdamW with a clip coefficient, and masters for 16-bit parameters.

    A parameter of 16 bits gets a float32 copy, which is the one updated and
    the one to save; any other parameter is its own master. Given the same
    gradients it computes what torch.optim.AdamW does.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "step": 0,
        }
        super().__init__(parameters, defaults)
        for parameter in self._parameters():
            state = self.state[parameter]
            wide = parameter.detach()
            if parameter.itemsize < 4:
                wide = wide.float()
                state["master"] = wide
            state["mean"] = torch.zeros_like(wide)
            state["variance"] = torch.zeros_like(wide)
        self._compiled = torch.compile(_update, dynamic=True, fullgraph=True)
        self._flatten()

    def _flatten(self) -> None:
        self._flat: list[list[Flat]] = []
        for group in self.param_groups:
            kinds: dict[tuple, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                narrow = "master" in self.state[parameter]
                if narrow and parameter.numel() <= SMALL:
                    kind = (parameter.dtype, parameter.device)
                    kinds.setdefault(kind, []).append(parameter)
            self._flat.append([Flat(p, self.state) for p in kinds.values()])

    def _parameters(self) -> Iterable[nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state; masters and moments keep their own precision."""
        # Optimizer's version casts every state to the parameter's dtype,
        # which would round the masters to 16 bits.
        wide = {
            index: {name: value.clone() for name, value in state.items()}
            for index, state in state_dict["state"].items()
        }
        super().load_state_dict(state_dict)
        for index, parameter in enumerate(self._parameters()):
            for name, value in wide.get(index, {}).items():
                self.state[parameter][name] = value.to(parameter.device)
        self._flatten()

    @torch.no_grad()
    def step(self, closure=None, clip: Tensor | None = None) -> None:
        """Update every parameter that has a gradient.

        `clip` is a scalar tensor that multiplies all gradients, None is 1.
        """
        if closure is not None:
            raise ValueError("MasterAdamW takes no closure: pass none")
        for group, flat in zip(self.param_groups, self._flat, strict=True):
            group["step"] += 1
            self._step_group(group, flat, clip)

    def _step_group(
        self, group: dict, together: list[Flat], clip: Tensor | None
    ) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        step = group["step"]
        values = [
            1.0,
            1 - beta1,
            1 - beta2,
            1 - lr * group["weight_decay"],
            lr / (1 - beta1**step),
            (1 - beta2**step) ** -0.5,
            group["eps"],
        ]
        rows: dict[tuple, Tensor] = {}

        def scalars(like: Tensor) -> Tensor:
            kind = (like.dtype, like.device)
            if kind not in rows:
                row = torch.tensor(values, dtype=like.dtype)
                if like.is_cuda:
                    # Pinned, so that the copy does not wait for the device.
                    row = row.pin_memory()
                rows[kind] = row.to(like.device, non_blocking=True)
                if clip is not None:
                    rows[kind][0] = clip
            return rows[kind]

        done: set[nn.Parameter] = set()
        for flat in together:
            # One without a gradient must stay as it is: then each for itself.
            if all(p.grad is not None for p in flat.parameters):
                flat.step(self._kernel(flat.master), scalars(flat.master))
                done.update(flat.parameters)
        for parameter in group["params"]:
            if parameter.grad is None or parameter in done:
                continue
            state = self.state[parameter]
            master = state.get("master", parameter)
            self._kernel(parameter)(
                parameter.view(-1) if "master" in state else None,
                parameter.grad.view(-1),
                master.view(-1),
                state["mean"].view(-1),
                state["variance"].view(-1),
                scalars(master),
            )

    def _kernel(self, tensor: Tensor) -> Callable[..., None]:
        return self._compiled if tensor.is_cuda else _update
