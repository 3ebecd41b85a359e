"""`workshop runs`: list, show, submit and check the recorded runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from workshop import paths
from workshop.cli import run_tables, runs_submit
from workshop.errors import fail, one_sentence
from workshop.records import experiments, load, pack, status
from workshop.records.check import examine_all
from workshop.records.experiments import near

app = typer.Typer(
    help="The recorded runs of the book: list, show, submit and check.",
    no_args_is_help=True,
)
app.command(name="submit")(runs_submit.submit)
COLOURS = {
    "fresh": "green",
    "stale": "yellow",
    "planned": "blue",
    "missing": "red",
    "failed": "red",
    "altered": "red",
}
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Runs, such as lab1/links-1node; default all."),
]
Records = Annotated[
    Path | None,
    typer.Option("--records", help="Where records lie; default book/runs."),
]


@app.command(name="list")
@one_sentence
def list_runs(
    chapter: Annotated[
        str, typer.Option(help="Only this chapter's, as in the file.")
    ] = "",
    records: Records = None,
) -> None:
    """List every run: state, date, where it ran."""
    table = Table(box=None)
    for column in ("run", "state", "recorded", "where", "title"):
        table.add_column(column, overflow="fold")
    for row in status.table(records):
        if chapter in ("", row.chapter):
            state = _coloured(row.state)
            table.add_row(row.name, state, row.when, row.where, row.title)
    Console().print(table)


@app.command()
@one_sentence
def show(
    name: Annotated[str, typer.Argument(help="A run, such as lab1/x.")],
    log: Annotated[
        bool, typer.Option("--log", help="Print the whole log as well.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record, for programs.")
    ] = False,
    records: Records = None,
) -> None:
    """Show one run: provenance, command and summary."""
    run = load.load(name, records)
    if as_json:
        print(json.dumps(run.record, indent=1, ensure_ascii=False))
        return
    console = run_tables.console()
    console.print(run.provenance(), soft_wrap=True, highlight=False)
    console.print(f"state    {_coloured(run.status)} {run.finding.problem}")
    console.print(f"folder   {run.folder}", soft_wrap=True)
    console.print(f"command  {run.record['command']}", soft_wrap=True)
    for table in run_tables.tables(run.summary):
        console.print(table)
    if log:
        print(run.log, end="")


@app.command()
@one_sentence
def check(
    names: Names = None,
    release: Annotated[
        bool, typer.Option("--release", help="Stale records fail as well.")
    ] = False,
    records: Records = None,
) -> None:
    """Check that records are there, whole, unaltered and up to date.

    Exit code 1: a record is missing, failed or altered (with --release:
    or stale). Exit code 2: bad input.
    """
    described = experiments.read()
    folder = records or paths.records()
    findings = examine_all(described, folder, paths.root())
    if names:
        known = {finding.name: finding for finding in findings}
        for name in names:
            if name not in known:
                fail(
                    f"there is no run {name!r}{near(name, known)}: "
                    "`workshop runs list` shows all of them."
                )
        findings = [known[name] for name in names]
    table = Table(box=None)
    for column in ("run", "state", "recorded"):
        table.add_column(column)
    for finding in findings:
        table.add_row(finding.name, _coloured(finding.state), finding.date)
    Console().print(table)
    errors = Console(stderr=True, highlight=False, markup=False)
    for finding in findings:
        for sentence in filter(None, (finding.problem, finding.note)):
            errors.print(f"{finding.state}: {sentence}", soft_wrap=True)
    if any(finding.breaks(release) for finding in findings):
        raise typer.Exit(1)


@app.command(name="pack")
@one_sentence
def pack_records(
    archive: Annotated[Path, typer.Argument(help="The .tar.gz to write.")],
    names: Names = None,
    records: Records = None,
) -> None:
    """Put records into one archive, to carry them to another machine."""
    packed = pack.pack(archive, names or [], records or paths.records())
    size = archive.stat().st_size / 2**20
    print(f"{archive}: {len(packed)} records, {size:.2f} MiB")


@app.command(name="unpack")
@one_sentence
def unpack_records(
    archive: Annotated[Path, typer.Argument(help="A packed .tar.gz.")],
    records: Records = None,
) -> None:
    """Check the records of an archive and put them into book/runs."""
    folder = records or paths.records()
    root = paths.root()
    for finding in pack.unpack(archive, experiments.read(), folder, root):
        print(f"{finding.name}: {finding.state}")


def _coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]"
