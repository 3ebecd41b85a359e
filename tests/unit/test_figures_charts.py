"""Figures from fabricated records: what is drawn, and how it looks."""

import json
import re

import pytest
from contrast import contrast
from fabricated import Fabricated, entry

from workshop.errors import UserError
from workshop.figures import charts as figures
from workshop.figures import style
from workshop.figures.training import one_step


def curve(name, scale):
    sizes = [8, 2**20, 2**30]
    return Fabricated(
        {
            **{
                f"all_reduce_time{{bytes={s}}}": entry(scale * (20 + s / 3e5))
                for s in sizes
            },
            **{
                f"all_reduce_busbw{{bytes={s}}}": entry(s / 1e7 / scale)
                for s in sizes
            },
            "all_reduce_alpha": entry(20 * scale),
            "all_reduce_beta": entry(300 / scale),
        },
        name=name,
    )


def matrix():
    summary = {}
    for path, speed in (("direct", 300.0), ("staged", 40.0)):
        for i in range(2):
            for j in range(2):
                key = (
                    "p2p_bandwidth{direction=unidirectional,"
                    f"from={i},node=0,path={path},to={j}}}"
                )
                summary[key] = entry(speed + 10 * i + j)
    return Fabricated(summary)


def profile(folder):
    rows = [
        {
            "device": 0,
            "stream": 7,
            "kind": "compute",
            "spans": [[0.0, 4.0], [5.0, 1.0]],
        },
        {
            "device": 0,
            "stream": 20,
            "kind": "communication",
            "spans": [[2.0, 3.0]],
        },
    ]
    times = ("step_ms", "compute_ms", "exposed_communication_ms", "idle_ms")
    text = json.dumps({"timeline": rows, **dict.fromkeys(times, 6.0)})
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts" / "profile.json").write_text(text)
    return Fabricated({}, folder=folder)


def all_figures(tmp_path):
    return {
        "bandwidth_curve": figures.bandwidth_curve(
            curve("lab1/one", 1),
            curve("lab1/two", 10),
            labels=["one node", "two nodes"],
        ),
        "p2p_matrix": figures.p2p_matrix(matrix()),
        "one_step": one_step(profile(tmp_path)),
    }


def test_every_colour_is_legible_on_light_and_dark_pages():
    for colour in (style.TEXT, *style.SERIES):
        for page in (style.WHITE, style.NEAR_BLACK):
            assert contrast(colour, page) >= 3, (colour, page)
    for page in (style.WHITE, style.NEAR_BLACK):
        assert contrast(style.TEXT, page) >= 4


def test_contrast_is_that_of_the_standard():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_figures_use_only_these_colours_on_no_background(tmp_path):
    allowed = {style.TEXT, *style.SERIES, "none"}
    for name, figure in all_figures(tmp_path).items():
        drawn = style.svg(figure)
        used = set(
            re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6}|none)", drawn)
        )
        assert used <= allowed, (name, used - allowed)
        # a glyph or marker without a colour of its own would be black
        for text in re.findall(r"<text[^>]*>", drawn):
            assert f"fill: {style.TEXT}" in text, (name, text)


def test_words_stay_text_and_the_bytes_repeat(tmp_path):
    first, again = (all_figures(tmp_path) for _ in range(2))
    for name in first:
        drawn = style.svg(first[name])
        assert "<text" in drawn and drawn == style.svg(again[name]), name


def test_bandwidth_curve_draws_both_runs_and_their_models():
    figure = figures.bandwidth_curve(
        curve("lab1/one", 1),
        curve("lab1/two", 10),
        labels=["one node", "two nodes"],
    )
    left, right = figure.axes
    assert left.get_xscale() == right.get_yscale() == "log"
    words = [text.get_text() for text in left.get_legend().get_texts()]
    assert words == ["one node", "two nodes"]
    dashed = [line for line in left.lines if line.get_linestyle() == "--"]
    assert [list(line.get_xdata()) for line in dashed] == [
        [8, 2**20, 2**30]
    ] * 2
    # 20 µs and 1 GiB at 300 GB/s
    assert dashed[0].get_ydata()[-1] == pytest.approx(20 + 2**30 / 300e3)
    (measured, *_), *_ = right.containers
    assert list(measured.get_ydata()) == [
        pytest.approx(s / 1e7) for s in (8, 2**20, 2**30)
    ]


def test_p2p_matrix_shows_every_number_of_both_paths():
    direct, staged = figures.p2p_matrix(matrix()).axes
    assert [a.get_title() for a in (direct, staged)] == [
        "direct, GB/s",
        "staged, GB/s",
    ]
    cells = {t.get_position(): t.get_text() for t in direct.texts}
    # the column is the target, the row the source
    assert cells == {
        (0, 0): "300",
        (1, 0): "301",
        (0, 1): "310",
        (1, 1): "311",
    }
    assert {t.get_text() for t in staged.texts} == {"40", "41", "50", "51"}


def test_one_step_has_a_row_a_stream(tmp_path):
    (axis,) = one_step(profile(tmp_path)).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "stream 7",
        "stream 20",
    ]
    assert len(axis.collections) == 2
    ends = axis.collections[1].get_paths()[0].get_extents()
    assert (ends.x0, ends.x1) == (2.0, 5.0)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: figures.bandwidth_curve(matrix()), "all_reduce_time"),
        (lambda: figures.p2p_matrix(matrix(), node=3), "node 3"),
        (lambda: one_step(matrix()), "no profile"),
    ],
)
def test_a_record_without_the_numbers_is_one_clear_sentence(draw, words):
    with pytest.raises(UserError, match=words) as caught:
        draw()
    assert "lab1/" in str(caught.value)
