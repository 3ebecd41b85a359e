"""Check the records: whether they are whole, unaltered and up to date.

This finds mistakes, not forgery: whoever can write a record can write its
hashes too.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records import fingerprint, record, schema
from workshop.records.experiments import Experiment
from workshop.records.files import digest, is_file, read_text, sha256

STATES = ("fresh", "stale", "missing", "failed", "altered", "planned")
BREAKING = ("missing", "failed", "altered")
SHOWN = 3
"""How many changed sources a sentence names."""
_HASH = re.compile(r"^sha256 (\S+) ([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """What the check says of one run.

    `problem` is one sentence, empty for a fresh or a planned run;
    `changed` names the sources that have changed since a stale run, and
    `date` is the day on which the run was recorded.
    """

    name: str
    state: str
    problem: str = ""
    date: str = ""
    changed: tuple[str, ...] = ()
    note: str = ""

    def breaks(self, release: bool = False) -> bool:
        """Whether this finding fails the check."""
        return self.state in BREAKING or release and self.state == "stale"


def examine_all(
    experiments: dict[str, Experiment], records: Path, root: Path
) -> list[Finding]:
    """Return a finding for each experiment and each record, by name."""
    names = list(experiments)
    names += [
        n for n in record.recorded_names(records) if n not in experiments
    ]
    return [
        examine(name, experiments.get(name), records / name, root)
        for name in names
    ]


def examine(
    name: str,
    experiment: Experiment | None,
    folder: Path,
    root: Path | None = None,
) -> Finding:
    """Return what is to be said of one run's folder."""
    root = root or paths.root()
    if not is_file(folder / "record.json"):
        return _without_record(name, experiment, folder)
    try:
        body = schema.read(folder / "record.json")
    except UserError as error:
        return Finding(name, "altered", str(error))
    date = body["ended"][:10]
    try:
        problem = alteration(name, body, folder)
    except (OSError, UserError) as error:
        return Finding(name, "altered", f"{name}: {error}", date)
    if not problem and folder.is_relative_to(root / "book" / "runs"):
        problem = _unfit(body)
    if problem:
        return Finding(name, "altered", f"{name} {problem}.", date)
    if body["status"] != schema.COMPLETED:
        why = f"{name} {body['status']}: {body['reason']}."
        return Finding(name, "failed", why, date)
    note = _other_attempt(folder)
    if experiment is None:
        why = f"{name} is no longer described in slurm/experiments."
        gone = (fingerprint.DEFINITION,)
        return Finding(name, "stale", why, date, gone, note)
    then = body["sources"]["files"]
    now = fingerprint.rehashed(then, experiment, root)
    changed = tuple(fingerprint.changed(then, now))
    if changed:
        why = (
            f"{name} was recorded on {date} and its sources have changed "
            f"since ({_named(changed)}): submit it again."
        )
        return Finding(name, "stale", why, date, changed, note)
    return Finding(name, "fresh", "", date, (), note)


def _named(sources: tuple[str, ...]) -> str:
    """Return the first sources by name and how many more there are."""
    names = ", ".join(sources[:SHOWN])
    more = len(sources) - SHOWN
    return f"{names} and {more} more" if more > 0 else names


def alteration(name: str, body: dict, folder: Path) -> str:
    """Return how a record differs from what its job wrote, or nothing."""
    if body["name"] != name:
        return f"holds the record of {body['name']}"
    return (
        _files_differ(body, folder)
        or _log_differs(body, folder)
        or _values_differ(body, folder)
    )


def _unfit(body: dict) -> str:
    if body["slurm"] is None:
        return "ran outside Slurm and has no place in book/runs"
    if body["size"] != "full":
        return "has the small size and no place in book/runs"
    return ""


def _files_differ(body: dict, folder: Path) -> str:
    for file, expected in body["files"].items():
        if not is_file(folder / file):
            return f"lacks its file {file[:60]}"
        if sha256(folder / file) != expected:
            return f"has another {file} than its job wrote"
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if file not in {*body["files"], "record.json"}:
            return f"holds {file}, which its job did not write"
    return "" if "log.txt" in body["files"] else "lists no log.txt"


def _log_differs(body: dict, folder: Path) -> str:
    log = read_text(folder / "log.txt")
    said = dict(_HASH.findall(log))
    if said.pop("record", None) != record.body_digest(body):
        return "has fields that differ from those its job hashed in the log"
    metrics = record.metrics_files(folder)
    if said != {path.name: sha256(path) for path in metrics}:
        return "has metrics whose hashes differ from those in its log"
    return ""


def _values_differ(body: dict, folder: Path) -> str:
    metrics = record.metrics_files(folder)
    derived = record.derived(body["status"], metrics, body["schema"])
    for key, value in derived.items():
        if body[key] != value:
            return f"has a {key} that does not follow from its metrics"
    sources = body["sources"]
    if digest(sources["files"]) != sources["fingerprint"]:
        return "has a fingerprint that is not that of its sources"
    return ""


def _without_record(
    name: str, experiment: Experiment | None, folder: Path
) -> Finding:
    if experiment is not None and experiment.planned:
        return Finding(name, "planned", note=_other_attempt(folder))
    if folder.is_dir() and any(folder.iterdir()):
        why = f"{name} has files and no record.json: submit it again."
        return Finding(name, "altered", why)
    why = f"{name} has no record: run `workshop runs submit {name}`."
    return Finding(name, "missing", why)


def _other_attempt(folder: Path) -> str:
    beside = folder.with_name(folder.name + record.FAILED) / "record.json"
    if not is_file(beside):
        return ""
    try:
        attempt = schema.read(beside)
    except UserError as error:
        return str(error)
    when = attempt["ended"][:10]
    return f"an attempt on {when} {attempt['status']}"
