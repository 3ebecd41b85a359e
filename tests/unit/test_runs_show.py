"""`workshop runs show`: a table by label, whole names, and JSON."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from workshop import paths
from workshop.cli import app, run_tables
from workshop.records.values import split

NAME = "lab1/layouts-cpu"
LABELLED = "lab1/one-rank-1.3b"


def show(*options: str) -> str:
    done = CliRunner().invoke(app, ["runs", "show", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", [NAME, LABELLED])
def test_every_name_and_label_is_whole_in_a_pipe(name):
    record = json.loads((paths.records() / name / "record.json").read_text())
    lines = show(name).splitlines()
    assert "…" not in "".join(lines)
    for key, entry in record["summary"].items():
        metric, labels = split(key)
        assert metric in " ".join(lines)
        wanted = [*labels.values(), f"{entry['median']:.6g}"]
        assert any(all(w in line for w in wanted) for line in lines), key


def test_a_narrow_terminal_folds_and_cuts_nothing():
    name = "a_metric_with_a_name_of_more_than_forty_columns"
    entry = {"median": 1.5, "min": 1, "max": 2, "repeats": 3, "unit": "s"}
    summary = {name: entry, f"x{{label={name}}}": entry}
    console = Console(width=60)
    with console.capture() as captured:
        for table in run_tables.tables(summary):
            console.print(table)
    text = captured.get()
    assert "…" not in text
    assert "".join(text.split()).count("1.5") == 2
    assert name[:8] in text and name[-4:] in text


def test_json_is_the_record():
    record = json.loads((paths.records() / NAME / "record.json").read_text())
    assert json.loads(show(NAME, "--json")) == record
