"""Carrying records: an archive is taken as a whole, or nothing of it."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import pytest
import runs_folder
from typer.testing import CliRunner

from workshop import paths
from workshop.cli.runs import app
from workshop.errors import UserError
from workshop.records import experiments as describe
from workshop.records import job, load, pack

NAME = "lab1/toy"
MORE = runs_folder.TWO_NODES.replace("lab1/ranks", "lab1/toy.2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workshop in which the toy has been recorded by the real job."""
    root = runs_folder.make_workshop(tmp_path_factory.mktemp("toy") / "w")
    runs_folder.describe_toy(root, repeats=1, more=MORE)
    with pytest.MonkeyPatch.context() as patch:
        runs_folder.enter(patch, root)
        _, found = job.run(describe.read()[NAME], False, paths.records())
    assert found["status"] == "completed", found["reason"]
    return root


@pytest.fixture
def workshop(made, tmp_path, monkeypatch):
    root = tmp_path / "w"
    shutil.copytree(made, root)
    runs_folder.enter(monkeypatch, root, job_id="")
    return root


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def tree(folder: Path) -> dict[Path, bytes]:
    """Return all that is below a folder, hidden or not."""
    return {
        path: path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
    }


def test_records_travel_in_an_archive(workshop, tmp_path):
    archive = tmp_path / "carry" / "runs.tar.gz"
    target = tmp_path / "elsewhere"
    experiments = describe.read()
    assert pack.pack(archive, [], paths.records()) == [NAME]
    found = pack.unpack(archive, experiments, target, workshop)
    assert [(each.name, each.state) for each in found] == [(NAME, "fresh")]
    assert load.load(NAME, target).record == load.load(NAME).record
    with pytest.raises(UserError, match="no record to pack"):
        pack.pack(archive, ["lab1/toys"], paths.records())


def test_altered_record_is_not_unpacked(workshop, tmp_path):
    archive = tmp_path / "runs.tar.gz"
    good = load.load(NAME).record
    file = paths.records() / NAME / "metrics.0.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace("400.0", "900.0"))
    pack.pack(archive, [NAME], paths.records())
    file.write_text(whole)
    with pytest.raises(UserError, match="Nothing was unpacked"):
        pack.unpack(archive, describe.read(), paths.records(), workshop)
    assert load.load(NAME).record == good
    assert load.load(NAME).status == "fresh"
    archive.write_bytes(archive.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be unpacked"):
        pack.unpack(archive, describe.read(), paths.records(), workshop)


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_an_archive_that_reaches_outside_is_refused(workshop, tmp_path, kind):
    archive, outside = tmp_path / "bad.tar.gz", tmp_path / "outside.txt"
    name = {"above": "../../outside.txt", "absolute": str(outside)}
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name.get(kind, "lab1/toy/log.txt"))
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(member)
    done = invoke("unpack", str(archive))
    assert done.exit_code == 2
    assert "no plain file of a record" in done.output
    assert not outside.exists()


def file_of(name: str, content: bytes = b"", **fields) -> tuple:
    """Return a member of an archive, and its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, io.BytesIO(content)


HOSTILE = {
    "a lab's name": (["lab1"], [], "'lab1', which is no experiment"),
    "a dot": (["."], [], "'.', which is no experiment"),
    "an unknown name": (["lab1/toys"], [], "did you mean lab1/toy"),
    "a record in a record": (
        [NAME, f"{NAME}/inner"], [], "which is no experiment",
    ),
    "a file beside": ([NAME], [file_of("lab1/more")], "no record: pack it"),
    "a failed attempt": (
        [NAME, f"{NAME}.failed"], [], "toy.failed/.* belongs to no record",
    ),
    "a device": (
        [NAME], [file_of(f"{NAME}/x", type=tarfile.CHRTYPE)], "no plain",
    ),
    "a hard link": (
        [NAME],
        [file_of(f"{NAME}/x", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        "no plain file",
    ),
    "a file twice": ([NAME, NAME], [], "is in it twice"),
    "names that differ in case": (
        [NAME], [file_of(f"{NAME}/LOG.txt")], "is in it twice",
    ),
    "a file as a folder": (
        [NAME], [file_of(f"{NAME}/log.txt/x")], "cannot be unpacked",
    ),
    "an unknown file": ([NAME], [file_of(f"{NAME}/x")], "holds x, which"),
    "no name": ([NAME], [file_of("")], "cannot be unpacked"),
    "nothing": ([], [], "holds no record"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_of_anything_else_changes_nothing(
    workshop, tmp_path, kind
):
    names, more, says = HOSTILE[kind]
    archive, before = tmp_path / "bad.tar.gz", tree(workshop)
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(paths.records() / NAME, arcname=name)
        for member, content in more:
            tar.addfile(member, content)
    with pytest.raises(UserError, match=says) as refused:
        pack.unpack(archive, describe.read(), paths.records(), workshop)
    assert "\n" not in str(refused.value)
    assert tree(workshop) == before


def test_an_archive_that_swells_is_refused(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "MOST_BYTES", 2**20)
    archive = tmp_path / "bomb.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(*file_of(f"{NAME}/log.txt", bytes(2**20)))
    assert archive.stat().st_size < 2**14
    with pytest.raises(UserError, match="more than 1048576 bytes"):
        pack.unpack(archive, describe.read(), paths.records(), workshop)


def test_a_damaged_archive_is_one_sentence(workshop, tmp_path):
    archive = tmp_path / "runs.tar.gz"
    pack.pack(archive, [], paths.records())
    whole = archive.read_bytes()
    middle = bytes(b ^ 0xFF for b in whole[60:90])
    for content in (b"", b"text", whole[:60] + middle + whole[90:],
                    gzip.compress(b"no archive" * 99)):  # fmt: skip
        archive.write_bytes(content)
        done = invoke("unpack", str(archive))
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert invoke("unpack", str(tmp_path / "none")).exit_code == 2
    assert load.load(NAME).status == "fresh"


def test_the_old_record_stays_until_the_new_one_is_in_place(
    workshop, tmp_path, monkeypatch
):
    archive = tmp_path / "runs.tar.gz"
    pack.pack(archive, [], paths.records())
    before, rename = tree(workshop), Path.rename

    def no_room(self, target):
        if self.name == "toy" and ".unpack-" in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", no_room)
    with pytest.raises(UserError, match="lab1/toy cannot be .*No space"):
        pack.unpack(archive, describe.read(), paths.records(), workshop)
    assert tree(workshop) == before
    monkeypatch.undo()


def test_a_record_inside_one_that_is_there_is_refused(workshop, tmp_path):
    archive = tmp_path / "runs.tar.gz"
    pack.pack(archive, [], paths.records())
    (paths.records() / "lab1" / "record.json").write_text("{}")
    before = tree(workshop)
    with pytest.raises(UserError, match="toy lies inside the record of lab1"):
        pack.unpack(archive, describe.read(), paths.records(), workshop)
    assert tree(workshop) == before


def test_an_archive_stays_until_the_new_one_is_whole(
    workshop, tmp_path, monkeypatch
):
    archive = tmp_path / "runs.tar.gz"
    pack.pack(archive, [], paths.records())
    before = tree(tmp_path)

    def no_room(*arguments, **options):
        raise OSError(28, "No space left on device")

    for owner, name in ((tarfile.TarFile, "add"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, no_room)
            with pytest.raises(UserError, match="No space left"):
                pack.pack(archive, [], paths.records())
        assert tree(tmp_path) == before


def test_what_would_not_be_unpacked_is_not_packed(workshop, tmp_path):
    archive = tmp_path / "runs.tar.gz"
    link = paths.records() / NAME / "link"
    link.symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="lab1/toy/link is no plain file"):
        pack.pack(archive, [], paths.records())
    link.unlink()
    inner = paths.records() / NAME / "inner"
    shutil.copytree(paths.records() / NAME, inner)
    with pytest.raises(UserError, match="inside the record of lab1/toy"):
        pack.pack(archive, [], paths.records())
    assert not archive.exists()
