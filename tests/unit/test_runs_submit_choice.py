"""Which runs are submitted, in which order, within which budget."""

import pytest

from workshop.records import submit
from workshop.records.check import Finding
from workshop.records.experiments import Experiment, Size
from workshop.slurm.profile import Profile


def experiment(name, **fields):
    toy = {"title": "", "chapter": "lab1/01", "nodes": 1, "module": "toy"}
    return Experiment(
        name=f"lab1/{name}", **(toy | {"gpus_per_node": 2} | fields)
    )


EXPERIMENTS = [
    experiment("fresh", priority=1),
    experiment("stale", priority=30),
    experiment("missing", priority=20),
    experiment("failed", priority=10, chapter="lab1/02"),
    experiment("planned", status="planned", why="w", prediction="p"),
]
PLANNED = {"status": "planned", "why": "It is too big", "prediction": "p"}
STATES = ("fresh", "stale", "missing", "failed", "planned")
FINDINGS = {
    f"lab1/{state}": Finding(f"lab1/{state}", state) for state in STATES
}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["failed", "missing", "stale"]),
        ({"missing": True}, ["failed", "missing"]),
        ({"stale": True}, ["stale"]),
        ({"stale": True, "missing": True}, ["failed", "missing", "stale"]),
        ({"again": True}, ["fresh", "failed", "missing", "stale"]),
        ({"chapter": "lab1/02"}, ["failed"]),
    ],
)
def test_choice_is_by_state_and_priority(options, names):
    chosen = submit.choose(EXPERIMENTS, FINDINGS, **options)
    assert [each.name for each in chosen] == [f"lab1/{n}" for n in names]


def test_budget_begins_only_what_fits_and_limits_what_begins():
    now = [0.0]
    budget = submit.Budget(300, clock=lambda: now[0])
    toy = experiment("toy", expected="90s", timeout="4m")
    assert budget.limit(toy) == 240
    now[0] = 150.0
    assert budget.limit(toy) == 300 - 150 - submit.OVERHEAD_S
    now[0] = 200.0
    assert budget.limit(toy) == 0
    assert submit.Budget(None).limit(toy) == 240


@pytest.mark.parametrize(
    ("fields", "small", "says"),
    [
        ({}, False, ""),
        ({"gpus_per_node": 4}, False, "asks for 1 x 4"),
        ({"nodes": 3}, False, "site has 2 x 2"),
        ({"nodes": 3, "small": Size(gpus_per_node=2)}, True, ""),
        (PLANNED, False, "too big"),
    ],
)
def test_what_a_site_cannot_run_is_one_sentence(fields, small, says):
    toy = experiment("toy", **fields)
    why = submit.refusal(toy, Profile("site"), small)
    assert says in why if says else why == ""


def test_pretended_gpus_refuse_the_recorded_size(monkeypatch):
    monkeypatch.setattr(submit, "real_gpus", lambda profile: False)
    toy = experiment("toy", small=Size(gpus_per_node=2))
    assert "pretended" in submit.refusal(toy, Profile("local"), False)
    assert submit.refusal(toy, Profile("local"), True) == ""
