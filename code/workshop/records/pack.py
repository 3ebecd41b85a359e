"""Carry records between machines in one archive."""

import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from workshop.errors import UserError
from workshop.records import check, record, schema
from workshop.records.experiments import Experiment, near
from workshop.records.files import short


def pack(archive: Path, names: list[str], records: Path) -> list[str]:
    """Write the named records (default: all) into a .tar.gz; name them."""
    known = record.recorded_names(records)
    for name in names:
        if name not in known:
            raise UserError(
                f"{short(name)} has no record to pack{near(name, known)}."
            )
    chosen = names or known
    if not chosen:
        raise UserError(f"there is no record to pack under {records}.")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in chosen:
            tar.add(records / name, arcname=name)
    return chosen


def unpack(
    archive: Path,
    experiments: dict[str, Experiment],
    records: Path,
    root: Path,
) -> list[check.Finding]:
    """Check the records of an archive, then put them in place.

    Returns a finding for each. Raises `UserError`, and changes nothing,
    when a single record of the archive is altered or incomplete.
    """
    records.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=records) as made:
        folder = Path(made)
        try:
            with tarfile.open(archive, "r:gz") as tar:
                _extract(tar, folder)
        except (OSError, EOFError, tarfile.TarError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(
                f"{short(str(archive))} cannot be unpacked ({why}): pack it "
                "again with `workshop runs pack`."
            ) from None
        findings = [
            check.examine(name, experiments.get(name), folder / name, root)
            for name in record.recorded_names(folder)
        ]
        if not findings:
            raise UserError(f"{archive} holds no record.")
        for finding in findings:
            if finding.state == "altered":
                raise UserError(f"{finding.problem} Nothing was unpacked.")
        for finding in findings:
            _replace(folder / finding.name, records, finding)
    return findings


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files of an archive: plain ones, and inside the folder.

    The filters of `tarfile` are not there before Python 3.11.4.
    """
    for member in tar:
        path = PurePosixPath(member.name)
        outside = path.is_absolute() or ".." in path.parts
        if outside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{path} is no plain file of a record")
        if member.isfile():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _replace(source: Path, records: Path, finding: check.Finding) -> None:
    found = schema.read(source / "record.json")
    staged = record.staging(records, finding.name.replace("/", "-"))
    shutil.rmtree(staged)
    shutil.move(source, staged)
    record.place(staged, records, found)
