"""AdamW as GPT models are trained with it."""

import torch
from torch import nn
from torch.optim import Optimizer

from workshop.training.master_adamw import MasterAdamW

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1


def make_optimizer(
    module: nn.Module, lr: float, masters: bool = True
) -> Optimizer:
    """Return an AdamW over the trainable parameters of `module`.

    Matrices decay; biases, LayerNorms and other vectors do not.  Betas and
    decay are those of Brown et al. 2020 (arXiv:2005.14165), appendix B;
    AdamW is Loshchilov and Hutter 2019 (arXiv:1711.05101).  Parameters of
    16 bits get float32 masters; others, and these without `masters`, take
    torch's fused version, whose one kernel for many tensors `clipped_step`
    can use.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trainable if p.dim() >= 2],
            "weight_decay": WEIGHT_DECAY,
        },
        {
            "params": [p for p in trainable if p.dim() < 2],
            "weight_decay": 0.0,
        },
    ]
    if masters and any(p.itemsize < 4 for p in trainable):
        return MasterAdamW(groups, lr=lr, betas=BETAS)
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)
