"""The fields that every `record.json` has, and their types."""

import json
from pathlib import Path

from workshop.errors import UserError

VERSION = 2
"""Of new records; all from 1 on are read, each by its own rules.

2: a metrics file names the units of its steps, and the sources are those
that the processes loaded.
"""
COMPLETED = "completed"
STATUSES = (COMPLETED, "failed", "timeout", "cancelled")

_OPTIONAL = type(None)
_FIELDS: dict[str, dict[str, tuple[type, ...]] | tuple[type, ...]] = {
    "schema": (int,),
    "name": (str,),
    "status": (str,),
    "reason": (str,),
    "experiment": (dict,),
    "size": (str,),
    "command": (str,),
    "started": (str,),
    "ended": (str,),
    "exit_code": (int,),
    "script": {"path": (str,), "sha256": (str,)},
    "slurm": {
        "job_id": (int,),
        "partition": (str,),
        "node_list": (str,),
        "nodes": (int,),
        "tasks": (int,),
        "gpus": (int,),
    },
    "layout": (str,),
    "hosts": (list,),
    "hardware": (dict,),
    "software": (dict,),
    "transports": (dict,),
    "git": {"commit": (str,), "dirty": (bool,)},
    "sources": {"fingerprint": (str,), "files": (dict,)},
    "data": {
        "corpus_sha256": (str, _OPTIONAL),
        "tokenizer_sha256": (str, _OPTIONAL),
        "seed": (int, _OPTIONAL),
    },
    "repeats": (list,),
    "summary": (dict,),
    "files": (dict,),
}


def read(path: Path) -> dict:
    """Return a record, or say in one sentence what is wrong with it."""
    where = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        record = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{where} is not JSON ({error}): "
            "restore it from git or repeat the run."
        ) from None
    problem = first_problem(record)
    if problem:
        raise UserError(
            f"{where} {problem}: restore it from git or repeat the run."
        )
    return record


def first_problem(record: object) -> str:
    """Return what a record lacks, as the end of a sentence, or nothing."""
    if not isinstance(record, dict):
        return "is not an object"
    version = record.get("schema")
    if type(version) is not int or not 1 <= version <= VERSION:
        return f"has schema {version!r} and not one of 1 to {VERSION}"
    for key, expected in _FIELDS.items():
        if key not in record:
            return f"lacks the field {key!r}"
        value = record[key]
        if key == "slurm" and value is None:
            continue
        if isinstance(expected, tuple):
            if type(value) not in expected:
                return f"has {key} of the wrong type, {value!r}"
            continue
        if not isinstance(value, dict):
            return f"has {key} of the wrong type, {value!r}"
        for inner, types in expected.items():
            if inner not in value:
                return f"lacks the field '{key}.{inner}'"
            if type(value[inner]) not in types:
                return f"has {key}.{inner} of the wrong type"
    if record["status"] not in STATUSES:
        return f"has an unknown status {record['status']!r}"
    return ""
