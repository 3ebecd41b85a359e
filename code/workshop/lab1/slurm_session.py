"""`python -m workshop.lab1.slurm_session [--output session.json]`

Runs the Slurm commands of chapter 01 one after another, as a reader does,
and writes what they printed.  Chapters replay it where no Slurm can run.
"""

import argparse
import json
import os
from pathlib import Path

from workshop.errors import UserError, one_sentence
from workshop.notebook.shell import capture
from workshop.paths import root

TIMEOUT_S = 120

# Every `sh(...)` cell of a chapter is one of these lines, and each line is
# here once: the transcript is looked up by its text.
COMMANDS = (
    # Look at the cluster.
    "sinfo",
    "sinfo -N -o '%N %T %c %m %G'",
    (
        "scontrol show node "
        "| grep -E 'NodeName|CPUTot|Gres|RealMemory|State' | head -n 5"
    ),
    # Run something now.
    "srun --nodes=2 --ntasks-per-node=1 hostname | sort",
    (
        "srun --nodes=2 --ntasks-per-node=2 bash -c 'echo rank "
        "$SLURM_PROCID of $SLURM_NTASKS, node $SLURM_NODEID, "
        "local rank $SLURM_LOCALID' | sort"
    ),
    (
        "srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=1 bash -c "
        "'echo $SLURMD_NODENAME has GPU $SLURM_STEP_GPUS' | sort"
    ),
    "srun --mem=1T hostname",
    # Submit a script.
    "sbatch --wait --output=slurm/logs/hello.out slurm/hello.sbatch",
    "cat slurm/logs/hello.out",
    (
        "sbatch --wait --gpus-per-node=1 --output=slurm/logs/gpus.out "
        "slurm/gpus.sbatch"
    ),
    "cat slurm/logs/gpus.out",
    # Watch a job and cancel it.
    (
        "sbatch --job-name=sleeper --nodes=2 --time=5 --output=/dev/null "
        "--wrap='srun sleep 240'"
    ),
    "sleep 2; squeue --name=sleeper",
    (
        "scontrol show job $(squeue --noheader --name=sleeper -o %A) "
        "| grep -E 'JobId|JobState|TimeLimit| NodeList|NumNodes|TRES'"
    ),
    (
        "srun --overlap --jobid=$(squeue --noheader --name=sleeper -o %A) "
        "hostname | sort"
    ),
    (
        "sbatch --job-name=alone --exclusive --nodes=2 --output=/dev/null "
        "--wrap='hostname'; sleep 1; squeue --name=alone -o '%i %T %R'; "
        "scancel --name=alone"
    ),
    "scancel --name=sleeper",
    (
        "sleep 2; squeue --name=sleeper --states=all --sort=-i "
        "-o '%i %j %T %M' | head -n 2"
    ),
    # Wait in the queue: an idle node has CPUs for two of these jobs.
    (
        "for i in 1 2 3; do sbatch --job-name=queue --nodes=2 "
        "--ntasks-per-node=4 --time=5 --output=/dev/null "
        "--wrap='sleep 240'; done"
    ),
    "sleep 2; squeue --name=queue --sort=i -o '%i %T %R'",
    "scancel --name=queue; sleep 2; squeue --name=queue",
    # Hold an allocation and use it.
    (
        "salloc --nodes=2 --ntasks-per-node=1 bash -c "
        "'scontrol show hostnames; srun hostname | sort; "
        "srun --nodes=1 --ntasks=1 hostname'"
    ),
    # Many jobs from one script.
    "sbatch --wait --output=slurm/logs/array-%a.out slurm/array.sbatch",
    "cat slurm/logs/array-?.out",
    # A job that waits for one that fails.
    (
        "train=$(sbatch --parsable --output=/dev/null --wrap='exit 1'); "
        "sbatch --job-name=evaluate --dependency=afterok:$train "
        "--output=/dev/null --wrap='hostname'; sleep 2; "
        "squeue --name=evaluate -o '%i %T %R'; scancel --name=evaluate"
    ),
    # What Slurm says to a request it cannot meet.
    "sbatch --nodes=9 slurm/hello.sbatch",
    "sbatch --time=soon slurm/hello.sbatch",
    "srun --gpus-per-node=99 hostname",
)


def record(output: Path) -> int:
    """Run every command, write the transcript, return how many there were.

    The file holds a list of {"command", "output", "exit_code"}; the
    repository's own path reads `$WORKSHOP_ROOT` in it.

    Raises:
        UserError: no Slurm here, or a command did not end.
    """
    transcript = []
    for command in COMMANDS:
        text, code = capture(command, TIMEOUT_S)
        print(f"$ {command}\n{text}", end="", flush=True)
        text = text.replace(str(root()), "$WORKSHOP_ROOT")
        transcript.append(
            {"command": command, "output": text, "exit_code": code}
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(transcript, indent=1) + "\n")
    return len(transcript)


@one_sentence
def main() -> None:
    """Entry point; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write; default: session.json in WORKSHOP_ARTIFACTS",
    )
    output = parser.parse_args().output
    if output is None:
        folder = os.environ.get("WORKSHOP_ARTIFACTS")
        if not folder:
            raise UserError(
                "there is no place for the transcript: pass --output FILE "
                "or set WORKSHOP_ARTIFACTS to a folder"
            )
        output = Path(folder) / "session.json"
    count = record(output)
    print(f"{count} commands recorded in {output.name}")


if __name__ == "__main__":
    main()
