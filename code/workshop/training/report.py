"""From what a step measured to its metrics and its log line."""

import math
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist

from workshop.errors import UserError
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.job.clock import Mark
from workshop.job.launch import Job
from workshop.job.metrics import MetricsWriter, format_step
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPTConfig, size_of
from workshop.training.text import Text


@dataclass
class Reporter:
    """Writes every step and prints one of `log_every`; rank 0 alone.

    `tokens_per_step` counts all ranks; `flops_per_token` and `peak_flops`
    (None where unknown) give TFLOP/s and MFU, the model FLOPs utilisation
    of Chowdhery et al. 2022 (arXiv:2204.02311), section 4.1.  Steps up to
    `warmup_until` are marked as such: they compile, connect and allocate.
    With `skips` a loss scale leaves steps out, whose norm is no number.
    """

    job: Job
    writer: MetricsWriter
    tokens_per_step: int
    flops_per_token: float
    peak_flops: float | None
    log_every: int
    warmup_until: int
    skips: bool = False

    @classmethod
    def of_run(
        cls,
        job: Job,
        writer: MetricsWriter,
        model: str,
        layout: Layout,
        log_every: int,
        warmup_until: int,
        skips: bool = False,
    ) -> "Reporter":
        """Return the reporter of one of `CONFIGS` in a layout."""
        config = CONFIGS[model]
        return cls(
            job,
            writer,
            layout.sequences * config.sequence,
            flops_of(config),
            peak_flops(job.device_name),
            log_every,
            warmup_until,
            skips,
        )

    def begin(
        self, model: str, layout: Layout, text: Text, **described: object
    ) -> None:
        """Write what describes the run, and its first line.

        `described` is what else the record says, arguments above all.
        """
        parameters = size_of(CONFIGS[model])
        self.writer.meta(
            **described,
            model=model,
            data_parallel_size=layout.dp,
            parameters=parameters,
            tokens_per_step=self.tokens_per_step,
            flops_per_token=self.flops_per_token,
            peak_flops=self.peak_flops,
            device=self.job.device_name,
            world_size=self.job.world_size,
            **text.described(),
        )
        self.say(
            f"{model}: {parameters:,} parameters on {self.job.world_size} × "
            f"{self.job.device_name}, dp {layout.dp} × tp {layout.tp} × pp "
            f"{layout.pp}, {self.tokens_per_step:,} tokens a step"
        )

    def step(self, mark: Mark) -> None:
        """Read a mark and report it.

        Raises:
            UserError: on every rank, when the training has diverged.
        """
        (loss, norm), seconds = mark.read()
        skipped = self.skips and not math.isfinite(norm)
        if self.job.first:
            known = None if skipped else norm
            self._write(mark.step, loss, known, seconds)
        refuse_diverged(f"step {mark.step}", loss, 0.0 if skipped else norm)

    def _write(
        self, step: int, loss: float, norm: float | None, seconds: float
    ) -> None:
        tokens = self.tokens_per_step / seconds
        per_gpu = tokens / self.job.world_size
        flops = per_gpu * self.flops_per_token
        fields = {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "tokens_per_s": tokens,
            "tokens_per_s_per_gpu": per_gpu,
            "tflops_per_gpu": flops / 1e12,
            "mfu": flops / self.peak_flops if self.peak_flops else None,
            "memory_gib": memory_gib(self.job.device),
            "step_time_s": seconds,
            "warmup": step <= self.warmup_until,
        }
        self.writer.step(**fields)
        if step % self.log_every == 0:
            print(format_step(fields), flush=True)

    def held_out(self, step: int, loss: float) -> None:
        """Report the loss on text that is never trained on."""
        self.writer.measure("held_out_loss", loss, "nats/token", step=step)
        self.say(f"step {step:4d} | held-out loss {loss:.4f}")
        refuse_diverged(f"the evaluation after step {step}", loss)

    def memory_of_ranks(self) -> None:
        """Write the peak memory of every rank; all ranks call it.

        The log line has rank 0's, and stages of a pipeline differ.
        """
        every: list[float] = [0.0] * self.job.world_size
        dist.all_gather_object(every, memory_gib(self.job.device))
        for rank, gib in enumerate(every):
            self.writer.measure("memory_per_rank", gib, "GiB", rank=rank)

    def say(self, line: str) -> None:
        """Print a line on rank 0."""
        if self.job.first:
            print(line, flush=True)


def refuse_diverged(where: str, loss: float, norm: float = 0.0) -> None:
    """End a training whose loss or gradient norm is no number any more.

    Raises:
        UserError: naming the first place where that was so.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    value = f"loss is {loss}"
    if math.isfinite(loss):
        value = f"gradient norm is {norm}"
    raise UserError(
        f"the training has diverged, its {value} in {where}: lower the "
        "learning rate or warm it up for longer, and begin anew or resume "
        "from a checkpoint before"
    )


def flops_of(config: GPTConfig) -> float:
    """Return the operations of one token in a step, forward and backward."""
    sizes = (config.layers, config.hidden, config.sequence)
    return flops_per_token(size_of(config), *sizes)


def memory_gib(device: torch.device) -> float:
    """Return the peak of allocated memory, or what the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30
