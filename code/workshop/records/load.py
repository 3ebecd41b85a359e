"""Load the record of a run: what chapters, roles and figures read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records import check, experiments, node, schema
from workshop.records.files import is_file, read_text, short
from workshop.records.record import recorded_names
from workshop.records.summary import read_events


@dataclass(frozen=True)
class Run:
    """A recorded run. `status` is what `workshop runs check` says of it."""

    name: str
    record: dict
    folder: Path

    @property
    def summary(self) -> dict[str, dict]:
        """Median, min, max and values of each metric over the repeats."""
        return self.record["summary"]

    @cached_property
    def log(self) -> str:
        """The text that the run printed."""
        return read_text(self.folder / "log.txt")

    @cached_property
    def status(self) -> str:
        """One of fresh, stale, failed and altered."""
        return self.finding.state

    @cached_property
    def finding(self) -> check.Finding:
        """The whole finding of the check: state, problems, changes."""
        experiment = experiments.read().get(self.name)
        return check.examine(self.name, experiment, self.folder)

    @property
    def date(self) -> str:
        """The day on which the run ended, as YYYY-MM-DD."""
        return self.record["ended"][:10]

    def metrics(self, repeat: int = 0) -> list[dict]:
        """Return the events of one repeat (numbered from 0)."""
        path = self.folder / f"metrics.{repeat}.jsonl"
        if not is_file(path):
            known = len(self.record["repeats"])
            raise UserError(
                f"{self.name} has no repeat {repeat}: "
                f"its record holds {known}, numbered from 0."
            )
        return read_events(path)

    @cached_property
    def meta(self) -> dict:
        """The meta event of the first repeat, empty when it has none."""
        first = self.metrics(0)[:1]
        if not first or first[0]["event"] != "meta":
            return {}
        return {key: v for key, v in first[0].items() if key != "event"}

    def provenance(self) -> str:
        """Return one line: job, nodes, GPUs, versions, commit, date."""
        return provenance(self.record)


def provenance(record: dict) -> str:
    """Return one line that says where a record's numbers come from."""
    slurm = record["slurm"]
    if slurm:
        first = [f"Slurm job {slurm['job_id']} on {slurm['node_list']}"]
    else:
        first = []
    versions = record["software"]
    named = [
        f"{key} {versions[key]}"
        for key in ("python", "torch", "cuda", "nccl")
        if versions.get(key)
    ]
    git = record["git"]
    commit = f"commit {git['commit'][:9]}" + (" (dirty)" * git["dirty"])
    parts = [*first, record["layout"], devices(record), ", ".join(named)]
    return " · ".join([*parts, commit, record["ended"][:10]])


def devices(record: dict) -> str:
    """Return the GPUs that a record ran on, or its CPU, in words."""
    count = node.gpus(record["hosts"])
    if count:
        return ", ".join(f"{n} × {model}" for model, n in count.items())
    return f"CPU only ({record['hosts'][0]['cpu']})"


def load(name: str, folder: Path | None = None) -> Run:
    """Return the run called `name` from `folder` (default: book/runs).

    Raises:
        UserError: it has no record there, or the name is no experiment's:
            a path that leads elsewhere, say.
    """
    records = folder or paths.records()
    if not experiments.NAME.fullmatch(name):
        raise UserError(
            f"{short(name)} is no name of a run: a name is lab/run, and "
            "`workshop runs list` shows all of them."
        )
    place = records / name
    if not is_file(place / "record.json"):
        known = recorded_names(records)
        name = name if len(name) < 60 else short(name)
        raise UserError(
            f"{name} has no record{experiments.near(name, known)}: "
            f"run `workshop runs submit {name}` on a cluster."
        )
    return Run(name, schema.read(place / "record.json"), place)
