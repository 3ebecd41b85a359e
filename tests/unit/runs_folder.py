"""A workshop in a temporary folder, with experiments that really run."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]

MODULE = '''
"""Train nothing, but write what a training run writes."""
import os, sys
from workshop.job.metrics import MetricsWriter, format_step
from helper_of_toy import rate

kind = sys.argv[1] if len(sys.argv) > 1 else "good"
if kind == "fails":
    print("error: the toy fails", flush=True)
    sys.exit(3)
if kind == "sleeps":
    import time
    print("toy: sleeping", flush=True)
    time.sleep(60)
if kind == "silent":
    sys.exit(0)
repeat = int(os.environ["WORKSHOP_REPEAT"])
with MetricsWriter(os.environ["WORKSHOP_METRICS"]) as writer:
    every = 2 if kind == "seldom" else 1
    writer.meta(corpus_sha256="c0ffee", tokenizer_sha256=None, seed=1,
                world_size=1, log_every=every)
    for step in range(4):
        fields = dict(step=step, loss=9.0 - step, grad_norm=1.0,
                      tokens_per_s=rate(step) + repeat,
                      tokens_per_s_per_gpu=50.0,
                      tflops_per_gpu=0.5, mfu=None, memory_gib=0.25,
                      step_time_s=0.1, warmup=step == 0)
        writer.step(**fields)
        if step % every == 0:
            print(format_step(fields), flush=True)
    writer.measure("busbw", 3.5, "GB/s", bytes=1024)
'''
HELPER = '''
def rate(step):
    """Tokens a second of a step."""
    return 100.0 * (step + 1)  # a made-up rate
'''
RANKS = """
import os
from workshop.job.metrics import MetricsWriter

if os.environ["RANK"] == "0":
    with MetricsWriter(os.environ["WORKSHOP_METRICS"]) as writer:
        writer.meta(world_size=int(os.environ["WORLD_SIZE"]),
                    node=os.environ["SLURMD_NODENAME"])
        writer.measure("ranks", int(os.environ["WORLD_SIZE"]), "ranks")
"""
TWO_NODES = """
[[experiment]]
name = "lab1/ranks"
title = "Ranks on two nodes"
chapter = "lab1/02_distributed_training"
module = "ranks"
nodes = 2
gpus_per_node = 2
needs_gpus = 0
repeats = 1
priority = 1
"""
TOML = """
[[experiment]]
name = "{name}"
title = "A toy"
chapter = "lab1/01_cluster"
launch = "python"
module = "toy"
args = ["{kind}"]
nodes = 1
gpus_per_node = 0
repeats = {repeats}
timeout = "{timeout}"
needs_gpus = {needs_gpus}
sources = ["code/toy_data.txt"]
small = {{ args = ["good"], nodes = 1, gpus_per_node = 0 }}
"""


DESCRIBED = "slurm/experiments/toys.toml"
COPIED = (
    "code/workshop/records/launch.py",
    "code/workshop/job/metrics.py",
    "slurm/experiment.sbatch",
    "slurm/profiles/local.toml",
    "slurm/setup.sh",
)


def make_workshop(folder: Path) -> Path:
    """Create a workshop of one toy experiment; return its root."""
    (folder / "slurm" / "logs").mkdir(parents=True)
    (folder / DESCRIBED).parent.mkdir()
    (folder / "code").mkdir()
    (folder / "code" / "toy.py").write_text(MODULE)
    (folder / "code" / "ranks.py").write_text(RANKS)
    (folder / "code" / "helper_of_toy.py").write_text(HELPER)
    (folder / "code" / "toy_data.txt").write_text("some data\n")
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((HERE / name).read_text())
    describe_toy(folder)
    return folder


def describe_toy(
    root: Path,
    kind: str = "good",
    repeats: int = 3,
    timeout: str = "30s",
    needs_gpus: int = 0,
    more: str = "",
    name: str = "lab1/toy",
) -> None:
    """Write the toy's description."""
    text = TOML.format(
        kind=kind,
        repeats=repeats,
        timeout=timeout,
        needs_gpus=needs_gpus,
        name=name,
    )
    (root / DESCRIBED).write_text(text + more)


def enter(patch: pytest.MonkeyPatch, root: Path, job_id: str = "7") -> None:
    """Make the toy workshop the workshop, and this a job on one node.

    With an empty `job_id` it is no job, whatever we are called in.
    """
    for name in list(os.environ):
        ours = name.startswith(("SLURM_", "WORKSHOP_"))
        if ours and name != "WORKSHOP_SLURM_BASE":
            patch.delenv(name)
    patch.setenv("WORKSHOP_ROOT", str(root))
    patch.setenv("WORKSHOP_COMMIT", "0123456789abcdef")
    patch.setenv("PYTHONPATH", f"{root / 'code'}:{HERE / 'code'}")
    patch.setenv("OMP_NUM_THREADS", "1")
    if job_id:
        patch.setenv("SLURM_JOB_ID", job_id)
        patch.setenv("SLURM_JOB_PARTITION", "debug")
