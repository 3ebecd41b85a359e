"""Loss scaling in every layout, beside torch's GradScaler; and masters."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from hybrid_cases import CONFIG, SEED, Case, of
from pool import Pool
from torch import Tensor
from training_cases import groups_of

from workshop.errors import UserError
from workshop.models.gpt import GPT
from workshop.training.clipping import EPSILON
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.optimizer import make_optimizer
from workshop.training.precision import LossScaler
from workshop.training.trainer import PRECISIONS, Recipe

LAYOUTS = [
    of(2, m=2),
    of(2, tp=2, m=2),
    of(2, tp=2, m=2, sequence_parallel=True),
    of(2, pp=2, m=4),
]
LR, CLIP, STEPS = 1e-3, 0.05, 4


def model() -> GPT:
    torch.manual_seed(SEED)
    return GPT(replace(CONFIG, tied=False))


def trainer_of(layout, precision: str) -> LayoutTrainer:
    recipe = Recipe(precision=precision, clip=CLIP)
    return LayoutTrainer(model, groups_of(layout), recipe)


def numbers(trainer: LayoutTrainer) -> list[Tensor]:
    """Return copies of this rank's weights and optimizer states."""
    states = [
        value
        for state in trainer.optimizer.state.values()
        for value in state.values()
    ]
    own = trainer.parameters.values()
    return [t.detach().clone() for t in (*own, *states)]


def overflow(rank: int, world: int, layout, precision: str) -> list[float]:
    """Take a step, one that overflows, and two more; return the norms."""
    with closing(trainer_of(layout, precision)) as trainer:
        batches = Case(layout).batches(0, trainer.groups.at.dp)
        norms = [trainer.step(batches, LR)[1].item()]
        before = numbers(trainer)
        trainer.scaler.scale = 2.0**60
        norms.append(trainer.step(batches, LR)[1].item())
        assert trainer.scaler.scale == 2.0**59 and trainer.scaler.skipped == 1
        for now, then in zip(numbers(trainer), before, strict=True):
            assert torch.equal(now, then)
        trainer.scaler.scale = 2.0**10
        norms += [trainer.step(batches, LR)[1].item() for _ in range(2)]
        return norms


@pytest.mark.parametrize("precision", ["fp16", "fp16-weights"])
def test_a_step_that_overflows_changes_no_bit(
    pool2: Pool, precision: str
) -> None:
    """And the norms of the others are those of the unscaled gradient."""
    for layout in LAYOUTS:
        ranks = pool2.run(overflow, layout, precision)
        for first, skipped, third, fourth in ranks:
            assert not torch.isfinite(torch.tensor(skipped))
            assert 0 < fourth < third < first < 100
        assert ranks[0] == pytest.approx(ranks[1], nan_ok=True)


def beside_torch(rank: int, world: int) -> list[list[float]]:
    """Train with ours and with torch's scaler; return losses and scales."""
    reference = model()
    optimizer = make_optimizer(reference, LR)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**24, growth_interval=3
    )
    with closing(trainer_of(of(2, m=2), "fp16")) as trainer:
        ours = trainer.scaler = LossScaler(
            torch.device("cpu"), start=2.0**24, patience=3
        )
        seen: list[list[float]] = []
        for step in range(12):
            batches = Case(of(2, m=2)).batches(step % 2, trainer.groups.at.dp)
            both = [
                batch
                for index in range(2)
                for batch in Case(of(2, m=2)).batches(step % 2, index)
            ]
            loss, _ = trainer.step(batches, LR).tolist()
            due = 0.0
            optimizer.zero_grad(set_to_none=True)
            for inputs in both:
                with torch.autocast("cpu", torch.float16):
                    part = reference(*inputs) / 2
                scaler.scale(part).backward()
                due += part.item() / 2
            scaler.unscale_(optimizer)
            weights = list(reference.parameters())
            for weight in weights:
                weight.grad /= 2  # a rank's two are averaged with another's
            norm = torch.nn.utils.get_total_norm([w.grad for w in weights])
            shrink = (CLIP / (norm + EPSILON)).clamp(max=1.0)
            for weight in weights:
                weight.grad *= shrink
            scaler.step(optimizer)
            scaler.update()
            seen.append([loss, due, ours.scale, scaler.get_scale()])
        return seen


def test_ours_scales_as_torchs_does(pool2: Pool) -> None:
    """The same steps are left out, the same scales follow, it learns alike."""
    for seen in pool2.run(beside_torch):
        losses, due, scales, theirs = zip(*seen, strict=True)
        assert scales == theirs and len(set(scales)) > 3
        assert losses == pytest.approx(due, rel=2e-3)
        assert losses[-2] < losses[0]


def moments(rank: int, world: int, precision: str, scale: float):
    """Return the optimizer's first moments after a step under `scale`."""
    with closing(trainer_of(of(2), precision)) as trainer:
        trainer.scaler.scale = scale
        trainer.step(Case(of(2)).batches(0, trainer.groups.at.dp), LR)
        states = trainer.optimizer.state.values()
        name = "exp_avg" if precision == "fp16" else "mean"
        return torch.cat([s[name].flatten() for s in states])


@pytest.mark.parametrize("precision", ["fp16", "fp16-weights"])
def test_the_optimizer_never_sees_the_scale(
    pool2: Pool, precision: str
) -> None:
    """AdamW's first update hides a factor, its moments do not."""
    small, large = (
        pool2.run(moments, precision, scale)[0] for scale in (2.0**8, 2.0**12)
    )
    assert small.norm() > 0
    assert (large - small).norm() < 0.05 * small.norm()


def kept(rank: int, world: int, layout) -> tuple[dict | None, list[float]]:
    with closing(trainer_of(layout, "fp16")) as trainer:
        trainer.scaler.scale, trainer.scaler.good = 2.0**9, 7
        state = trainer.state()
    with closing(trainer_of(layout, "fp16")) as trainer:
        everyone = [state]
        torch.distributed.broadcast_object_list(everyone, src=0)
        trainer.load(everyone[0])
        return state and state["loss_scale"], [
            trainer.scaler.scale,
            trainer.scaler.good,
        ]


def test_a_checkpoint_keeps_the_scale(pool2: Pool) -> None:
    for layout in (LAYOUTS[0], LAYOUTS[-1]):
        first, second = pool2.run(kept, layout)
        assert first[0] == {"scale": 2.0**9, "good": 7}
        assert first[1] == second[1] == [2.0**9, 7]


def tiny_updates(rank: int, world: int, precision: str) -> float:
    """Return how far a weight of 1 has come after 32 updates of 1e-4."""
    with closing(trainer_of(of(2), precision)) as trainer:
        norm = trainer.parameters["head.norm.weight"]
        before = norm.detach().float().clone()
        batches = Case(of(2)).batches(0, trainer.groups.at.dp)
        for _ in range(32):
            trainer.step(batches, 1e-4)
        return (norm.detach().float() - before).abs().max().item()


def test_pure_bfloat16_stalls_where_masters_do_not(pool2: Pool) -> None:
    """Beside 1, bfloat16 has no number nearer than 0.4 %."""
    assert not PRECISIONS["pure-bf16"].masters
    assert max(pool2.run(tiny_updates, "pure-bf16")) == 0.0
    assert min(pool2.run(tiny_updates, "bf16-weights")) > 1e-3


def smallest(rank: int, world: int, scale: float) -> float:
    """Return the share of gradients that float16 has lost."""
    with closing(trainer_of(of(2), "fp16-weights")) as trainer:
        trainer.scaler.scale = scale
        batches = Case(of(2)).batches(0, trainer.groups.at.dp)
        trainer.forward_backward(batches)
        grads = [p.grad for p in trainer.parameters.values()]
        zeros = sum((g == 0).sum().item() for g in grads)
        return zeros / sum(g.numel() for g in grads)


def test_small_gradients_survive_by_the_scale(pool2: Pool) -> None:
    without = pool2.run(smallest, 2.0**-16)[0]
    scaled = pool2.run(smallest, 2.0**10)[0]
    assert without > 0.2 and scaled < 0.01


def eighth(rank: int, world: int, layout) -> str | list[float]:
    """Train in 8 bits; return the losses, or what is said against it."""
    try:
        trainer = trainer_of(layout, "fp8")
    except UserError as error:
        return str(error)
    with closing(trainer):
        batches = Case(layout).batches(0, trainer.groups.at.dp)
        return [trainer.step(batches, 1e-2)[0].item() for _ in range(4)]


def test_eight_bits_in_the_layouts_that_have_whole_layers(
    pool2: Pool,
) -> None:
    copies, (stages, _) = (
        pool2.run(eighth, of(2, m=2, pp=p)) for p in (1, 2)
    )
    assert copies[0] == copies[1] and copies[0][-1] < copies[0][0]
    assert stages == pytest.approx(copies[0], rel=1e-2)
    refused = pool2.run(eighth, of(2, tp=2))
    assert all("shared by tensor parallel ranks" in said for said in refused)


def test_the_scale_grows_shrinks_and_ends() -> None:
    scaler = LossScaler(torch.device("cpu"), start=4.0, patience=2)
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    assert [scaler.accepts(good) for _ in range(4)] == [True] * 4
    assert scaler.scale == 16.0 and scaler.seed().item() == 16.0
    assert [scaler.accepts(bad) for _ in range(4)] == [False] * 4
    assert (scaler.scale, scaler.skipped) == (1.0, 4)
    with pytest.raises(UserError, match="diverged, lower --lr"):
        scaler.accepts(torch.tensor(float("nan")))


def test_good_steps_before_a_bad_one_do_not_count() -> None:
    scaler = LossScaler(torch.device("cpu"), start=4.0, patience=2)
    for norm in (1.0, float("inf"), 1.0):
        scaler.accepts(torch.tensor(norm))
    assert scaler.scale == 2.0
