"""A training that Slurm stops is queued again, and loses no step."""

import json
import time
from pathlib import Path

import pytest

from workshop import paths
from workshop.slurm import jobs

pytestmark = [pytest.mark.usefixtures("slurm_cluster"), pytest.mark.long]
TRAIN = ["workshop.lab1.pretrain_gpt", "--corpus-mib", "0.2"]


def losses(metrics: Path) -> list[tuple[int, float, float]]:
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [
        (each["step"], each["loss"], each["grad_norm"])
        for each in events
        if each["event"] == "step"
    ]


def submitted(script: str, folder: Path, name: str, *options: str) -> int:
    kept = folder / name
    words = ["--checkpoint", str(kept), "--metrics", f"{kept}.jsonl"]
    return jobs.submit(
        f"slurm/{script}.sbatch",
        [*TRAIN, "--steps", "300", *words],
        gpus_per_node=1 if script == "torchrun_nodes" else 2,
        options=[f"--output={kept}.out", *options],
        variables={"WORKSHOP_CACHE": str(folder / "cache")},
    )


@pytest.mark.parametrize("script", ["torchrun_node", "torchrun_nodes"])
def test_a_signalled_job_resumes_bit_for_bit(
    script: str, tmp_path: Path, shell
) -> None:
    assert (paths.root() / "slurm" / f"{script}.sbatch").is_file()
    whole = submitted(script, tmp_path, "whole")
    jobs.wait(whole, 300)
    told = submitted(script, tmp_path, "told")
    ends = time.monotonic() + 120
    log = tmp_path / "told.out"
    while not (log.is_file() and "step   10 " in log.read_text()):
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.1)
    assert shell(f"scancel --signal=USR1 {told}").returncode == 0
    held = {}
    while (held.get("JobState"), held.get("Reason")) != (
        "PENDING",
        "BeginTime",
    ):
        assert time.monotonic() < ends, (held, log.read_text())
        time.sleep(0.1)
        held = jobs.info(told)
    assert held["Restarts"] == "1"
    # It is held back for two minutes. A start that is asked for while the
    # job is still COMPLETING is forgotten, and one in the very second in
    # which it was ended is refused: "Job credential revoked".
    soon = f"scontrol update JobId={told} StartTime=now+2"
    assert shell(soon).returncode == 0
    assert jobs.wait(told, 300).state == "COMPLETED"
    said = log.read_text()
    assert "exit code 75" in said and "resuming after step" in said
    there = [losses(tmp_path / f"{n}.jsonl") for n in ("told", "whole")]
    assert there[0] == there[1] and len(there[0]) == 300
