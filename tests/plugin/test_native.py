"""What pytest and its plugins do to any test, they do to one that measures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

HEAD = """\
import pytest
from pytest_llmperf import *


def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)


FAST = stream(fast)
ALWAYS = ttft_ms < 60_000
NEVER = ttft_ms < 1e-9

"""
TWO = """
@llm_perf(NEVER, model=FAST, prompt_tokens=8, output_tokens=4)
def test_bad(llm):
    llm.measure()

@llm_perf(ALWAYS, model=FAST, prompt_tokens=8, output_tokens=4)
def test_good(llm):
    llm.measure()
"""


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def rows(result: pytest.RunResult) -> list[tuple[str, str, str]]:
    """Name, tokens and verdict of each row of the table at the end."""
    words = [line.split() for line in result.stdout.lines if re.match(r"  \S+ +\S*\d→\d", line)]
    return [(row[0], row[1], row[-1]) for row in words]


def test_a_broken_limit_exits_with_one(suite: pytest.Pytester) -> None:
    assert run(suite, TWO).ret == pytest.ExitCode.TESTS_FAILED


def test_an_expected_failure_whose_limit_breaks_is_xfailed(suite: pytest.Pytester) -> None:
    result = run(suite, "@pytest.mark.xfail(strict=True)" + TWO.partition("\n\n")[0])
    result.assert_outcomes(xfailed=1)
    assert result.ret == pytest.ExitCode.OK
    assert rows(result) == [("test_bad", "8→4", "BROKEN")]
    result.stdout.fnmatch_lines(["1 measured: 1 broken*"])


def test_an_expected_failure_whose_limit_holds_fails_when_strict(suite: pytest.Pytester) -> None:
    text = "@pytest.mark.xfail(strict=True)\n@llm_perf(ALWAYS, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n"
    result = run(suite, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["[[]XPASS(strict)[]]*"])


def test_an_expected_failure_whose_limit_holds_is_xpassed_when_not_strict(suite: pytest.Pytester) -> None:
    text = "@pytest.mark.xfail\n@llm_perf(ALWAYS, model=FAST)\ndef test_chat(llm):\n    llm.measure()\n"
    run(suite, text).assert_outcomes(xpassed=1)


def test_a_skipped_test_measures_nothing(suite: pytest.Pytester) -> None:
    result = run(suite, "@pytest.mark.skip(reason='later')" + TWO)
    result.assert_outcomes(skipped=1, passed=1)
    assert rows(result) == [("test_good", "8→4", "NEW")]


def test_a_rerun_takes_the_place_of_what_it_repeats(suite: pytest.Pytester) -> None:
    text = """
TRIES = []

@llm_perf(model=FAST, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    TRIES.append(1)
    llm.measure(limits=[NEVER if len(TRIES) == 1 else ALWAYS])
"""
    result = run(suite, text, "--reruns", "1")
    result.stdout.fnmatch_lines(["*= 1 passed, 1 rerun in *"])
    assert rows(result) == [("test_chat", "8→4", "NEW")]
    result.stdout.fnmatch_lines(["1 measured: 1 new"])


def test_a_test_that_stays_broken_over_reruns_fails_and_is_listed_once(suite: pytest.Pytester) -> None:
    result = run(suite, TWO, "--reruns", "2")
    result.stdout.fnmatch_lines(["*= 1 failed, 1 passed, 2 rerun in *"])
    assert rows(result) == [("test_bad", "8→4", "BROKEN"), ("test_good", "8→4", "NEW")]


def test_x_stops_at_the_first_broken_limit(suite: pytest.Pytester) -> None:
    result = run(suite, TWO, "-x")
    result.assert_outcomes(failed=1)
    assert rows(result) == [("test_bad", "8→4", "BROKEN")]


def test_lf_runs_only_what_was_broken(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nllmperf_max_time = 0.05\nllmperf_rounds = 3\n")
    run(suite, TWO).assert_outcomes(failed=1, passed=1)
    result = suite.runpytest("--lf")
    result.assert_outcomes(failed=1)
    assert rows(result) == [("test_bad", "8→4", "BROKEN")]


@pytest.mark.parametrize(
    "plugin",
    ["cacheprovider", "benchmark", "xdist", "rerunfailures", "junitxml", "logging", "capture", "terminalprogress"],
)
def test_it_works_without_the_plugin(suite: pytest.Pytester, plugin: str) -> None:
    result = run(suite, TWO, "-p", f"no:{plugin}")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["2 measured: 1 broken, 1 new"])


def test_it_works_without_the_terminal_reporter(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + TWO)
    record = suite.inline_run("-p", "no:terminal")
    passed, skipped, failed = record.listoutcomes()
    assert (len(passed), len(skipped), len(failed)) == (1, 0, 1)
    assert "BROKEN ttft_ms" in str(failed[0].longrepr)
    assert record.ret == pytest.ExitCode.TESTS_FAILED


def test_it_works_without_capturing(suite: pytest.Pytester) -> None:
    result = run(suite, TWO, "-s")
    result.assert_outcomes(failed=1, passed=1)
    assert len(rows(result)) == 2


def test_pytest_benchmarks_switches_leave_ours_alone(suite: pytest.Pytester) -> None:
    result = run(suite, TWO, "--benchmark-disable")
    result.assert_outcomes(failed=1, passed=1)


JUNIT = """
def test_ordinary():
    pass

@llm_perf(ALWAYS, itl_ms.p50 < 60_000, model=FAST, prompt_tokens=8, output_tokens=4)
def test_good(llm):
    llm.measure()

@llm_perf(NEVER, model=FAST)
def test_bad(llm):
    llm.measure()

@llm_perf(model=FAST)
def test_labels(llm, request):
    request.node.user_properties.append(("mine", "kept"))
    llm.measure("short", limits=[ALWAYS])
    llm.measure("long")
"""


def junit(suite: pytest.Pytester, text: str, *arguments: str) -> dict[str, ElementTree.Element]:
    run(suite, text, "--junitxml=report.xml", *arguments)
    root = ElementTree.parse(suite.path / "report.xml").getroot()
    return {case.attrib["name"]: case for case in root.iter("testcase")}


def properties(case: ElementTree.Element) -> dict[str, str]:
    listed = [(prop.attrib["name"], prop.attrib["value"]) for prop in case.iter("property")]
    assert len(dict(listed)) == len(listed), "each name once"
    return dict(listed)


def test_junit_has_the_figures_as_numbers_and_the_verdict(suite: pytest.Pytester) -> None:
    cases = junit(suite, JUNIT)
    figures = properties(cases["test_good"])
    assert figures.pop("verdict") == "NEW"
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "itl_ms.p50", "latency_ms", "output_tokens_per_s", "peak_rss_mib"):
        assert float(figures[metric]) > 0
    assert float(figures["latency_ms"]) >= float(figures["ttft_ms"])
    assert "peak_memory_mib" not in figures, "what is unknown is no property"
    assert properties(cases["test_ordinary"]) == {}


def test_junit_has_a_failure_with_the_whole_message(suite: pytest.Pytester) -> None:
    case = junit(suite, JUNIT)["test_bad"]
    failure = case.find("failure")
    assert failure is not None
    assert case.find("error") is None
    assert "BROKEN ttft_ms" in failure.attrib["message"]
    assert "(limit &lt; 1e-09)" in failure.attrib["message"] or "(limit < 1e-09)" in failure.attrib["message"]
    assert properties(case)["verdict"] == "BROKEN"
    assert float(properties(case)["ttft_ms"]) > 0


def test_junit_has_each_label_before_its_figures(suite: pytest.Pytester) -> None:
    figures = properties(junit(suite, JUNIT)["test_labels"])
    assert figures["mine"] == "kept"
    assert figures["short.verdict"] == "NEW"
    assert float(figures["short.ttft_ms"]) > 0
    assert float(figures["long.ttft_ms"]) > 0
    assert not {"ttft_ms", "verdict"} & figures.keys()


def test_junit_has_figures_once_after_a_rerun(suite: pytest.Pytester) -> None:
    figures = properties(junit(suite, JUNIT, "--reruns", "1")["test_bad"])
    assert figures["verdict"] == "BROKEN"


def test_a_unittest_class_with_the_mark_runs_as_ever(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
import unittest

@llm_perf(ALWAYS, model=FAST)
class TestChat(unittest.TestCase):
    def test_arithmetic(self):
        self.assertEqual(1 + 1, 2)

    def test_broken(self):
        self.assertEqual(1 + 1, 3)
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert "llmperf:" not in result.stdout.str()


def test_a_unittest_class_measures_through_an_autouse_fixture(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
import unittest

@llm_perf(model=FAST, prompt_tokens=8, output_tokens=4)
class TestChat(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def give(self, llm):
        self.llm = llm

    def test_good(self):
        self.llm.measure(limits=[ALWAYS])

    def test_bad(self):
        self.llm.measure(limits=[NEVER])
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert {row[0]: row[-1] for row in rows(result)} == {"TestChat::test_bad": "BROKEN", "TestChat::test_good": "NEW"}


def test_a_wrong_mark_on_a_unittest_class_that_measures_is_told(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
import unittest

@llm_perf(model=FAST, rouds=3)
class TestChat(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def give(self, llm):
        self.llm = llm

    def test_good(self):
        self.llm.measure()
""",
    )
    result.assert_outcomes(errors=1)
    written = suite.path.joinpath("test_chat.py").read_text().splitlines()
    line = 1 + written.index("@llm_perf(model=FAST, rouds=3)")
    result.stdout.fnmatch_lines([f"test_chat.py:{line}: *rouds=3: no such keyword; did you mean 'rounds'?"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_doctests_and_other_items_run_beside_those_that_measure(suite: pytest.Pytester) -> None:
    suite.makepyfile(documented='"""\n>>> 1 + 1\n2\n"""\n')
    suite.maketxtfile(test_text=">>> 2 + 2\n4\n")
    result = run(suite, TWO, "--doctest-modules")
    result.assert_outcomes(passed=3, failed=1)


def test_a_teardown_error_leaves_the_measurement_in_the_table(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.fixture
def server():
    yield
    raise RuntimeError("does not stop")

@llm_perf(ALWAYS, model=FAST, prompt_tokens=8, output_tokens=4)
def test_chat(llm, server):
    llm.measure()
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    assert rows(result) == [("test_chat", "8→4", "NEW")]


def test_warnings_as_errors_find_nothing_in_a_measurement(suite: pytest.Pytester) -> None:
    result = run(suite, TWO, "-W", "error")
    result.assert_outcomes(failed=1, passed=1)


def test_it_works_in_importlib_mode_and_from_another_folder(suite: pytest.Pytester) -> None:
    folder = suite.mkdir("perf")
    folder.joinpath("test_chat.py").write_text(HEAD + TWO)
    result = suite.runpytest("--import-mode=importlib", f"--rootdir={suite.path}", "perf")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*= llmperf =*", "perf/test_chat.py", "  test_bad *BROKEN"])


def test_a_run_writes_no_file_of_its_own(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + TWO)
    before = files(suite.path)
    suite.runpytest("-p", "no:benchmark")  # which makes a folder of its own
    assert files(suite.path) == before


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if "__pycache__" not in file.parts}


def test_subtests_report_within_the_body_and_the_limits_are_still_judged(suite: pytest.Pytester) -> None:
    pytest.importorskip("_pytest.subtests", reason="pytest before 9 has no subtests")
    suite.makepyfile(
        """
from pytest_llmperf import llm_perf, stream

def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)

@llm_perf("ttft_ms < 1e-9", model=stream(fast))
def test_chat(llm, subtests):
    llm.measure("before")
    with subtests.test("one"):
        assert True
    llm.measure("after")
"""
    )
    result = suite.runpytest()
    assert "measured nothing" not in result.stdout.str()
    result.stdout.fnmatch_lines(["BROKEN ttft_ms*", "2 measured: 2 broken"])


def test_a_neighbour_fixture_that_fails_leaves_nothing_of_ours_behind(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import pytest
from pytest_llmperf.plugin.running import LLM

@pytest.fixture
def broken(llm):
    raise RuntimeError("no neighbour")

seen = []

@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid):
    seen.append(nodeid)

def pytest_sessionfinish(session):
    print("HELD", [item.name for item in session.items if LLM in item.stash])
"""
    )
    suite.makepyfile(
        """
from pytest_llmperf import llm_perf, stream

@llm_perf(model=stream(lambda ids, n: iter(range(n))))
def test_chat(llm, broken):
    llm.measure()
"""
    )
    result = suite.runpytest("-s")
    result.assert_outcomes(errors=1)
    assert "HELD []" in result.stdout.str()
