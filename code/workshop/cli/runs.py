"""`workshop runs`: list, show, submit and check the recorded runs."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workshop import paths
from workshop.cli import run_tables, runs_submit
from workshop.errors import UserError, fail, one_sentence
from workshop.records import experiments, load, pack, record, status
from workshop.records.check import examine, examine_all
from workshop.records.experiments import near
from workshop.records.files import short

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
        whole = column in ("run", "state")
        table.add_column(column, overflow="fold", no_wrap=whole)
    for row in status.table(_present(records), chapter):
        shown = map(escape, (row.when, row.where, row.title))
        table.add_row(escape(row.name), _coloured(row.state), *shown)
    run_tables.console().print(table)


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
    run = load.load(name, _present(records))
    if as_json:
        print(json.dumps(run.record, indent=1, ensure_ascii=False))
        return
    console = run_tables.console()
    plain = {"soft_wrap": True, "markup": False}
    console.print(run.provenance(), highlight=False, **plain)
    problem = escape(run.finding.problem)
    console.print(f"state    {_coloured(run.status)} {problem}")
    console.print(f"folder   {run.folder}", **plain)
    console.print(f"command  {run.record['command']}", **plain)
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
    described, root = experiments.read(), paths.root()
    folder = _present(records) or paths.records()
    known = {*described, *record.recorded_names(folder)} if names else ()
    for name in names or []:
        if name not in known:
            fail(
                f"there is no run {short(name)}{near(name, known)}: "
                "`workshop runs list` shows all of them."
            )
    findings = (
        [
            examine(name, described.get(name), folder / name, root)
            for name in names
        ]
        if names
        else examine_all(described, folder, root)
    )
    table = Table(box=None)
    for column in ("run", "state", "recorded"):
        table.add_column(column)
    for finding in findings:
        state, date = _coloured(finding.state), escape(finding.date)
        table.add_row(escape(finding.name), state, date)
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
    folder = _present(records) or paths.records()
    packed = pack.pack(archive, names or [], folder)
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


def _present(records: Path | None) -> Path | None:
    """Return the folder of `--records`, which must be there if named."""
    if records is not None and not os.path.isdir(records):
        raise UserError(
            f"--records is {short(str(records))}, which is no folder: name "
            "one that holds records"
        )
    return records


def _coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]"
