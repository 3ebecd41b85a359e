"""Every launch command that is written anywhere runs, in a small size."""

import importlib.util
import itertools
import math
import subprocess
from pathlib import Path

import commands
import pytest
import typer
from launching import launch, launch_ranks
from torch.distributed.run import get_args_parser

from workshop import cli

ROOT = Path(__file__).resolve().parents[2]
FOUND = commands.all_of(ROOT)
KNOWN = {
    "sinfo", "srun", "sbatch", "squeue", "scontrol", "scancel", "salloc",
    "sacct", "git", "cd", "cat", "ls", "export", "source", ".", "hostname",
    "nvidia-smi", "tail", "python", "torchrun", "make", "workshop", "exit",
    "echo", "sudo", "python3", "py-spy", "seff", "torchfrtrace",
}  # fmt: skip
SMALL = {
    "workshop.lab1.pretrain_gpt": (
        "--model tiny --steps 2 --micro-batch 2 --warmup-steps 0 "
        "--corpus-mib 1 --log-every 1"
    ),
    "workshop.lab1.measure_links": "--small",
    "workshop.lab1.compare_ddp": "--small",
    "workshop.lab1.one_rank": "--small",
    "workshop.lab1.check_layouts": "--steps 1",
    "workshop.lab1.compare_layouts": "--small --rounds 1",
    "workshop.lab1.sweep_pipeline": "--small",
    "workshop.lab1.out_of_memory": "--small --micro-batches 262144",
}
SLOW = ("--compile", "--trace")
OWN_FOLDER = ("--checkpoint", "--metrics", "--out", "--output")


def program(words: list[str]) -> str:
    """Return the name of a command's program, however it is reached."""
    return Path(words[0]).name if words[0] != "." else "."


def of(name: str) -> list[commands.Command]:
    """Return the commands of one program."""
    return [c for c in FOUND if c.words and program(c.words) == name]


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the module after -m and its arguments."""
    if "-m" not in words:
        return "", []
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


def training() -> list[commands.Command]:
    """Return the commands that train or measure, one of a kind."""
    kinds = {}
    for command in of("torchrun") + of("python"):
        module, arguments = module_of(command.words)
        if module in SMALL:
            arguments += SMALL[module].split()
            flags = {a for a in arguments if a.startswith("--")} - set(SLOW)
            launcher = program(command.words)
            kind = (launcher, module, frozenset(flags))
            kinds.setdefault(kind, command)
    return list(kinds.values())


def ranks_of(arguments: list[str]) -> int:
    """Return how many ranks the layout of a command needs, at least two."""
    sizes = ("--tensor-parallel-size", "--pipeline-parallel-size")
    pairs = itertools.pairwise(arguments)
    return max(2, math.prod(int(v) for name, v in pairs if name in sizes))


def small(command: commands.Command, folder: Path) -> list[str]:
    """Return its arguments in a small size, writing into `folder`."""
    module, arguments = module_of(command.words)
    kept, values = [], iter(arguments)
    for argument in values:
        if argument in OWN_FOLDER:
            next(values)
            kept += [argument, str(folder / argument[2:])]
        elif argument == "--peer":
            next(values)
        elif argument == "--corpus":
            next(values)
            (folder / "corpus.txt").write_text("a few words of text\n" * 9999)
            kept += [argument, str(folder / "corpus.txt")]
        elif argument not in (*SLOW, "--resume"):
            kept.append(argument)
    return [*kept, *SMALL[module].split()]


@pytest.mark.parametrize("command", training(), ids=lambda c: c.text)
def test_a_training_command_runs(command, tmp_path) -> None:
    """Its ranks run, each in a process that has imported torch already."""
    module, _ = module_of(command.words)
    words = small(command, tmp_path)
    spread = program(command.words) == "torchrun"
    ranks = ranks_of(words) if spread else None
    done = launch_ranks(module, *words, ranks=ranks, folder=tmp_path)
    assert done.returncode == 0, f"{command.place}: {done.stderr[-2000:]}"
    assert done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "python"])
def test_a_launcher_itself_starts_a_training(launcher, tmp_path) -> None:
    """One launch of a kind; the other commands run without it above.

    `make test` launches torchrun in the tests of kills and of Slurm's
    scripts, and python in the one of memory that runs out.
    """
    command = next(c for c in training() if program(c.words) == launcher
                   and module_of(c.words)[0].endswith("pretrain_gpt"))  # fmt: skip
    module, _ = module_of(command.words)
    before = command.words[1 : command.words.index("-m")]
    words = small(command, tmp_path)
    done = launch(launcher, *before, "-m", module, *words, folder=tmp_path)
    assert done.returncode == 0, f"{command.place}: {done.stderr[-2000:]}"
    assert done.stdout.strip()


@pytest.mark.parametrize("command", of("torchrun"), ids=lambda c: c.text)
def test_torchrun_takes_what_stands_before_the_module(command) -> None:
    taken = get_args_parser().parse_args(command.words[1:])
    assert taken.module or taken.training_script.endswith(".py")
    assert taken.nproc_per_node != "1", f"{command.place}: one rank alone"


@pytest.mark.parametrize(
    "command", of("torchrun") + of("python"), ids=lambda c: c.text
)
def test_a_module_that_a_command_names_is_there(command) -> None:
    module, _ = module_of(command.words)
    if module:
        assert importlib.util.find_spec(module), command.place
    else:
        script = next(w for w in command.words[1:] if w.endswith(".py"))
        assert (ROOT / script).is_file(), command.place


@pytest.mark.parametrize("command", of("workshop"), ids=lambda c: c.text)
def test_a_workshop_command_is_one(command) -> None:
    known, name = typer.main.get_command(cli.app), "workshop"
    context, rest = known.context_class(known, info_name=name), command.words
    while hasattr(known, "resolve_command") and rest[1:]:
        name, known, rest = known.resolve_command(context, rest[1:])
        assert known is not None, f"{command.place}: no command {name}"
        rest = [name, *rest]
        context = known.context_class(known, info_name=name, parent=context)
    if "--help" not in rest and not hasattr(known, "resolve_command"):
        known.make_context(name, rest[1:], parent=context.parent)


@pytest.mark.parametrize("command", of("make"), ids=lambda c: c.text)
def test_a_make_target_is_there(command) -> None:
    done = subprocess.run(
        ["make", "-n", *command.words[1:]],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command.place}: {done.stderr}"


@pytest.mark.parametrize("command", of("sbatch"), ids=lambda c: c.text)
def test_a_submitted_script_is_there_and_parses(command) -> None:
    scripts = [w for w in command.words[1:] if w.endswith(".sbatch")]
    assert scripts or any("--wrap" in w for w in command.words)
    for script in scripts:
        checked = subprocess.run(["bash", "-n", ROOT / script], check=False)
        assert checked.returncode == 0, command.place


def test_every_command_is_of_a_known_program() -> None:
    unknown = [
        f"{command.place}: {command.text}"
        for command in FOUND
        if command.words and program(command.words) not in KNOWN
    ]
    assert not unknown


def test_an_entry_point_of_a_lab_opens_with_its_command() -> None:
    for module in SMALL:
        name = module.rsplit(".", 1)[1]
        path = ROOT / "code" / f"{module.replace('.', '/')}.py"
        first = next(commands.documented(path.read_text()))
        assert first[0] == 1 and name in first[1], path


def test_commands_are_found_where_they_stand() -> None:
    page = (
        "```bash\n# a comment\nworkshop a \\\n  --b\n```\n"
        "```python\nmake = 1\n```\n```{code-block} console\n$ make c\n```\n"
    )
    assert list(commands.fenced(page)) == [(3, "workshop a --b"),
                                           (10, "make c")]  # fmt: skip
    module = '"""torchrun -m x\n\nText.\n\n  sbatch y.sbatch [MORE]\n"""'
    named = list(commands.documented(module))
    assert named == [(1, "torchrun -m x"), (5, "sbatch y.sbatch [MORE]")]
    assert commands.Command(named[1][1], "").words == ["sbatch", "y.sbatch"]
    script = "#!/bin/bash\n# Text\n#   sbatch z.sbatch\n#SBATCH -n 1\n"
    assert list(commands.commented(script)) == [(3, "sbatch z.sbatch")]
