"""One rank alone holds what the formulas say, and what a real rank holds."""

import gc
import json
import sys
import weakref
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from estimate_cases import kept_bytes
from pool import Pool

from workshop import collectives
from workshop.bench.rank_alone import RankAlone, pretended
from workshop.errors import UserError
from workshop.estimate.memory import head_bytes, layer_bytes, state_bytes
from workshop.estimate.stages import rank_parameters
from workshop.lab1 import one_rank
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPT, GPTConfig, compile_blocks
from workshop.parallel.tensor import transform as tensor_parallel

TINY = asdict(CONFIGS["tiny"])


def test_every_stage_of_every_layout_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("WORKSHOP_METRICS", str(metrics))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = "dp1,dp2,tp2,tp2sp@4,pp2,dp2tp2pp2"
    monkeypatch.setattr(sys, "argv", ["one_rank", "--layouts", names])
    one_rank.main()
    assert not dist.is_initialized()
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert events[0]["model"] == "tiny"
    measured: dict = {}
    for event in events[1:]:
        at = event["labels"]
        key = at["layout"], at["micro_batch"], at["stage"]
        measured.setdefault(key, {})[event["name"]] = event["value"]
    expected = {
        ("dp1", 2, 0), ("dp2", 2, 0), ("tp2", 2, 0), ("tp2sp", 4, 0),
        ("pp2", 2, 0), ("pp2", 2, 1),
        ("dp2tp2pp2", 2, 0), ("dp2tp2pp2", 2, 1),
    }  # fmt: skip
    assert measured.keys() == expected
    for (name, _, stage), values in measured.items():
        assert values.keys() == {
            "forward_ms", "backward_ms", "update_ms", "state_gib",
        }  # fmt: skip
        assert all(value > 0 for value in values.values())
        states = state_bytes(TINY, Layout.from_name(name), stage, "float32")
        assert values["state_gib"] * 2**30 == sum(states.values())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layouts", "xp2"], "a layout is named by dp, tp, pp"),
        (["--layouts", "tp"], "need a number"),
        (["--layouts", "tp2@"], "no micro-batch after @"),
        (["--layouts", "cut1"], "leaves two stages or more some layers"),
        (["--layouts", "pp3"], "cannot be cut into 3"),
        (["--layouts", "tp4"], "2 attention heads are not divisible"),
        (["--micro-batch", "0"], "--micro-batch 0 is too small"),
    ],
)
def test_bad_input_is_one_sentence(arguments, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        one_rank.Bench(one_rank.parse(arguments))


def test_names_of_layouts() -> None:
    assert Layout.from_name("dp2tp4sppp2") == Layout(
        dp=2, tp=4, pp=2, sequence_parallel=True
    )
    assert Layout.from_name("pp2cut12", 24, micro_batch=4) == Layout(
        pp=2, micro_batch=4, cut=[12, 12]
    )
    assert Layout.from_name("pp4cut3", 24).cut == (3, 7, 7, 7)


@pytest.mark.parametrize(("name", "stage"), [("pp2", 0), ("pp2", 1),
                                             ("dp1", 0), ("dp2", 0)])  # fmt: skip
def test_the_peak_holds_what_the_schedule_has_in_flight(name, stage):
    config = CONFIGS["tiny"]
    several = 4 if name == "pp2" else 1
    spread = Layout.from_name(name, num_microbatches=several, micro_batch=2)
    seen = []
    with pretended(spread, stage) as groups:
        rank = RankAlone(config, groups, torch.device("cpu"), False)
        forward, backward = rank.forward, rank.backward
        rank.forward = lambda: seen.append("F") or forward()
        rank.backward = lambda edge: seen.append("B") or backward(edge)
        rank.hold()
        parameters = rank.module.named_parameters()
        assert all(p.grad is not None for _, p in parameters)
    # First a micro-batch whose gradients stay, then those in flight.
    expected = {("pp2", 0): "FBFFBB", ("pp2", 1): "FBFB"}
    assert "".join(seen) == expected.get((name, stage), "FB")


@pytest.mark.parametrize("written", [True, False], ids=["new", "old"])
def test_a_reduce_scatter_alone_writes_its_output(
    written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU multiplies must be activations, under every torch."""
    if not written:  # as torch 2.11's fake group does

        def leave(*_: object) -> SimpleNamespace:
            return SimpleNamespace(wait=lambda: None)

        monkeypatch.setattr(collectives, "_reduce_scatter", leave)
    before = collectives._reduce_scatter
    spread = Layout.from_name("tp2sp", micro_batch=2)
    with pretended(spread, 0) as groups:
        part = torch.full((2,), torch.nan)
        collectives.reduce_scatter(part, torch.arange(4.0), groups.tp)
        assert part.tolist() == [0, 1]
        rank = RankAlone(CONFIGS["tiny"], groups, torch.device("cpu"), False)
        loss = rank.model(rank.tokens, rank.tokens)
        assert 1 < loss.item() < 100
    assert collectives._reduce_scatter is before


@pytest.mark.parametrize("name", ["dp1", "dp2", "tp2sp"])
def test_a_rank_that_is_let_go_is_freed(name: str) -> None:
    """Else the next rank's peak holds this one's weights."""
    spread = Layout.from_name(name, micro_batch=2)
    with pretended(spread, 0) as groups:
        rank = RankAlone(CONFIGS["tiny"], groups, torch.device("cpu"), False)
        rank.timed_step()
        watched = [weakref.ref(p) for p in rank.module.parameters()]
        del rank
    gc.collect()
    assert not any(one() is not None for one in watched)


def kept_by_rank(
    rank: int, world: int, sequence_parallel: bool, compiled: bool
) -> tuple[int, int, int]:
    """Return the parameters, and the bytes a layer and the head keep."""
    config = GPTConfig(1, 128, 4, 64, 510)
    model = GPT(config).bfloat16()
    tensor_parallel.apply(
        model, tensor_parallel.PLAN, dist.group.WORLD, sequence_parallel
    )
    held = sum(p.numel() for p in model.parameters())
    if compiled:
        compile_blocks(model, "aot_eager_decomp_partition")
    own = 64 // world if sequence_parallel else 64
    x = torch.zeros(2, own, 128, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(2, 64, dtype=torch.int64)
    layer = kept_bytes(model.blocks[0], x)
    head = kept_bytes(model.head, x, model.embedding.token.weight, targets)
    return held, layer, head


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_what_a_tensor_parallel_rank_keeps(
    pool2: Pool, sequence_parallel: bool, compiled: bool
) -> None:
    model = asdict(GPTConfig(1, 128, 4, 64, 510))
    spread = Layout(tp=2, micro_batch=2, sequence_parallel=sequence_parallel)
    held = rank_parameters(model, spread)["total"]
    layer = layer_bytes(model, spread)
    head = head_bytes(model, spread, compiled=compiled)
    ranks = pool2.run(kept_by_rank, sequence_parallel, compiled)
    for rank in ranks:
        assert rank == (held, layer, head)
