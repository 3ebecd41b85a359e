"""The checks of chapter 03's exercises know right from wrong."""

import pytest
from fabricated import Fabricated, entry

from workshop.exercises import layouts as exercises
from workshop.exercises import pipeline
from workshop.layout import Layout
from workshop.parallel.pipeline.schedule import make_schedule


def scheduled(name, mix=lambda operations: operations):
    def answer(p, m, rank):
        return [str(each) for each in mix(make_schedule(name, p, m)[rank])]

    return answer


def place(rank, t, d):
    return rank % t, rank // t % d, rank // (t * d)


def sequential(p, m, rank):
    return [f"{kind}{i}" for i in range(m) for kind in "FB"]


def step(first, second, batches, scale=1, back=True, tied=True):
    total = 0.0
    for tokens, targets in batches:
        sent = first(tokens)
        received = sent.detach().requires_grad_()
        loss = second(received, targets) / (len(batches) if scale else 1)
        loss.backward()
        if back:
            sent.backward(received.grad)
        total += loss.item()
    if tied and back:
        whole = first.embedding.grad + second.embedding.grad
        first.embedding.grad = second.embedding.grad = whole
    return total


def spoilt(first, second, batches, how):
    loss = step(first, second, batches)
    first.layer.weight.grad = how(first.layer.weight.grad)
    return loss


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (
            exercises.check_schedule,
            scheduled("1f1b"),
            scheduled("gpipe"),
            "let a backward go first",
        ),
        (
            exercises.check_schedule,
            scheduled("1f1b"),
            sequential,
            "idles longer",
        ),
        (
            exercises.check_schedule,
            scheduled("1f1b"),
            scheduled("1f1b", lambda x: x[1:]),
            "does not run the F and the B",
        ),
        (
            exercises.check_schedule,
            scheduled("1f1b"),
            scheduled("1f1b", lambda x: x[::-1]),
            "put the forward pass first",
        ),
        (
            exercises.check_rank_order,
            place,
            lambda rank, t, d: (rank // d % t, rank % d, rank // (t * d)),
            "on the tensor axis",
        ),
        (
            exercises.check_rank_order,
            place,
            lambda rank, t, d: (rank % t, 0, 0),
            "share a place",
        ),
        (
            exercises.check_schedule,
            scheduled("1f1b"),
            lambda p, m, rank: None,
            "does not run the F and the B",
        ),
        (
            exercises.check_rank_order,
            place,
            lambda rank, t, d: (rank % t, rank // t),
            "a place is (tensor, data, stage)",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: step(*given, back=False),
            "no gradient",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: step(*given, scale=0),
            "3.000 times as long",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: step(*given, tied=False),
            "used at both ends",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: step(*given) + 1,
            "the loss is not",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: spoilt(*given, lambda grad: -grad),
            "not the dense one",
        ),
        (
            pipeline.check_pipeline_step,
            step,
            lambda *given: print(step(*given)),
            "returns no loss",
        ),
        (
            exercises.check_profiles,
            exercises.LAYOUTS,
            dict(zip("abc", exercises.LAYOUTS.values(), strict=True)),
            "one of dp2, tp2 and pp2",
        ),
        (
            exercises.check_profiles,
            exercises.LAYOUTS,
            {**exercises.LAYOUTS, "A": None},
            "one of dp2, tp2 and pp2",
        ),
        (
            exercises.check_profiles,
            exercises.LAYOUTS,
            dict.fromkeys("ABC", "dp2"),
            "one of dp2, tp2 and pp2",
        ),
        (
            exercises.check_profiles,
            exercises.LAYOUTS,
            {"A": "tp2", "B": "dp2", "C": "pp2"},
            "look at A again",
        ),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong, says
) -> None:
    assert check(right) == exercises.RIGHT
    assert check(wrong).startswith("Not yet")
    assert says in check(wrong)
    assert check(None) == exercises.MISSING


def test_places_are_those_of_the_layout() -> None:
    layout = Layout(tp=2, dp=2, pp=2)
    for rank in range(8):
        at = layout.coordinate(rank)
        assert place(rank, 2, 2) == (at.tp, at.dp, at.pp)


def test_profiles_come_without_names() -> None:
    names = ("step", "compute", "communication", "idle",
             "exposed_communication")  # fmt: skip
    run = Fabricated(
        {
            f"{name}_ms{{layout={layout},rank={rank}}}": entry(7.0 + rank)
            for name in names
            for layout in exercises.LAYOUTS.values()
            for rank in (0, 1)
        }
    )
    shown = exercises.anonymous_profiles(run)
    assert len(shown.splitlines()) == 7 and "8.0" in shown
    assert not any(name in shown for name in exercises.LAYOUTS.values())
