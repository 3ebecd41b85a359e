"""Every slurm/*.sbatch runs on a real cluster and does what it says."""

import re
import sys
from pathlib import Path

import pytest

from workshop import paths
from workshop.slurm import jobs, profile
from workshop.slurm.state import Layout

pytestmark = pytest.mark.usefixtures("slurm_cluster")

FOLDER = paths.root() / "slurm"
# The scripts that need arguments, or that answer more quickly with some.
ARGUMENTS = {
    "torchrun_node": ["tests.slurm.all_reduce"],
    "experiment": ["lab1/gpt2-small-1gpu", "--small", "--out={folder}"],
}


def check_hello(output: str, folder: Path, cluster: Layout) -> None:
    said = output.splitlines()[1:]
    assert len(said) == 2
    if cluster.own_names:
        assert set(said) == set(cluster.names)


def check_array(output: str, folder: Path, cluster: Layout) -> None:
    rates = [
        re.search(r"learning rate (\S+)", path.read_text())[1]
        for path in sorted(folder.glob("array-*.out"))
    ]
    assert rates == ["1e-4", "2e-4", "4e-4", "8e-4"]


def check_gpus(output: str, folder: Path, cluster: Layout) -> None:
    seen = dict(re.findall(r"on (\S+): Slurm gave GPUs ([\d,]+),", output))
    assert seen == dict.fromkeys(cluster.names, "0,1")


def check_torchrun_node(output: str, folder: Path, cluster: Layout) -> None:
    ranks = re.findall(
        r"rank (\d) of 2 on \S+ .* sum 3$", output, re.MULTILINE
    )
    assert sorted(ranks) == ["0", "1"]


def check_torchrun_nodes(output: str, folder: Path, cluster: Layout) -> None:
    steps = re.findall(r"^step +(\d+) \| loss ([\d.]+)", output, re.MULTILINE)
    assert len(steps) == 10, "rank 0 alone logs each step once"
    losses = [float(loss) for _, loss in steps]
    assert losses[-1] < losses[0]


def check_experiment(output: str, folder: Path, cluster: Layout) -> None:
    assert "lab1/gpt2-small-1gpu: completed" in output
    assert list(folder.rglob("record.json"))


CHECKS = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in FOLDER.glob("*.sbatch"))
)
def test_script_runs(
    name: str, tmp_path: Path, slurm_cluster: Layout
) -> None:
    assert name in CHECKS, f"say above what slurm/{name}.sbatch must print"
    pattern = "%x-%A_%a.out" if name == "array" else "%x-%j.out"
    job_id = jobs.submit(
        f"slurm/{name}.sbatch",
        [word.format(folder=tmp_path) for word in ARGUMENTS.get(name, ())],
        profile.load(),
        options=[f"--output={tmp_path}/{pattern}"],
    )
    try:
        job = jobs.wait(job_id, timeout=300)
    except Exception:
        for log in tmp_path.glob("*.out"):
            print(log.read_text()[-6000:])
        raise
    CHECKS[name](Path(job.output).read_text(), tmp_path, slurm_cluster)


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1, 2])
def test_more_tasks_than_launchers_are_one_world(
    nodes: int, tmp_path: Path, slurm_cluster: Layout
) -> None:
    """And their launchers have the CPUs that the script asks for."""
    script = "torchrun_nodes" if nodes == 2 else "torchrun_node"
    log = tmp_path / "log.out"
    job_id = jobs.submit(
        f"slurm/{script}.sbatch",
        ["tests.slurm.all_reduce"],
        options=["--ntasks-per-node=2", f"--output={log}"],
    )
    try:
        jobs.wait(job_id, timeout=300)
    finally:
        print(log.read_text()[-6000:] if log.exists() else "no log")
    ranks = 2 * nodes
    said = re.findall(rf"rank (\d) of {ranks} on .* sum", log.read_text())
    assert sorted(said) == [str(rank) for rank in range(ranks)]
    assert log.read_text().count("4 CPUs") == ranks


@pytest.mark.long
def test_tasks_that_are_no_world_are_refused_once(shell) -> None:
    train = "srun --ntasks=2 {} -m workshop.lab1.pretrain_gpt --steps 1"
    for program in ("python", "torchrun --nproc-per-node 1 --standalone"):
        path = f"PATH={Path(sys.executable).parent}:$PATH"
        done = shell(f"{path} PYTHONPATH=code {train.format(program)}")
        assert done.returncode != 0 and "step" not in done.stdout
        told = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
        assert len(told) == 1, done.stderr
        assert "2 tasks were started that do not know" in told[0]


@pytest.mark.parametrize("name", ["hello", "torchrun_node"])
def test_a_script_submitted_elsewhere_says_so_or_runs(
    name: str, tmp_path: Path, shell
) -> None:
    script = FOLDER / f"{name}.sbatch"
    there = f"cd {tmp_path} && unset WORKSHOP_ROOT &&"
    done = shell(f"{there} sbatch --parsable {script}")
    job = jobs.wait(int(done.stdout), 120, check=False)
    said = Path(job.output).read_text()
    assert Path(job.output).parent == tmp_path
    if name == "hello":
        assert job.state == "COMPLETED" and "runs on" in said
    else:
        assert job.state == "FAILED"
        assert "error: submit in the repository's folder" in said


def test_a_submitted_script_keeps_its_log_in_the_folder_of_logs() -> None:
    job = jobs.wait(jobs.submit("slurm/hello.sbatch"), 120)
    assert Path(job.output) == FOLDER / "logs" / f"hello-{job.job_id}.out"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sbatch")))
def test_script_names_no_site(path: Path) -> None:
    text = path.read_text()
    fixed = re.findall(
        r"--(?:partition|account|qos|mail-user|nodelist)\b"
        r"|/(?:home|Users|scratch|projects?|opt)/|^#SBATCH -[pAw] ",
        text,
        re.MULTILINE,
    )
    assert not fixed, "what belongs to a site belongs into its profile"
