"""megatron-core computes what our model computes, in every layout.

Its own schedules run, on the CPU and in float64; the ranks are a pool of
their own, because `megatron_cpu.patch` changes torch in them for good.
"""

from collections.abc import Callable, Iterator

import megatron_cases
import pytest
import torch
from fork_servers import server_with
from launching import launch_ranks
from megatron_cases import (
    RANKS,
    Case,
    Held,
    train_dense,
    unshard_ours,
    whole,
)
from parity import TOLERANCE, Mismatch, compare
from pool import Pool

from workshop.errors import UserError
from workshop.lab1 import megatron_options as options
from workshop.lab1 import pretrain_gpt_megatron

TP2, PP2, BOTH = {"tp": 2}, {"pp": 2}, {"tp": 2, "pp": 2}
SP, TRAINED = {"sequence_parallel": True}, {"steps": 1}
INTERLEAVED = {"pp": 2, "virtual_stages": 2}
LAYOUTS = [
    Case(**TP2, num_microbatches=2),
    Case(**PP2, num_microbatches=4),
    Case(**BOTH, num_microbatches=2),
    Case(**INTERLEAVED, num_microbatches=4),
    Case(**BOTH, **SP, num_microbatches=2),
]
MORE_LAYOUTS = [
    Case(num_microbatches=2),
    Case(tp=4),
    Case(pp=4, num_microbatches=4),
    Case(**TP2, **SP, num_microbatches=2),
    *(Case(**TP2, num_microbatches=m) for m in (1, 4)),
    *(Case(**PP2, num_microbatches=m) for m in (1, 2)),
    *(Case(**BOTH, num_microbatches=m) for m in (1, 4)),
    Case(**INTERLEAVED, num_microbatches=2),
]
VARIANTS = [
    Case(**BOTH, attention="flash", num_microbatches=2),
    Case(**BOTH, **SP, fused=True, attention="flash"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    server = server_with("megatron_ready")
    with Pool(RANKS, server=server) as ranks:
        yield ranks
    server._stop()


def train(pool: Pool, case: Case) -> list[Held]:
    """Run a case."""
    return pool.run(megatron_cases.train_rank, case)


def verify(case: Case, ranks: list[Held]) -> None:
    """Compare what every stage holds, and every rank reports, with ours.

    Raises:
        Mismatch: from the first that differs.
    """
    dense = train_dense(case)
    check, tolerance = "gradients", TOLERANCE
    if case.steps:  # its norm is of float32, and so is what clips in ours
        check, tolerance = "weights", 1e-7
    for got in whole(case, ranks).values():
        due = {name: dense.tensors[name] for name in got}
        compare(check, 0, got, due, tolerance)
    for held in ranks:
        for value, due in zip(held.report, dense.report, strict=True):
            if not abs(value / due - 1) <= tolerance:
                raise Mismatch("report", value / due, f"at {held.at}")


def of_long(*values) -> list:
    """Return parameters that have a quick sister in `make test`."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


@pytest.mark.parametrize("case", [*LAYOUTS, *of_long(*MORE_LAYOUTS)], ids=str)
def test_its_gradients_are_ours(pool: Pool, case: Case) -> None:
    its = train(pool, case)
    verify(case, its)
    ours = pool.run(megatron_cases.train_ours, case)
    stages = whole(case, ours, unshard_ours)
    for place, got in whole(case, its).items():
        compare("gradients", 0, got, stages[place])


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_its_gradients_with_other_kernels_are_ours(
    pool: Pool, case: Case
) -> None:
    verify(case, train(pool, case))


@pytest.mark.parametrize(
    "case",
    [
        *of_long(Case(**TP2, num_microbatches=2, steps=2)),
        Case(**BOTH, num_microbatches=2, steps=2),
        Case(**INTERLEAVED, num_microbatches=2, steps=2),
    ],
    ids=str,
)
def test_two_steps_of_its_distributed_optimizer_are_ours(
    pool: Pool, case: Case
) -> None:
    verify(case, train(pool, case))


@pytest.mark.parametrize(
    ("name", "case", "caught_by"),
    [
        ("QKV cut across, megatron-core", TP2, "gradients"),
        ("LayerNorm unmarked, megatron-core", TP2 | SP, "gradients"),
        ("exact GELU, megatron-core", PP2, "gradients"),
        ("default messages, megatron-core", INTERLEAVED, "gradients"),
        ("decay of vectors, megatron-core", TP2 | TRAINED, "weights"),
        ("parts not in the norm, megatron-core", TP2 | TRAINED, "report"),
    ],
)
def test_a_planted_bug_is_caught(
    pool: Pool,
    record_property: Callable[[str, object], None],
    name: str,
    case: dict,
    caught_by: str,
) -> None:
    planted = Case(**case, num_microbatches=4, bug=name)
    with pytest.raises(Mismatch) as caught:
        verify(planted, train(pool, planted))
    ratio = f"{caught.value.ratio:.6g}"
    record_property("planted bug", (name, caught.value.check, ratio))
    assert caught.value.check == caught_by


@pytest.mark.parametrize("layout", ["tp2-pp2-sp", *of_long("dp4", "pp2-v2")])
def test_the_contestants_learn_alike(pool: Pool, layout: str) -> None:
    """In float32 to its precision; bfloat16 weights come near it."""

    def reports(name: str, dtype: torch.dtype) -> list[float]:
        arguments = (name, layout, dtype)
        ranks = pool.run(megatron_cases.take_steps, *arguments)
        assert all(rank == pytest.approx(ranks[0]) for rank in ranks)
        return ranks[0]

    ours = reports("ours", torch.float32)
    for name in ("megatron", "megatron-flash"):
        its = reports(name, torch.float32)
        assert its == pytest.approx(ours, rel=1e-4)
        narrow = reports(name, torch.bfloat16)
        assert narrow == pytest.approx(ours, rel=0.05)
        assert narrow != its


def test_without_a_gpu_it_says_so_in_one_sentence() -> None:
    done = launch_ranks(pretrain_gpt_megatron.__name__)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: megatron-core's model computes on")
    assert done.stderr.count("\n") == 1


def test_its_help_names_what_it_takes_and_nothing_else(capsys) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    shown = capsys.readouterr().out
    assert "--attention" in shown and "--bf16-weights" in shown
    assert "--compile" not in shown and "--checkpoint" not in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--compile", "--compile is for pretrain_gpt"),
        ("--checkpoint x", "--checkpoint is for pretrain_gpt"),
        ("--schedule gpipe", "megatron-core has no gpipe"),
        ("--micro-batch 0", "--micro-batch 0 is too small"),
        ("--attention flush", "invalid choice: 'flush'"),
        ("--sped 1", "unrecognized arguments: --sped"),
    ],
)
def test_what_it_does_not_take_is_one_sentence(
    arguments: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        options.parse(arguments.split())
