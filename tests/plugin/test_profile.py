"""Operators in the report, profiles in tests, and traces of measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.suites import HEAD

ONE_OF_EACH = """
@llm_perf(ttft_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=4)
def test_kept(llm):
    llm.measure()

@llm_perf(ttft_ms < 0.0001, model=TINY, prompt_tokens=8, output_tokens=4)
def test_broken(llm):
    llm.measure()
"""
SHOWN = "where the time went"


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def parts(result: pytest.RunResult) -> tuple[str, str]:
    """What the failures say, and the report below them."""
    failures, _, report = result.stdout.str().partition("= llmperf =")
    return failures, report


# Which tests' operators are shown


def test_operators_are_shown_of_a_test_that_breaks_a_limit_and_of_no_other(suite: pytest.Pytester) -> None:
    result = run(suite, ONE_OF_EACH)
    result.assert_outcomes(passed=1, failed=1)
    failures, report = parts(result)
    assert failures.count(SHOWN) == 1
    assert failures.index("BROKEN ttft_ms") < failures.index(SHOWN)
    result.stdout.re_match_lines([r"  prefill +[\d.]+ +\d+ %.*", r"  decode, per token .*", r"  aten::addmm .*compute"])
    assert SHOWN not in report


def test_always_shows_operators_below_every_table(suite: pytest.Pytester) -> None:
    failures, report = parts(run(suite, ONE_OF_EACH, "--llmperf-profile=always"))
    assert failures.count(SHOWN) == 1, "of the failure, in its own text"
    assert report.count(SHOWN) == 1
    assert report.index("test_chat.py::test_kept") < report.index(SHOWN)


def test_always_with_verbose_shows_them_below_the_metrics_of_each(suite: pytest.Pytester) -> None:
    failed, report = parts(run(suite, ONE_OF_EACH, "--llmperf-profile=always", "-v"))
    assert (failed.count(SHOWN), report.count(SHOWN)) == (1, 1), "a failure has told its own"


@pytest.mark.parametrize("verbosity", ["-v", "-rP"])
def test_operators_of_a_test_that_fails_by_itself_are_shown_once(suite: pytest.Pytester, verbosity: str) -> None:
    text = "@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)\ndef test_chat(llm):\n    llm.measure()\n"
    result = run(suite, f"{text}    assert 0\n", "--llmperf-profile=always", verbosity)
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count(SHOWN) == 1


def test_never_shows_none(suite: pytest.Pytester) -> None:
    assert SHOWN not in run(suite, ONE_OF_EACH, "--llmperf-profile=never").stdout.str()


def test_quiet_shows_them_only_of_what_failed(suite: pytest.Pytester) -> None:
    result = run(suite, ONE_OF_EACH, "--llmperf-profile=always", "-q")
    assert result.stdout.str().count(SHOWN) == 1


def test_smoke_counts_nothing_and_shows_none(suite: pytest.Pytester) -> None:
    result = run(suite, ONE_OF_EACH, "--llmperf-profile=always", "--llmperf=smoke")
    result.assert_outcomes(passed=2)
    assert "profiled" not in result.stdout.str()


def test_a_target_without_operators_says_why_it_has_none(suite: pytest.Pytester) -> None:
    text = "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n"
    run(suite, text, "--llmperf-profile=always").stdout.fnmatch_lines(["*prefill was not profiled: *"])


def test_the_report_is_the_same_when_workers_measured(suite: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    suite.makepyfile(test_chat=HEAD + ONE_OF_EACH)
    arguments = ["-n2", "--llmperf-profile=always", "--llmperf-traces=traces"]
    failures, report = parts(suite.runpytest_subprocess(*arguments, timeout=120))
    assert failures.count(SHOWN) == 1
    assert report.count(SHOWN) == 1
    assert "aten::addmm" in report
    assert len(list((suite.path / "traces").glob("*/*.pt.trace.json"))) == 2


# llm.profile()


def test_a_test_may_assert_where_the_time_goes(suite: pytest.Pytester) -> None:
    run(
        suite,
        """
import json

@llm_perf(model=TINY, output_tokens=4)
def test_chat(llm):
    profile = llm.profile(prompt_tokens=16)
    assert profile.workload.prompt_tokens == 16
    assert profile.decode.find("aten::addmm").calls == 8
    assert profile.decode.find("cat").name == "aten::cat"
    assert profile.decode.find("aten::nonzero") is None
    shares = [profile.decode.compute, profile.decode.elementwise, profile.decode.overhead, profile.decode.outside]
    assert sum(shares) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares)
    assert profile.prefill.operators and not profile.unknown
    record = json.loads(profile.to_json())
    assert record["decode"]["overhead"] == profile.decode.overhead
    assert record["decode"]["operators"][0]["name"].startswith("aten::")
""",
    ).assert_outcomes(passed=1)


def test_a_phase_that_was_not_seen_has_no_shares_and_a_reason(suite: pytest.Pytester) -> None:
    run(
        suite,
        """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=1)
def test_chat(llm):
    profile = llm.profile()
    assert profile.decode.overhead is None and profile.decode.outside is None
    assert profile.unknown == {"decode": "a step of decode needs at least 2 output tokens"}
""",
    ).assert_outcomes(passed=1)


def test_a_failing_test_shows_the_operators_that_it_asked_for(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
def test_fails(llm):
    assert llm.profile().decode.overhead < 0.01

@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
def test_passes(llm):
    llm.profile()

@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
def test_mistypes(llm):
    assert llm.profile().decode.find("aten::ctaa") is None
""",
    )
    result.assert_outcomes(passed=1, failed=2)
    failures, _ = parts(result)
    assert failures.count(SHOWN) == 2
    result.stdout.re_match_lines(
        [r".*where.*<Phase: [\d.]+ ms, \S+ [\d.]+ %, \S+ [\d.]+ %, .*", ".*llm.profile.. call.*"]
    )
    result.stdout.fnmatch_lines(["*find('aten::ctaa'): torch has no such operator; did you mean *"])


def test_a_profile_is_enough_where_no_limit_waits_for_a_measurement(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=2)
def test_enough(llm):
    llm.profile()

@llm_perf(ttft_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=2)
def test_with_a_limit(llm):
    llm.profile()

@llm_perf(model=TINY, prompt_tokens=8, output_tokens=2)
def test_nothing(llm):
    pass
""",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "test_chat.py::test_with_a_limit has limits and measured nothing: call llm.measure()",
            "test_chat.py::test_nothing asked to measure, by its mark or fixture, and measured nothing*",
        ]
    )


def test_a_profile_beside_a_measurement_changes_nothing_of_it(suite: pytest.Pytester) -> None:
    text = """
@llm_perf(ttft_ms < 60_000, model=TINY, prompt_tokens=8, output_tokens=2)
def test_chat(llm):
    llm.profile()
    assert llm.measure().unknown.get("load_s") is None
    llm.profile(prompt_tokens=4)
"""
    result = run(suite, text)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 measured: 1 new"])


def test_an_override_that_is_no_keyword_is_refused(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=TINY)\ndef test_chat(llm):\n    llm.profile(promt_tokens=4)\n")
    result.stdout.fnmatch_lines(["*promt_tokens=4: no such keyword; did you mean 'prompt_tokens'*"])


# Traces

LABELLED = """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=20)
@pytest.mark.parametrize("n", [1])
def test_chat(llm, n):
    llm.measure()
    llm.measure("again", prompt_tokens=4)
"""


def test_each_measurement_has_a_trace_of_ten_tokens_in_a_folder_of_its_own(suite: pytest.Pytester) -> None:
    run(suite, LABELLED, "--llmperf-traces=deep/traces").assert_outcomes(passed=1)
    traces = sorted((suite.path / "deep" / "traces").glob("*/*.pt.trace.json"))
    assert len({trace.parent for trace in traces}) == 2
    for trace in traces:
        names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
        assert names.count("llmperf step") == 1 + 10 + 2, "from its beginning, and prefill once more"
        assert "aten::addmm" in names


def test_the_ini_file_names_a_folder_below_rootdir(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    ini = Path(suite.path, "tox.ini")
    ini.write_text(ini.read_text() + "\nllmperf_traces = traces\n")
    suite.makepyfile(test_chat=HEAD + "@llm_perf(model=TINY)\ndef test_chat(llm):\n    llm.profile()\n")
    monkeypatch.chdir(suite.mkdir("below"))
    suite.runpytest("..").assert_outcomes(passed=1)
    assert len(list((suite.path / "traces").glob("*/*.pt.trace.json"))) == 1


UNSERVED = """
from pytest_llmperf import stream

def tokens(prompt, output_tokens):
    raise AssertionError("it was served")

@llm_perf(model=stream(tokens))
def test_chat(llm):
    llm.measure()
"""
UNWRITTEN = """
import torch

@llm_perf(model=TINY)
def test_chat(llm):
    torch.profiler.profile.export_chrome_trace = print  # writes nothing
    assert "it could not be written" in llm.profile().unknown["trace"]
"""


def test_a_folder_of_a_test_that_cannot_be_made_is_told_before_it_is_measured(suite: pytest.Pytester) -> None:
    suite.mkdir("traces").joinpath("test_chat.py--test_chat").write_text("")
    result = run(suite, UNSERVED, "--llmperf-traces=traces")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_chat, for traces (--llmperf-traces), cannot be made: File exists*"])


def test_a_profile_says_that_no_trace_was_written(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + UNWRITTEN)
    suite.runpytest_subprocess("--llmperf-traces=traces").assert_outcomes(passed=1)
    assert list((suite.path / "traces").iterdir()) == []


def test_a_file_where_traces_should_go_is_refused_before_anything_is_measured(suite: pytest.Pytester) -> None:
    result = run(suite, ONE_OF_EACH, "--llmperf-traces=test_chat.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-traces=test_chat.py: this is a file, expected a folder*"])
