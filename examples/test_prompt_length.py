"""GPT-2 small (124 M parameters, random weights) with a short, a medium and a long prompt.

Speed and memory do not depend on what the weights say, so `random_weights` builds the architecture without
downloading anything. The limits are wide enough for a slow laptop: tighten them to what your machine does.
"""

from pytest_llmperf import cold_ttft_ms, llm_perf, peak_memory_mib, random_weights, tpot_ms, ttft_ms

pytestmark = llm_perf(tpot_ms < 2_000, model=random_weights("gpt2"), output_tokens=16)


@llm_perf(ttft_ms < 5_000, prompt_tokens=16)
def test_short_prompt(llm):
    llm.measure()


@llm_perf(ttft_ms < 10_000, prompt_tokens=128)
def test_medium_prompt(llm):
    llm.measure()


@llm_perf(ttft_ms < 40_000, peak_memory_mib < 1_000, prompt_tokens=512)
def test_long_prompt(llm):
    longest = llm.measure()
    # The model is in the session's cache by now, so this request was not the first it ever served.
    assert longest.cold_ttft_ms is None


@llm_perf(cold_ttft_ms < 30_000, prompt_tokens=16)
def test_cold_start(llm):
    """The very first request after a load is another matter than those after it, and another metric."""
    llm.load(random_weights("gpt2"), fresh=True)
    first = llm.measure()
    print(f"cold {first.cold_ttft_ms:.1f} ms, warm {first.ttft_ms:.1f} ms, load {first.load_s:.2f} s")
