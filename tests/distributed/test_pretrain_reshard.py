"""A checkpoint on the disk belongs to no layout, and says so bit for bit."""

import pytest
import torch
from pretrain_runs import pretrain, values

LAYOUTS = {
    "dp2": (2, ["--micro-batch", "2", "--num-microbatches", "2"]),
    "tp2": (2, ["--tensor-parallel-size", "2", "--sequence-parallel"]),
    "pp2": (2, ["--pipeline-parallel-size", "2"]),
    "tp2pp2": (
        4,
        ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"],
    ),
}
BATCH = ["--micro-batch", "2", "--num-microbatches", "4"]  # eight sequences
CUT = 2


@pytest.fixture(scope="module", params=[[], ["--bf16-weights"]], ids=str)
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def saved(request, pool2, pool4, precision, tmp_path_factory):
    """Train four steps in each layout, with a checkpoint after two."""
    pools = {2: pool2, 4: pool4}
    cache = str(tmp_path_factory.mktemp("cache"))

    def train(name, folder, *more):
        world, flags = LAYOUTS[name]
        argv = [*BATCH, *flags, *precision, "--save-every", str(CUT)]
        return values(
            pools[world].run(
                pretrain, cache, *argv, "--checkpoint", str(folder), *more
            )[0]
        )

    runs = {}
    for name in LAYOUTS:
        folder = tmp_path_factory.mktemp(name)
        runs[name] = train(name, folder), folder
    return train, runs


def state(folder, step):
    return torch.load(
        folder / f"step-{step:08d}" / "state.pt", weights_only=True
    )


def link(folder, there):
    """Give a new run the checkpoint after `CUT` steps, and no later one."""
    name = f"step-{CUT:08d}"
    (there / name).symlink_to(folder / name)
    return there


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_layout_resumes_bit_for_bit(saved, tmp_path, name):
    train, runs = saved
    whole, folder = runs[name]
    resumed = train(name, link(folder, tmp_path), "--resume")
    assert resumed[-2:] == whole[-2:]
    last = whole[-1][0]
    resumed, due = state(tmp_path, last), state(folder, last)
    assert resumed.pop("layout") == due.pop("layout")
    torch.testing.assert_close(resumed, due, rtol=0, atol=0)


def following(name):
    """Return the next layout in a circle; `make test-long` has every pair.

    Each writes once and reads once, and what they write is compared.
    """
    names = list(LAYOUTS)
    return [names[(names.index(name) + 1) % len(names)]]


@pytest.mark.parametrize(
    "others",
    [following, pytest.param(lambda _: LAYOUTS, marks=pytest.mark.long)],
    ids=["next", "every"],
)
@pytest.mark.parametrize("before", LAYOUTS)
def test_every_layout_resumes_from_another(
    saved, tmp_path, precision, before, others
):
    train, runs = saved
    whole, folder = runs[before]
    # bfloat16 rounds what is summed in another order by other bits.
    tolerance = 2e-3 if precision else 1e-6
    for after in others(before):
        there = tmp_path / after
        there.mkdir()
        resumed = train(after, link(folder, there), "--resume")
        step, loss, norm = resumed[-2]
        assert step == CUT + 1
        assert loss == pytest.approx(whole[CUT][1], rel=tolerance)
        assert norm == pytest.approx(whole[CUT][2], rel=10 * tolerance)
        assert resumed[-1] == pytest.approx(whole[-1], rel=20 * tolerance)


def test_all_layouts_write_the_same_checkpoint(saved, precision):
    _, runs = saved
    dense = state(runs["dp2"][1], CUT)
    for name, (_, folder) in runs.items():
        other = state(folder, CUT)
        assert list(other["model"]) == list(dense["model"]), name
        difference = flat(other) - flat(dense)
        limit = 2e-2 if precision else 1e-5
        assert difference.norm() <= limit * flat(dense).norm(), name
        kinds = {
            key: {kind: tensor.shape for kind, tensor in of.items()}
            for key, of in other["optimizer"]["state"].items()
        }
        assert kinds == {
            key: {kind: tensor.shape for kind, tensor in of.items()}
            for key, of in dense["optimizer"]["state"].items()
        }
        assert other["optimizer"]["groups"] == dense["optimizer"]["groups"]


def flat(checkpoint):
    """Return all weights as one vector."""
    weights = checkpoint["model"].values()
    return torch.cat([weight.flatten().double() for weight in weights])
