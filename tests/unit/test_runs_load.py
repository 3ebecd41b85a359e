"""Loading, showing, replaying and carrying records."""

import json
import shutil

import pytest
import runs_folder
from typer.testing import CliRunner

from workshop import paths
from workshop.cli.runs import app
from workshop.errors import UserError
from workshop.notebook import recorded
from workshop.notebook.recorded import run_lines
from workshop.records import experiments as describe
from workshop.records import expression, job, load, status
from workshop.records import record as records

NAME = "lab1/toy"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workshop in which the toy has been recorded by the real job."""
    root = runs_folder.make_workshop(tmp_path_factory.mktemp("toy") / "w")
    with pytest.MonkeyPatch.context() as patch:
        runs_folder.enter(patch, root)
        _, body = job.run(describe.read()[NAME], False, paths.records())
    assert body["status"] == "completed", body["reason"]
    return root


@pytest.fixture
def workshop(made, tmp_path, monkeypatch):
    root = tmp_path / "w"
    shutil.copytree(made, root)
    runs_folder.enter(monkeypatch, root, job_id="")
    return root


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def test_run_has_all_that_a_chapter_reads(workshop):
    run = load.load(NAME)
    assert run.status == "fresh"
    assert run.summary["tokens_per_s"] == {
        "median": 301.0,
        "min": 300.0,
        "max": 302.0,
        "values": [300.0, 301.0, 302.0],
        "repeats": 3,
        "unit": "tokens/s",
    }
    assert run.summary["first_loss"]["median"] == 9.0
    assert run.summary["busbw{bytes=1024}"]["unit"] == "GB/s"
    assert "mfu" not in run.summary
    assert run.meta["world_size"] == 1
    assert len(run.metrics(2)) == 6
    assert run.record["data"]["corpus_sha256"] == "c0ffee"
    text = 'run("lab1/toy").tokens_per_s.max'
    assert expression.evaluate(text) == 302.0


def test_provenance_names_job_versions_commit_and_date(workshop):
    run = load.load(NAME)
    line = run.provenance()
    for part in ("Slurm job 7", "one Slurm node", "torch", "012345678"):
        assert part in line
    assert run.date in line
    assert "\n" not in line


def test_missing_record_and_repeat_are_one_sentence(workshop):
    with pytest.raises(UserError, match="did you mean lab1/toy"):
        load.load("lab1/toys")
    for elsewhere in (f"../runs/{NAME}", str(paths.records() / NAME), "."):
        with pytest.raises(UserError, match="is no name of a run"):
            load.load(elsewhere)
    with pytest.raises(UserError, match="no repeat 3"):
        load.load(NAME).metrics(3)


def test_replay_shows_the_record_the_same_each_time(workshop, capsys):
    assert recorded(NAME, lines=2).name == NAME
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("Recorded: Slurm job 7")
    assert shown[1] == "$ python -m toy good"
    assert shown[2].startswith("step    2 | loss 7.0000")
    assert shown[3].startswith("step    3 | loss 6.0000")
    assert len(shown) == 4
    recorded(NAME, lines=2)
    assert capsys.readouterr().out.splitlines() == shown


def test_replay_says_stale_and_refuses_an_altered_record(workshop, capsys):
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("100.0", "200.0"))
    run = recorded(NAME)
    assert f"Stale: recorded on {run.date}" in capsys.readouterr().out
    (run.folder / "log.txt").write_text("step 0\n")
    with pytest.raises(UserError, match="another log.txt"):
        recorded(NAME)


def test_local_runs_the_small_size_here(workshop, monkeypatch, capfd):
    monkeypatch.setenv("WORKSHOP_RUN", "local")
    before = load.load(NAME).record
    run = recorded(NAME)
    assert run.record["size"] == "small"
    assert run.folder == workshop / ".runs-local" / "here" / NAME
    assert run.summary["tokens_per_s"]["values"] == [300.0]
    assert "step    3 | loss 6.0000" in capfd.readouterr().out
    assert load.load(NAME).record == before


def test_the_same_small_command_runs_once_in_a_kernel(
    workshop, monkeypatch, capfd
):
    monkeypatch.setenv("WORKSHOP_RUN", "local")
    twin = runs_folder.TOML.format(
        kind="good", repeats=1, timeout="30s", needs_gpus=0, name="lab1/twin"
    )
    runs_folder.describe_toy(workshop, more=twin)
    first = recorded(NAME)
    capfd.readouterr()
    again = recorded("lab1/twin")
    shown = capfd.readouterr().out
    assert shown.startswith(f"The same command as for {NAME} above:")
    assert (again.name, again.record) == ("lab1/twin", first.record)
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("100.0", "200.0"))
    assert recorded(NAME).record["started"] >= first.record["started"]
    assert "The same command" not in capfd.readouterr().out


def test_local_failure_is_one_sentence(workshop, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUN", "local")
    (workshop / "code" / "toy.py").write_text("raise SystemExit(4)\n")
    with pytest.raises(UserError, match="ended with exit code 4"):
        recorded(NAME)


def test_unknown_way_is_one_sentence(workshop, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUN", "reply")
    with pytest.raises(UserError, match="replay, local, slurm"):
        recorded(NAME)


def test_status_table_has_every_run(workshop):
    more = PLANNED.format(name="lab1/big", run=NAME)
    more += PLANNED.format(name="lab1/bigger", run="lab1/none")
    runs_folder.describe_toy(workshop, more=more)
    rows = {row.name: row for row in status.table()}
    toy = rows[NAME]
    assert (toy.state, toy.title) == ("fresh", "A toy")
    assert toy.where.startswith("job 7, one Slurm node, CPU only")
    assert toy.command == "workshop runs submit --again lab1/toy"
    assert rows["lab1/big"].note == "Too big. Expected: 602 tokens/s."
    assert "not yet known" in rows["lab1/bigger"].note


PLANNED = """
[[experiment]]
name = "{name}"
title = "Big"
chapter = "lab1/01_cluster"
module = "toy"
nodes = 9
gpus_per_node = 8
status = "planned"
why = "Too big."
prediction = 'Expected: {{2 * run("{run}").tokens_per_s:.0f}} tokens/s.'
"""


def test_check_command_and_its_exit_codes(workshop):
    assert invoke("check").exit_code == 0
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("100.0", "200.0"))
    stale = invoke("check", NAME)
    assert stale.exit_code == 0
    assert "code/helper_of_toy.py" in stale.stderr
    assert invoke("check", "--release").exit_code == 1
    unknown = invoke("check", "lab1/toys")
    assert unknown.exit_code == 2
    assert unknown.stderr.count("\n") == 1
    shutil.rmtree(paths.records() / NAME)
    missing = invoke("check")
    assert missing.exit_code == 1
    assert "missing: lab1/toy has no record" in missing.stderr


def test_list_and_show(workshop):
    listed = invoke("list")
    assert listed.exit_code == 0
    assert NAME in listed.stdout
    assert "fresh" in listed.stdout
    shown = invoke("show", NAME, "--log")
    assert shown.exit_code == 0
    assert "python -m toy good" in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines()]
    place = lines.index(["busbw"])
    assert lines[place + 1][0] == "bytes" and lines[place + 2][0] == "1024"
    assert "sha256 record" in shown.stdout
    assert invoke("show", "lab1/toys").exit_code == 2


def test_submit_without_slurm_is_one_sentence(workshop, monkeypatch):
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", "/tmp/workshop-no-cluster")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    done = invoke("submit", "--again")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: sbatch not found")
    assert done.stderr.count("\n") == 1


def test_body_of_a_record_is_hashed_whatever_the_order_of_its_keys(workshop):
    body = load.load(NAME).record
    turned = dict(reversed(list(json.loads(json.dumps(body)).items())))
    assert records.body_digest(turned) == records.body_digest(body)


def test_the_lines_of_a_run_are_those_of_its_last_repeat():
    log = "run lab1/toy\n"
    for repeat in range(2):
        log += f"[repeat {repeat}] $ python -m toy\nstep {repeat}\n"
        log += f"[repeat {repeat}] exit code 0\nsha256 x\n"
    assert run_lines(log) == ["step 1"]
