"""A small book in a temporary folder, with real records, built for real.

It has this book's configuration, extension, style and JavaScript, and toy
experiments whose jobs write their records as on a cluster.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
SCRIPT = "slurm/experiment.sbatch"

TOY = '''
"""Measure nothing, but write what a measuring run writes."""
import os, sys
from workshop.job.metrics import MetricsWriter, format_step

if sys.argv[1] == "fails":
    sys.exit("toy: as asked")
rate, repeat = float(sys.argv[1]), int(os.environ["WORKSHOP_REPEAT"])
with MetricsWriter(os.environ["WORKSHOP_METRICS"]) as writer:
    writer.meta(corpus_sha256=None, tokenizer_sha256=None, seed=1,
                world_size=1)
    for step in range(3):
        fields = dict(step=step, loss=9.0 - step, grad_norm=1.0,
                      tokens_per_s=rate + repeat,
                      tokens_per_s_per_gpu=rate + repeat,
                      tflops_per_gpu=0.5, mfu=None, memory_gib=0.25,
                      step_time_s=0.1, warmup=step == 0)
        writer.step(**fields)
        print(format_step(fields), flush=True)
    for size in (1024, 1048576):
        for name, value, unit in (("all_reduce_time", size / 100, "µs"),
                                  ("all_reduce_busbw", rate / 100, "GB/s")):
            writer.measure(name, value, unit, bytes=size)
'''
EXPERIMENT = """
[[experiment]]
name = "lab1/{name}"
title = "A toy called {name}"
chapter = "lab1/toy"
launch = "python"
module = "toy_{name}"
args = ["{argument}"]
nodes = 1
gpus_per_node = 0
repeats = 2
timeout = "60s"
needs_gpus = 0
"""
PLANNED = """
[[experiment]]
name = "lab1/four"
title = "Four toys"
chapter = "lab1/toy"
module = "toy_one"
nodes = 2
gpus_per_node = 2
status = "planned"
why = "no machine here has four GPUs"
prediction = "four toys do the work of four"
"""
SOUND = ("one", "two", "old")
UNSOUND = ("edited", "broken")
TOYS = {
    "one": "100",
    "two": "190",
    "old": "50",
    "edited": "70",
    "broken": "fails",
}


def make_root(root: Path) -> Path:
    """Create a workshop of toy experiments and run their jobs."""
    for folder in ("slurm/experiments", "code", "book", "bin"):
        (root / folder).mkdir(parents=True)
    (root / "bin" / "scontrol").write_text("#!/bin/sh\necho toynode\n")
    (root / "bin" / "scontrol").chmod(0o755)
    (root / "slurm" / "experiments" / "toys.toml").write_text(PLANNED)
    shutil.copy2(HERE / SCRIPT, root / SCRIPT)
    for name in ("workshop/records/launch.py", "workshop/job/metrics.py"):
        target = root / "code" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / "code" / name, target)
    for name in ("_assets", "_ext", "references.bib"):
        (root / "book" / name).symlink_to(HERE / "book" / name)
    for name in ("_config.yml", "node_modules"):
        (root / name).symlink_to(HERE / name)
    add_toys(root, SOUND)
    return root


def copy(root: Path, target: Path) -> Path:
    """Return a copy of a workshop, links kept."""
    return Path(shutil.copytree(root, target, symlinks=True))


def add_toys(root: Path, names: tuple[str, ...]) -> None:
    """Describe toy experiments and run their jobs."""
    described = root / "slurm" / "experiments" / "toys.toml"
    for name in names:
        (root / "code" / f"toy_{name}.py").write_text(TOY)
        text = EXPERIMENT.format(name=name, argument=TOYS[name])
        described.write_text(described.read_text() + text)
    with ThreadPoolExecutor(2) as pool:
        jobs = list(pool.map(lambda name: run_job(root, name), names))
    for name, job in zip(names, jobs, strict=True):
        assert (job.returncode == 0) == (name != "broken"), job.stderr


def environment(root: Path) -> dict[str, str]:
    """Return variables with which `root` is the workshop."""
    programs = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{root / 'bin'}:{programs}:{os.environ['PATH']}",
        "WORKSHOP_ROOT": str(root),
        "WORKSHOP_COMMIT": "0123456789abcdef",
        "WORKSHOP_DIRTY": "0",
        "PYTHONPATH": f"{root / 'code'}:{HERE / 'code'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
    }


def run_job(root: Path, name: str) -> subprocess.CompletedProcess:
    """Run one toy's job as Slurm would start it on one node."""
    env = environment(root)
    job_id = 4700 + list(TOYS).index(name)
    env.update(
        SLURM_JOB_ID=str(job_id),
        SLURM_JOB_PARTITION="debug",
        SLURM_JOB_NODELIST="toynode",
    )
    return subprocess.run(
        [sys.executable, "-m", "workshop.records.job", f"lab1/{name}"],
        check=False, env=env, cwd=root, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@dataclass(frozen=True)
class Built:
    """How a build went, and where its pages are."""

    root: Path
    returncode: int
    output: str

    def page(self, name: str) -> str:
        """Return the HTML of a page."""
        return (self.root / "_build/html" / f"{name}.html").read_text()


def build(root: Path, pages: dict[str, str]) -> Built:
    """Write the pages, the first of them the root, and build the book."""
    names = list(pages)
    for name, text in pages.items():
        path = root / "book" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    toc = ["format: jb-book", f"root: {names[0]}", "chapters:"]
    toc += [f"  - file: {name}" for name in names[1:]]
    (root / "_toc.yml").write_text("\n".join(toc) + "\n")
    done = subprocess.run(
        [Path(sys.executable).parent / "jupyter-book", "build", "book",
         "--config", "_config.yml", "--toc", str(root / "_toc.yml"),
         "--path-output", ".",
         "-W", "-n", "--keep-going"],
        check=False, cwd=root, env=environment(root), text=True, timeout=300,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    return Built(root, done.returncode, done.stdout)


def edit_record(root: Path, name: str, before: str, after: str) -> None:
    """Change a record as a careless hand would."""
    record = root / "book" / "runs" / "lab1" / name / "record.json"
    text = record.read_text()
    assert before in text
    record.write_text(text.replace(before, after, 1))


def edit_source(root: Path, name: str) -> None:
    """Change the code that a run measured."""
    source = root / "code" / f"toy_{name}.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
