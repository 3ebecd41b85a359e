"""The fields that every `record.json` has, and their types."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workshop.errors import UserError
from workshop.records.files import loads, read_text, short

VERSION = 2
"""Of new records; all from 1 on are read, each by its own rules.

2: a metrics file names the units of its steps, and the sources are those
that the processes loaded.
"""
COMPLETED = "completed"


class _Model(BaseModel):
    # Nothing is converted; what later versions add is let through.
    model_config = ConfigDict(strict=True, extra="ignore")


class Script(_Model):
    """The sbatch file, as Slurm ran it."""

    path: str
    sha256: str


class Slurm(_Model):
    """What Slurm said of the job."""

    job_id: int
    partition: str
    node_list: str
    nodes: int
    tasks: int
    gpus: int


class Gpu(_Model):
    """A GPU of a host; its index is that of the host."""

    model: str
    host_index: int | None


class Host(_Model):
    """A node of the job and the machine under it."""

    node: str
    host_name: str
    boot_id: str | None
    cpu: str | None
    gpus: list[Gpu]


class Git(_Model):
    """The commit, and whether the tree differed from it."""

    commit: str
    dirty: bool


class Sources(_Model):
    """The hash of each source on the measured path, and of them all."""

    fingerprint: str
    files: dict[str, str]


class Data(_Model):
    """What the run was fed with."""

    corpus_sha256: str | None
    tokenizer_sha256: str | None
    seed: int | None


class Metric(_Model):
    """A metric over the repeats."""

    median: float
    min: float
    max: float
    values: list[float]
    repeats: int
    unit: str


class Record(_Model):
    """A record of any version.

    What a later version adds has the default None here, so that it stays
    absent from older records.
    """

    name: str
    status: Literal["completed", "failed", "timeout", "cancelled"]
    reason: str
    experiment: dict[str, Any]
    size: str
    command: str
    started: str
    ended: str
    exit_code: int
    script: Script
    slurm: Slurm | None
    layout: str
    hosts: Annotated[list[Host], Field(min_length=1)]
    hardware: dict[str, Any]
    software: dict[str, Any]
    transports: dict[str, Any]
    git: Git
    sources: Sources
    data: Data
    repeats: list[dict[str, Any]]
    summary: dict[str, Metric]
    files: dict[str, str]


def read(path: Path) -> dict:
    """Return a record as it is, or say in one sentence what is wrong."""
    where = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        record = loads(read_text(path))
        problem = first_problem(record)
    except UserError as error:
        raise UserError(f"{path.parent.name}: {error}") from None
    except ValueError as error:
        problem = f"is not JSON ({error})"
    if problem:
        raise UserError(
            f"{where} {problem}: restore it from git or repeat the run."
        )
    return record


def first_problem(record: object) -> str:
    """Return what a record lacks, as the end of a sentence, or nothing."""
    if not isinstance(record, dict):
        return "is not an object"
    if "schema" not in record:
        return "lacks the field 'schema'"
    version = record["schema"]
    if type(version) is not int or not 1 <= version <= VERSION:
        return f"has schema {short(version)} and not one of 1 to {VERSION}"
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"lacks the field {field!r}"
        value = short(first["input"])
        if first["type"] == "literal_error":
            return f"has an unknown {field} {value}"
        if first["type"] == "too_short":
            return f"has nothing in {field}"
        return f"has {field} of the wrong type, {value}"
    return ""
