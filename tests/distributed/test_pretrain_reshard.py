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


NARROW = ["--bf16-weights"]
SOME = ("dp2", "tp2pp2")
"""Layouts that also train in bfloat16 in `make test`; all do in the long."""


def of_long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


class Saved:
    """Four steps in each layout, with a checkpoint after two, made once."""

    def __init__(self, pools, make_folder):
        self.pools, self.make_folder = pools, make_folder
        self.cache = str(make_folder("cache"))
        self.made = {}

    def train(self, name, precision, folder, *more):
        world, flags = LAYOUTS[name]
        argv = [*BATCH, *flags, *precision, "--save-every", str(CUT)]
        argv += ["--checkpoint", str(folder), *more]
        return values(self.pools[world].run(pretrain, self.cache, *argv)[0])

    def run(self, name, precision):
        """Return the steps and the folder of a layout's whole training."""
        key = name, bool(precision)
        if key not in self.made:
            folder = self.make_folder(name)
            self.made[key] = self.train(name, precision, folder), folder
        return self.made[key]


@pytest.fixture(scope="module")
def saved(pool2, pool4, tmp_path_factory):
    return Saved({2: pool2, 4: pool4}, tmp_path_factory.mktemp)


def state(folder, step):
    return torch.load(
        folder / f"step-{step:08d}" / "state.pt", weights_only=True
    )


def link(folder, there):
    """Give a new run the checkpoint after `CUT` steps, and no later one."""
    name = f"step-{CUT:08d}"
    (there / name).symlink_to(folder / name)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, []) for name in LAYOUTS),
        *((name, NARROW) for name in SOME),
        *(of_long(name, NARROW) for name in LAYOUTS if name not in SOME),
    ],
)
def test_the_same_layout_resumes_bit_for_bit(
    saved, tmp_path, name, precision
):
    whole, folder = saved.run(name, precision)
    link(folder, tmp_path)
    resumed = saved.train(name, precision, tmp_path, "--resume")
    assert resumed[-2:] == whole[-2:]
    last = whole[-1][0]
    got, due = state(tmp_path, last), state(folder, last)
    assert got.pop("layout") == due.pop("layout")
    torch.testing.assert_close(got, due, rtol=0, atol=0)


NEXT = dict(zip(LAYOUTS, [*LAYOUTS][1:] + [*LAYOUTS][:1], strict=True))
"""The next layout in a circle: each writes once and reads once."""
OTHERS = [
    (before, after)
    for before in LAYOUTS
    for after in LAYOUTS
    if after not in (before, NEXT[before])
]


@pytest.mark.parametrize(
    ("before", "after", "precision"),
    [
        *((*pair, []) for pair in NEXT.items()),
        (*SOME, NARROW),
        (*reversed(SOME), NARROW),
        *(of_long(*pair, []) for pair in OTHERS),
        *(of_long(*pair, NARROW) for pair in [*NEXT.items(), *OTHERS]),
    ],
)
def test_every_layout_resumes_from_another(
    saved, tmp_path, precision, before, after
):
    whole, folder = saved.run(before, precision)
    # bfloat16 rounds what is summed in another order by other bits.
    tolerance = 2e-3 if precision else 1e-6
    link(folder, tmp_path)
    resumed = saved.train(after, precision, tmp_path, "--resume")
    step, loss, norm = resumed[-2]
    assert step == CUT + 1
    assert loss == pytest.approx(whole[CUT][1], rel=tolerance)
    assert norm == pytest.approx(whole[CUT][2], rel=10 * tolerance)
    assert resumed[-1] == pytest.approx(whole[-1], rel=20 * tolerance)


@pytest.mark.parametrize(
    ("names", "precision"),
    [(LAYOUTS, []), (SOME, NARROW), of_long(LAYOUTS, NARROW)],
    ids=["float32", "some-bfloat16", "bfloat16"],
)
def test_all_layouts_write_the_same_checkpoint(saved, names, precision):
    dense = state(saved.run("dp2", precision)[1], CUT)
    for name in names:
        other = state(saved.run(name, precision)[1], CUT)
        assert list(other["model"]) == list(dense["model"]), name
        difference = flat(other) - flat(dense)
        limit = 2e-2 if precision else 1e-5
        assert difference.norm() <= limit * flat(dense).norm(), name
        assert kinds(other) == kinds(dense), name
        assert other["optimizer"]["groups"] == dense["optimizer"]["groups"]


def kinds(checkpoint):
    """Return the shapes of the optimizer's states, by parameter."""
    return {
        key: {kind: tensor.shape for kind, tensor in of.items()}
        for key, of in checkpoint["optimizer"]["state"].items()
    }


def flat(checkpoint):
    """Return all weights as one vector."""
    weights = checkpoint["model"].values()
    return torch.cat([weight.flatten().double() for weight in weights])
