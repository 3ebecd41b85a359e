"""Read `slurm/experiments`, where every run of the book is described."""

import difflib
import re
import tomllib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from workshop import paths
from workshop.errors import UserError
from workshop.records.files import seconds, short

# `NAME.failed` is the folder of an attempt beside a record.
NAME = re.compile(r"[a-z0-9]+(/[a-z0-9][a-z0-9.-]*)+(?<!\.failed)")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_LONGEST_WORD = 200  # difflib takes its time, and nobody types more

# More is a slip of the hand, and has no place in a sentence or a command.
_MOST = 10**6


def _duration(value: object, info: ValidationInfo) -> int:
    return seconds(value, " of ".join([info.field_name, info.context or ""]))


# A refusal says `give` and the description of the field.
Text = Annotated[str, Field(description="a text in quotes")]
Texts = Annotated[tuple[str, ...], Field(description="a list of strings")]
Count = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=_MOST,
        description="a whole number from 1 up, at most a million",
    ),
]
CountOrNone = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=_MOST,
        description="a whole number from 0 up, at most a million",
    ),
]
_SMALL = "a table with args, nodes and gpus_per_node"
Duration = Annotated[int, BeforeValidator(_duration)]


class Size(BaseModel):
    """What one launch of an experiment gets: arguments, nodes, ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: Texts = ()
    nodes: Count = 1
    gpus_per_node: CountOrNone = 1

    def on_one_node(self) -> "Size":
        """Return as many ranks on a single node: a machine has no more."""
        ranks = self.nodes * self.gpus_per_node
        return Size(args=self.args, nodes=1, gpus_per_node=ranks)


class Experiment(BaseModel):
    """One run of the book; durations are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    title: Text
    chapter: Text
    nodes: Count
    gpus_per_node: CountOrNone
    module: Text = ""
    launch: Annotated[
        Literal["torchrun", "python", "pytest"],
        Field(description="one of torchrun, python, pytest"),
    ] = "torchrun"
    args: Texts = ()
    repeats: Count = 3
    small: Annotated[Size | None, Field(description=_SMALL)] = None
    timeout: Duration = 240
    expected: Duration = 90
    priority: Count = 50
    needs_gpus: CountOrNone = Field(
        default_factory=lambda known: known["nodes"] * known["gpus_per_node"]
    )
    sources: Texts = ()
    status: Annotated[
        Literal["active", "planned"], Field(description="active or planned")
    ] = "active"
    prediction: Text = ""
    why: Text = ""

    @model_validator(mode="after")
    def consistent(self, info: ValidationInfo) -> "Experiment":
        """Refuse fields that contradict each other."""
        where = info.context or f"experiment {self.name}"
        if self.planned and not (self.prediction and self.why):
            raise UserError(
                f"{where} is planned: give it a `prediction` and a `why`."
            )
        if self.launch == "pytest":
            if self.module:
                raise UserError(
                    f"{where} is launched by pytest and has no module: "
                    "name its tests in args."
                )
        elif not _MODULE.fullmatch(self.module):
            raise UserError(
                f"module of {where} is {short(self.module)}: give a dotted "
                "Python name such as workshop.lab1.pretrain_gpt."
            )
        if self.launch == "torchrun" and not self.gpus_per_node:
            raise UserError(
                f"gpus_per_node of {where} is 0, and torchrun starts one "
                'rank for each: use at least 1, or launch = "python".'
            )
        return self

    @property
    def planned(self) -> bool:
        """Whether nobody can record this run yet."""
        return self.status == "planned"

    @property
    def gpus(self) -> int:
        """GPUs that the full size asks for, over all its nodes."""
        return self.nodes * self.gpus_per_node

    def size(self, small: bool = False) -> Size:
        """Return the full size, or the small one for a machine of CPUs."""
        if not small:
            return Size(
                args=self.args,
                nodes=self.nodes,
                gpus_per_node=self.gpus_per_node,
            )
        if self.small is None:
            raise UserError(
                f"{self.name} has no small size: "
                "add `small` to it in slurm/experiments."
            )
        return self.small

    def definition(self) -> dict:
        """Return the part of the description that shapes a measurement."""
        keys = ("module", "launch", "args", "nodes", "gpus_per_node")
        return {key: getattr(self, key) for key in keys}


def read(folder: Path | None = None) -> dict[str, Experiment]:
    """Return the experiments of a folder by name, in the files' order.

    Every `.toml` under it counts, by its path: one file a chapter.

    Raises:
        UserError: a file cannot be read, or describes no run as it should.
    """
    folder = folder or paths.root() / "slurm" / "experiments"
    files = sorted(folder.rglob("*.toml"))
    if not files:
        raise UserError(
            f"{folder} holds no description of a run: restore it from git."
        )
    experiments: dict[str, Experiment] = {}
    for file in files:
        shown = f"{folder.name}/{file.relative_to(folder).as_posix()}"
        for entry in _entries(file, shown):
            experiment = _experiment(entry, shown)
            if experiment.name in experiments:
                raise UserError(
                    f"{shown} describes {experiment.name}, which is "
                    f"described twice: give each experiment its own name."
                )
            experiments[experiment.name] = experiment
    for name in experiments:
        for outer in PurePosixPath(name).parents:
            if str(outer) in experiments:
                raise UserError(
                    f"experiment {name} would have its record inside that "
                    f"of {outer}: rename one of them."
                )
    return experiments


def select(
    names: list[str], experiments: dict[str, Experiment]
) -> list[Experiment]:
    """Return the named experiments, or all of them when no name is given."""
    for name in names:
        if name not in experiments:
            raise UserError(
                f"there is no experiment {short(name)}"
                f"{near(name, experiments)}: "
                "`workshop runs list` shows all of them."
            )
    return [experiments[name] for name in names or experiments]


def of_chapter(
    chapter: str, experiments: dict[str, Experiment]
) -> list[Experiment]:
    """Return the experiments of a chapter; `UserError` if it has none."""
    chosen = [e for e in experiments.values() if e.chapter == chapter]
    if not chosen:
        known = {each.chapter for each in experiments.values()}
        raise UserError(
            f"no run is of the chapter {short(chapter)}"
            f"{near(chapter, known)}: choose {', '.join(sorted(known))}."
        )
    return chosen


def near(word: str, known: Collection[str]) -> str:
    """Return ` (did you mean a or b?)` for the known words close by."""
    if len(word) > _LONGEST_WORD:
        return ""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _entries(file: Path, shown: str) -> list:
    """Return the `[[experiment]]` tables of a file."""
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{shown} is no plain file: restore it.")
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{shown} cannot be read ({error.strerror}): restore it."
        ) from None
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{shown} is not TOML: {why}.") from None
    for key in table.keys() - {"experiment"}:
        raise UserError(
            f"{shown} has an unknown table {short(key)}: "
            "each experiment is an [[experiment]] table."
        )
    entries = table.get("experiment", [])
    if not isinstance(entries, list):
        raise UserError(
            f"experiment of {shown} is {short(entries)}: "
            "write each one as an [[experiment]] table."
        )
    return entries


def _experiment(entry: object, file: str) -> Experiment:
    name = entry.get("name", "") if isinstance(entry, dict) else entry
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{file} has an experiment called {short(name)}: a name is "
            "lab/run in lower-case letters, digits, dots and dashes."
        )
    where = f"experiment {name} in {file}"
    try:
        return Experiment.model_validate(entry, context=where)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt key is also a missing one: the first says more.
        extra = [p for p in problems if p["type"] == "extra_forbidden"]
        raise UserError(_sentence((extra or problems)[0], where)) from None


def _sentence(problem: dict, where: str) -> str:
    """Return what is wrong with a description, and what to do about it."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    model, loc = Experiment, list(problem["loc"])
    if loc[0] == "small" and len(loc) > 1:
        model, loc, where = Size, loc[1:], f"small of {where}"
    key, known = str(loc[0]), model.model_fields
    if problem["type"] == "extra_forbidden":
        it = f": it is {_SMALL}" if model is Size else ""
        return (
            f"{where} has an unknown key {short(key)}{near(key, known)}{it}."
        )
    if problem["type"] == "missing":
        return f"{where} lacks {key!r}: add it."
    value = short(problem["input"])
    return f"{key} of {where} is {value}: give {known[key].description}."
