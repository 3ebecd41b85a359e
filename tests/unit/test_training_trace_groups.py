"""Which group of kernels a name belongs to."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from workshop.profiling.groups import UNGROUPED, group_of, kernel_group

RUNS = Path(__file__).parents[2] / "book" / "runs"
TRACES = sorted(RUNS.rglob("artifacts/**/trace*.json.gz"))
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


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
        ("void at::native::(anonymous namespace)::GammaBetaBackward",
         "LayerNorm"),
        ("void at::native::(anonymous namespace)::cuComputePartGradGammaBeta",
         "LayerNorm"),
        ("void (anonymous namespace)::elementwise_kernel_with_index",
         None),
        ("triton_poi_fused_gelu_view_2", None),
        ("aten::add", None),
        ("triton_poi_fused_comment", None),
    ],
)  # fmt: skip
def test_the_name_of_a_kernel_tells_its_group(name, group):
    assert group_of(name) == group


def test_there_are_traces_of_gpus() -> None:
    assert len(TRACES) >= 8


@pytest.mark.parametrize(
    "trace", TRACES, ids=lambda p: p.relative_to(RUNS).as_posix()
)
def test_little_of_a_recorded_trace_belongs_to_no_group(trace) -> None:
    """Real names of kernels, ours and megatron-core's, by their time."""
    times: Counter[str] = Counter()
    for event in json.loads(gzip.decompress(trace.read_bytes()))[
        "traceEvents"
    ]:
        if event.get("cat") in ON_GPU:
            times[event["name"]] += event["dur"]
    unknown = {
        name: time
        for name, time in times.items()
        if kernel_group(name) == UNGROUPED
    }
    assert sum(times.values()) > 0
    assert sum(unknown.values()) < 0.02 * sum(times.values()), unknown
