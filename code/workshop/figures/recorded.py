"""The profiles that runs left in their artifacts, as figures read them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from workshop.errors import UserError
from workshop.records.values import Record

PROFILE = "artifacts/profile.json"
Span = tuple[float, float]
"""The begin and the length of something in ms."""


class Lane(BaseModel):
    """What one stream did of one kind (`profiling.trace.timeline`)."""

    device: int
    stream: int
    kind: Literal["compute", "communication", "other"]
    spans: list[Span]


class Rank(BaseModel):
    """One rank's step; what older profiles do not have has a default."""

    step_ms: float
    compute_ms: float
    exposed_communication_ms: float
    idle_ms: float
    timeline: list[Lane]
    groups: dict[str, float] = {}


class Profile(BaseModel):
    """A `profile.json`: of every rank, or the numbers of one alone."""

    ranks: list[Rank]

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, numbers: Any) -> Any:
        alone = isinstance(numbers, dict) and "ranks" not in numbers
        return {"ranks": [numbers]} if alone else numbers


def ranks_of(run: Record, artifact: str = PROFILE) -> list[Rank]:
    """Return the profile of each rank of a run.

    Raises:
        UserError: the run has no such profile.
    """
    try:
        text = (Path(run.folder) / artifact).read_bytes()
        return Profile.model_validate_json(text).ranks
    except OSError as error:
        problem = error.strerror
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        problem = f"{field}: {first['msg']}" if field else first["msg"]
    raise UserError(
        f"the run {run.name} has no profile {artifact} ({problem}): record "
        "it again with --profile"
    )
