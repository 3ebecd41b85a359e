"""Turn what a job left in its folder into a record, and put it in place.

Only a job calls this: a record is never written by hand.
"""

import os
import re
import shutil
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records import node, schema, transports
from workshop.records.files import digest, is_file, sha256, write_json
from workshop.records.log import Log
from workshop.records.summary import read_events, summarise

_METRICS = re.compile(r"metrics\.(0|[1-9][0-9]{0,8})\.jsonl")
FAILED = ".failed"
STAGING = ".staging"


def destination(small: bool) -> Path:
    """Return where records go: small ones never into the book."""
    if small:
        return paths.root() / ".runs-local" / "slurm"
    return paths.records()


def recorded_names(records: Path) -> list[str]:
    """Return the names of all recorded runs under a folder, sorted."""
    names = []
    for parent, folders, files in os.walk(records):
        folders[:] = [
            f for f in folders if f[0] != "." and not f.endswith(FAILED)
        ]
        if "record.json" in files:
            names.append(Path(parent).relative_to(records).as_posix())
    return sorted(names)


def metrics_files(folder: Path) -> list[Path]:
    """Return the metrics files of a run, by repeat."""
    by_repeat = {
        int(match[1]): path
        for path in folder.glob("metrics.*.jsonl")
        if (match := _METRICS.fullmatch(path.name))
    }
    return [by_repeat[repeat] for repeat in sorted(by_repeat)]


def body_digest(record: dict) -> str:
    """Return the hash of a record without the hashes of its files.

    It stands in the log, whose own hash stands in the record.
    """
    return digest({k: v for k, v in record.items() if k != "files"})


def derived(status: str, metrics: list[Path], version: int) -> dict:
    """Return what follows from the raw metrics: `data` and `summary`.

    By the rules of the record's own version, so that what later code does
    differently alters no older record.  `data` has the hashes of corpus and
    tokenizer and the seed. A run that did not complete has no summary, and
    its files may be cut short.
    """
    whole = metrics if status == schema.COMPLETED else []
    return {"data": _data(whole), "summary": summarise(whole, version)}


def _data(metrics: list[Path]) -> dict:
    meta: dict = {}
    for path in metrics[:1]:
        meta = next(
            (e for e in read_events(path) if e["event"] == "meta"), {}
        )
    keys = ("corpus_sha256", "tokenizer_sha256", "seed")
    return {key: meta.get(key) for key in keys}


def complete(facts: dict, nodes: list[dict], folder: Path, log: Log) -> dict:
    """Return the record of the run in `folder`; closes the log.

    `facts` holds what the job alone knows: name, status, command, times.
    `nodes` are the descriptions of its nodes, the first one first.
    """
    metrics = metrics_files(folder)
    seen, excerpt = transports.read(folder / ".nccl")
    artifacts = folder / "artifacts"
    printed = folder / ".nodes" / f"{nodes[0]['node']}.{node.SMI}"
    if printed.is_file():
        artifacts.mkdir(exist_ok=True)
        (artifacts / node.SMI).write_text(log.clean(printed.read_text()))
    for name in (".nccl", ".loaded", ".nodes"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if excerpt:
        artifacts.mkdir(exist_ok=True)
        text = "\n".join(map(log.clean, excerpt))
        (artifacts / "nccl-transports.txt").write_text(text + "\n")
    if artifacts.is_dir() and not any(artifacts.iterdir()):
        artifacts.rmdir()
    hosts = [node.host(each) for each in nodes]
    first = {k: v for k, v in nodes[0].items() if k != "node"}
    record = {
        "schema": schema.VERSION,
        **facts,
        "layout": node.layout(hosts, slurm=facts["slurm"] is not None),
        "hosts": hosts,
        "software": first.pop("software"),
        "hardware": first,
        "transports": seen,
        **derived(facts["status"], metrics, schema.VERSION),
    }
    for path in metrics:
        log(f"sha256 {path.name} {sha256(path)}", show=False)
    log(f"sha256 record {body_digest(record)}", show=False)
    log.close()
    record["files"] = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / "record.json", record)
    return record


def place(folder: Path, out: Path, record: dict) -> Path:
    """Move a finished run to where records lie, and return its folder.

    A completed run replaces the record that stood there, and an earlier
    failure beside it. A run that did not complete never replaces a
    completed one: it is kept beside it, as `NAME.failed`.
    """
    target = out / record["name"]
    beside = target.with_name(target.name + FAILED)
    if record["status"] != schema.COMPLETED and _completed(target):
        target = beside
    target.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f"{folder.name}.old")
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if record["status"] == schema.COMPLETED:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def staging(out: Path, key: str) -> Path:
    """Return a fresh folder beside the records for a run that has begun.

    It lies in a hidden folder that git ignores, on the same file system
    as the records, so that a finished run is moved in one step.
    """
    hidden = out / STAGING
    hidden.mkdir(parents=True, exist_ok=True)
    (hidden / ".gitignore").write_text("*\n")
    folder = hidden / key
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts").mkdir(parents=True)
    for name in (".nccl", ".loaded", ".nodes"):
        (folder / name).mkdir()
    return folder


def _completed(folder: Path) -> bool:
    file = folder / "record.json"
    if not is_file(file):
        return False
    try:
        return schema.read(file)["status"] == schema.COMPLETED
    except UserError:
        return False
