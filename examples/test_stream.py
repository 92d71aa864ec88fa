"""Any engine at all: a function that yields its tokens as they come is a target.

Here it is a toy that takes a millisecond per prompt token to prefill and two per token to decode.
"""

import time

from pytest_llmperf import llm_perf, stream, tpot_ms, ttft_ms


def toy_engine(prompt_ids, output_tokens):
    time.sleep(0.001 * len(prompt_ids))
    for position in range(output_tokens):
        time.sleep(0.002)
        yield prompt_ids[position % len(prompt_ids)]


@llm_perf(ttft_ms > 10, ttft_ms < 500, tpot_ms >= 2, tpot_ms < 100, model=stream(toy_engine), prompt_tokens=10)
def test_toy_engine(llm):
    """Limits in both directions bracket what is known about the toy; the unusual ones are noted."""
    llm.measure()
