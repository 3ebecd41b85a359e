"""The workshop's GPT as stages of megatron-core's GPTModel.

Its local layer spec is made of its own layers alone: no Transformer Engine,
no Apex.  Two of its parts are replaced.  Its LayerNorm without Apex refuses
sequence parallelism, so ours marks its parameters as its own would; and
`attention="flash"` puts torch's fused attention in the place of a matrix
product, a softmax and a matrix product.
"""

from functools import partial

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from torch import Tensor, nn
from torch.nn import functional

from workshop.layout import Layout
from workshop.models.gpt import GPTConfig
from workshop.parallel.pipeline.stages import cut

ATTENTIONS = ("local", "flash")


def contents(config: GPTConfig, stages: int, ranks: int) -> list[list[str]]:
    """Return what each stage of a pipeline has, in megatron-core's words.

    The cut is ours, by predicted cost.

    Raises:
        UserError: there are more stages than layers.
    """
    blocks = cut(config, stages, ranks=ranks)
    contents = [["decoder"] * len(numbers) for numbers in blocks]
    contents[0].insert(0, "embedding")
    contents[-1].append("loss")
    return contents


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, with megatron-core's mark for sequence parallelism.

    The mark makes it sum the parameters' gradients over the ranks, each of
    which has seen another part of the sequence.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5
    ) -> None:
        super().__init__(hidden_size, eps)
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel


class FlashAttention(nn.Module):
    """Causal attention by torch's scaled_dot_product_attention.

    It fits where megatron-core's DotProductAttention fits; the arguments
    that it does not name are those of features which are not used here.
    """

    def __init__(self, **unused: object) -> None:
        super().__init__()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *masks: object,
        **unused: object,
    ) -> Tensor:
        """Map three (s, b, a, d) to (s, b, a · d)."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.permute(2, 0, 1, 3).flatten(2)


def transformer_config(
    config: GPTConfig,
    layout: Layout,
    dtype: torch.dtype,
    fused: bool,
) -> TransformerConfig:
    """Return our sizes as megatron-core's configuration.

    Args:
        config: the model.
        layout: where its parts go.
        dtype: of weights and of messages between stages.
        fused: let its `jit_fuser`, torch.compile, fuse bias and GELU, bias
            and residual, and the cross-entropy.
    """
    pipeline, virtual = layout.pp, layout.virtual_stages
    interleaved = virtual > 1
    # Fused, it reads "gelu" as the tanh form, which is ours; not fused, as
    # the exact one.
    tanh_gelu = partial(functional.gelu, approximate="tanh")
    return TransformerConfig(
        num_layers=config.layers,
        hidden_size=config.hidden,
        num_attention_heads=config.heads,
        hidden_dropout=config.dropout,
        attention_dropout=0.0,
        add_bias_linear=config.bias,
        activation_func=functional.gelu if fused else tanh_gelu,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual if interleaved else None,
        pipeline_model_parallel_layout=(
            contents(config, pipeline * virtual, pipeline)
            if pipeline > 1
            else None
        ),
        sequence_parallel=layout.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        attention_softmax_in_fp32=False,
        bias_activation_fusion=fused,
        bias_dropout_fusion=fused,
        # Its gradient is rounded to bfloat16 whatever the weights are.
        cross_entropy_loss_fusion=fused and dtype == torch.bfloat16,
        # These three need Apex or its own CUDA extension.
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        # Ours replace its first weights, but drawing them also marks which
        # are cut; the norm of the gradient counts the rest only once.
        perform_initialization=True,
        # With two stages its default messages mix up chunks that
        # interleave, silently.  The others are still being sent when it
        # would free what they send.
        deallocate_pipeline_outputs=not interleaved,
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        batch_p2p_sync=False,  # a guard against a race in torch before 2.0
    )


def build_stages(
    config: GPTConfig,
    layout: Layout,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "local",
    fused: bool = True,
) -> tuple[TransformerConfig, list[nn.Module]]:
    """Return megatron-core's configuration and this rank's chunks.

    Its parallel state and random streams must be set up.
    """
    megatron = transformer_config(config, layout, dtype, fused)
    stages = []
    for number in range(layout.virtual_stages):
        virtual = number if layout.virtual_stages > 1 else None
        layer = get_gpt_layer_local_spec()
        layer.submodules.input_layernorm = LayerNorm
        layer.submodules.pre_mlp_layernorm = LayerNorm
        if attention == "flash":
            inner = layer.submodules.self_attention.submodules
            inner.core_attention = FlashAttention
        count = get_num_layers_to_build(megatron, virtual)
        first = parallel_state.is_pipeline_first_stage(
            ignore_virtual=False, vp_stage=virtual
        )
        last = parallel_state.is_pipeline_last_stage(
            ignore_virtual=False, vp_stage=virtual
        )
        stage = GPTModel(
            megatron,
            TransformerBlockSubmodules([layer] * count, LayerNorm),
            config.vocabulary,
            config.sequence,
            pre_process=first,
            post_process=last,
            share_embeddings_and_output_weights=True,
            vp_stage=virtual,
        ).to(device)
        if dtype == torch.bfloat16:
            stage = Float16Module(megatron, stage)
        stages.append(stage.to(dtype))
    return megatron, stages
