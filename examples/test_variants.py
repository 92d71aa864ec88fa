"""The same test, several variants: what each lever does to speed and memory, side by side in the report."""

import pytest
import torch

from pytest_llmperf import llm_perf, random_weights, variants

LLAMA = random_weights("llama", num_hidden_layers=4, hidden_size=256, intermediate_size=688, vocab_size=8_000)
pytestmark = llm_perf(model=LLAMA, prompt_tokens=64, output_tokens=16)


@variants(sdpa={}, eager={"load": {"attn_implementation": "eager"}})
def test_attention(llm, variant):
    llm.measure()


@variants(
    dynamic={},
    static={"load": {"cache_implementation": "static"}},
    off={"load": {"use_cache": False}},
)
def test_cache(llm, variant):
    measured = llm.measure()
    # Without a cache every step works through the whole context again.
    assert (measured.flops_per_token > 3e7) == (variant == "off")


@pytest.mark.filterwarnings("ignore:torch:")  # it recommends torchao, which the example does without
@variants(float32={}, bfloat16={"dtype": "bfloat16"}, int8={})
def test_precision(llm, variant):
    if variant == "int8":  # weights of linear layers in 8 bits, activations quantized as they come
        llm.load(torch.ao.quantization.quantize_dynamic(llm.model, {torch.nn.Linear}))
    llm.measure()


@variants(plain={}, lookup={"load": {"prompt_lookup_num_tokens": 3}})
def test_assisted_decoding(llm, variant):
    measured = llm.measure(output_tokens=32)
    # What repeats itself is guessed from the context, and several tokens are accepted in one step.
    assert (measured.tokens_per_step > 1) == (variant == "lookup")


@variants(one={}, eight={"batch_size": 8})
def test_batch(llm, variant):
    llm.measure()
