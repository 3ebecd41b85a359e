"""The fingerprint of the sources that a measurement depends on.

These are the modules that its processes really loaded, as `workshop.loaded`
notes them, and what its description lists. A source counts by its syntax
tree without docstrings and comments, and a script without its comments, so
that prose edits stale nothing; other files count by their bytes.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from workshop.errors import UserError
from workshop.records.experiments import Experiment
from workshop.records.files import digest, is_file, sha256

ALWAYS = ("slurm/experiment.sbatch", "code/workshop/records/launch.py")
# What a run loads and what cannot change a number.
IGNORED = (
    "code/workshop/__init__.py",
    "code/workshop/errors.py",  # the wording of refusals
    "code/workshop/loaded.py",  # what is noted of a run
    "code/workshop/paths.py",  # where files lie, not what they hold
    "code/workshop/cli/",  # what a person types
    "code/workshop/doctor/",  # what a machine is said to be
    "code/workshop/notebook/",  # how cells show a run
    "code/workshop/records/",  # how runs are described and checked
    "code/workshop/slurm/",  # how Slurm is started and asked
)
DEFINITION = "slurm/experiments"
GONE = "gone"


def definition(experiment: Experiment) -> dict[str, str]:
    """Return the hash of what shapes a measurement in a description."""
    name = f"{DEFINITION} ({experiment.name})"
    return {name: digest(experiment.definition())}


def listed(experiment: Experiment, root: Path) -> set[str]:
    """Return the sources that count whether a process loads them or not.

    The job script and the launch, the module, the experiment's own list (a
    folder stands for its Python files), and the tests of a pytest launch.
    """
    names = [*ALWAYS, *experiment.sources]
    if experiment.module:
        file = Path("code", *experiment.module.split(".")).with_suffix(".py")
        names.append(file.as_posix())
    if experiment.launch == "pytest":
        names += [argument.split("::")[0] for argument in experiment.args]
    files = set()
    for place in (root / name for name in names):
        inside = place.rglob("*.py") if place.is_dir() else [place]
        files |= {file for file in inside if file.is_file()}
    return {file.relative_to(root).as_posix() for file in files}


def measured(loaded: set[str]) -> set[str]:
    """Return those of the loaded sources that can change a number."""
    return {name for name in ours(loaded) if not name.startswith(IGNORED)}


def hashes(names: set[str], root: Path) -> dict[str, str]:
    """Return the hash of each source by its path, `GONE` without one."""
    return {name: _hash(root / name) for name in sorted(names)}


def rehashed(
    files: dict[str, str], experiment: Experiment, root: Path
) -> dict[str, str]:
    """Return what a record's sources hash to now.

    Raises:
        UserError: one cannot be read as source.
    """
    names = {n for n in ours(files) if not n.startswith(DEFINITION)}
    return hashes(names, root) | definition(experiment)


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return the sources whose hash differs, came or went, sorted."""
    names = ours(old.keys() | new.keys())
    return sorted(n for n in names if old.get(n) != new.get(n))


def ours(names: Iterable[str]) -> set[str]:
    """Return the sources of this checkout: hidden folders hold libraries.

    A library counts by its version, which the record has too.
    """
    return {n for n in names if not any(p[0] == "." for p in n.split("/"))}


def _hash(path: Path) -> str:
    if not is_file(path):
        return GONE
    try:
        return HASHES.get(path.suffix, sha256)(path)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path.name} cannot be read as source ({error}): mend it"
        ) from None


def tree_hash(path: Path) -> str:
    """Return the hash of a source's syntax tree without its prose."""
    text = canonical(ast.parse(path.read_bytes()))
    return hashlib.sha256(text.encode()).hexdigest()


def script_hash(path: Path) -> str:
    """Return the hash of a shell script without its lines of comment.

    The first line and `#SBATCH` options are no comments.
    """
    lines = path.read_text().splitlines()
    kept = [
        line
        for line in lines
        if line.strip() and not line.lstrip().startswith(("# ", "#\t"))
    ]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


HASHES = {".py": tree_hash, ".sbatch": script_hash, ".sh": script_hash}


def canonical(node: object) -> str:
    """Return a syntax tree as text, equal under every Python we support.

    Empty fields are left out, since a newer Python adds fields that are
    empty for older syntax; neighbouring texts of an f-string are joined
    and empty ones dropped, since versions split them differently.
    """
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(fields.get("body"), list):
            fields["body"] = _without_docstring(node)
        if isinstance(node, ast.JoinedStr):
            fields["values"] = _joined(node.values)
        inside = [
            f"{name}={canonical(value)}"
            for name, value in sorted(fields.items())
            if value is not None and value != []
        ]
        if isinstance(node, ast.Constant) and node.value is None:
            inside.append("value=None")
        return f"{type(node).__name__}({', '.join(inside)})"
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    return repr(node)


def _without_docstring(node: ast.AST) -> list[ast.stmt]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = node.body[0] if node.body else None
    if (
        isinstance(node, kinds)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return node.body[1:]
    return node.body


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    merged: list[ast.expr] = []
    for value in values:
        last = merged[-1] if merged else None
        if isinstance(value, ast.Constant) and value.value == "":
            continue
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            merged[-1] = ast.Constant(last.value + value.value)
        else:
            merged.append(value)
    return merged
