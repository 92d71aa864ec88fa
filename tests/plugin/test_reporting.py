"""What a run prints: one line with -q, a table, every metric with -v, samples with -vv; and no more than that."""

from __future__ import annotations

import re

import pytest

from pytest_llmperf.metrics import CATALOGUE
from tests.plugin.suites import HEAD

ONE = """
@llm_perf(ttft_ms < 60_000, model=FAST, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    llm.measure()
"""
MIXED = """
pytestmark = llm_perf(model=FAST, prompt_tokens=8, output_tokens=4)

@llm_perf(ttft_ms < 60_000, itl_ms.max < 60_000)
def test_good(llm):
    llm.measure()

@llm_perf(ttft_ms < 1e-9)
def test_bad(llm):
    llm.measure()

def test_free(llm):
    llm.measure()

@llm_perf(ttft_ms.p99 < 60_000)
def test_few(llm):
    llm.measure()
"""


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def summary(result: pytest.RunResult) -> list[str]:
    """Our lines at the end of the run."""
    lines = result.stdout.lines
    start = next(number for number, line in enumerate(lines) if "= llmperf =" in line)
    length = next(number for number, line in enumerate(lines[start + 1 :]) if re.search("=====", line))
    return lines[start + 1 : start + 1 + length]


def test_by_default_the_run_ends_with_a_row_per_measurement(suite: pytest.Pytester) -> None:
    lines = summary(run(suite, MIXED))
    assert lines[0] == "test_chat.py"
    assert lines[1].split() == ["test", "tokens", "ttft_ms", "tpot_ms", "tokens/s", "peak", "MiB", "verdict"]
    rows = [line.split() for line in lines[3:7]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("test_good", "8→4", "NEW"),
        ("test_bad", "8→4", "BROKEN"),
        ("test_free", "8→4", "NEW"),
        ("test_few", "8→4", "INCONCLUSIVE"),
    ]
    assert lines[7:9] == ["", "4 measured: 1 broken, 1 inconclusive, 2 new"]
    assert re.fullmatch(
        r"NEW: no baseline for cpu-\S+ \(pytest --llmperf-update records what is measured\)", " ".join(lines[9:])
    )


def test_each_module_has_a_table_of_its_own(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_more=HEAD + ONE)
    lines = summary(run(suite, ONE))
    assert [line for line in lines if line.startswith("test_")] == ["test_chat.py", "test_more.py"]
    assert "2 measured: 2 new" in lines
    assert sum(line.startswith("NEW: ") for line in lines) == 1, "each thing is told once"


def test_a_batch_is_shown_in_the_tokens(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4, batch_size=2)
def test_chat(llm):
    llm.measure()
""",
    )
    result.stdout.fnmatch_lines(["*test_chat*2×8→4*"])


def test_a_model_shows_its_peak_memory(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(peak_memory_mib < 1_000, model=TINY, device="cpu", prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    assert llm.measure().peak_memory_mib > 0.1
""",
    )
    row = next(line for line in summary(result) if "test_chat " in line).split()
    assert float(row[-2]) > 0.1
    assert row[-1] == "NEW"


def test_q_prints_one_line_of_ours(suite: pytest.Pytester) -> None:
    result = run(suite, ONE, "-q")
    assert [line for line in result.stdout.lines if "llmperf" in line] == ["llmperf: 1 measured: 1 new"]
    assert "tpot_ms" not in result.stdout.str()


def test_q_still_shows_what_broke(suite: pytest.Pytester) -> None:
    result = run(suite, MIXED, "-q")
    result.stdout.fnmatch_lines(["BROKEN ttft_ms *", "llmperf: 4 measured: 1 broken, *"])


def test_v_shows_every_known_metric_with_unit_limit_and_verdict(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(ttft_ms < 60_000, itl_ms.max < 60_000, model=TINY, device="cpu", prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    m = llm.measure()
    print("UNKNOWN", *m.unknown)
""",
        *("-v", "-s"),
    )
    lines = summary(result)
    assert lines[0] == "test_chat.py::test_chat"
    assert re.match(
        r" *random:gpt2\S+ · 8 → 4 tokens · batch 1 · cpu .* · 3 rounds", " ".join(" ".join(lines[1:4]).split())
    )
    unknown = re.search(r"UNKNOWN (.*)", result.stdout.str())
    assert unknown
    rows = {
        line.split()[0]: line for line in lines if line.startswith("  ") and line.split()[0].split(".")[0] in CATALOGUE
    }
    assert rows.keys() - {"itl_ms.max"} == CATALOGUE.keys() - set(unknown[1].split())
    assert re.search(r" ms +< 60000 +OK", rows["ttft_ms"])
    assert re.search(r" ms +< 60000 +OK", rows["itl_ms.max"])
    assert re.search(r" MiB +NEW", rows["peak_memory_mib"]), "gates, and has no baseline"
    assert re.search(r" MiB +1$", rows["activations_mib"]), "no limit and no gate, no verdict"
    assert "samples" not in result.stdout.str()


def test_vv_shows_samples_too(suite: pytest.Pytester) -> None:
    lines = summary(run(suite, ONE, "-vv"))
    shown = next(line for line in lines if "ttft_ms samples: " in line)
    assert len(shown.partition("samples: ")[2].split(", ")) == 3
    assert any("… (" not in line and "itl_ms samples: " in line for line in lines)


def test_vv_shows_the_first_of_many_samples_and_their_number(suite: pytest.Pytester) -> None:
    text = " ".join(summary(run(suite, ONE.replace("output_tokens=4", "output_tokens=9"), "-vv")))
    assert re.search(r"itl_ms samples: (\S+, +){10}… \(24 in all\)", text)


def test_v_shows_an_overview_too_where_there_are_several(suite: pytest.Pytester) -> None:
    lines = summary(run(suite, MIXED, "-v"))
    assert sum(line.split()[:2] == ["test", "tokens"] for line in lines) == 1
    assert [line for line in lines if line.startswith("test_chat.py::")] == [
        f"test_chat.py::test_{name}" for name in ("good", "bad", "free", "few")
    ]


def test_the_header_names_device_software_and_threads_once(suite: pytest.Pytester) -> None:
    result = run(suite, MIXED, "--llmperf-device=cpu")
    headers = [line for line in result.stdout.lines if line.startswith("llmperf: ")]
    assert len(headers) == 1
    assert re.fullmatch(r"llmperf: cpu \(.+\), torch \S+, transformers \S+, 1 thread", headers[0])


def test_a_run_that_measures_nothing_prints_nothing_of_ours(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", "-vv", "-ra")
    result.assert_outcomes(passed=1)
    assert not [line for line in result.stdout.lines if "llmperf" in line and not line.startswith("plugins:")]


def test_measuring_tests_that_were_all_skipped_leave_no_table(suite: pytest.Pytester) -> None:
    result = run(suite, "@pytest.mark.skip\n@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result.assert_outcomes(skipped=1)
    assert "= llmperf =" not in result.stdout.str()


def test_rp_shows_the_measurement_of_a_test_that_passed(suite: pytest.Pytester) -> None:
    result = run(suite, ONE, "-rP")
    section = result.stdout.str().partition("= PASSES =")[2].partition("= llmperf =")[0]
    assert re.search(r"-+ Captured llmperf call -+\ntest_chat.py::test_chat\n", section)
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "latency_ms", "output_tokens_per_s"):
        assert f"\n  {metric} " in section
    result = run(suite, ONE)
    assert "Captured llmperf call" not in result.stdout.str()


def test_several_measurements_of_a_test_have_a_section_each(suite: pytest.Pytester) -> None:
    text = "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure('one')\n    llm.measure('two')\n"
    result = run(suite, text, "-rP")
    result.stdout.fnmatch_lines(["test_chat.py::test_chat::one", "test_chat.py::test_chat::two", "*= llmperf =*"])


ESCAPE = "\x1b["


def test_colours_are_used_where_they_are_wanted(suite: pytest.Pytester) -> None:
    result = run(suite, MIXED, "--color=yes")
    shown = [line for line in result.stdout.lines if "test_bad" in line and "8→4" in line]
    assert re.search(r"\x1b\[[\d;]*31mBROKEN", shown[0]), "red"
    shown = [line for line in result.stdout.lines if "test_good" in line and "8→4" in line]
    assert re.search(r"\x1b\[[\d;]*36mNEW", shown[0]), "cyan"
    shown = [line for line in run(suite, MIXED, "--color=yes", "-v").stdout.lines if "< 60000" in line]
    assert re.search(r"\x1b\[[\d;]*32mOK", shown[0]), "green"


def test_colours_are_left_out_in_a_file(suite: pytest.Pytester) -> None:
    assert ESCAPE not in run(suite, MIXED).stdout.str()


def test_force_color_colours_the_table_and_no_color_outdoes_it(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PY_COLORS")  # pytester's own, and stronger than both
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert any(ESCAPE in line for line in summary(run(suite, MIXED)) if "test_bad" in line)
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in run(suite, MIXED).stdout.str()


def test_no_color_does_not_outdo_the_command_line(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PY_COLORS")  # pytester's own
    monkeypatch.setenv("NO_COLOR", "1")
    assert any(ESCAPE in line for line in run(suite, MIXED, "--color=yes").stdout.lines if "8→4" in line)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verbosity", ["", "-v", "-vv"])
def test_no_line_of_the_summary_is_longer_than_the_terminal(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, columns: int, verbosity: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "a_long_value_" * 8
    result = run(
        suite,
        f"""
@pytest.mark.parametrize("value", ["{long}", "short"])
@llm_perf(ttft_ms < 60_000, itl_ms.p99 < 60_000, peak_memory_mib < 9, tpot_ms > 1e-9, model=FAST)
def test_with_a_rather_long_name_of_its_own(llm, value):
    llm.measure("with a long label " * 5)
""",
        *([verbosity] if verbosity else []),
    )
    lines = summary(result)
    assert len(lines) > 5
    assert max(map(len, lines)) <= columns
    assert "2 measured: 2 broken" in lines


def test_a_long_name_is_folded_and_not_cut(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "test_" + "abcdefghij" * 9
    lines = summary(run(suite, f"@llm_perf(model=FAST)\ndef {name}(llm):\n    llm.measure()\n"))
    assert name in "".join(line[2:].split(" ")[0] for line in lines)


def test_a_wide_terminal_shows_throughput_in_the_overview(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "tokens/s" in summary(run(suite, ONE))[1]
    monkeypatch.setenv("COLUMNS", "60")
    assert "tokens/s" not in summary(run(suite, ONE))[1]


def test_the_summary_stands_before_pytests_last_line(suite: pytest.Pytester) -> None:
    result = run(suite, ONE)
    result.stdout.fnmatch_lines(["*= llmperf =*", "1 measured: 1 new", "*= 1 passed in *"])


def test_smoke_is_said_in_the_summary(suite: pytest.Pytester) -> None:
    lines = summary(run(suite, MIXED, "--llmperf=smoke"))
    assert lines[-1] == "4 measured: 3 not judged, 1 without limits"
