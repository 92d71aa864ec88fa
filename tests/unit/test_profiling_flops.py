"""FLOPs and bytes of weights, against formulas written out from each model's config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pytest_llmperf.model import Unknown, Work, Workload
from pytest_llmperf.profiling import flops
from pytest_llmperf.profiling.flops import Counted, work
from pytest_llmperf.targets import LoadOptions, Target, resolve, stream
from tests.fakes import TINY
from tests.profiles import loaded

PROMPT, OUTPUT = 8, 5
WORKLOAD = Workload(PROMPT, OUTPUT)
HIDDEN, INNER, HEADS, VOCABULARY, LAYERS = 64, 128, 4, 500, 2
SIZES = (
    f"num_hidden_layers={LAYERS}&hidden_size={HIDDEN}&intermediate_size={INNER}&num_attention_heads={HEADS}"
    f"&vocab_size={VOCABULARY}"
)
LLAMA = f"random:llama?{SIZES}&num_key_value_heads=2"
MIXTRAL = f"random:mixtral?{SIZES}&num_key_value_heads=2&num_local_experts=4"
FLOAT = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def counted(target: Target, workload: Workload = WORKLOAD) -> Counted:
    return work(target, target.request(workload, 0))


def of_stream(step: Callable[[], object], tokens: int = 3) -> Counted:
    def each_token(prompt, output_tokens):
        for _ in range(output_tokens):
            step()
            yield 0

    return counted(stream(each_token).load(LoadOptions()), Workload(4, tokens))


@dataclass(frozen=True)
class Architecture:
    """Of one layer and one token.

    Args:
        products: multiply-adds of its linear layers.
        width: of all heads together, where queries meet keys.
    """

    target: str
    products: int
    width: int = HIDDEN

    def flops(self, queries: int, keys: int) -> int:
        """Of a forward pass in which so many tokens are new, and logits are made for the last of them alone."""
        attention = 2 * 2 * queries * keys * self.width  # scores, and the sum of values
        layer = 2 * queries * self.products + attention
        return LAYERS * layer + 2 * HIDDEN * VOCABULARY


def _attention_products(heads: int, kv_heads: int, head_dim: int) -> int:
    return HIDDEN * head_dim * (heads + 2 * kv_heads) + heads * head_dim * HIDDEN


ARCHITECTURES = {
    "gpt2": Architecture(TINY, HIDDEN * 3 * HIDDEN + HIDDEN * HIDDEN + 2 * HIDDEN * 4 * HIDDEN),
    "llama": Architecture(LLAMA, _attention_products(4, 2, 16) + 3 * HIDDEN * INNER),
    "qwen3": Architecture(
        f"random:qwen3?{SIZES}&num_key_value_heads=2&head_dim=32",
        _attention_products(4, 2, 32) + 3 * HIDDEN * INNER,
        width=4 * 32,
    ),
    "mixtral": Architecture(
        MIXTRAL,
        _attention_products(4, 2, 16) + HIDDEN * 4 + 2 * 3 * HIDDEN * INNER,  # a router over 4 experts, of which 2 work
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_flops_are_those_of_the_formulas_of_the_architecture(name: str) -> None:
    of = ARCHITECTURES[name]
    seen = counted(loaded(of.target))
    assert seen.prefill.flops == of.flops(PROMPT, PROMPT)
    by_step = tuple(of.flops(1, PROMPT + step) for step in range(1, OUTPUT))
    assert seen.flops_by_step == by_step
    assert seen.decode.flops == sum(by_step) / len(by_step)


def test_a_state_space_model_works_as_much_at_each_step() -> None:
    inner, state, rank = 2 * HIDDEN, 8, HIDDEN // 16
    seen = counted(loaded(f"random:mamba?num_hidden_layers=2&hidden_size={HIDDEN}&vocab_size=500&state_size={state}"))
    projections = HIDDEN * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * HIDDEN
    states = 2 * inner * state  # the token into the state, and the state into what is given on
    step = LAYERS * 2 * (projections + states) + 2 * HIDDEN * VOCABULARY
    assert seen.flops_by_step == (step,) * (OUTPUT - 1)


@pytest.mark.filterwarnings("ignore")  # of torch, for what it finds slow or old in flex_attention
@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_another_kernel_of_attention_is_the_same_work(implementation: str) -> None:
    fused = counted(loaded(LLAMA, attn_implementation="sdpa"))
    assert counted(loaded(LLAMA, attn_implementation=implementation)) == fused


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_another_kernel_of_experts_is_the_same_work(implementation: str) -> None:
    target = loaded(MIXTRAL)
    if not hasattr(target.model, "set_experts_implementation"):
        pytest.skip("this transformers has one implementation of experts")
    target.model.set_experts_implementation("eager")
    loop = counted(target)
    target.model.set_experts_implementation(implementation)
    assert counted(target) == loop


def test_a_static_cache_is_attended_to_in_its_whole_length() -> None:
    seen = counted(loaded(LLAMA, cache_implementation="static"))
    assert seen.flops_by_step == (ARCHITECTURES["llama"].flops(1, PROMPT + OUTPUT - 1),) * (OUTPUT - 1)


def test_a_sliding_window_ends_the_growth() -> None:
    window = 4
    seen = counted(loaded(f"random:mistral?{SIZES}&num_key_value_heads=2&sliding_window={window}"))
    assert seen.flops_by_step == (ARCHITECTURES["llama"].flops(1, window),) * (OUTPUT - 1)


def test_work_is_of_the_whole_batch() -> None:
    one, two = (counted(loaded(LLAMA), Workload(PROMPT, OUTPUT, size)) for size in (1, 2))
    assert two.prefill.flops == 2 * one.prefill.flops
    assert two.flops_by_step == tuple(2 * flops for flops in one.flops_by_step)


def test_without_a_cache_every_step_does_the_prefill_again_and_more() -> None:
    target = loaded(LLAMA)
    target.model.generation_config.use_cache = False
    seen = counted(target)
    forward = ARCHITECTURES["llama"].flops
    assert seen.prefill.flops == forward(PROMPT, PROMPT)
    assert seen.flops_by_step == tuple(forward(PROMPT + step, PROMPT + step) for step in range(1, OUTPUT))


def test_logits_of_the_whole_prompt_are_work() -> None:
    target = loaded(LLAMA)
    lean = counted(target)
    forward = type(target.model).forward

    def of_all(self, *args, logits_to_keep=0, **kwargs):
        return forward(self, *args, **kwargs)

    target.model.forward = of_all.__get__(target.model)
    wasteful = counted(target)
    assert wasteful.prefill.flops == lean.prefill.flops + 2 * HIDDEN * VOCABULARY * (PROMPT - 1)
    assert wasteful.decode == lean.decode


# Weights


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def test_tied_weights_are_read_whole_and_once_and_of_positions_only_rows() -> None:
    target = loaded(TINY)
    model = target.model
    rows = HIDDEN * FLOAT  # of each embedding, per token
    all_but_positions = _bytes(model) - model.transformer.wpe.weight.numel() * FLOAT
    seen = counted(target)
    assert seen.decode.weight_bytes == all_but_positions + 2 * rows
    assert seen.prefill.weight_bytes == all_but_positions + PROMPT * 2 * rows


def test_of_an_embedding_that_is_not_tied_only_rows_are_read() -> None:
    target = loaded(LLAMA)
    model = target.model
    frequencies = model.model.rotary_emb.inv_freq.numel() * FLOAT
    all_but_words = _bytes(model) - VOCABULARY * HIDDEN * FLOAT + frequencies
    seen = counted(target)
    assert seen.decode.weight_bytes == all_but_words + HIDDEN * FLOAT
    assert seen.prefill.weight_bytes == all_but_words + PROMPT * HIDDEN * FLOAT


def test_of_experts_those_are_read_that_work() -> None:
    target = loaded(MIXTRAL)
    model = target.model
    idle = LAYERS * 2 * 3 * HIDDEN * INNER * FLOAT  # 2 of 4 in each layer
    frequencies = model.model.rotary_emb.inv_freq.numel() * FLOAT
    all_but_words = _bytes(model) - VOCABULARY * HIDDEN * FLOAT + frequencies
    assert counted(target).decode.weight_bytes == all_but_words - idle + HIDDEN * FLOAT


def test_half_the_precision_is_half_the_bytes_and_the_same_work() -> None:
    full = counted(loaded(LLAMA))
    half = counted(resolve(LLAMA).load(LoadOptions(device="cpu", dtype="bfloat16")))
    assert half.flops_by_step == full.flops_by_step
    frequencies = 8 * FLOAT  # stay in full precision
    assert half.decode.weight_bytes - frequencies == (full.decode.weight_bytes - frequencies) / 2


# Quantized


def _quantized() -> torch.nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(32, 16)), {torch.nn.Linear})


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.filterwarnings("ignore:.*will be removed")
def test_int8_products_are_counted_like_others() -> None:
    model = _quantized()
    assert of_stream(lambda: model(torch.zeros(3, 32))).flops_by_step == (2 * 3 * 32 * 16,) * 2


def test_packed_int8_weights_are_counted_like_others() -> None:
    rows = torch.zeros(3, 32, dtype=torch.bfloat16)
    weights, scales = torch.zeros(16, 32, dtype=torch.int8), torch.ones(16, dtype=torch.bfloat16)
    seen = of_stream(lambda: torch._weight_int8pack_mm(rows, weights, scales))
    assert seen.flops_by_step == (2 * 3 * 32 * 16,) * 2


def test_a_matrix_times_a_vector_is_counted() -> None:
    matrix, vector = torch.zeros(16, 32), torch.zeros(32)
    assert of_stream(lambda: matrix @ vector).flops_by_step == (2 * 16 * 32,) * 2
    assert of_stream(lambda: torch.addmv(torch.zeros(16), matrix, vector)).flops_by_step == (2 * 16 * 32,) * 2
    assert of_stream(lambda: vector @ vector).flops_by_step == (2 * 32,) * 2


# Streams, and what cannot be counted


def _why(seen: Counted) -> str:
    assert isinstance(seen.decode.flops, Unknown)
    assert seen.prefill.flops == seen.decode.flops
    assert seen.flops_by_step == ()
    return seen.decode.flops.reason


def test_a_model_that_a_stream_runs_in_this_thread_is_counted() -> None:
    layer = torch.nn.Linear(8, 8)

    @torch.inference_mode()
    def step() -> None:
        layer(torch.zeros(1, 8))

    seen = of_stream(step)
    assert seen.flops_by_step == (2 * 8 * 8,) * 2
    assert seen.decode.weight_bytes == Unknown("the model's weights are out of sight")


def test_a_stream_that_runs_nothing_of_torch_is_unknown_and_not_zero() -> None:
    assert _why(of_stream(lambda: None)).startswith("no operator of torch was seen")


def test_a_stream_without_a_product_is_unknown_and_not_zero() -> None:
    assert _why(of_stream(lambda: torch.zeros(2) + 1)) == "no matrix product was seen in this thread"


def test_a_stream_that_makes_all_tokens_at_once_has_no_decode_to_count_and_that_is_not_zero() -> None:
    def at_once(prompt, output_tokens):
        yield from [torch.ones(2, 2) @ torch.ones(2, 2) for _ in range(output_tokens)]

    assert _why(counted(stream(at_once).load(LoadOptions()), Workload(4, 3))).startswith("nothing was seen between")


def test_a_stream_that_never_ends_is_left_at_once() -> None:
    def endless(prompt, output_tokens):
        while True:
            yield torch.zeros(2, 2) @ torch.zeros(2, 2)

    assert "not one per token" in _why(counted(stream(endless).load(LoadOptions()), Workload(4, 3)))


def test_one_token_alone_has_work_of_its_prefill_and_none_of_decode() -> None:
    seen = counted(loaded(LLAMA), Workload(PROMPT, 1))
    assert seen.prefill.flops == ARCHITECTURES["llama"].flops(PROMPT, PROMPT)
    assert seen.decode == Work(*2 * [Unknown("a step of decode needs at least 2 output tokens")])


@torch.library.custom_op("llmperf_tests::product", mutates_args=())
def _product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one @ other


@torch.library.custom_op("llmperf_tests::norm", mutates_args=())
def _norm(one: torch.Tensor) -> torch.Tensor:
    return one / one.norm()


def test_an_operator_of_another_library_that_takes_two_tensors_may_do_anything() -> None:
    square = torch.ones(2, 2)
    assert _why(of_stream(lambda: _product(square, square))) == "what llmperf_tests::product does is not known"


def test_an_operator_of_another_library_that_takes_one_tensor_makes_no_product() -> None:
    square = torch.ones(2, 2)
    assert of_stream(lambda: _norm(square) @ square).flops_by_step == (2 * 2 * 2 * 2,) * 2


def test_an_operator_that_takes_functions_may_do_anything() -> None:
    def step() -> None:
        torch.cond(torch.tensor(True), lambda x: x @ x, lambda x: x + x, (torch.ones(2, 2),))

    assert _why(of_stream(step)) == "what cond does is not known"


@pytest.mark.parametrize("how", ["prompt_lookup_num_tokens", "assistant_model"])
def test_assisted_decoding_has_no_step_per_token(how: str) -> None:
    target = loaded(TINY)
    if how == "assistant_model":
        generate, assistant = target.model.generate, loaded(TINY.replace("n_layer=2", "n_layer=1")).model

        def assisted(*args, **kwargs):
            return generate(*args, assistant_model=assistant, **kwargs)

        target.model.generate = assisted
    else:
        target.model.generation_config.prompt_lookup_num_tokens = 3
    assert "not one per token (is it assisted decoding?)" in _why(counted(target, Workload(PROMPT, 12)))


# The same every time


def test_two_counts_are_equal() -> None:
    target = loaded(MIXTRAL)
    assert counted(target) == counted(target)


def test_a_model_that_ends_its_own_inference_mode_is_counted() -> None:
    target = loaded(LLAMA)
    expected = counted(target)
    target.model.generate = torch.inference_mode()(target.model.generate)
    assert counted(target) == expected


def test_every_formula_is_of_an_operator_that_this_torch_has_or_names_none() -> None:
    formulas = flops._formulas()
    assert torch.ops.aten._scaled_dot_product_flash_attention_for_cpu in formulas
    assert torch.ops.aten._grouped_mm in formulas
    assert torch.ops.aten.mm in formulas
    assert not [operator for operator in formulas if operator is None]
