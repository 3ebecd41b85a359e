"""Figures of profiles from fabricated artifacts: what they draw."""

import json

import pytest
from contrast import contrast
from fabricated import Fabricated

from workshop.errors import UserError
from workshop.figures import profile as figures
from workshop.figures import style
from workshop.figures.recorded import ranks_of
from workshop.profiling.groups import GROUPS


def rank(step: float = 100.0) -> dict:
    """A step; the first group took no time, the next one ten more."""
    return {
        "step_ms": step,
        "compute_ms": 70.0,
        "exposed_communication_ms": 10.0,
        "idle_ms": 15.0,
        "groups": {group: 10.0 * n for n, group in enumerate(GROUPS)},
        "timeline": [],
    }


def test_the_layouts_of_one_run_are_compared(tmp_path) -> None:
    made = Fabricated(folder=tmp_path)
    with pytest.raises(UserError, match="no profiles in folders"):
        figures.layout_groups(made)
    for name in ("tp2", "dp2/ours"):
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        text = json.dumps({"pipeline": None, "ranks": [rank(), rank()]})
        (folder / "profile.json").write_text(text)
    (axis,) = figures.layout_groups(made).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "dp2 ours\nrank 0", "dp2 ours\nrank 1", "tp2\nrank 0", "tp2\nrank 1",
    ]  # fmt: skip
    # A group without time is not drawn.
    assert [c.get_label() for c in axis.containers] == list(GROUPS[1:])
    for number, container in enumerate(axis.containers, start=1):
        assert {bar.get_width() for bar in container} == {10.0 * number}
    due = f"{sum(10 * n for n in range(len(GROUPS)))}"
    assert [t.get_text() for t in axis.texts] == [due] * 4
    assert set(figures.GROUP_COLOURS) == set(GROUPS)


def test_a_profile_of_one_rank_alone_is_read_too(tmp_path) -> None:
    made = Fabricated(folder=tmp_path)
    (tmp_path / "artifacts").mkdir()
    path = tmp_path / "artifacts" / "profile.json"
    path.write_text(json.dumps(rank(90.0)))
    (alone,) = ranks_of(made)
    assert alone.step_ms == 90.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"ranks": [{}]}', "ranks.0.step_ms: Field required"),
        ('{"step_ms": "long"}', "ranks.0.step_ms: Input should be a valid n"),
    ],
)
def test_a_missing_profile_is_named(tmp_path, text, why) -> None:
    made = Fabricated(folder=tmp_path)
    if text is not None:
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "artifacts" / "profile.json").write_text(text)
    with pytest.raises(UserError, match="no profile artifacts/profile") as e:
        ranks_of(made)
    assert why in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "colour",
    sorted({*figures.KINDS.values(), *figures.GROUP_COLOURS.values()}),
)
def test_colours_stand_out_on_light_and_dark_pages(colour: str) -> None:
    for page in (style.WHITE, style.NEAR_BLACK):
        assert contrast(colour, page) >= 3
