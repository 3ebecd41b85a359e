"""The checks of chapter 02's exercises know right from wrong."""

import re
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from pool import Pool

from workshop import collectives
from workshop.exercises import training as exercises
from workshop.models.gpt import CONFIGS, GPT


def peak(c, b):
    block = 12 * c.hidden**2 + 13 * c.hidden
    states = c.layers * block + 2 * c.hidden
    states += (c.vocabulary + c.sequence) * c.hidden
    rows = b * c.sequence
    layer = rows * (32 * c.hidden + 4 * c.heads + 8)
    head = rows * (2 * c.vocabulary + 4 * c.hidden + 12)
    return 14 * states + c.layers * layer + head


def exposed(compute, messages):
    edges = sorted({Fraction(e) for span in compute + messages for e in span})

    def inside(at, spans):
        return any(b <= at < e for b, e in spans)

    return sum(
        float(end - begin)
        for begin, end in pairwise(edges)
        if inside(begin, messages) and not inside(begin, compute)
    )


def last_end(before, end):
    """Forget that an earlier span may end later."""
    return end


def by_merging(compute, messages, later, sort=sorted):
    """Join what overlaps, then subtract what lies under compute."""

    def merge(spans):
        joined = []
        for begin, end in sort(spans):
            if joined and begin <= joined[-1][1]:
                joined[-1][1] = later(joined[-1][1], end)
            else:
                joined.append([begin, end])
        return joined

    kernels, talk = merge(compute), merge(messages)
    under = sum(
        max(0, min(end, b) - max(begin, a))
        for begin, end in talk
        for a, b in kernels
    )
    return sum(end - begin for begin, end in talk) - under


@pytest.mark.parametrize(
    ("check", "right", "wrong", "hint"),
    [
        (
            exercises.check_peak,
            peak,
            lambda c, b: peak(c, b) * 16 / 14,
            "too much",
        ),
        (exercises.check_peak, peak, lambda c, b: peak(c, b) / 3, "too litt"),
        (
            exercises.check_peak,
            peak,
            lambda c, b: peak(c, b) - 4 * b * c.sequence * c.hidden,
            "too little for gpt2-small",
        ),
        (
            exercises.check_exposed,
            exposed,
            lambda compute, messages: by_merging(compute, messages, last_end),
            "inside another",
        ),
        (
            exercises.check_exposed,
            exposed,
            lambda compute, messages: by_merging(
                compute, messages, max, sort=list
            ),
            "in no order",
        ),
        (
            exercises.check_exposed,
            exposed,
            lambda compute, messages: sum(e - b for b, e in messages),
            "over a gap",
        ),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong, hint
) -> None:
    assert check(right) == exercises.RIGHT
    said = check(wrong)
    assert said.startswith("Not yet") and hint in said
    assert check(None) == exercises.MISSING


def test_gradients_at_the_peak_are_hinted_at() -> None:
    def with_gradients(c, b):
        return peak(c, b) + 2 * sum(
            p.numel() for p in GPT(c).to("meta").parameters()
        )

    with torch.device("meta"):
        said = exercises.check_peak(with_gradients)
    assert "not there yet" in said
    assert not re.search(r"\d{4}", said)


class Reducer:
    """Sends each gradient from its hook."""

    def __init__(self, module, group):
        self.group, self.ranks = group, dist.get_world_size(group)
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self.send)

    def send(self, parameter):
        collectives.all_reduce(parameter.grad, self.group)
        parameter.grad /= self.ranks

    def finish(self):
        pass


class Sums(Reducer):
    def send(self, parameter):
        collectives.all_reduce(parameter.grad, self.group)


class AtTheEnd(Reducer):
    def __init__(self, module, group):
        self.group, self.ranks = group, dist.get_world_size(group)
        self.module = module

    def finish(self):
        for parameter in self.module.parameters():
            self.send(parameter)


class AtTheLastGradient(AtTheEnd):
    """Sends all from a hook, which is the last one: nothing overlaps."""

    def __init__(self, module, group):
        super().__init__(module, group)
        self.missing = len(list(module.parameters()))
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self.arrive)

    def arrive(self, parameter):
        self.missing -= 1
        if not self.missing:
            super().finish()

    def finish(self):
        pass


class TwoBuckets(Reducer):
    """Sends when four gradients are there: an honest answer as well."""

    waiting = ()

    def send(self, parameter):
        self.waiting = (*self.waiting, parameter)
        if len(self.waiting) == 4:
            bucket = torch.cat([p.grad.flatten() for p in self.waiting])
            collectives.all_reduce(bucket, self.group)
            sizes = [p.numel() for p in self.waiting]
            for p, mean in zip(
                self.waiting, bucket.split(sizes), strict=True
            ):
                p.grad.copy_(mean.view_as(p) / self.ranks)
            self.waiting = ()


class Twice(Reducer):
    def finish(self):
        collectives.all_reduce(torch.zeros(1), self.group)


def judge_reducer(rank: int, world: int, answer) -> str:
    return exercises.check_reducer(
        answer, dist.group.WORLD, torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Reducer, exercises.RIGHT),
        (Sums, "its norm is 2 times"),
        (TwoBuckets, exercises.RIGHT),
        (AtTheEnd, "no message had left"),
        (AtTheLastGradient, "all messages leave at once"),
        (Twice, "more messages than gradients"),
        (None, exercises.MISSING),
    ],
)
def test_a_reducer_overlaps_or_is_told_what_it_lacks(
    pool2: Pool, answer, says
) -> None:
    for verdict in pool2.run(judge_reducer, answer):
        assert says in verdict


def judge_suspects(rank: int, world: int) -> list[str]:
    torch.manual_seed(0)
    gpt = GPT(CONFIGS["tiny"])
    names = {name for name, _ in gpt.named_parameters()}
    tokens = torch.randint(1024, (2, 9))
    model = exercises.Suspect(gpt, dist.group.WORLD)
    torch.manual_seed(rank)
    tokens = torch.randint(1024, (2, 9))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    model.finish()
    local = set()
    for name, parameter in gpt.named_parameters():
        other = parameter.grad.clone()
        dist.broadcast(other, 0)
        same = torch.tensor(float(torch.equal(other, parameter.grad)))
        dist.all_reduce(same, dist.ReduceOp.MIN)
        if not same:
            local.add(name)
    answers = (local, {min(local)}, names, {"nothing"}, None)
    return [exercises.check_suspect(each, gpt) for each in answers]


def test_the_suspect_is_found_by_its_gradients(pool2: Pool) -> None:
    for right, some, all_of, unknown, nothing in pool2.run(judge_suspects):
        assert right == exercises.RIGHT
        assert "look at each block" in some
        assert "is the mean over the ranks" in all_of
        assert "no parameter 'nothing'" in unknown
        assert nothing == exercises.MISSING
