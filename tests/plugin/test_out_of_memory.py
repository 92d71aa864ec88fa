"""A test that runs out of memory fails with where it went, and takes nothing of it to the tests after it."""

from __future__ import annotations

import pytest

from tests.plugin.suites import HEAD

FULL = """
import gc
import weakref
import torch

held = []

@pytest.fixture
def full(llm):
    generate = llm.model.generate
    def serve(**arguments):
        big = torch.ones(1000)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")
    llm.model.generate = serve
    yield llm
    llm.model.generate = generate

@pytest.fixture
def nothing_held():
    assert held
    assert [tensor() for tensor in held if tensor() is not None] == []

@llm_perf(ttft_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=4)
class TestModel:
    def test_full(self, full):
        full.measure()

    def test_after_it(self, nothing_held, llm):
        llm.measure()
"""


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_the_tests_after_it_find_its_memory_free(suite: pytest.Pytester, verbosity: str) -> None:
    suite.makepyfile(test_model=HEAD + FULL)
    result = suite.runpytest(verbosity)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*random:gpt2* ran out of memory on cpu serving 1 × (8 + 4) tokens; use a smaller batch_size or shorter *",
            "*  cpu: * of * free; own: * resident",
            "*  what failed: an allocation of 20.00 GiB",
            "*  weights: 580.0 KiB",
            "*  cache of 1 × 12 tokens: up to 12.0 KiB",
        ]
    )
