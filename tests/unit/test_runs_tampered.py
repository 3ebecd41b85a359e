"""Tampered records: each is one sentence, and nothing hangs."""

import json
import os
import shutil
from pathlib import Path

import pytest
import runs_folder
from typer.testing import CliRunner

from workshop.cli import app, runs
from workshop.errors import UserError
from workshop.records import check, load, record, schema
from workshop.records import experiments as describe
from workshop.records.files import sha256

NAME = "lab1/layouts-cpu"
RUNS = runs_folder.HERE / "book" / "runs"
DESCRIBED = describe.read(runs_folder.HERE / "slurm/experiments/lab1")
LONG = "a" * 5000
DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture
def run(tmp_path):
    """A copy of a record of the book, to damage."""
    shutil.copytree(RUNS / NAME, tmp_path / NAME)
    return tmp_path / NAME


def invoke(*words: object):
    done = CliRunner().invoke(app, ["runs", *map(str, words)])
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.stderr.count("\n") <= 1, done.stderr
    assert len(done.stderr) < 1000
    return done


def refused(run: Path) -> str:
    """Return what the check says, once every reader has been tried."""
    try:
        loaded = load.load(NAME, run.parents[1])
        assert loaded.provenance() and loaded.meta and loaded.log
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
    finding = check.examine(NAME, DESCRIBED[NAME], run)
    assert finding.state == "altered"
    assert "\n" not in finding.problem and len(finding.problem) < 500
    return finding.problem


def mend(run: Path) -> None:
    """Hash everything anew, as someone does who alters with care."""
    file, log = run / "record.json", run / "log.txt"
    facts = json.loads(file.read_text())
    kept = [x for x in log.read_text().splitlines() if x[:7] != "sha256 "]
    kept += [f"sha256 {p.name} {sha256(p)}" for p in run.glob("metrics*")]
    kept += [f"sha256 record {record.body_digest(facts)}"]
    log.write_text("\n".join(kept) + "\n")
    facts["files"] = {
        path.relative_to(run).as_posix(): sha256(path)
        for path in run.rglob("*")
        if path.is_file() and path != file
    }
    file.write_text(json.dumps(facts))


FIELDS = {
    "no hosts": {"hosts": []},
    "a host that is none": {"hosts": [None]},
    "a summary of null": {"summary": {"x": None}},
    "a summary of lists": {"summary": []},
    "a median of text": {"summary": {"x": {"median": "1"}}},
    "a name of a folder": {"name": ".."},
    "markup": {"command": "[/nope]", "layout": "[/]"},
    "a file far away": {"files": {"/dev/zero": "0", "log.txt": "0"}},
    "a file of a long name": {"files": {LONG: "0", "log.txt": "0"}},
    "a source of a long name": {
        "sources": {"fingerprint": "0", "files": {LONG: "0"}}
    },
    "half a character": {"reason": "\ud800"},
}


@pytest.mark.parametrize("change", FIELDS.values(), ids=FIELDS)
def test_a_changed_field(run, change):
    file = run / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(run)


@pytest.mark.parametrize(
    "text", [DEEP, "9" * 5000, '{"schema": NaN}', '"\\ud800"', "\0", ""]
)
def test_a_record_of_other_text(run, text):
    (run / "record.json").write_text(text)
    assert "not JSON" in refused(run)


KINDS = {
    "deleted": lambda file: None,
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to itself": lambda file: file.symlink_to(file),
}


@pytest.mark.parametrize(
    "file", ["log.txt", "metrics.0.jsonl", "record.json"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind(run, file, kind):
    (run / file).unlink()
    KINDS[kind](run / file)
    said = refused(run)
    assert file in said or "record.json" in said


def test_a_log_that_is_binary_with_its_hash_mended(run):
    (run / "log.txt").write_bytes(b"\xff\xfe")
    file = run / "record.json"
    facts = json.loads(file.read_text())
    facts["files"]["log.txt"] = sha256(run / "log.txt")
    file.write_text(json.dumps(facts))
    assert "log.txt is not text" in refused(run)


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("x")])
def test_an_added_pipe_or_link_is_named(run, make):
    make(run / "artifact")
    assert "holds artifact" in refused(run)


@pytest.mark.parametrize(
    "event",
    [
        DEEP,
        "9" * 5000,
        '{"event": "measure", "name": "x", "value": NaN}',
        '{"event": "measure", "name": "x", "value": 1, "unit": 7}',
        '{"event": "measure", "name": "x", "value": 1, "labels": 7}',
        '{"event": "measure", "name": "x", "value": 1, '
        '"labels": {"round": [1]}}',
        '{"event": "meta", "units": [1]}',
        '{"event": "meta", "units": {"loss": {}}}',
        '{"event": ["meta"]}',
    ],
)
def test_an_event_that_is_none_with_every_hash_mended(run, event):
    with (run / "metrics.0.jsonl").open("a") as file:
        file.write(event + "\n")
    mend(run)
    assert "is not a meta, step or measure event" in refused(run)


def test_a_number_beyond_every_float_is_no_part_of_a_summary(run):
    with (run / "metrics.0.jsonl").open("a") as file:
        for value in ("1" + "0" * 4000, "1e999"):
            file.write(f'{{"event": "step", "step": 1, "x": {value}}}\n')
    mend(run)
    assert "x" not in schema.read(run / "record.json")["summary"]
    assert load.load(NAME, run.parents[1]).meta


def test_metrics_of_a_strange_number_are_no_repeat(run):
    for name in ("metrics.x.jsonl", "metrics..jsonl", f"metrics.{'9' * 200}"):
        (run / name).write_text("")
        assert f"holds {name}" in refused(run)
        (run / name).unlink()


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("list", LONG),
        ("show", "/dev/null"),
        ("check", "missing"),
        ("pack", "\n"),
    ],
)
def test_a_folder_of_records_that_is_none(command, place, tmp_path):
    words = {"show": [NAME], "pack": [tmp_path / "x.tar.gz"]}
    done = invoke(command, *words.get(command, []), "--records", place)
    assert done.exit_code and "which is no folder" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["show", LONG],
        ["show", "\x01"],
        ["check", LONG],
        ["list", "--chapter", "nope"],
        ["list", "--chapter", LONG],
        ["submit", "--chapter", "nope"],
        ["submit", LONG],
        ["pack", LONG, NAME],
        ["pack", "/dev/null/x.tar.gz", NAME],
        ["pack", "/", NAME],
        ["pack", "x.tar.gz", LONG],
        ["unpack", LONG],
        ["unpack", "/"],
        ["unpack", "/dev/null"],
        ["unpack", "missing.tar.gz"],
        ["unpack", "missing.tar.gz", "--records", "/dev/null/x"],
        ["unpack", "missing.tar.gz", "--records", LONG],
    ],
)
def test_an_argument_of_no_use_is_one_sentence(words, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_ROOT", str(runs_folder.HERE))
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert done.exit_code and done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("log", ["deleted", "binary", "a pipe"])
def test_the_commands_say_so_too(run, log):
    file = run / "record.json"
    change = {"command": "[/nope]", "layout": "[/]", "ended": "[/]"}
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (run / "log.txt").unlink()
    KINDS[log](run / "log.txt")
    chapter = "lab1/03_many_nodes"
    records = ["--records", run.parents[1]]
    assert "[/]" in invoke("list", "--chapter", chapter, *records).stdout
    shown = invoke("show", NAME, "--log", *records)
    assert shown.exit_code and "[/nope]" in shown.stdout
    checked = invoke("check", NAME, *records)
    assert checked.exit_code == 1 and "log.txt" in checked.stderr


def test_a_pipe_among_the_descriptions_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "x.toml")
    with pytest.raises(UserError, match="no plain file"):
        describe.read(tmp_path)


def test_the_check_of_one_run_looks_at_that_run_alone(run, monkeypatch):
    shutil.copytree(run, run.with_name("other"))
    examined = []

    def examine(name, *rest):
        examined.append(name)
        return check.Finding(name, "fresh")

    monkeypatch.setattr(runs, "examine", examine)
    done = CliRunner().invoke(
        app, ["runs", "check", NAME, "--records", str(run.parents[1])]
    )
    assert (done.exit_code, examined) == (0, [NAME])
