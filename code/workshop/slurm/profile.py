"""What differs between Slurm sites: `slurm/profiles/*.toml`.

A profile holds the options that every submission adds, the shell lines
that make Python and torch available in a job, and NCCL's variables.
"""

import os
import shlex
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm.access import refuse_broken, running
from workshop.slurm.state import default_base
from workshop.slurm.state import load as load_layout


@dataclass(frozen=True)
class Profile:
    """One site.

    `nodes` and `gpus_per_node` say how much a job may ask for at most;
    `options` go to sbatch as they stand; `setup` are shell lines that
    every job runs first; `variables` are exported to every job.
    """

    name: str
    description: str = ""
    partition: str = ""
    account: str = ""
    nodes: int = 2
    gpus_per_node: int = 2
    options: tuple[str, ...] = ()
    setup: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    def sbatch_options(self) -> list[str]:
        """Return the options that sbatch gets for every job here."""
        chosen = []
        if self.partition:
            chosen.append(f"--partition={self.partition}")
        if self.account:
            chosen.append(f"--account={self.account}")
        return [*chosen, *self.options]

    def write_setup(self) -> Path:
        """Write the lines that jobs source first, return the file."""
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted(self.variables.items())
        )
        path = root() / ".slurm" / f"setup-{self.name}.sh"
        path.parent.mkdir(exist_ok=True)
        path.write_text(exports + self.setup.rstrip("\n") + "\n")
        return path


def folder() -> Path:
    """Return the folder of the profiles."""
    return root() / "slurm" / "profiles"


def names() -> list[str]:
    """Return the names of the profiles there are."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name: str | None = None) -> Profile:
    """Return a profile.

    Args:
        name: a profile's name or the path of a TOML file; None takes
            `WORKSHOP_PROFILE`, else `local` while the local cluster runs.

    Raises:
        UserError: none was chosen, or it is missing or malformed.
    """
    name = name or os.environ.get("WORKSHOP_PROFILE")
    if not name and not running():
        refuse_broken()
        raise UserError(
            "no Slurm site is chosen: name one of "
            f"{', '.join(names())} with --profile or WORKSHOP_PROFILE, or "
            "start the local cluster with `workshop cluster start`"
        )
    name = name or "local"
    path = Path(name) if name.endswith(".toml") else folder() / f"{name}.toml"
    try:
        if path.exists() and not path.is_file():  # a pipe is waited for
            raise IsADirectoryError(0, "no plain file")
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"there is no profile {name}: choose {', '.join(names())}, or "
            "write one after slurm/profiles/example-site.toml"
        ) from None
    except OSError as error:
        raise UserError(
            f"the profile {name[:60]} cannot be read ({error.strerror}): "
            f"choose {', '.join(names())}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML ({error}): mend it") from None
    return _checked(path, table)


def _checked(path: Path, table: dict) -> Profile:
    allowed = {f.name: f.type for f in fields(Profile) if f.name != "name"}
    for key, value in table.items():
        if key not in allowed:
            raise UserError(
                f"{path} sets {key}, which no profile has: choose among "
                f"{', '.join(allowed)}"
            )
        expected = {"options": list, "variables": dict, "nodes": int}
        kind = expected.get(key, int if key == "gpus_per_node" else str)
        whole = isinstance(value, kind) and not isinstance(value, bool)
        if not whole or (kind is int and value < 0):
            raise UserError(
                f"{path} sets {key} to {value!r}: it must be a {_word(kind)}"
            )
    if path.stem == "local" and (layout := load_layout(default_base())):
        table.setdefault("nodes", len(layout.names))
        table.setdefault("gpus_per_node", layout.gpus_per_node)
    table["options"] = tuple(
        str(option) for option in table.get("options", ())
    )
    variables = table.get("variables", {})
    table["variables"] = {k: str(v) for k, v in variables.items()}
    return Profile(name=path.stem, **table)


def _word(kind: type) -> str:
    words = {list: "list", dict: "table", int: "whole number of 0 or more"}
    return words.get(kind, "string")
