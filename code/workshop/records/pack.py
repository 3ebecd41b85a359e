"""Carry records between machines in one archive."""

import gzip
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from workshop.errors import UserError
from workshop.records import check, record, schema
from workshop.records.experiments import Experiment, near
from workshop.records.files import short

MOST_BYTES = 2**30
"""Of an unpacked archive: all records of the book are a few MiB."""
_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)


def pack(archive: Path, names: list[str], records: Path) -> list[str]:
    """Write the named records (default: all) into a .tar.gz; name them.

    An archive that is there stays until the new one is whole.
    """
    known = record.recorded_names(records)
    for name in names:
        if name not in known:
            raise UserError(
                f"{short(name)} has no record to pack{near(name, known)}."
            )
    chosen = list(dict.fromkeys(names)) or known
    if not chosen:
        raise UserError(f"there is no record to pack under {records}.")
    _refuse_nested(chosen, known)
    if not archive.name:
        raise UserError(f"{archive} is a folder: name a .tar.gz in it.")
    beside = archive.with_name(f".{archive.name}.partial")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(beside, "w:gz") as tar:
            for name in chosen:
                tar.add(records / name, arcname=name, filter=_plain)
        beside.replace(archive)
    except OSError as error:
        raise UserError(
            f"{archive} cannot be written ({error.strerror}): name a file "
            "in a folder with room and permission."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
    return chosen


def unpack(
    archive: Path,
    experiments: dict[str, Experiment],
    records: Path,
    root: Path,
) -> list[check.Finding]:
    """Check the records of an archive, then put them in place.

    Returns a finding for each. Raises `UserError`, and changes nothing,
    when a single record of the archive is altered or incomplete, is none
    of the experiments', or would take the place of other records.
    """
    if not archive.is_file():
        raise UserError(f"there is no archive {archive}: check the path.")
    records.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=records) as made:
        folder = Path(made)
        try:
            with gzip.open(archive) as packed:
                _extract(packed, folder)
        except _BROKEN as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(
                f"{short(str(archive))} cannot be unpacked ({why}): pack it "
                "again with `workshop runs pack`."
            ) from None
        names = record.recorded_names(folder)
        _refuse_foreign(names, folder, experiments, archive)
        _refuse_nested(names, [*names, *record.recorded_names(records)])
        findings = [
            check.examine(name, experiments[name], folder / name, root)
            for name in names
        ]
        for finding in findings:
            if finding.state == "altered":
                raise UserError(f"{finding.problem} Nothing was unpacked.")
        try:
            for name in names:
                body = schema.read(folder / name / "record.json")
                record.place(folder / name, records, body)
        except OSError as error:
            raise UserError(
                f"{records / name} cannot be written ({error.strerror}): "
                "make room there, or name another folder with --records."
            ) from None
    return findings


class _Bounded:
    """A file of which no more than `MOST_BYTES` can be read."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self._left = file, MOST_BYTES

    def read(self, count: int) -> bytes:
        content = self._file.read(count)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.TarError(f"it holds more than {MOST_BYTES} bytes")
        return content


def _extract(packed: gzip.GzipFile, folder: Path) -> None:
    """Write the files of an archive: plain ones, once, inside the folder.

    The filters of `tarfile` are not there before Python 3.11.4.
    """
    written = set()
    with tarfile.open(fileobj=_Bounded(packed), mode="r|") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            outside = path.is_absolute() or ".." in path.parts
            plain = member.isfile() and not member.issparse()
            if outside or not (plain or member.isdir()):
                raise tarfile.TarError(f"{path} is no plain file of a record")
            if member.isdir():
                continue
            # Some systems take names that differ in case for the same.
            if (name := str(path).casefold()) in written:
                raise tarfile.TarError(f"{path} is in it twice")
            written.add(name)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Refuse to pack what would not be unpacked."""
    if not (member.isfile() or member.isdir()):
        raise UserError(
            f"{member.name} is no plain file: restore the record from git "
            "or repeat the run."
        )
    return member


def _refuse_foreign(
    names: list[str],
    folder: Path,
    experiments: dict[str, Experiment],
    archive: Path,
) -> None:
    """Refuse what is no record of an experiment, and files beside them."""
    if not names:
        raise UserError(f"{archive} holds no record.")
    for name in names:
        if name not in experiments:
            raise UserError(
                f"{archive} holds a record called {name!r}, which is no "
                f"experiment{near(name, experiments)}: describe it in "
                "slurm/experiments. Nothing was unpacked."
            )
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).as_posix()
        if path.is_file() and not any(
            inside.startswith(f"{name}/") for name in names
        ):
            raise UserError(
                f"{archive} holds {inside}, which belongs to no record: "
                "pack it again. Nothing was unpacked."
            )


def _refuse_nested(names: list[str], others: list[str]) -> None:
    """Refuse a record inside another: one would be removed with the other."""
    for name in names:
        for other in others:
            inner, outer = (
                max(name, other, key=len),
                min(name, other, key=len),
            )
            if inner.startswith(f"{outer}/"):
                raise UserError(
                    f"{inner} lies inside the record of {outer}: move one "
                    "of them. Nothing was changed."
                )
