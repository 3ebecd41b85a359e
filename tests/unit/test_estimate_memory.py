"""Bytes by formula against the tensors that the model really keeps."""

import random
from dataclasses import asdict

import pytest
import torch
from estimate_cases import kept_bytes

from workshop.estimate.memory import (
    DEVICES,
    LIBRARY,
    STATES,
    activation_bytes,
    fits,
    head_bytes,
    head_workspace,
    largest_micro_batch,
    largest_stage,
    layer_bytes,
    rank_bytes,
    stage_workspace,
    state_bytes,
)
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPT, GPTConfig, compile_blocks
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.records.load import load
from workshop.training.optimizer import make_optimizer
from workshop.training.trainer import PRECISIONS

GPT_1_3B = asdict(CONFIGS["gpt-1.3b"])
H200 = DEVICES["NVIDIA H200"]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("dtype", "batch"), [(torch.bfloat16, 4), (torch.float32, 1)]
)
def test_activations_of_a_layer_and_of_the_head(dtype, batch, compiled):
    """But for one or two scalars, which autograd keeps as well."""
    config = GPTConfig(1, 128, 2, 64, 512)
    model = GPT(config).to(dtype)
    if compiled:
        # The partition of inductor without its compiler.
        compile_blocks(model, "aot_eager_decomp_partition")
    sizes = asdict(config), Layout(micro_batch=batch), dtype.itemsize
    x = torch.zeros(batch, 64, 128, dtype=dtype, requires_grad=True)
    kept = kept_bytes(model.blocks[0], x)
    assert layer_bytes(*sizes) == pytest.approx(kept, abs=8)
    targets = torch.zeros(batch, 64, dtype=torch.int64)
    weight = model.embedding.token.weight
    kept = kept_bytes(model.head, x, weight, targets)
    predicted = head_bytes(*sizes, compiled=compiled)
    assert predicted == pytest.approx(kept, abs=8)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_equal_those_of_the_optimizer(precision):
    config, kind = GPTConfig(2, 32, 2, 16, 64), PRECISIONS[precision]
    model = GPT(config).to(kind.weights or torch.float32)
    for parameter in model.parameters() if kind.wide_gradients else ():
        parameter.grad_dtype = torch.float32
    optimizer = make_optimizer(model, 1e-3, masters=kind.masters)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    model(tokens, tokens).backward()
    optimizer.step()
    weights = list(model.parameters())
    held = state_bytes(asdict(config), Layout(), 0, precision)
    assert held["weights"] == sum(p.nbytes for p in weights)
    assert held["gradients"] == sum(p.grad.nbytes for p in weights)
    assert held["optimizer"] == sum(
        value.nbytes
        for p in weights
        for value in optimizer.state[p].values()
        if torch.is_tensor(value) and value.dim()
    )
    each = sum(held.values()) / sum(p.numel() for p in weights)
    others = {"pure-bf16": 8, "bf16-weights-float32-gradients": 18}
    assert each == others.get(precision, 16)


def test_every_precision_of_the_trainer_has_its_states() -> None:
    assert STATES.keys() == PRECISIONS.keys()


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        ("lab1/gpt2-small-1gpu", False),
        ("lab1/gpt-1.3b-1gpu", False),
        ("lab1/gpt-1.3b-2gpu-naive", False),
        ("lab1/gpt-1.3b-2nodes-naive", False),
        ("lab1/gpt-1.3b-2nodes-overlapped", True),
    ],
)
def test_the_peak_equals_the_recorded_one(name, buckets):
    """Within 1 %.  On two nodes the buckets are tensors of torch."""
    run = load(name)
    meta = run.metrics(0)[0]
    spread = Layout(dp=meta["world_size"], micro_batch=meta["micro_batch"])
    model = asdict(CONFIGS[meta["model"]])
    parts = rank_bytes(model, spread, buckets=buckets)
    measured = run.summary["memory_gib"]["median"] * 2**30
    assert parts["total"] == pytest.approx(measured, rel=0.01)


def test_the_parts_add_up_and_end_behind_the_last_backward():
    parts = rank_bytes(GPT_1_3B, Layout(micro_batch=16))
    assert parts["gradients"] == 0
    total = parts.pop("total")
    assert total == sum(parts.values())
    little = dict(GPT_1_3B, sequence=1)
    parts = rank_bytes(little, Layout())
    assert parts["gradients"] > 0
    assert parts["layers"] == parts["logits"] == 0


def test_gpipe_keeps_every_micro_batch_and_1f1b_one_a_stage():
    def kept(schedule, stage):
        spread = Layout(
            pp=4, micro_batch=2, num_microbatches=8, schedule=schedule
        )
        return activation_bytes(GPT_1_3B, spread, stage)

    for stage in range(4):
        assert (
            kept("gpipe", stage)["layers"] * (4 - stage)
            == 8 * (kept("1f1b", stage)["layers"])
        )
    assert kept("gpipe", 3)["logits"] == 8 * kept("1f1b", 3)["logits"]
    assert kept("1f1b", 0)["logits"] == 0


def test_sequence_parallelism_divides_every_activation():
    spread = Layout(tp=4, micro_batch=2)
    whole = layer_bytes(GPT_1_3B, Layout(micro_batch=2))
    tensor = layer_bytes(GPT_1_3B, spread)
    both = layer_bytes(GPT_1_3B, spread.replace(sequence_parallel=True))
    assert 4 * both == whole
    unit = 2 * 1024 * 2048
    logarithms = 4 * 2 * 16 * 1024 // 4
    statistics = 2 * 1024 * 8
    assert tensor - logarithms - statistics == unit * (8 + 24 // 4)


@pytest.mark.parametrize(
    ("p", "v", "gib"), [(2, 2, 8.509), (4, 2, 10.261), (4, 3, 9.510)]
)
def test_interleaved_chunks_of_unequal_size_at_their_peak(p, v, gib):
    layout = Layout(
        pp=p,
        schedule="interleaved",
        virtual_stages=v,
        micro_batch=4,
        num_microbatches=8,
    )
    kept = activation_bytes(GPT_1_3B, layout)
    assert kept["layers"] / 2**30 == pytest.approx(gib, abs=5e-4)


SCHEDULES = [
    (name, p, m, v)
    for p in (2, 3, 4)
    for m in (p, 2 * p, 3 * p)
    for name, v in [("gpipe", 1), ("1f1b", 1), ("eager-1f1b", 1)]
    + [("interleaved", v) for v in (2, 3)]
]


@pytest.mark.parametrize(("name", "p", "m", "v"), SCHEDULES)
@pytest.mark.parametrize("seed", range(3))
def test_the_peak_equals_a_walk_through_the_schedule(name, p, m, v, seed):
    """Whatever the cut: each operation of `make_schedule` in its order."""
    draw = random.Random(seed)
    cut = tuple(draw.randint(1, 6) for _ in range(p * v))
    model = {**GPT_1_3B, "layers": sum(cut)}
    layout = Layout(
        pp=p,
        schedule=name,
        virtual_stages=v,
        num_microbatches=m,
        micro_batch=draw.choice([1, 4]),
        cut=cut,
    )
    of_layer, of_head = layer_bytes(model, layout), head_bytes(model, layout)
    head, stage = (
        head_workspace(model, layout),
        stage_workspace(model, layout),
    )
    for rank, operations in enumerate(make_schedule(name, p, m, v)):
        held, peak = 0, 0
        for operation in operations:
            index = operation.chunk * p + rank
            last = index == p * v - 1
            size = cut[index] * of_layer + (of_head if last else 0)
            if operation.kind == "B":
                peak = max(peak, held + (head if last else stage))
            held += size if operation.kind == "F" else -size
        assert held == 0
        assert sum(activation_bytes(model, layout, rank).values()) == peak


def test_the_largest_micro_batch_of_interleaved_stages_fits():
    """By the walk of the test above; a shared-out count promised more."""
    layout = Layout(
        pp=4, schedule="interleaved", virtual_stages=3, num_microbatches=8
    )
    capacity = 40 * 2**30
    largest = largest_micro_batch(GPT_1_3B, layout, capacity, reserve=0)

    def needs(size):
        spread = layout.replace(micro_batch=size)
        states = sum(state_bytes(GPT_1_3B, spread).values())
        layers = 9.510 / 4 * size * 2**30
        workspace = stage_workspace(GPT_1_3B, spread)
        return states + layers + workspace + LIBRARY

    assert needs(largest) < capacity * 1.001 < needs(largest + 1)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    largest = largest_micro_batch(GPT_1_3B, Layout(), H200)
    assert fits(GPT_1_3B, Layout(micro_batch=largest), H200)
    assert not fits(GPT_1_3B, Layout(micro_batch=largest + 1), H200)
    assert largest_micro_batch(GPT_1_3B, Layout(), 2**30) == 0


def test_the_reserve_is_kept_to_the_byte():
    layout = Layout(micro_batch=4, num_microbatches=2)
    needed = rank_bytes(GPT_1_3B, layout)["total"]
    assert fits(GPT_1_3B, layout, needed + 2 * 2**30)
    assert not fits(GPT_1_3B, layout, needed + 2 * 2**30 - 1)
    assert fits(GPT_1_3B, layout, needed, reserve=0)
    # Every stage must fit, not the first alone.
    staged = Layout(pp=2, micro_batch=8, num_microbatches=2, cut=(4, 20))
    largest, parts = largest_stage(GPT_1_3B, staged)
    assert largest == 1
    assert not fits(GPT_1_3B, staged, parts["total"] - 1, reserve=0)


def test_ten_billion_parameters_need_two_devices():
    model = asdict(CONFIGS["gpt-10b"])
    assert not fits(model, Layout(), H200)
    assert fits(model, Layout(tp=2), H200)
    spread = Layout(pp=2, num_microbatches=4)
    assert fits(model, spread, H200)
    stage, parts = largest_stage(model, spread)
    assert parts["total"] == max(
        rank_bytes(model, spread, one)["total"] for one in range(2)
    )
    assert parts == rank_bytes(model, spread, stage)


def test_a_tensor_parallel_head_keeps_narrow_logits_compiled_or_not():
    """The sum of the rows that count, which compiled it keeps, apart."""
    both = [
        head_bytes(GPT_1_3B, Layout(tp=2), compiled=compiled)
        for compiled in (True, False)
    ]
    assert both[0] - both[1] == 4
