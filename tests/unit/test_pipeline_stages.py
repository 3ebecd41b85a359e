"""Stages: where a model is cut, and that the pieces are the model."""

import itertools

import pytest
import torch

from workshop.errors import UserError
from workshop.models.gpt import CONFIGS, GPT, GPTConfig
from workshop.parallel.pipeline.stages import (
    Costs,
    cut,
    make_stages,
    predicted_costs,
)

SMALL = GPTConfig(layers=5, hidden=16, heads=2, sequence=8, vocabulary=37)
LARGE = CONFIGS["gpt-1.3b"]


def loads(config, ranges, ranks, costs=None) -> list[float]:
    """Return the work of each rank."""
    embedding, block, head = costs or predicted_costs(config)
    work = [len(blocks) * block for blocks in ranges]
    work[0] += embedding
    work[-1] += head
    return [sum(work[rank::ranks]) for rank in range(ranks)]


def test_gpt_1_3b_is_cut_13_to_11() -> None:
    assert cut(LARGE, 2) == [range(13), range(13, 24)]
    embedding, block, head = predicted_costs(LARGE)
    assert embedding == 0
    assert head / block == pytest.approx(1.9, abs=0.02)
    halves = [range(12), range(12, 24)]
    for ranges, excess in ((halves, 0.073), (cut(LARGE, 2), 0.0042)):
        work = loads(LARGE, ranges, 2)
        assert max(work) / (sum(work) / 2) - 1 == pytest.approx(
            excess, abs=3e-4
        )


def test_costs_are_those_of_the_matrix_products() -> None:
    h, s, v = LARGE.hidden, LARGE.sequence, LARGE.vocabulary
    assert predicted_costs(LARGE) == (0, 72 * h * h + 12 * h * s, 6 * v * h)


def test_the_interleaved_cut_balances_ranks() -> None:
    ranges = cut(LARGE, 4, ranks=2)
    assert [len(blocks) for blocks in ranges] == [7, 6, 6, 5]
    one, two = loads(LARGE, ranges, 2)
    assert one / two == pytest.approx(1, abs=0.01)


def test_given_costs_decide() -> None:
    assert cut(LARGE, 2, Costs(0, 1, 0)) == [range(12), range(12, 24)]
    assert len(cut(LARGE, 2, Costs(4, 1, 0))[0]) == 10


def test_no_other_cut_has_a_smaller_maximum() -> None:
    costs = Costs(0.7, 1, 2.6)
    for layers, (stages, ranks) in itertools.product(
        range(4, 11), [(2, 2), (3, 3), (4, 4), (4, 2)]
    ):
        config = GPTConfig(layers, 16, 2, 8, 37)
        slowest = max(loads(config, cut(config, stages, costs, ranks), ranks,
                          costs))  # fmt: skip
        best = min(
            max(loads(config, ranges, ranks, costs))
            for ends in itertools.combinations(range(1, layers), stages - 1)
            for ranges in [
                [
                    range(a, b)
                    for a, b in itertools.pairwise((0, *ends, layers))
                ]
            ]
        )
        assert slowest == pytest.approx(best)


@pytest.mark.parametrize("stages", range(1, 25))
def test_every_block_is_in_one_stage(stages: int) -> None:
    ranges = cut(LARGE, stages)
    assert all(ranges)
    assert [n for blocks in ranges for n in blocks] == list(range(24))


def test_more_stages_than_layers_is_one_sentence() -> None:
    message = "5 layers cannot be cut into 6 pipeline stages"
    with pytest.raises(UserError, match=message):
        cut(SMALL, 6)
    with pytest.raises(UserError, match=message):
        make_stages(GPT(SMALL), SMALL, 0, p=3, v=2)


@pytest.mark.parametrize(("p", "v"), [(1, 1), (2, 1), (2, 2), (5, 1)])
def test_the_stages_one_after_another_are_the_model(p: int, v: int) -> None:
    torch.manual_seed(0)
    model = GPT(SMALL).double()
    chunks = [make_stages(model, SMALL, rank, p, v) for rank in range(p)]
    stages = [chunks[g % p][g // p] for g in range(p * v)]
    tokens = torch.randint(37, (2, 9))
    x = tokens[:, :-1]
    for stage in stages[:-1]:
        x = stage(x)
    assert torch.equal(stages[-1](x), model(tokens[:, :-1]))
    loss = stages[-1](x, tokens[:, 1:])
    assert torch.equal(loss, model(tokens[:, :-1], tokens[:, 1:]))


def test_parameters_keep_their_names() -> None:
    model = GPT(SMALL)
    stages = [make_stages(model, SMALL, rank, 3)[0] for rank in range(3)]
    names = [name for s in stages for name, _ in s.named_parameters()]
    tied = "embedding.token.weight"
    assert sorted(names) == sorted([*dict(model.named_parameters()), tied])
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameter.shape == model.get_parameter(name).shape
    assert [stage.copies for stage in stages] == [(), (), (tied,)]
    assert stages[1].tied is None
    assert torch.equal(stages[0].tied, stages[2].tied)
    assert stages[0].tied.data_ptr() != stages[2].tied.data_ptr()
    assert "blocks.2.mlp.up.weight" in names


def test_one_stage_has_nothing_tied() -> None:
    (stage,) = make_stages(GPT(SMALL), SMALL, 0, 1)
    assert stage.tied is None
    assert stage.copies == ()
