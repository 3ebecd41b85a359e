"""The fingerprint of the sources that a measurement depends on.

A source counts by its syntax tree without docstrings and comments, and a
script without its comments, so that prose edits stale nothing; other files
count by their bytes.
"""

import ast
import hashlib
from pathlib import Path

from workshop.records.experiments import Experiment
from workshop.records.files import digest, sha256

ALWAYS = ("slurm/experiment.sbatch", "code/workshop/records/launch.py")
# Modules that measured code may import and that cannot change a number.
IGNORED = {
    "workshop": "holds the version alone",
    "workshop.errors": "the wording of refusals",
    "workshop.paths": "where files lie, not what they hold",
}
IGNORED_PACKAGES = {
    "workshop.cli": "what a person types",
    "workshop.slurm.local": "how Slurm is started and asked",
    "workshop.notebook": "how cells show a run",
    "workshop.records": "how runs are described, recorded and checked",
}
DEFINITION = "slurm/experiments.toml"


def hashes(experiment: Experiment, root: Path) -> dict[str, str]:
    """Return the hash of each source of a run, and of its definition."""
    found = file_hashes(experiment, root)
    found[f"{DEFINITION} ({experiment.name})"] = digest(
        experiment.definition()
    )
    return dict(sorted(found.items()))


def file_hashes(experiment: Experiment, root: Path) -> dict[str, str]:
    """Return the hash of each file on the measured path, by its path."""
    return {
        path.relative_to(root).as_posix(): HASHES.get(path.suffix, sha256)(
            path
        )
        for path in measured_path(experiment, root)
    }


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return the sources whose hash differs, came or went, sorted."""
    names = old.keys() | new.keys()
    return sorted(n for n in names if old.get(n) != new.get(n))


def measured_path(experiment: Experiment, root: Path) -> list[Path]:
    """Return the files that a run of the experiment depends on.

    The module and all of `workshop` that it imports, transitively and in
    functions too, without the modules that cannot change a number; the job
    script; the experiment's listed sources (a folder stands for its
    Python files); the tests of a pytest launch.
    """
    listed = [root / name for name in (*ALWAYS, *experiment.sources)]
    if experiment.launch == "pytest":
        arguments = [root / a.split("::")[0] for a in experiment.args]
        listed += [place for place in arguments if place.exists()]
    files: list[Path] = []
    for place in listed:
        inside = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        files += [file for file in inside if file.is_file()]
    pending = [file for file in files if file.suffix == ".py"]
    if experiment.module:
        pending += _files_of(experiment.module, root)
    seen = set(files)
    while pending:
        file = pending.pop()
        seen.add(file)
        for module in imports(file, root):
            for target in _files_of(module, root):
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
    return sorted(seen)


def imports(file: Path, root: Path) -> set[str]:
    """Return every dotted name that a source imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, file, root)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


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


def _base(node: ast.ImportFrom, file: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    try:
        package = file.relative_to(root / "code").parent.parts
    except ValueError:
        package = file.relative_to(root).parent.parts
    kept = package[: len(package) - node.level + 1]
    return ".".join((*kept, node.module) if node.module else kept)


def _files_of(module: str, root: Path) -> list[Path]:
    """Return the files that importing a module of ours executes."""
    files = []
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        if name in IGNORED or _inside_ignored(name):
            continue
        for top in (root / "code", root):
            place = top.joinpath(*parts[:length])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file():
                    files.append(file)
    return files


def _inside_ignored(name: str) -> bool:
    return any(
        name == package or name.startswith(f"{package}.")
        for package in IGNORED_PACKAGES
    )
