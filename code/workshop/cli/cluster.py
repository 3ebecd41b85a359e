"""`workshop cluster`: a real Slurm cluster on this machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from workshop.errors import UserError, one_sentence
from workshop.paths import root
from workshop.slurm import jobs, profile, state
from workshop.slurm import local as cluster
from workshop.slurm.local import bundle as carried
from workshop.slurm.local import daemons, lifecycle
from workshop.slurm.state import default_base

DOWN = 3

app = typer.Typer(
    help="Start, stop and look at a Slurm cluster on this machine.",
    no_args_is_help=True,
)

Base = Annotated[
    Path | None,
    typer.Option(help="Folder of its state and sockets, short, absolute."),
]


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """Show the present stage on stderr while the block runs."""
    console = Console(stderr=True)
    with console.status(first) as status:
        yield lambda stage: status.update(stage)


@app.command()
@one_sentence
def start(
    nodes: Annotated[
        int | None, typer.Option(help="How many nodes; default: 2.")
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(
            help="GPUs of each node; default: an equal share, or two "
            "pretended."
        ),
    ] = None,
    real: Annotated[
        bool | None,
        typer.Option(
            "--real/--pretend",
            help="Insist on GPUs, or on stand-ins; default: what there is.",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Packages made by `workshop cluster bundle`."),
    ] = None,
    base: Base = None,
    port: Annotated[
        int | None,
        typer.Option(help="First of nodes + 1 free ports in a row."),
    ] = None,
) -> None:
    """Start the cluster; a second start changes nothing."""
    base = base or default_base()
    was_up, wrong = cluster.running(base), _broken(base)
    with progress("looking at this machine") as report:
        layout = lifecycle.start(
            nodes,
            gpus_per_node,
            real,
            base=base,
            port=port,
            bundle=bundle,
            report=report,
        )
    env = lifecycle.write_environment_file(base)
    shape = lifecycle.describe(layout)
    if wrong:
        print(f"started anew, since of the cluster that was up {wrong}")
    print(f"{'already up' if was_up else 'up'}: {shape}, in {base}")
    if was_up:
        _refuse_lost(base)
    if not layout.own_names:
        print("the nodes share this machine's host name (no namespaces here)")
    print(f"put its commands on your PATH:  . {_near(env)}")
    print("then for example:  sinfo -N -l   or   srun --nodes=2 hostname")


@app.command()
@one_sentence
def stop(base: Base = None) -> None:
    """End all jobs and daemons; leaves nothing running."""
    with progress("stopping") as report:
        stopped = lifecycle.stop(base, report)
    print("stopped" if stopped else "there was no cluster to stop")


@app.command()
@one_sentence
def status(base: Base = None) -> None:
    """Show nodes and jobs; exits 0 if the cluster is up, else 3."""
    base = base or default_base()
    if wrong := _broken(base):
        print(f"broken: {wrong}, mend it with `workshop cluster start`")
        raise typer.Exit(DOWN)
    if not cluster.running(base):
        print("down: start it with `workshop cluster start`")
        raise typer.Exit(DOWN)
    try:
        shown = ["sinfo", "-N", "-o", "%N %T %c %G"]
        print(daemons.answer(base, shown), end="")
        print(daemons.answer(base, ["squeue"]), end="")
    except UserError as error:
        print(f"broken: {error}")
        raise typer.Exit(DOWN) from None
    _refuse_lost(base)


@app.command()
@one_sentence
def bundle(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to fill; default: .bundle of the checkout."
        ),
    ] = None,
) -> None:
    """Gather what a GPU host without network lacks, in one folder."""
    out = out or root() / ".bundle"
    with progress("gathering packages") as report:
        count = carried.make(out, report)
    print(f"{_near(out)}: {count / 1e6:.1f} MB")
    print("carry it with the repository; there, in the repository's folder:")
    # The program itself needs some of the wheels, so pip comes first.
    print("  python3 -m pip install --no-index --no-deps --upgrade \\")
    print(f"    --target .slurm/site {out.name}/wheels/*.whl")
    print("  export PYTHONPATH=code:.slurm/site")
    print(f"  python3 -m workshop.cli cluster start --bundle {out.name}")
    print("  . .slurm/env.sh")


@app.command(
    context_settings={"ignore_unknown_options": True},
    no_args_is_help=True,
)
@one_sentence
def submit(
    script: Annotated[Path, typer.Argument(help="The sbatch file.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What the script gets.")
    ] = None,
    profile_name: Annotated[
        str | None,
        typer.Option("--profile", help="The site: slurm/profiles/NAME.toml."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for its end.")
    ] = None,
) -> None:
    """Submit a script with the site's profile and wait; Ctrl-C cancels."""
    if timeout is not None and not timeout > 0:  # nan is not, either
        raise UserError(f"--timeout is {timeout:g}: give more than 0 s")
    site = profile.load(profile_name)
    job_id = jobs.submit(script, arguments or (), site)
    with progress(f"job {job_id}") as report:
        job = jobs.wait(
            job_id,
            timeout,
            lambda now: report(f"job {job_id}: {now.state} {now.nodes}"),
        )
    print(f"job {job_id} completed on {job.nodes}: {job.output}")


def _refuse_lost(base: Path) -> None:
    """End the command with a sentence if the controller lost a node."""
    try:
        wrong = daemons.lost_nodes(base)
    except UserError as error:
        wrong = str(error)
    if wrong:
        print(
            f"broken: {wrong}, mend it with `workshop cluster stop` and "
            "`workshop cluster start`"
        )
        raise typer.Exit(DOWN)


def _broken(base: Path) -> str | None:
    """Return what is wrong with a cluster of which a part still runs."""
    layout = state.load(base)
    return state.broken(layout) if layout and state.alive(layout) else None


def _near(path: Path) -> str:
    """Return `path` relative to the working folder if it lies below it."""
    here = Path.cwd()
    return os.path.relpath(path) if path.is_relative_to(here) else str(path)
