"""Read `slurm/experiments.toml`, where every run of the book is described."""

import difflib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records.files import seconds

LAUNCHES = ("torchrun", "python", "pytest")
_NAME = re.compile(r"[a-z0-9]+(/[a-z0-9][a-z0-9.-]*)+")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_REQUIRED = ("name", "title", "chapter", "nodes", "gpus_per_node")


@dataclass(frozen=True)
class Size:
    """What one launch of an experiment gets: arguments, nodes, ranks."""

    args: tuple[str, ...]
    nodes: int
    gpus_per_node: int

    def on_one_node(self) -> "Size":
        """Return as many ranks on a single node: a machine has no more."""
        return Size(self.args, 1, self.nodes * self.gpus_per_node)


@dataclass(frozen=True)
class Experiment:
    """One run of the book; durations are in seconds."""

    name: str
    title: str
    chapter: str
    nodes: int
    gpus_per_node: int
    module: str = ""
    launch: str = "torchrun"
    args: tuple[str, ...] = ()
    repeats: int = 3
    small: Size | None = None
    timeout: int = 240
    expected: int = 90
    priority: int = 50
    needs_gpus: int = -1
    sources: tuple[str, ...] = ()
    status: str = "active"
    prediction: str = ""
    why: str = ""

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
            return Size(self.args, self.nodes, self.gpus_per_node)
        if self.small is None:
            raise UserError(
                f"{self.name} has no small size: "
                "add `small` to it in slurm/experiments.toml."
            )
        return self.small

    def definition(self) -> dict:
        """Return the part of the description that shapes a measurement."""
        keys = ("module", "launch", "args", "nodes", "gpus_per_node")
        return {key: getattr(self, key) for key in keys}

    def as_dict(self) -> dict:
        """Return the description as JSON types, for the record."""
        return json.loads(json.dumps(asdict(self)))


def path() -> Path:
    """Return the file that describes the experiments."""
    return paths.root() / "slurm" / "experiments.toml"


def read(file: Path | None = None) -> dict[str, Experiment]:
    """Return the experiments of a file by name, in the file's order."""
    file = file or path()
    try:
        table = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file.name} is missing: restore {file}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file.name} is not TOML: {error}.") from None
    for key in table.keys() - {"experiment"}:
        raise UserError(
            f"{file.name} has an unknown table {key!r}: "
            "each experiment is an [[experiment]] table."
        )
    found: dict[str, Experiment] = {}
    for entry in table.get("experiment", []):
        experiment = _parse(entry, file.name)
        if experiment.name in found:
            raise UserError(
                f"{file.name} describes {experiment.name} twice: "
                "give each experiment its own name."
            )
        found[experiment.name] = experiment
    return found


def select(
    names: list[str], experiments: dict[str, Experiment]
) -> list[Experiment]:
    """Return the named experiments, or all of them when no name is given."""
    for name in names:
        if name not in experiments:
            raise UserError(
                f"there is no experiment {name!r}"
                f"{near(name, experiments)}: "
                "`workshop runs list` shows all of them."
            )
    return [experiments[name] for name in names or experiments]


def near(word: str, known) -> str:
    """Return ` (did you mean a or b?)` for the known words close by."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _parse(entry: dict, file: str) -> Experiment:
    name = entry.get("name", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{file} has an experiment called {name!r}: a name is "
            "lab/run in lower-case letters, digits, dots and dashes."
        )
    where = f"experiment {name} in {file}"
    known = {field.name for field in fields(Experiment)}
    for key in entry.keys() - known:
        raise UserError(
            f"{where} has an unknown key {key!r}{near(key, known)}."
        )
    for key in _REQUIRED:
        if key not in entry:
            raise UserError(f"{where} lacks {key!r}: add it.")
    values = dict(entry)
    for key in ("timeout", "expected"):
        if key in values:
            values[key] = seconds(values[key], f"{key} of {where}")
    for key in ("args", "sources"):
        values[key] = _strings(values.get(key, []), f"{key} of {where}")
    for key in ("nodes", "gpus_per_node", "repeats", "priority"):
        values[key] = _whole(
            values.get(key, Experiment.__dict__.get(key)),
            f"{key} of {where}",
            least=0 if key == "gpus_per_node" else 1,
        )
    if "small" in values:
        values["small"] = _small(values["small"], where)
    gpus = values["nodes"] * values["gpus_per_node"]
    values["needs_gpus"] = _whole(
        values.get("needs_gpus", gpus), f"needs_gpus of {where}", least=0
    )
    experiment = Experiment(**values)
    _consistent(experiment, where)
    return experiment


def _consistent(experiment: Experiment, where: str) -> None:
    if experiment.launch not in LAUNCHES:
        raise UserError(
            f"launch of {where} is {experiment.launch!r}: "
            f"it is one of {', '.join(LAUNCHES)}."
        )
    if experiment.status not in ("active", "planned"):
        raise UserError(
            f"status of {where} is {experiment.status!r}: "
            "it is active or planned."
        )
    if experiment.planned and not (experiment.prediction and experiment.why):
        raise UserError(
            f"{where} is planned: give it a `prediction` and a `why`."
        )
    if experiment.launch == "pytest":
        if experiment.module:
            raise UserError(
                f"{where} is launched by pytest and has no module: "
                "name its tests in args."
            )
    elif not _MODULE.fullmatch(str(experiment.module)):
        raise UserError(
            f"module of {where} is {experiment.module!r}: give a dotted "
            "Python name such as workshop.lab1.pretrain_gpt."
        )
    if experiment.launch == "torchrun" and not experiment.gpus_per_node:
        raise UserError(
            f"gpus_per_node of {where} is 0, and torchrun starts one "
            'rank for each: use at least 1, or launch = "python".'
        )


def _small(entry: object, where: str) -> Size:
    keys = {"args", "nodes", "gpus_per_node"}
    if not isinstance(entry, dict) or entry.keys() - keys:
        raise UserError(
            f"small of {where} is {entry!r}: it is a table with "
            "args, nodes and gpus_per_node."
        )
    what = f"small of {where}"
    return Size(
        _strings(entry.get("args", []), f"args of {what}"),
        _whole(entry.get("nodes", 1), f"nodes of {what}", least=1),
        _whole(entry.get("gpus_per_node", 1), f"GPUs of {what}", least=0),
    )


def _strings(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(item, str) for item in value
    ):
        raise UserError(f"{what} is {value!r}: give a list of strings.")
    return tuple(value)


def _whole(value: object, what: str, least: int) -> int:
    if type(value) is not int or value < least:
        raise UserError(
            f"{what} is {value!r}: give a whole number from {least} up."
        )
    return value
