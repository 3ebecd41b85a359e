"""Let a model be freed whose parameters have hooks.

Python's garbage collector does not look behind the hooks of a parameter. A
wrapper whose hooks refer to it, such as `OverlappedDataParallel`, therefore
lives as long as the process, with weights, gradients and buckets. A training
wants just that; a job that builds one model after another does not.
"""

from collections.abc import Iterable

from torch import nn


def release(modules: Iterable[nn.Module]) -> None:
    """Take the gradient hooks off all parameters of `modules`.

    What wraps them reduces nothing any more; drop it as well.
    """
    for module in modules:
        for parameter in module.parameters():
            if hooks := parameter._post_accumulate_grad_hooks:
                hooks.clear()
