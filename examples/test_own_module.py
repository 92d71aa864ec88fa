"""Your own `nn.Module`, measured as it is, and what a broken limit looks like.

Anything with transformers' `generate()` can be a target. This one sleeps 50 ms in every forward pass, so its
time per output token cannot be below that. The test is expected to fail; take the xfail away to see how.
"""

import time

import pytest

from pytest_llmperf import llm_perf, tpot_ms


@pytest.fixture
def sleepy_model():
    from transformers import GPT2Config, GPT2LMHeadModel

    class SleepyGPT2(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            time.sleep(0.050)
            return super().forward(*args, **kwargs)

    return SleepyGPT2(GPT2Config(n_layer=2, n_embd=128, n_head=4, vocab_size=1_000)).eval()


@pytest.mark.xfail(reason="sleeps 50 ms per token, and the limit is 40", strict=True)
@llm_perf(tpot_ms < 40, prompt_tokens=16, output_tokens=8)
def test_slow_module_is_caught(llm, sleepy_model):
    llm.load(sleepy_model)
    llm.measure()
