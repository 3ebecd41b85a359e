r"""torchrun --nproc-per-node 2 -m workshop.lab1.pretrain_gpt_megatron

Pretrains the same GPT, from the same weights and on the same batches, with
megatron-core 0.16.1: its model from its own layers, its schedules, its
distributed optimizer.  It needs GPUs.  The flags are those of pretrain_gpt:

  torchrun --nproc-per-node 2 -m workshop.lab1.pretrain_gpt_megatron \
    --model gpt-1.3b --tensor-parallel-size 2 --micro-batch 16 --bf16-weights

--attention flash replaces its unfused attention by torch's fused one.
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor

from workshop.data.batches import Batches
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.job.clock import Mark, StepClock
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.lab1.pretrain_gpt import device_name, prepare
from workshop.lab1.pretrain_options import layout_of
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.peers.megatron.options import TAKEN, parse, require
from workshop.training.report import Reporter
from workshop.training.schedule import learning_rate


def main() -> None:
    """Train as the command line says."""
    with joined() as job:
        args = together(parse)
        together(require)
        run(job, args)


def run(job: Job, args: Namespace) -> None:
    """Prepare data and model, and train."""
    # Imported once `require` has found it.
    from workshop.peers.megatron import training

    config, layout = CONFIGS[args.model], layout_of(args)
    dims = together(
        lambda: layout.dims(job.world_size, config, args.num_microbatches)
    )
    corpus, trained, tokens = prepare(job, args)
    batches = together(
        lambda: Batches(
            tokens[0],
            config.sequence,
            args.micro_batch,
            args.num_microbatches,
            dims.coordinate(job.rank).dp,
            dims.dp,
            args.seed,
        )
    )
    path = metrics_path(args.metrics) if job.first else None
    writer = together(lambda: MetricsWriter(path))
    with torch.device("meta"):
        parameters = num_parameters(GPT(config))
    name = device_name(job)
    reporter = Reporter(
        job,
        writer,
        batches.global_batch * config.sequence,
        flops_per_token(
            parameters, config.layers, config.hidden, config.sequence
        ),
        peak_flops(name),
        args.log_every,
        args.warmup_steps,
    )
    writer.meta(
        **{k: getattr(args, k) for k in sorted(TAKEN - {"metrics"})},
        attention=args.attention,
        data_parallel_size=dims.dp,
        parameters=parameters,
        tokens_per_step=reporter.tokens_per_step,
        flops_per_token=reporter.flops_per_token,
        peak_flops=reporter.peak_flops,
        device=name,
        world_size=job.world_size,
        corpus_sha256=corpus.sha256,
        tokenizer_sha256=trained.sha256,
        tokens_in_corpus=len(tokens[0]),
    )
    reporter.say(
        f"{args.model} by megatron-core: {parameters:,} parameters on "
        f"{job.world_size} × {name}, dp {dims.dp} × tp {dims.tp} × pp "
        f"{dims.pp}, {reporter.tokens_per_step:,} tokens a step"
    )
    settings = training.Settings(
        torch.bfloat16 if args.bf16_weights else torch.float32,
        args.lr,
        args.clip,
        args.seed + 1,
        args.attention,
    )
    with training.model_parallel(layout, dims):
        megatron = together(
            lambda: training.MegatronTraining(
                config,
                layout,
                dims,
                settings,
                initial_weights(job, args),
                job.device,
            )
        )
        train(megatron.step, batches, args, reporter)
    reporter.memory_of_ranks()
    writer.close()


def initial_weights(job: Job, args: Namespace) -> dict[str, Tensor]:
    """Return the weights that `pretrain_gpt` begins with, on the device."""
    torch.manual_seed(args.seed)
    with torch.device(job.device):
        return GPT(CONFIGS[args.model]).state_dict()


def train(
    take_step: Callable[[list[tuple[Tensor, Tensor]], float], Tensor],
    batches: Batches,
    args: Namespace,
    reporter: Reporter,
) -> None:
    """Train for `--steps`, as `workshop.training.loop` does.

    `take_step` takes micro-batches and learning rate, returns loss and norm.
    """
    device = reporter.job.device
    micro_batches = batches.on(device, 0)
    unread: Mark | None = None
    clock = StepClock(device)
    for step in range(1, args.steps + 1):
        rate = learning_rate(step - 1, args.lr, args.warmup, args.steps)
        mark = clock.mark(step, take_step(micro_batches, rate))
        micro_batches = batches.on(device, step)
        if unread is not None:
            reporter.step(unread)
        unread = mark
    reporter.step(unread)


if __name__ == "__main__":
    main()
