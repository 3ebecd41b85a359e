"""The check of records: each kind of damage is caught, and named."""

import json
import shutil

import pytest
import runs_folder

from workshop import paths
from workshop.job import metrics
from workshop.records import check, job, record, schema
from workshop.records import experiments as describe
from workshop.records.files import write_json

NAME = "lab1/toy"
RUNS = runs_folder.HERE / "book" / "runs"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A workshop in which the toy has been recorded by the real job."""
    root = runs_folder.make_workshop(tmp_path_factory.mktemp("toy") / "w")
    with pytest.MonkeyPatch.context() as patch:
        runs_folder.enter(patch, root)
        toy = describe.read()[NAME]
        folder, body = job.run(toy, False, paths.records())
    assert body["status"] == "completed", body["reason"]
    assert folder == root / "book" / "runs" / NAME
    return root


@pytest.fixture
def workshop(recorded, tmp_path, monkeypatch):
    """A copy of that workshop, to damage."""
    root = tmp_path / "w"
    shutil.copytree(recorded, root)
    runs_folder.enter(monkeypatch, root)
    return root


def examined(root):
    records = root / "book" / "runs"
    findings = check.examine_all(describe.read(), records, root)
    assert [each.name for each in findings] == [NAME]
    assert "\n" not in findings[0].problem
    return findings[0]


def edit(root, change):
    file = root / "book" / "runs" / NAME / "record.json"
    body = json.loads(file.read_text())
    change(body)
    write_json(file, body)


def test_untouched_record_is_fresh(workshop):
    finding = examined(workshop)
    assert (finding.state, finding.problem) == ("fresh", "")
    assert not finding.breaks(release=True)


def test_run_that_prints_only_some_of_its_steps_is_fresh(workshop):
    runs_folder.describe_toy(workshop, kind="seldom", repeats=1)
    folder, body = job.run(describe.read()[NAME], False, paths.records())
    assert body["status"] == "completed", body["reason"]
    log = (folder / "log.txt").read_text()
    assert "step    2" in log and "step    3" not in log
    assert examined(workshop).state == "fresh"


def test_prose_of_a_source_stales_nothing(workshop):
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("made-up", "invented"))
    assert examined(workshop).state == "fresh"


def test_changed_source_is_stale_and_named(workshop):
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("100.0", "200.0"))
    finding = examined(workshop)
    assert finding.state == "stale"
    assert finding.changed == ("code/helper_of_toy.py",)
    assert finding.date in finding.problem
    assert not finding.breaks()
    assert finding.breaks(release=True)


def test_a_sentence_names_no_more_sources_than_one_reads():
    assert check._named(("a", "b", "c")) == "a, b, c"
    assert check._named(("a", "b", "c", "d", "e")) == "a, b, c and 2 more"


def test_undescribed_record_is_stale(workshop):
    (workshop / runs_folder.DESCRIBED).write_text("")
    finding = examined(workshop)
    assert finding.state == "stale"
    assert "no longer described" in finding.problem


def test_missing_record(workshop):
    shutil.rmtree(workshop / "book" / "runs" / NAME)
    finding = examined(workshop)
    assert finding.state == "missing"
    assert finding.breaks()


def test_planned_run_is_not_missing(workshop):
    shutil.rmtree(workshop / "book" / "runs" / NAME)
    more = 'status = "planned"\nprediction = "p"\nwhy = "w"\n'
    runs_folder.describe_toy(workshop, more=more)
    finding = examined(workshop)
    assert finding.state == "planned"
    assert not finding.breaks(release=True)


def test_record_that_is_not_json(workshop):
    file = workshop / "book" / "runs" / NAME / "record.json"
    file.write_text(file.read_text()[:-20])
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "not JSON" in finding.problem


@pytest.mark.parametrize(
    "path",
    [
        "command",
        "data.seed",
        "files",
        "git.commit",
        "layout",
        "script.sha256",
        "slurm.job_id",
        "software",
        "sources.files",
        "status",
        "summary",
    ],
)
def test_missing_field(workshop, path):
    def remove(body):
        *outer, last = path.split(".")
        for key in outer:
            body = body[key]
        del body[last]

    edit(workshop, remove)
    finding = examined(workshop)
    assert finding.state == "altered"
    assert f"lacks the field '{path}'" in finding.problem


@pytest.mark.parametrize("name", ["log.txt", "metrics.1.jsonl"])
def test_missing_file(workshop, name):
    (workshop / "book" / "runs" / NAME / name).unlink()
    finding = examined(workshop)
    assert finding.state == "altered"
    assert f"lacks its file {name}" in finding.problem


@pytest.mark.parametrize("name", ["notes.txt", "artifacts/notes.txt"])
def test_added_file(workshop, name):
    file = workshop / "book" / "runs" / NAME / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    assert f"holds {name}, which" in examined(workshop).problem


def test_log_without_the_hash_of_the_record(workshop):
    folder = workshop / "book" / "runs" / NAME
    lines = (folder / "log.txt").read_text().splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith("sha256 record")]
    assert len(rest) == len(lines) - 1
    (folder / "log.txt").write_text("".join(rest))
    edit(workshop, lambda f: f["files"].update(hashes(folder)))
    assert "differ from those its job hashed" in examined(workshop).problem


def test_small_run_has_no_place_in_the_book(workshop):
    _, body = job.run(describe.read()[NAME], True, paths.records())
    assert (body["size"], body["slurm"]["job_id"]) == ("small", 7)
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "has the small size" in finding.problem


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metrics.0.jsonl", '"tokens_per_s": 400.0', '"tokens_per_s": 900.0'),
        ("log.txt", "tokens/s 400", "tokens/s 900"),
    ],
)
def test_edited_file(workshop, name, old, new):
    file = workshop / "book" / "runs" / NAME / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    finding = examined(workshop)
    assert finding.state == "altered"
    assert f"another {name}" in finding.problem


def test_edited_metric_with_its_hash_mended_in_the_record(workshop):
    folder = workshop / "book" / "runs" / NAME
    file = folder / "metrics.0.jsonl"
    file.write_text(file.read_text().replace("400.0", "900.0"))
    edit(workshop, lambda f: f["files"].update(hashes(folder)))
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "differ from those in its log" in finding.problem


def test_edited_metric_with_every_hash_mended_is_not_summarised_so(
    workshop,
):
    folder = workshop / "book" / "runs" / NAME
    file = folder / "metrics.0.jsonl"
    before = hashes(folder)[file.name]
    file.write_text(file.read_text().replace("300.0", "900.0"))
    log = folder / "log.txt"
    log.write_text(log.read_text().replace(before, hashes(folder)[file.name]))
    edit(workshop, lambda f: f["files"].update(hashes(folder)))
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "summary that does not follow" in finding.problem


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["summary"]["tokens_per_s"].update(median=999.0),
        lambda f: f["slurm"].update(job_id=8),
        lambda f: f["git"].update(dirty=True),
        lambda f: f["hosts"][0].update(cpu="a faster one"),
    ],
    ids=["summary", "job", "commit", "host"],
)
def test_edited_field_differs_from_the_hash_in_the_log(workshop, change):
    edit(workshop, change)
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "differ from those its job hashed" in finding.problem


def test_edited_summary_with_every_hash_mended_is_recomputed(workshop):
    folder = workshop / "book" / "runs" / NAME
    file = folder / "record.json"
    old = record.body_digest(json.loads(file.read_text()))
    edit(
        workshop,
        lambda f: f["summary"]["tokens_per_s"].update(median=999.0),
    )
    new = record.body_digest(json.loads(file.read_text()))
    log = folder / "log.txt"
    log.write_text(log.read_text().replace(old, new))
    edit(workshop, lambda f: f["files"].update(hashes(folder)))
    finding = examined(workshop)
    assert finding.state == "altered"
    assert "summary that does not follow" in finding.problem


def test_what_the_code_says_of_steps_today_alters_no_record(monkeypatch):
    """Another unit, another field, another line of the log."""
    monkeypatch.setattr(metrics, "UNITS", {"loss": "bits", "scale": ""})
    monkeypatch.setattr(metrics, "format_step", None)
    folders = [file.parent for file in RUNS.rglob("record.json")]
    assert len(folders) > 15
    for folder in folders:
        body = schema.read(folder / "record.json")
        assert not check.alteration(body["name"], body, folder)


def test_a_new_field_of_a_step_is_in_the_summary_with_its_unit(
    workshop, monkeypatch
):
    toy = workshop / "code" / "toy.py"
    grown = toy.read_text().replace("loss=9.0", "scale=2.0, loss=9.0")
    toy.write_text(grown.replace("world_size=1", "units={'scale': 'bit'}"))
    folder, body = job.run(describe.read()[NAME], False, paths.records())
    assert body["summary"]["scale"]["median"] == 2.0
    assert body["summary"]["scale"]["unit"] == "bit"
    assert examined(workshop).state == "fresh"


def test_record_in_the_place_of_another(workshop):
    runs_folder.describe_toy(workshop, name="lab1/other")
    records = workshop / "book" / "runs"
    (records / NAME).rename(records / "lab1" / "other")
    finding = check.examine_all(describe.read(), records, workshop)[0]
    assert (finding.name, finding.state) == ("lab1/other", "altered")
    assert "holds the record of lab1/toy" in finding.problem


def hashes(folder):
    return {
        path.name: record.sha256(path)
        for path in folder.iterdir()
        if path.name != "record.json"
    }
