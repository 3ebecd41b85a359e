"""Figures of profiles from fabricated artifacts: what they draw."""

import json

import pytest
from contrast import contrast
from fabricated import Fabricated

from workshop.errors import UserError
from workshop.figures import profile as figures
from workshop.figures import style
from workshop.profiling.groups import GROUPS


def rank(offset=0.0, passes=True, exposed=10.0, memory=True):
    """A step of 100 ms: 70 of compute, 15 idle, 5 of copies."""
    ranges = [["F0", 0.0, 30.0], ["B0", 40.0, 1.0], ["F1.1", 50.0, 2.0]]
    ranges.append(["Optimizer.step#AdamW.step", 90.0, 5.0])
    return {
        "step_ms": 90.0 + exposed,
        "compute_ms": 70.0,
        "exposed_communication_ms": exposed,
        "idle_ms": 15.0,
        "offset_ms": offset,
        "groups": {group: 10.0 * n for n, group in enumerate(GROUPS)},
        "timeline": [
            {"device": 0, "stream": 7, "kind": "compute",
             "spans": [[0.0, 30.0], [40.0, 40.0]]},
            {"device": 0, "stream": 20, "kind": "communication",
             "spans": [[30.0, 20.0]]},
        ],
        "ranges": ranges if passes else [],
        "memory": {"points": [[0.0, 2.0], [30.0, 5.0], [60.0, 3.0]],
                   "peak_gib": 5.0, "from_zero": True} if memory else None,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    def make(*ranks, name="lab1/fabricated"):
        folder = tmp_path / name
        (folder / "artifacts").mkdir(parents=True)
        text = json.dumps({"pipeline": None, "ranks": list(ranks)})
        (folder / "artifacts" / "profile.json").write_text(text)
        return Fabricated(folder=folder, name=name)

    return make


def spans(collection):
    """Return (begin, end) and the height of each bar of a lane."""
    return [
        (path.get_extents().x0, path.get_extents().x1,
         round(path.get_extents().y0 + 0.42))
        for path in collection.get_paths()
    ]  # fmt: skip


def test_the_timeline_has_the_lanes_of_every_rank_on_one_clock(run):
    (axis,) = figures.step_timeline(run(rank(), rank(offset=7.0))).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "rank 0", "rank 1",
    ]  # fmt: skip
    drawn = [each for c in axis.collections for each in spans(c)]
    # three passes, two of compute and one of communication a rank
    assert len(drawn) == 12
    assert drawn[:6] == [
        (0.0, 30.0, 0), (40.0, 41.0, 0), (50.0, 52.0, 0),
        (0.0, 30.0, 1), (40.0, 80.0, 1), (30.0, 50.0, 2),
    ]  # fmt: skip
    assert drawn[6:] == [(b + 7, e + 7, row + 4) for b, e, row in drawn[:6]]
    assert axis.get_xlim() == (0, 107.0)


def test_a_pass_carries_its_number_where_there_is_room(run):
    (axis,) = figures.step_timeline(run(rank())).axes
    assert [text.get_text() for text in axis.texts] == ["0", "1.1"]
    labels = [t.get_text() for t in axis.get_legend().get_texts()]
    assert labels == ["compute", "communication", "forward", "backward"]


def test_without_passes_there_is_no_lane_for_them(run):
    (axis,) = figures.step_timeline(run(rank(passes=False))).axes
    assert axis.texts[:] == []
    labels = [t.get_text() for t in axis.get_legend().get_texts()]
    assert labels == ["compute", "communication"]


def test_memory_holds_its_level_to_the_end_of_the_step(run):
    (axis,) = figures.memory(run(rank(), rank(offset=7.0))).axes
    first, second = axis.lines
    assert list(first.get_xdata()) == [0.0, 30.0, 60.0, 100.0]
    assert list(first.get_ydata()) == [2.0, 5.0, 3.0, 3.0]
    assert list(second.get_xdata()) == [7.0, 37.0, 67.0, 107.0]
    assert first.get_drawstyle() == "steps-post"
    assert second.get_label() == "rank 1, at most 5 GiB"
    assert axis.get_ylim()[0] == 0


def test_the_parts_of_two_runs_add_up_to_their_steps(run):
    before = run(rank(exposed=60.0), name="lab1/before")
    after = run(rank(exposed=10.0), name="lab1/after")
    (axis,) = figures.before_after(before, after).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "before\nrank 0", "after\nrank 0",
    ]  # fmt: skip
    widths = {
        container.get_label(): [bar.get_width() for bar in container]
        for container in axis.containers
    }
    assert widths == {
        "compute": [70.0, 70.0],
        "exposed communication": [60.0, 10.0],
        "copies and the rest": [5.0, 5.0],
        "idle": [15.0, 15.0],
    }
    assert [t.get_text() for t in axis.texts] == ["150", "100"]


def test_a_group_without_time_is_not_drawn(run):
    (axis,) = figures.kernel_groups(run(rank())).axes
    assert [c.get_label() for c in axis.containers] == list(GROUPS[1:])
    assert set(figures.GROUP_COLOURS) == set(GROUPS)


def test_the_layouts_of_one_run_are_compared(tmp_path):
    made = Fabricated(folder=tmp_path)
    with pytest.raises(UserError, match="no profiles in folders"):
        figures.layouts(made)
    for name, exposed in (("tp2", 10.0), ("dp2", 60.0)):
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        both = [rank(exposed=exposed), rank(exposed=exposed)]
        text = json.dumps({"pipeline": None, "ranks": both})
        (folder / "profile.json").write_text(text)
    (axis,) = figures.layouts(made).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "dp2\nrank 0", "dp2\nrank 1", "tp2\nrank 0", "tp2\nrank 1",
    ]  # fmt: skip
    assert [t.get_text() for t in axis.texts] == ["150", "150", "100", "100"]
    groups = figures.layout_groups(made).axes[0].containers
    assert [c.get_label() for c in groups] == list(GROUPS[1:])


def test_a_profile_of_one_rank_alone_is_drawn_too(run, tmp_path):
    made = run(rank())
    alone = {
        field: value
        for field, value in rank().items()
        if field not in ("ranges", "memory", "groups", "offset_ms")
    }
    path = made.folder / "artifacts" / "profile.json"
    path.write_text(json.dumps(alone))
    assert len(figures.step_timeline(made).axes[0].collections) == 2
    assert len(figures.before_after(made, made).axes[0].containers) == 4
    with pytest.raises(UserError, match="holds no memory"):
        figures.memory(made)


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
def test_a_missing_profile_is_named(tmp_path, text, why):
    made = Fabricated(folder=tmp_path)
    if text is not None:
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "artifacts" / "profile.json").write_text(text)
    with pytest.raises(UserError, match="no profile artifacts/profile") as e:
        figures.step_timeline(made)
    assert why in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "colour",
    sorted(
        {
            *figures.KINDS.values(),
            *figures.PASSES.values(),
            *figures.GROUP_COLOURS.values(),
        }
    ),
)
def test_colours_stand_out_on_light_and_dark_pages(colour):
    for page in (style.WHITE, style.NEAR_BLACK):
        assert contrast(colour, page) >= 3
