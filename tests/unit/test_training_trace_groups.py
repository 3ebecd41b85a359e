"""Which group of kernels a name belongs to."""

import pytest

from workshop.profiling.groups import group_of


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
