"""The one command-line program, `workshop`."""

import typer

from workshop.cli import cluster, doctor, runs

app = typer.Typer(
    name="workshop",
    help="Look at this machine, start a cluster, submit and check runs.",
    no_args_is_help=True,
    add_completion=False,
)
app.command(name="doctor")(doctor.doctor)
app.add_typer(cluster.app, name="cluster")
app.add_typer(runs.app, name="runs")


def main() -> None:
    """Entry point of the console script `workshop`."""
    app()
