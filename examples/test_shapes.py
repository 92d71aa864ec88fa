"""The four request shapes: long or short in, long or short out. Each stresses something else.

short-short: overhead · long-short: prefill · short-long: decode · long-long: everything.
"""

import pytest

from pytest_llmperf import llm_perf, random_weights, tpot_ms, ttft_ms
from pytest_llmperf.workloads import PRESETS

MODEL = random_weights("llama", num_hidden_layers=4, hidden_size=256, intermediate_size=688, vocab_size=8_000)


@llm_perf(ttft_ms < 5_000, tpot_ms < 500, model=MODEL)
@pytest.mark.parametrize("shape", PRESETS)
def test_shape(llm, shape):
    llm.measure(workload=shape)
