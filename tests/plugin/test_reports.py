"""The reports of a run: they agree with each other, and they are written whatever becomes of the run."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.plugin.benchmark import publishing_flags
from pytest_llmperf.plugin.child import CHILD, Child, resolved_options
from pytest_llmperf.plugin.config import check_options
from pytest_llmperf.plugin.reports import asked_for, write
from pytest_llmperf.reports import document
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import overview
from pytest_llmperf.reports.writers import all_files
from pytest_llmperf.results import Verdict
from tests.plugin.stored import TURN, Stored
from tests.plugin.suites import HEAD
from tests.repositories import repository

ALL = ("--llmperf-json=r.json", "--llmperf-markdown=r.md", "--junit-xml=r.xml")
SIZES = "model=FAST, prompt_tokens=8, output_tokens=4"
ONE = f"""
@llm_perf(ttft_ms < 60_000, {SIZES})
def test_chat(llm):
    llm.measure()
"""
MIXED = f"""
pytestmark = llm_perf({SIZES})


@pytest.fixture
def breaks():
    raise OSError("no | such `device`")


@llm_perf(ttft_ms < 60_000)
@pytest.mark.parametrize("name", ["a|b", "`@you`", "x@y"])
def test_good(llm, name):
    llm.measure()


@llm_perf(ttft_ms < 1e-9)
@pytest.mark.xdist_group("slow")
def test_bad(llm):
    llm.measure()
    llm.measure("again", limits=[tpot_ms < 1e-9])


@llm_perf(ttft_ms < 1e-9)
@pytest.mark.xfail
def test_expected(llm):
    llm.measure()


@pytest.mark.xdist_group("slow")
def test_own_assertion(llm):
    assert llm.measure().ttft_ms < 1e-9


def test_measures_nothing(llm):
    pass


def test_setup(llm, breaks):
    llm.measure()


@pytest.mark.skip
def test_skipped(llm):
    llm.measure()


def test_ordinary():
    assert False, "by itself"
"""


@dataclass(frozen=True)
class Written:
    """What a run left behind."""

    status: int
    json: dict[str, Any]
    run: Run
    markdown: str
    text: str

    @property
    def told(self) -> str:
        """The Markdown as a reader sees it."""
        return re.sub(r"\\(.)", r"\1", self.markdown).replace("\u200b", "")


def run(suite: pytest.Pytester, text: str, *arguments: str) -> Written:
    suite.makepyfile(test_chat=HEAD + text)
    return reported(suite, *arguments)


def reported(suite: pytest.Pytester, *arguments: str) -> Written:
    result = suite.runpytest(*ALL, *arguments)
    file = suite.path / "r.json"
    markdown = (suite.path / "r.md").read_text(encoding="utf-8")
    return Written(result.ret, json.loads(file.read_text()), document.read(file), markdown, result.stdout.str())


def junit(file: Path) -> dict[str, tuple[str, dict[str, str], str]]:
    """Test → failed, error, skipped or passed; its properties; and what it says."""
    found = {}
    for case in ElementTree.parse(file).iter("testcase"):
        [*outcomes] = [part for part in case if part.tag in ("failure", "error", "skipped")]
        kind = outcomes[0].tag if outcomes else "passed"
        message = outcomes[0].get("message", "") if outcomes else ""
        properties = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        found[f"test_chat.py::{case.attrib['name']}"] = (kind, properties, message)
    return found


@pytest.mark.parametrize("spread", [(), ("-n2", "--dist=loadgroup")], ids=["alone", "xdist"])
def test_all_reports_of_one_run_agree(suite: pytest.Pytester, spread: tuple[str, ...]) -> None:
    written = run(suite, MIXED, "--llmperf-html=r.html", "--llmperf-history=h.jsonl", *spread)
    tests = {name.partition("@slow")[0]: told for name, told in junit(suite.path / "r.xml").items()}
    results = {result.key: result for result in written.run.results}
    failing = {key for key, result in results.items() if result.fails and not result.expected_to_fail}
    assert written.status == 1
    assert written.run.fails

    # The same tests, with the same verdicts and figures
    assert {
        test for test, (_, properties, _) in tests.items() if "verdict" in properties or "again.verdict" in properties
    } == {result.test for result in results.values()}
    for result in results.values():
        _, properties, _ = tests[result.test]
        label = f"{result.label}." * bool(result.label)
        assert properties[f"{label}verdict"] == (result.verdict.value if result.verdict else "")
        for row in result.rows:
            assert float(properties[f"{label}{row.metric}"]) == row.value
    tables = [table for each in [overview(written.run.results)] for table in each]
    for table in tables:
        for cells in table.rows:
            texts = [cell.text for cell in cells if cell.text not in ("", "–")]
            assert any(all(text in line for text in texts) for line in written.told.splitlines()), texts

    # The same failures, for the same reasons
    assert failing == {"test_chat.py::test_bad", "test_chat.py::test_bad::again"}
    assert {results[key].verdict for key in failing} == {Verdict.BROKEN}
    red = {test for test, (kind, _, _) in tests.items() if kind in ("failure", "error")}
    assert red == {results[key].test for key in failing} | written.run.failures.keys()
    assert written.run.failures == {
        test: tests[test][2].splitlines()[0].removeprefix('failed on setup with "').rstrip('"')
        for test in written.run.failures
    }
    assert written.run.failures.keys() == {
        f"test_chat.py::test_{name}" for name in ("own_assertion", "measures_nothing", "setup", "ordinary")
    }
    headings = re.findall(r"^#### (\w+) `(.*)`$", written.markdown, re.M)
    assert sorted(headings) == sorted(("BROKEN", key) for key in failing)
    said = re.findall(r"^- `(.*?)`: ", written.markdown, re.M)
    assert sorted(said) == sorted(written.run.failures)
    assert "no | such `device`" in written.told
    assert written.markdown.startswith("### ❌ llmperf: 7 measured: 3 broken (1 expected), 4 new\n")
    assert "7 measured: 3 broken (1 expected), 4 new" in written.text
    assert f"All that was measured ({len(results)})" in written.markdown

    # In the page and the history, too, each once
    page = (suite.path / "r.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r"<h3>(.*)</h3>", page)) == sorted(results)
    [entry] = map(json.loads, (suite.path / "h.jsonl").read_text(encoding="utf-8").splitlines())
    assert {key: each["verdict"] for key, each in entry["results"].items()} == {
        key: result.verdict for key, result in results.items()
    }

    # And the places where they stand
    lines = (suite.path / "test_chat.py").read_text().splitlines()
    assert written.run.places.keys() == tests.keys()
    for test, place in written.run.places.items():
        file, _, line = place.partition(":")
        name = test.partition("::")[2].partition("[")[0]
        assert file == "test_chat.py"
        assert any(f"def {name}" in text for text in lines[int(line) - 1 : int(line) + 3])


def test_what_was_expected_to_fail_and_fails_otherwise_is_a_failure(suite: pytest.Pytester) -> None:
    text = f"""
@pytest.fixture
def torn_down():
    yield
    raise OSError("the device is gone")


@llm_perf(ttft_ms < 1e-9, {SIZES})
@pytest.mark.xfail(raises=pytest.fail.Exception)
def test_chat(llm, torn_down):
    llm.measure()
"""
    written = run(suite, text)
    assert written.status == 1
    assert written.run.failures == {"test_chat.py::test_chat": "OSError: the device is gone"}
    assert written.run.fails


def test_what_cannot_be_collected_is_a_failure(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_broken="import nothing_of_that_name")
    written = run(suite, ONE)
    assert written.status == pytest.ExitCode.INTERRUPTED
    assert written.json["results"] == []
    assert list(written.run.failures) == ["test_broken.py"]
    assert "nothing_of_that_name" in written.run.failures["test_broken.py"]
    assert written.run.fault == "interrupted"
    assert written.markdown.startswith("### ❌ llmperf: 0 measured")
    assert "- `test_broken.py`: " in written.markdown


def test_of_a_rerun_the_last_counts(suite: pytest.Pytester) -> None:
    written = run(suite, f"tries = []\n{ONE}    tries.append(1)\n    assert len(tries) > 1\n", "--reruns=1")
    assert (written.status, written.run.failures, written.run.fails) == (0, {}, False)
    [result] = written.run.results
    assert result.unfit == ""


def test_a_smoke_run_judges_nothing(suite: pytest.Pytester) -> None:
    written = run(suite, ONE, "--llmperf=smoke")
    [result] = written.run.results
    assert (written.status, result.verdict, result.rounds) == (0, None, 1)
    assert written.run.bases[result.key].rules is None
    assert written.markdown.startswith("### ✅ llmperf: 1 measured: 1 not judged\n")


def test_what_was_recorded_is_told(stored: Stored) -> None:
    stored.record(TURN)
    stored.change(tpot_ms=1e-3)
    written = reported(stored.pytester, "--llmperf-update")
    assert written.status == 0
    assert written.run.recorded is not None
    [change] = written.run.recorded.changes
    assert (change.kind, change.key) == ("updated", "test_chat.py::test_turn")
    assert "<details><summary>What was recorded</summary>" in written.markdown
    assert "- baselines: 1 updated, 0 new, 0 unchanged" in written.markdown
    assert written.run.bases["test_chat.py::test_turn"].recording


def test_a_run_that_measured_nothing_says_so(suite: pytest.Pytester) -> None:
    written = run(suite, "def test_ordinary():\n    pass\n")
    assert (written.status, written.json["results"], written.run.fails) == (0, [], False)
    assert written.markdown.startswith("### ⚠️ llmperf: 0 measured\n")
    written = reported(suite, "--llmperf-strict=all")
    assert written.status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert written.run.fault == "nothing was measured, where something was to be judged strictly"
    assert f"**{written.run.fault}**" in written.markdown


def test_what_was_measured_before_an_interrupt_is_written(suite: pytest.Pytester) -> None:
    written = run(suite, f"{ONE}\ndef test_exit():\n    pytest.exit('enough')\n")
    assert written.status == pytest.ExitCode.INTERRUPTED
    assert (len(written.run.results), written.run.fault, written.run.fails) == (1, "interrupted", True)


def test_a_report_that_cannot_be_written_fails_the_run_and_costs_no_other(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + ONE)
    result = suite.runpytest("--llmperf-json=test_chat.py/r.json", "--llmperf-markdown=deep/er/r.md")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["llmperf: wrote */deep/er/r.md", "llmperf: --llmperf-json */test_chat.py*: *"])
    assert (suite.path / "deep" / "er" / "r.md").read_text().startswith("### ")
    assert [file.name for file in (suite.path / "deep" / "er").iterdir()] == ["r.md"]


def test_the_second_file_of_an_option_is_missed_in_the_name_of_that_option(tmp_path: Path) -> None:
    (tmp_path / "c.bigger.json").mkdir()
    _, fault = write(all_files({"custom_json": tmp_path / "c.json"}), Run("2026"))
    assert fault.startswith(f"--llmperf-custom-json {tmp_path}/")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.bigger.json", "c.json"]


def test_a_report_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("pytest_llmperf.reports.markdown"), "written", lambda run: 1 / 0)
    done, fault = write({"markdown": tmp_path / "r.md", "json": tmp_path / "r.json"}, Run("2026"))
    assert done == [tmp_path / "r.json"]
    assert fault == f"--llmperf-markdown {tmp_path / 'r.md'}: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("flag", ["json", "markdown", "custom-json"])
def test_a_folder_is_no_file(suite: pytest.Pytester, flag: str) -> None:
    suite.mkdir("here")
    result = suite.runpytest(f"--llmperf-{flag}=here")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --llmperf-{flag}=here: this is a folder, expected a file"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("json=r", "markdown=./x/../r"),
        ("json=c.bigger.json", "custom-json=c.json"),
        ("markdown=h.jsonl", "history=h.jsonl"),
        ("json=r", "markdown=link"),
    ],
)
def test_no_report_replaces_another(pytester: pytest.Pytester, one: str, other: str) -> None:
    (pytester.path / "link").symlink_to("r")
    flags = (f"--llmperf-{one}", f"--llmperf-{other}")
    with pytest.raises(UsageError, match=f"{flags[0]} and {flags[1]}: one would replace the other"):
        check_options(pytester.parseconfig(*flags))
    check_options(pytester.parseconfig("--llmperf-json=/dev/null", "--llmperf-markdown=/dev/null"))


def test_a_name_that_no_file_can_have_is_told_at_once(pytester: pytest.Pytester) -> None:
    with pytest.raises(UsageError, match=r"^--llmperf-json=x+: File name too long$"):
        check_options(pytester.parseconfig(f"--llmperf-json={'x' * 300}"))


@pytest.mark.usefixtures("git_settings")
def test_paths_are_where_they_are_meant_to_be(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the command line from where pytest is called, of the ini file from rootdir; places from the top of all."""
    root = repository(suite.path / "project", {"README": ""})
    below = root / "part" / "tests"
    below.mkdir(parents=True)
    (root / "part" / "pytest.ini").write_text("[pytest]\nllmperf_rounds = 3\nllmperf_markdown = out/ini.md\n")
    (below / "test_chat.py").write_text(HEAD + ONE)
    summary = suite.path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.chdir(below)
    assert suite.runpytest("--llmperf-json=here.json", "-p", "no:cacheprovider").ret == 0
    told = document.read(below / "here.json")
    assert re.fullmatch(r"part/tests/test_chat\.py:\d+", told.places["tests/test_chat.py::test_chat"])
    assert (len(told.commit), told.dirty) == (40, False)
    page = (root / "part" / "out" / "ini.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"before\n{page}"


def test_a_process_that_another_one_judges_writes_none(pytester: pytest.Pytester) -> None:
    flags = ("--llmperf-json=r.json", "--llmperf-custom-json=c.json", "--benchmark-autosave")
    config = pytester.parseconfigure(*flags)
    assert asked_for(config).keys() == {"json", "custom_json", "custom_json_bigger"}
    assert publishing_flags(config) == ["--benchmark-autosave"]
    assert not [name for name in resolved_options(config) if "json" in name]
    config.stash[CHILD] = Child({})
    assert asked_for(config) == {}
    assert publishing_flags(config) == []
