"""Which group of kernels a name belongs to."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from workshop.paths import root
from workshop.profiling.events import GPU
from workshop.profiling.groups import (
    NAME_LENGTH,
    UNGROUPED,
    Share,
    group_of,
    kernel_group,
    top_kernels,
)

# Every kernel of over 0.1 % of the time in a trace of an H100 or H200, by
# how much it takes at most, with its group; names as long as traces keep.
KERNELS = [
    line.split("\t")
    for line in Path(__file__)
    .with_name("kernel_names.tsv")
    .read_text(encoding="utf-8")
    .splitlines()
]
TRACES = sorted((root() / "book" / "runs").glob("**/trace*.json.gz"))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN", "matrix products"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n", "matrix products"),
        ("aten::mm", "matrix products"),
        ("aten::baddbmm", "matrix products"),
        ("autograd::engine::evaluate_function: MmBackward0",
         "matrix products"),
        ("autograd::engine::evaluate_function: AddmmBackward0",
         "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16",
         "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("aten::scaled_dot_product_attention", "attention"),
        ("triton_per_fused_add_native_layer_norm_view_1", "LayerNorm"),
        ("autograd::engine::evaluate_function: NativeLayerNormBackward0",
         "LayerNorm"),
        ("void at::native::multi_tensor_apply_kernel<at::native>",
         "optimizer"),
        ("ncclDevKernel_SendRecv", "communication"),
        ("gloo:all_reduce", "communication"),
        ("Memcpy PtoP (Device -> Device)", "communication"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("Memset (Device)", "copies"),
        ("aten::copy_", "copies"),
        ("triton_poi_fused_gelu_view_2", None),
        ("aten::add", None),
        ("triton_poi_fused_comment", None),
    ],
)  # fmt: skip
def test_the_name_of_a_kernel_tells_its_group(name, group):
    assert group_of(name) == group


@pytest.mark.parametrize(("group", "name"), KERNELS)
def test_every_real_kernel_is_in_its_group(group, name):
    assert kernel_group(name) == group != UNGROUPED


@pytest.mark.parametrize(
    "name",
    [
        "void (anonymous namespace)::cuComputePartGradGammaBeta<float>",
        "void (anonymous namespace)::cuComputeGradGammaBeta<float>",
        "void (anonymous namespace)::GammaBetaBackwardSimpleCUDAKernel",
    ],
)
def test_the_gradients_of_a_norm_are_the_norm_s(name):
    assert kernel_group(name) == "LayerNorm"


def test_a_kernel_of_an_unknown_kind_is_ungrouped():
    assert kernel_group("void somebody::their_kernel<float>") == UNGROUPED


def test_no_recorded_trace_has_much_time_outside_the_groups():
    assert TRACES, "no traces in book/runs"
    for path in TRACES:
        events = json.loads(gzip.decompress(path.read_bytes()))
        times = Counter()
        for event in events["traceEvents"]:
            if event.get("cat") in GPU:
                times[event["name"]] += event["dur"]
        outside = {
            name: time / times.total()
            for name, time in times.items()
            if kernel_group(name) == UNGROUPED
        }
        assert sum(outside.values()) <= 0.02, (path, outside)


def test_kernels_are_told_apart_by_as_much_of_a_name_as_traces_keep():
    same = "void at::native::" + "x" * (NAME_LENGTH - 17)
    names = ("void at::native::a", "void at::native::b", same, same + "y")
    rows = top_kernels([Share(name, UNGROUPED, 1.0) for name in names])
    assert {row["name"]: row["count"] for row in rows} == {
        names[0]: 1, names[1]: 1, same: 2
    }  # fmt: skip
