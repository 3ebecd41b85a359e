"""What differs between Slurm sites: `slurm/profiles/*.toml`.

A profile holds the options that every submission adds, the shell lines
that make Python and torch available in a job, and NCCL's variables.
"""

import os
import shlex
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm.access import refuse_broken, running
from workshop.slurm.state import default_base
from workshop.slurm.state import load as load_layout

# A refusal says `it must be` and the description of the field.
Text = Annotated[str, Field(description="a string")]
_WHOLE = "a whole number of 0 or more"
Count = Annotated[int, Field(strict=True, ge=0, description=_WHOLE)]
Word = Annotated[str, Field(coerce_numbers_to_str=True)]
Words = Annotated[tuple[Word, ...], Field(description="a list of strings")]
Variables = Annotated[dict[str, Word], Field(description="a table")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Profile:
    """One site.

    `nodes` and `gpus_per_node` say how much a job may ask for at most;
    `options` go to sbatch as they stand; `setup` are shell lines that
    every job runs first; `variables` are exported to every job.
    """

    name: str
    description: Text = ""
    partition: Text = ""
    account: Text = ""
    nodes: Count = 2
    gpus_per_node: Count = 2
    options: Words = ()
    setup: Text = ""
    variables: Variables = Field(default_factory=dict)

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
    if path.stem == "local" and (layout := load_layout(default_base())):
        table.setdefault("nodes", len(layout.names))
        table.setdefault("gpus_per_node", layout.gpus_per_node)
    try:
        return Profile(path.stem, **table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    key, known = problem["loc"][0], dict(Profile.__pydantic_fields__)
    wrong = f"{path} sets {'.'.join(map(str, problem['loc']))}"
    del known["name"]
    if key not in known:
        choices = ", ".join(known)
        raise UserError(
            f"{wrong}, which no profile has: choose among {choices}"
        )
    must = known[key].description
    raise UserError(f"{wrong} to {problem['input']!r}: it must be {must}")
