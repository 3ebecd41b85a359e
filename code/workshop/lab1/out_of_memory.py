"""python -m workshop.lab1.out_of_memory

Asks for more than the GPU has, on purpose: trains a GPT with micro-batches
that grow until one no longer fits, each in a process of its own, and keeps
the sentence with which the last one ends. Beside every peak stands what the
estimate had said before. A run without the expected end is a failed run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from workshop.bench.bench import settled
from workshop.errors import UserError, one_sentence
from workshop.estimate.memory import fits, rank_bytes
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.options import Parser
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS

GIB = 2**30
REFUSED = 2
"""The exit code of a training that says in one sentence why it ends."""
SMALL_LIMIT = 4 * GIB
"""Bytes that a training without a GPU may allocate."""
SIZES = {False: [16, 64, 96], True: [16, 256, 8192]}
"""Micro-batches of the model on a GPU, and of the tiny one without."""


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add(
        "--micro-batches",
        type=int,
        nargs="+",
        help="sequences at once, the last of them too many; default 16, 64 "
        "and 96, of the tiny model 16, 256 and 8192",
    )
    add("--steps", type=int, default=3, help="updates of each")
    add("--small", action="store_true", help="tiny model, 4 GiB to allocate")
    args = settled(parser, {"model": "tiny"})
    args.micro_batches = args.micro_batches or SIZES[args.small]
    return args


def command(args: argparse.Namespace, size: int, metrics: Path) -> list[str]:
    """Return the training with micro-batches of a size."""
    words = [sys.executable, "-m", "workshop.lab1.pretrain_gpt"]
    words += ["--model", args.model, "--micro-batch", str(size)]
    words += ["--steps", str(args.steps), "--warmup-steps", "1"]
    words += ["--metrics", str(metrics)]
    if args.small:
        return words
    return [*words, "--compile", "--bf16-weights"]


def train(args: argparse.Namespace, size: int) -> tuple[float | None, str]:
    """Train and return the peak in GiB, or None and the last sentence.

    Raises:
        UserError: the training ended otherwise than by lack of memory.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (SMALL_LIMIT, SMALL_LIMIT))

    own = ("WORKSHOP_METRICS", "WORKSHOP_ARTIFACTS")
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        words = command(args, size, metrics)
        print("$ python", *words[1:-2], flush=True)
        done = subprocess.run(
            words,
            env={k: v for k, v in os.environ.items() if k not in own},
            preexec_fn=limit if args.small else None,
            check=False,
            capture_output=True,
            text=True,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode == 0:
            events = map(json.loads, metrics.read_text().splitlines())
            steps = [e for e in events if e["event"] == "step"]
            return max(step["memory_gib"] for step in steps), ""
    said = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    short = any("out of memory" in line for line in said)
    if done.returncode != REFUSED or not short:
        raise UserError(
            f"the training with micro-batches of {size} ended with code "
            f"{done.returncode} and not for want of memory: "
            f"{done.stderr.strip().splitlines()[-1:]}"
        )
    print(said[-1], flush=True)
    return None, said[-1]


def measure(
    args: argparse.Namespace, size: int, writer: MetricsWriter
) -> bool:
    """Write what was estimated and what happened; return whether it fit."""
    model = asdict(CONFIGS[args.model])
    here = Layout(micro_batch=size)
    options = {} if not args.small else {"precision": "float32"}
    options["compiled"] = not args.small
    parts = rank_bytes(model, here, **options)
    for part, held in parts.items():
        writer.measure(
            "estimated_gib", held / GIB, "GiB", micro_batch=size, part=part
        )
    capacity = (
        SMALL_LIMIT
        if args.small
        else torch.cuda.get_device_properties(0).total_memory
    )
    expected = fits(model, here, capacity, **options)
    writer.measure("foretold_to_fit", float(expected), "", micro_batch=size)
    peak, _ = train(args, size)
    writer.measure("fits", float(peak is not None), "", micro_batch=size)
    if peak is not None:
        writer.measure("memory_gib", peak, "GiB", micro_batch=size)
    happened = f"{peak:.1f} GiB" if peak is not None else "out of memory"
    print(
        f"micro-batch {size:4d} | estimated {parts['total'] / GIB:6.1f} GiB "
        f"of {capacity / GIB:.1f} | {happened}",
        flush=True,
    )
    return peak is not None


@one_sentence
def main() -> None:
    """Let every size but the last train, and the last run out of memory.

    Raises:
        UserError: another one ran out of memory, or the last did not.
    """
    args = parse()
    with MetricsWriter(metrics_path(None)) as writer:
        writer.meta(
            **vars(args),
            device="cpu" if args.small else torch.cuda.get_device_name(0),
            seed=None,
            world_size=1,
            corpus_sha256=None,
            tokenizer_sha256=None,
        )
        fits = [measure(args, n, writer) for n in args.micro_batches]
    if not all(fits[:-1]) or fits[-1]:
        wrong = [
            size
            for size, fit in zip(args.micro_batches, fits, strict=True)
            if fit == (size == args.micro_batches[-1])
        ]
        raise UserError(
            "only the last size should run out of memory, and it was "
            f"otherwise for {wrong}: choose other --micro-batches"
        )


if __name__ == "__main__":
    main()
