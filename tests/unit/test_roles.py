"""The table that says what part an operator plays, against what real models call."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.measure import profile_of
from pytest_llmperf.model import Workload
from pytest_llmperf.roles import PATTERNS, Role, role_of
from pytest_llmperf.targets import LoadOptions, resolve

SMALL = "num_hidden_layers=2&hidden_size=32&vocab_size=100"
HEADS = f"{SMALL}&intermediate_size=64&num_attention_heads=4&num_key_value_heads=2"
MODELS = {
    "gpt2": "random:gpt2?n_layer=2&n_embd=32&n_head=4&vocab_size=100",
    "llama": f"random:llama?{HEADS}",
    "mixtral": f"random:mixtral?{HEADS}&num_local_experts=4",
    "mamba": f"random:mamba?{SMALL}&state_size=8",
}


@pytest.mark.filterwarnings("ignore")  # mamba's own, on its missing kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_every_operator_that_a_real_model_calls_has_a_role(model: str, dtype: str) -> None:
    target = resolve(MODELS[model]).load(LoadOptions(device="cpu", dtype=dtype))
    profile = profile_of(target, Workload(prompt_tokens=16, output_tokens=4, batch_size=2), threads=1)
    operators = [*profile.prefill.operators, *profile.decode.operators]
    assert len(operators) > 40
    assert [row.name for row in operators if row.role is Role.OTHER] == []
    assert {row.role for row in operators} == {Role.COMPUTE, Role.ELEMENTWISE, Role.OVERHEAD}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            Role.COMPUTE,
            "aten::addmm aten::mm aten::bmm aten::linear aten::matmul aten::scaled_dot_product_attention "
            "aten::_scaled_dot_product_flash_attention aten::_scaled_dot_product_efficient_attention "
            "aten::_scaled_dot_product_cudnn_attention aten::_flash_attention_forward aten::convolution aten::conv1d "
            "aten::cudnn_convolution aten::_grouped_mm aten::_scaled_grouped_mm aten::_scaled_mm aten::_int_mm "
            "aten::_weight_int4pack_mm_for_cpu aten::_weight_int8pack_mm quantized::linear quantized::linear_relu "
            "quantized::linear_dynamic onednn::qlinear_pointwise mkldnn::_linear_pointwise "
            "bitsandbytes::gemv_4bit flash_attn::_flash_attn_forward triton_tem_fused_mm_3",
        ),
        (
            Role.OVERHEAD,
            "aten::_local_scalar_dense aten::item aten::cat aten::copy_ aten::to aten::_to_copy aten::index "
            "aten::index_put_ aten::masked_fill_ aten::where aten::view aten::transpose aten::slice aten::empty "
            "aten::embedding cudaLaunchKernel cudaStreamSynchronize cudaDeviceSynchronize cuLaunchKernel "
            "cudaMemcpyAsync hipLaunchKernel detach_ aten::__and__ aten::logical_and aten::expand "
            "prims::convert_element_type TorchDynamo?Cache?Lookup Torch-Compiled?Region:?0/0",
        ),
        (
            Role.ELEMENTWISE,
            "aten::add aten::add_ aten::mul aten::silu aten::gelu aten::native_layer_norm aten::_fused_rms_norm "
            "aten::_softmax aten::rsqrt aten::argmax aten::sum aten::topk aten::exp aten::cos "
            "triton_poi_fused_add_0 triton_red_fused_mean_1 ##?Call?CompiledFxGraph?f5am5iddd?##",
        ),
        (Role.OTHER, "my_library::frobnicate aten::frobnicate ProfilerStep#1 forward"),
    ],
    ids=lambda value: value.value if isinstance(value, Role) else "",
)
def test_operators_are_sorted_by_what_they_do(role: Role, names: str) -> None:
    """A `?` stands for a space in a name."""
    assert {name: role_of(name.replace("?", " ")) for name in names.split()} == dict.fromkeys(names.split(), role)


def test_each_family_is_written_once() -> None:
    families = [family for families in PATTERNS.values() for family in families]
    assert len(families) == len(set(families))
    patterns = " ".join(text for families in PATTERNS.values() for text in families.values()).split()
    assert len(patterns) == len(set(patterns))


def test_the_documented_table_is_the_one_that_is_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "profile.md").read_text(encoding="utf-8")
    rows = [
        f"| {role.value} | {family} | `{patterns}` |"
        for role, families in PATTERNS.items()
        for family, patterns in families.items()
    ]
    assert "\n".join(rows) + "\n" in page
