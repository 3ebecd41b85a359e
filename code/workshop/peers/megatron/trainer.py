"""Training by megatron-core: its schedules, its optimizer.

The order of a step is that of Megatron-LM's own training loop: clear the
gradient buffers, run the schedule (which reduces the gradients at its end),
step the optimizer (which clips).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import (
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import Tensor, nn

from workshop.data.counted import refuse_ignored
from workshop.errors import UserError
from workshop.layout import Layout
from workshop.models.gpt import GPTConfig
from workshop.peers.megatron import weights
from workshop.peers.megatron.available import check_schedule
from workshop.peers.megatron.model import build_stages
from workshop.training.optimizer import BETAS, WEIGHT_DECAY
from workshop.training.trainer import MicroBatch, Trainer


@dataclass(frozen=True)
class Settings:
    """What does not change during a training.

    Args:
        dtype: of weights and gradients; in 16 bits the optimizer keeps
            float32 masters.
        clip: largest norm of the gradient, 0 for any.
        seed: of dropout.
        attention: "local" for megatron-core's own, "flash" for torch's.
        fused: let megatron-core fuse elementwise operations.
        distributed_optimizer: share the optimizer's state over the data
            parallel ranks, and overlap its messages with the computation.
    """

    dtype: torch.dtype = torch.float32
    clip: float = 1.0
    seed: int = 1
    attention: str = "local"
    fused: bool = True
    distributed_optimizer: bool = True


@contextmanager
def model_parallel(layout: Layout) -> Iterator[None]:
    """Set up megatron-core's global state, and take it down again.

    Its groups are placed as `workshop.groups` places ours: tensor parallel
    ranks next to each other, pipeline stages furthest apart.

    Raises:
        UserError: the job has another number of ranks than the layout, or
            the layout has a schedule that megatron-core has not.
    """
    virtual = layout.virtual_stages
    layout.check_world(dist.get_world_size())
    check_schedule(layout.schedule)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        create_gloo_process_groups=False,
    )
    # It forgets its groups without closing them, and each holds threads
    # and, on GPUs, buffers.
    groups = parallel_state._global_process_group_list[1:]
    try:
        yield
        dist.barrier()
        for group in groups:
            dist.destroy_process_group(group)
    finally:
        parallel_state.destroy_model_parallel()


class MegatronTrainer(Trainer):
    """The model of one rank, with megatron-core's own optimizer.

    Use it inside `model_parallel(layout)`.  It keeps no checkpoints.

    Args:
        config: the model.
        layout: how it is spread.
        settings: everything else.
        dense: our state dict, whole, the same on every rank.
        device: this rank's.

    Raises:
        UserError: the layout does not divide the model.
    """

    def __init__(
        self,
        config: GPTConfig,
        layout: Layout,
        settings: Settings,
        dense: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        check(config, layout.tp)
        self.sequence, self.layout = config.sequence, layout
        self.device = device
        model_parallel_cuda_manual_seed(settings.seed)
        self.config, stages = build_stages(
            config,
            layout,
            settings.dtype,
            device,
            settings.attention,
            settings.fused,
        )
        for stage in stages:
            weights.load(
                stage,
                dense,
                config.heads,
                parallel_state.get_tensor_model_parallel_rank(),
                layout.tp,
            )
        self.stages = self._data_parallel(stages, settings)
        self.optimizer = self._optimizer(settings)

    def _data_parallel(
        self, stages: list[nn.Module], settings: Settings
    ) -> list[nn.Module]:
        """Wrap the stages for data parallelism; gradients keep `dtype`."""
        spread = settings.distributed_optimizer
        overlapped = spread and self.layout.dp > 1
        options = DistributedDataParallelConfig(
            grad_reduce_in_fp32=False,
            overlap_grad_reduce=overlapped,
            overlap_param_gather=overlapped,
            use_distributed_optimizer=spread,
        )
        wrapped = [
            DistributedDataParallel(
                self.config, options, stage, disable_bucketing=number > 0
            )
            for number, stage in enumerate(stages)
        ]
        self.config.finalize_model_grads_func = finalize_model_grads
        if overlapped:
            one = len(wrapped) == 1
            holds = [stage.no_sync for stage in wrapped]
            starts = [stage.start_grad_sync for stage in wrapped]
            self.config.no_sync_func = holds[0] if one else holds
            if not one:
                self.config.grad_sync_func = starts
        return wrapped

    def _optimizer(self, settings: Settings):
        options = OptimizerConfig(
            optimizer="adam",
            lr=0.0,  # `step` sets it
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            clip_grad=settings.clip,
            bf16=settings.dtype == torch.bfloat16,
            params_dtype=settings.dtype,
            use_distributed_optimizer=settings.distributed_optimizer,
            overlap_param_gather=(
                settings.distributed_optimizer and self.layout.dp > 1
            ),
        )
        optimizer = get_megatron_optimizer(
            options,
            self.stages,
            get_standard_config_overrides(options),
            use_gloo_process_groups=False,
        )
        # Vectors have the multiple 0, which its scheduler would apply.
        for group in optimizer.param_groups:
            group["weight_decay"] = WEIGHT_DECAY * group["wd_mult"]
        return optimizer

    def forward_backward(
        self, micro_batches: list[MicroBatch], forward_only: bool = False
    ) -> Tensor:
        """Add up gradients; return this rank's share of the mean loss.

        The shares of all ranks add up to the mean over ranks and
        micro-batches; only the last stage has one that is not 0.

        Raises:
            UserError: a target is ignored, and here every one counts.
        """
        refuse_ignored(micro_batches, "give it targets that all count")
        chunks = len(self.stages)
        parts = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=[iter(micro_batches) for _ in range(chunks)],
            model=self.stages,
            num_microbatches=len(micro_batches),
            seq_length=self.sequence,
            micro_batch_size=len(micro_batches[0][0]),
            forward_only=forward_only,
        )
        # In float64 on every rank, whatever the last stage computes in.
        share = torch.zeros((), dtype=torch.float64, device=self.device)
        if parts:
            share += torch.stack(parts).mean()
        return share / (self.layout.dp * self.layout.tp)

    def _forward(self, batches: Iterator[MicroBatch], stage: nn.Module):
        tokens, targets = next(batches)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        output = stage(
            tokens, positions.expand_as(tokens), None, labels=targets
        )

        def loss(each: Tensor) -> tuple[Tensor, Tensor]:
            mean = each.mean()
            # The schedule divides the first one in place.
            return mean, mean.detach().clone()

        return output, loss

    def step(self, micro_batches: list[MicroBatch], lr: float) -> Tensor:
        """Update the weights once; return (2,): mean loss and norm.

        megatron-core reads the norm from the device to clip, so every step
        waits for the backward pass.
        """
        for stage in self.stages:
            stage.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss = self.forward_backward(micro_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        _, norm, _ = self.optimizer.step()
        dist.all_reduce(loss)
        return torch.stack([loss, loss.new_tensor(norm)])

    def loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Run its schedule's forward passes alone."""
        for stage in self.stages:
            stage.eval()
        with torch.no_grad():
            loss = self.forward_backward(micro_batches, forward_only=True)
        for stage in self.stages:
            stage.train()
        dist.all_reduce(loss)
        return loss


def check(config: GPTConfig, size: int) -> None:
    """Refuse a vocabulary that `size` ranks cannot share equally.

    Raises:
        UserError: naming the sizes and what to change.
    """
    if config.vocabulary % size:
        raise UserError(
            f"the vocabulary of {config.vocabulary} is not divisible by the "
            f"tensor parallel size {size}, and megatron-core pads none: "
            f"choose a size that divides {config.vocabulary}"
        )
