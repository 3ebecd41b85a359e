"""`workshop doctor`: what works on this machine, and what to do."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from workshop.doctor.checks import CHECKS, Check, Machine, machine
from workshop.errors import one_sentence

LAPTOP = ("Python", "torch", "disk", "ranks on the CPU")
MARKS = {
    True: "[green]works[/green]",
    False: "[red]broken[/red]",
    None: "[yellow]absent[/yellow]",
}


@one_sentence
def doctor(
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the findings as JSON."),
    ] = False,
) -> None:
    """Say what works here, what does not, and what to do about it.

    Exits 0 when the laptop set works (Python, torch, disk, two ranks on the
    CPU), else 1.  GPUs, Slurm, Chromium and Node may be absent.
    """
    with Console(stderr=True).status("describing this machine") as status:
        about = machine()
        findings = []
        for name, check in CHECKS:
            status.update(f"checking {name}")
            findings.append(examine(name, check, about))
    if as_json:
        machine_text = {"machine": about.about}
        checks = {"checks": [asdict(finding) for finding in findings]}
        print(json.dumps({**checks, **machine_text}, indent=1))
    else:
        show(findings)
    raise typer.Exit(exit_code(findings))


def examine(name: str, check, about: Machine) -> Check:
    """Run one check; a check that fails itself is a finding as well."""
    try:
        return check(about)
    except Exception as error:
        return Check(
            name,
            False,
            f"{type(error).__name__}: {error}",
            "Report this: the check itself failed.",
        )


def exit_code(findings: list[Check]) -> int:
    """Return 0 when nothing of the laptop set is broken, else 1."""
    needed = [finding for finding in findings if finding.name in LAPTOP]
    complete = len(needed) == len(LAPTOP)
    return 0 if complete and all(f.ok for f in needed) else 1


def show(findings: list[Check]) -> None:
    """Print a row for each finding."""
    table = Table("what", "", "found", "what to do", title="workshop doctor")
    for finding in findings:
        table.add_row(
            finding.name, MARKS[finding.ok], finding.observed, finding.remedy
        )
    console = Console()
    console.print(table)
    if exit_code(findings) == 0:
        console.print("This machine can build the book and run its labs.")
    else:
        console.print("Mend what is broken above, then ask again.")
