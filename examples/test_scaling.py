"""How a metric grows with the prompt, as something to assert.

Work and bytes are counted and hold on any machine; the bounds on time are wide enough for a busy one.
"""

from pytest_llmperf import llm_perf, random_weights

MODEL = random_weights("llama", num_hidden_layers=4, hidden_size=256, intermediate_size=688, vocab_size=8_000)


@llm_perf(model=MODEL, output_tokens=8)
def test_a_longer_prompt_costs_prefill_and_not_decode(llm):
    s = llm.scaling(prompt_tokens=[64, 128, 256])
    assert s.prefill_flops.exponent < 1.2  # attention, which grows with the square, is a small part here
    assert s.flops_per_token.growth < 1.2  # were the cache not used, every token would cost a prefill
    assert s.kv_bytes_per_token.growth == 1
    assert s.tpot_ms.growth < 3
    assert s.ttft_ms.exponent < s.prefill_flops.exponent + 1
