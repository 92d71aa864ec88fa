"""Limits hold or break inside the call phase of an ordinary test."""

from __future__ import annotations

import pytest

from tests.fakes import TINY

HEAD = f"""\
import pytest
from pytest_llmperf import *

TINY = {TINY!r}
ALWAYS = ttft_ms < 60_000
NEVER = ttft_ms < 1e-9


def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)


FAST = stream(fast)

"""


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
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= llmperf =*", "*ttft_ms*< 60000*OK*", "*tpot_ms*< 60000*OK*", "1 measured: 1 new"])


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


def test_a_broken_limit_is_told_without_a_traceback(suite: pytest.Pytester) -> None:
    suite.makepyfile(HEAD + "@llm_perf(NEVER, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "pytest_llmperf/" not in text
    assert "llm.measure()" not in text, "the body of the test explains nothing"


def test_in_ci_the_short_summary_says_it_in_a_line(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")  # where pytest does not cut what a failure says
    suite.makepyfile(HEAD + "@llm_perf(NEVER, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    out = suite.runpytest().stdout.str()
    [line, end] = out.partition("= short test summary info =")[2].splitlines()[1:]
    assert line.startswith("FAILED ")
    assert line.endswith(" (limit < 1e-09)")
    assert "1 failed" in end


def test_every_broken_limit_of_a_test_is_named(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(NEVER, itl_ms.p50 < 1e-9, latency_ms < 60_000, model=FAST)
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest()
    result.stdout.re_match_lines(
        [r"BROKEN ttft_ms \S+ ms \(limit < 1e-09\), BROKEN itl_ms.p50 \S+ ms \(limit < 1e-09\)$"]
    )


def test_a_failure_shows_the_limits_and_no_other_metric(suite: pytest.Pytester) -> None:
    suite.makepyfile(HEAD + "@llm_perf(NEVER, tpot_ms < 60_000, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    result.stdout.fnmatch_lines(
        ["test_*.py::test_chat", "  stream:fast · 128 → 32 tokens · batch 1 · cpu * · 3 rounds"]
    )
    failure = result.stdout.str().partition("BROKEN ttft_ms")[2].partition("= llmperf =")[0]
    assert "tpot_ms" in failure
    assert "latency_ms" not in failure


def test_limits_as_text_are_judged_like_expressions(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf("ttft_ms < 60000 ms", "itl_ms.max<=1e-9", model=FAST)
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"BROKEN itl_ms.max \S+ ms \(limit <= 1e-09\)$", r"\s+ttft_ms .* < 60000\s+OK.*"])


def test_two_limits_bracket_a_metric(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(ttft_ms > 1e-9, ttft_ms < 60_000, model=FAST)
def test_inside(llm):
    llm.measure()

@llm_perf(ttft_ms > 1e9, ttft_ms < 60_000, model=FAST)
def test_outside(llm):
    llm.measure()
"""
    )
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms * ms (limit > 1*)"])


def test_a_limit_in_the_unusual_direction_is_judged_and_noted(suite: pytest.Pytester) -> None:
    suite.makepyfile(HEAD + "@llm_perf(ttft_ms > 1e-9, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1)
    assert "a limit in the unusual direction: lower is better" in " ".join(result.stdout.str().split())


def test_a_limit_on_throughput_is_a_floor(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(output_tokens_per_s > 1e-3, model=FAST)
def test_fast_enough(llm):
    llm.measure()

@llm_perf(output_tokens_per_s > 1e15, model=FAST)
def test_too_slow(llm):
    llm.measure()
"""
    )
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1, failed=1)
    assert "unusual" not in result.stdout.str()


def test_a_limit_on_a_metric_that_was_not_measured_is_broken_and_says_why(suite: pytest.Pytester) -> None:
    suite.makepyfile(HEAD + "@llm_perf(peak_memory_mib < 1_000, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "BROKEN peak_memory_mib not measured (limit < 1000)",
            "*peak_memory_mib: not measured: a stream's model is out of sight",
        ]
    )


def test_a_percentile_without_enough_samples_is_inconclusive_and_does_not_fail(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD + "@llm_perf(ttft_ms.p99 < 60_000, model=FAST, rounds=3)\ndef test_chat(llm):\n    llm.measure()\n"
    )
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*ttft_ms.p99*< 60000*INCONCLUSIVE*", "*ttft_ms.p99: 3 samples, p99 needs 100*", "1 measured: 1 inconclusive"]
    )


def test_limits_given_in_the_body_are_judged(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(model=FAST)
@pytest.mark.parametrize("limits", [[NEVER], NEVER, "ttft_ms < 1e-9", ["tpot_ms < 1e9", "ttft_ms < 1e-9"]])
def test_chat(llm, limits):
    llm.measure(limits=limits)
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=4)
    assert result.stdout.str().count("BROKEN ttft_ms ") >= 4


def test_a_limit_given_in_the_body_replaces_the_marks_on_that_metric_and_statistic(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(NEVER, model=FAST)
def test_replaced(llm):
    llm.measure(limits=[ALWAYS])

@llm_perf(ttft_ms.max < 1e-9, model=FAST)
def test_not_replaced(llm):
    llm.measure(limits=[ALWAYS])
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms.max * ms (limit < 1e-09)"])


def test_a_wrong_limit_in_the_body_fails_the_test_with_the_fix(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(model=FAST)
def test_chat(llm):
    llm.measure(limits=["tfft_ms < 5"])
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["'tfft_ms < 5': no metric 'tfft_ms'; did you mean 'ttft_ms'?*"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_plain_assertions_on_metrics_work(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(model=FAST, output_tokens=4)
def test_true(llm):
    m = llm.measure()
    assert m.ttft_ms < 60_000 and m.itl_ms.p99 <= m.itl_ms.max
    assert len(m.itl_ms.samples) == 3 * len(m.rounds)

@llm_perf(model=FAST)
def test_false(llm):
    m = llm.measure()
    assert m.ttft_ms < 1e-9
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines([r">\s+assert m.ttft_ms < 1e-9", r"E\s+.*assert \S+ < 1e-09"])


def test_an_assertion_wins_over_a_broken_limit_and_the_table_is_still_there(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(NEVER, model=FAST)
def test_chat(llm):
    llm.measure()
    assert "answer" == "42"
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*AssertionError*", "*llmperf*", "*ttft_ms*< 1e-09*BROKEN*"])
    details = result.stdout.str().partition("= FAILURES =")[2].partition("= llmperf =")[0]
    assert "< 1e-09" in details, "the table belongs to the report of the test"


def test_an_exception_wins_over_limits_that_hold_and_the_table_is_still_there(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
@llm_perf(ALWAYS, model=FAST)
def test_chat(llm):
    llm.measure()
    raise RuntimeError("the answer was empty")
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    details = result.stdout.str().partition("= FAILURES =")[2].partition("= llmperf =")[0]
    assert "RuntimeError: the answer was empty" in details
    assert "latency_ms" in details


def test_limits_that_hold_do_not_hide_one_that_breaks_under_another_label(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_labels=HEAD
        + """
@llm_perf(ALWAYS, model=FAST)
def test_chat(llm):
    llm.measure("good")
    llm.measure("bad", limits=[NEVER])
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["test_labels.py::test_chat::bad", "*good*NEW*", "*bad*BROKEN*", "2 measured: 1 broken, 1 new"]
    )


def test_smoke_judges_no_limit_and_measures_one_round(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
CALLS = []

def counted(prompt_ids, output_tokens):
    CALLS.append(1)
    yield from range(output_tokens)

@llm_perf(NEVER, model=stream(counted))
def test_chat(llm):
    m = llm.measure()
    assert len(CALLS) == 1 == len(m.rounds)
"""
    )
    result = suite.runpytest("--llmperf=smoke")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_chat*–", "1 measured: 1 not judged"])


def test_smoke_still_fails_a_target_that_does_not_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        HEAD
        + """
def broken(prompt_ids, output_tokens):
    raise RuntimeError("engine is down")

@llm_perf(model=stream(broken))
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest("--llmperf=smoke")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*RuntimeError: engine is down"])


def test_a_measurement_without_limits_and_baseline_passes_and_says_how_to_record_one(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(HEAD + "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*test_chat*NEW", "1 measured: 1 new", "NEW: no baseline for cpu-* (pytest --llmperf-update records what is*"]
    )


def test_a_measurement_works_where_git_does_not(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(HEAD + "@llm_perf(ALWAYS, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    for path in (None, str(suite.path)):  # the folder is no repository, and then there is no git either
        if path is not None:
            monkeypatch.setenv("PATH", path)
        result = suite.runpytest(*(["--llmperf-update"] if path else []))
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*test_chat*NEW"])
    result.stdout.fnmatch_lines(["baselines: 0 updated, 1 new, 0 unchanged"])
