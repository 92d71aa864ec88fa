"""Limits hold or break inside the call phase of an ordinary test."""

from __future__ import annotations

import pytest

from tests.fakes import TINY

HEAD = f"from pytest_llmperf import *\nimport pytest\nTINY = {TINY!r}\n"


def test_a_limit_that_holds_passes_the_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(ttft_ms < 60_000, tpot_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    m = llm.measure()
    assert m.tpot_ms < m.latency_ms
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= llmperf =*", "*test_chat*8→4*OK*", "1 measured: 1 ok"])


def test_a_limit_that_breaks_fails_the_test_and_names_the_figures(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(ttft_ms < 0.0001, tpot_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["BROKEN ttft_ms * ms (limit < 0.0001)", "*ttft_ms*< 0.0001*BROKEN*", "*tpot_ms*< 60000*OK*"]
    )
