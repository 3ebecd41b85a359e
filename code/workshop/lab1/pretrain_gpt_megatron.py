r"""torchrun --nproc-per-node 2 -m workshop.lab1.pretrain_gpt_megatron

Pretrains the same GPT, from the same weights and on the same batches, with
megatron-core 0.16.1: its model from its own layers, its schedules, its
distributed optimizer.  It needs GPUs.  The flags are those of pretrain_gpt:

  torchrun --nproc-per-node 2 -m workshop.lab1.pretrain_gpt_megatron \
    --model gpt-1.3b --tensor-parallel-size 2 --micro-batch 16 --bf16-weights

--attention flash replaces its unfused attention by torch's fused one.
"""

from argparse import Namespace

import torch

from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.lab1.megatron_options import TAKEN, parse
from workshop.lab1.pretrain_options import layout_of, text_of
from workshop.models.gpt import CONFIGS, seeded
from workshop.peers.megatron.available import require
from workshop.training.loop import Options, train
from workshop.training.report import Reporter
from workshop.training.trainer import PRECISIONS


def main() -> None:
    """Train as the command line says."""
    with joined() as job:
        args = together(parse)
        together(require)
        run(job, args)


def run(job: Job, args: Namespace) -> None:
    """Prepare text and model, and train in the loop of `pretrain_gpt`."""
    # Imported once `require` has found it.
    from workshop.peers.megatron import trainer as megatron

    config = CONFIGS[args.model]
    layout = together(lambda: layout_of(args, job.world_size))
    text = text_of(job, args)
    index = layout.coordinate(job.rank).dp
    batches = text.batches(config.sequence, layout, index, args.seed)
    path = metrics_path(args.metrics) if job.first else None
    writer = together(lambda: MetricsWriter(path))
    reporter = Reporter.of_run(
        job, writer, args.model, layout, args.log_every, args.warmup_steps
    )
    left_out = {"metrics", "model"}
    described = {k: getattr(args, k) for k in sorted(TAKEN - left_out)}
    reporter.say(f"megatron-core, {args.attention} attention")
    reporter.begin(args.model, layout, text, **described)
    settings = megatron.Settings(
        PRECISIONS[args.precision].weights or torch.float32,
        args.clip,
        args.seed + 1,
        args.attention,
    )
    with megatron.model_parallel(layout):
        trainer = together(
            lambda: megatron.MegatronTrainer(
                config,
                layout,
                settings,
                seeded(config, args.seed, job.device).state_dict(),
                job.device,
            )
        )
        options = Options(args.steps, args.lr, args.warmup)
        train(trainer, *batches, options, reporter)
    reporter.memory_of_ranks()
    writer.close()


if __name__ == "__main__":
    main()
