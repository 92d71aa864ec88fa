"""What each kind of metric comes to against a stored baseline, and how the run then exits."""

from __future__ import annotations

import json
import re

import pytest

from pytest_llmperf.metrics import CATALOGUE
from tests.plugin.conftest import Again
from tests.plugin.stored import MODEL, TURN, Stored

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
FASTER = {"ttft_ms": 0.02, "tpot_ms": 0.02}
SLOWER = {"ttft_ms": 50.0, "tpot_ms": 50.0}
GENEROUS = """
@llm_perf(tpot_ms.within("60%"), ttft_ms.within("60%"), model=PACED, **SIZES)
def test_turn(llm):
    llm.measure()
"""


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    """Metric → verdict in the tables of `-v` and of failures."""
    found = re.findall(
        r"^  (\w+(?:_ms|_mib))\b.*?\b(BROKEN|REGRESSED|INCONCLUSIVE|NEW|IMPROVED|OK|no change seen)\b",
        text(result),
        re.M,
    )
    return {metric: verdict.replace("no change seen", "INCONCLUSIVE") for metric, verdict in found}


def text(result: pytest.RunResult) -> str:
    return result.stdout.str()


def counted(result: pytest.RunResult) -> str:
    [line] = [line for line in result.stdout.lines if " measured: " in line]
    return line.partition(" measured: ")[2]


# Timed


def test_a_slower_test_is_regressed_once_a_fresh_process_agrees(stored: Stored, again: Again) -> None:
    stored.record(TURN)
    stored.change(**FASTER)
    asked = again()
    result = stored.run()
    assert result.ret == FAILED
    assert asked == ["test_chat.py::test_turn"]
    assert verdicts(result) == {"ttft_ms": "REGRESSED", "tpot_ms": "REGRESSED"}
    result.stdout.fnmatch_lines(
        [
            "REGRESSED ttft_ms * → * ms (+*; 2 processes), REGRESSED tpot_ms *",
            "  to accept this: pytest test_chat.py::test_turn --llmperf-update",
        ]
    )
    assert counted(result) == "1 regressed"


def test_a_suspect_that_a_fresh_process_does_not_confirm_is_inconclusive_and_told(stored: Stored, again: Again) -> None:
    stored.record(TURN)
    stored.change(**FASTER)
    again(times=0.02)
    result = stored.run()
    assert result.ret == OK
    assert counted(result) == "1 inconclusive"
    result.stdout.fnmatch_lines(["test_chat.py::test_turn: tpot_ms * → * ms (+* %*when measured again)"])


def test_a_suspect_that_cannot_be_measured_again_is_inconclusive_and_says_why(stored: Stored, again: Again) -> None:
    stored.record(TURN)
    stored.change(**FASTER)
    again(fails="it is broken")
    result = stored.run()
    assert result.ret == OK
    result.stdout.fnmatch_lines(["*test_turn: tpot_ms *not measured again)", "not measured again: it is broken"])


def test_a_suspect_in_a_disturbed_measurement_is_inconclusive_at_once(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(TURN)
    stored.change(**FASTER)
    asked = again()
    monkeypatch.setenv("DISTURBED", "others were busy")
    result = stored.run()
    assert result.ret == OK
    assert asked == []
    result.stdout.fnmatch_lines(["*test_turn: tpot_ms *; others were busy)"])
    assert stored.run("--llmperf-strict=new").ret == OK
    assert stored.run("--llmperf-strict=conditions").ret == FAILED


def test_a_faster_test_is_improved_and_passes(stored: Stored) -> None:
    stored.record(TURN)
    stored.change(**SLOWER)
    result = stored.run("-v")
    assert result.ret == OK
    assert verdicts(result)["tpot_ms"] == "IMPROVED"
    assert counted(result) == "1 improved"


def test_within_its_tolerance_a_test_is_ok(stored: Stored) -> None:
    stored.record(GENEROUS)
    result = stored.run("-v", "--llmperf-strict=all")
    assert result.ret == OK
    assert verdicts(result)["tpot_ms"] == "OK"


def test_what_noise_hides_is_quiet_unless_strict(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(TURN)
    monkeypatch.setenv("PACE", "1.03")
    result = stored.run()
    assert result.ret == OK
    assert counted(result) == "1 inconclusive"
    assert "tpot_ms 1" not in text(result)
    result.stdout.fnmatch_lines(["INCONCLUSIVE: not to be told from this machine's noise; *"])
    strictly = stored.run("--llmperf-strict=inconclusive")
    assert strictly.ret == FAILED
    strictly.stdout.fnmatch_lines(["INCONCLUSIVE ttft_ms * (no change seen (± *"])


def test_an_estimate_beyond_the_tolerance_that_noise_may_explain_is_told(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(TURN)
    monkeypatch.setenv("PACE", "1.1")
    result = stored.run()
    assert result.ret == OK
    result.stdout.fnmatch_lines(
        [
            "test_chat.py::test_turn: ttft_ms 1.00 → 1.10 ms (+10.0 % ± *, within this machine's noise)",
            "test_chat.py::test_turn: tpot_ms 1.00 → 1.10 ms (+10.0 % ± *, within this machine's noise)",
            "INCONCLUSIVE: not to be told from this machine's noise; llmperf calibrate, *",
        ]
    )


def test_the_tolerance_is_the_marks_then_the_command_lines_then_the_inis(stored: Stored, again: Again) -> None:
    again()
    marked = TURN.replace("**SIZES", "tolerance=0.9, **SIZES")
    stored.record(marked + TURN.replace("test_turn", "test_plain"))
    result = stored.run("-v", "--llmperf-tolerance=80%", "-o", "llmperf_tolerance=70%")
    assert re.findall(r"tpot_ms .* tolerance (\d+) %", text(result)) == ["90", "80"]
    result = stored.run("-v", "-k", "plain", "-o", "llmperf_tolerance=95%")
    assert re.findall(r"tpot_ms .* tolerance (\d+) %", text(result)) == ["95"]


def test_a_metric_named_by_within_gates(stored: Stored, again: Again) -> None:
    again()
    stored.record(TURN.replace("model=", 'itl_ms.within("5%"), model='))
    stored.change(itl_ms=0.02)
    assert verdicts(stored.run()) == {"ttft_ms": "INCONCLUSIVE", "tpot_ms": "INCONCLUSIVE", "itl_ms": "REGRESSED"}


def test_a_metric_named_by_the_ini_gates(stored: Stored, again: Again) -> None:
    again()
    stored.record(TURN, "-o", "llmperf_gate=latency_ms")
    stored.change(latency_ms=0.02)
    assert stored.run().ret == OK
    result = stored.run("-o", "llmperf_gate=latency_ms")
    assert result.ret == FAILED
    assert verdicts(result)["latency_ms"] == "REGRESSED"


# Counted and memory


def test_a_counted_metric_that_grew_is_regressed_exactly(stored: Stored, again: Again) -> None:
    stored.record(MODEL)
    stored.change(weights_mib=0.999)
    asked = again()
    result = stored.run()
    assert result.ret == FAILED
    assert asked == ["test_chat.py::test_model"]
    assert verdicts(result)["weights_mib"] == "REGRESSED"
    assert verdicts(result)["kv_cache_mib"] == "OK"


def test_a_counted_metric_that_shrank_is_improved(stored: Stored) -> None:
    stored.record(MODEL)
    stored.change(weights_mib=1.001)
    result = stored.run("-v")
    assert result.ret == OK
    assert verdicts(result)["weights_mib"] == "IMPROVED"


def test_a_counted_metric_of_other_versions_is_shown_and_fails_only_if_strict(stored: Stored) -> None:
    stored.record(MODEL)
    stored.change(weights_mib=0.5)
    stored.say(versions={"torch": "1.0"})
    result = stored.run()
    assert result.ret == OK
    result.stdout.fnmatch_lines(["*test_model: weights_mib * → * MiB (+100 %, counted with torch 1.0)"])
    strictly = stored.run("--llmperf-strict=versions")
    assert strictly.ret == FAILED
    strictly.stdout.fnmatch_lines(
        ["INCONCLUSIVE weights_mib *counted with torch 1.0*", "  since the baseline: *torch 1.0 → *"]
    )


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "REGRESSED"), (0.999, "OK"), (2.0, "IMPROVED")])
def test_memory_has_the_tolerance_of_its_kind(stored: Stored, again: Again, factor: float, verdict: str) -> None:
    again()
    stored.record(MODEL)
    stored.change(peak_memory_mib=factor)
    result = stored.run("-v")
    assert result.ret == (FAILED if verdict == "REGRESSED" else OK)
    assert verdicts(result)["peak_memory_mib"] == verdict


@pytest.mark.parametrize("fails", ["", "it is broken"])
def test_memory_and_counts_need_no_fresh_process_where_none_can_be_had(
    stored: Stored, again: Again, fails: str
) -> None:
    again(fails=fails)
    stored.record(MODEL)
    stored.change(peak_memory_mib=0.5, kv_cache_mib=0.5)
    result = stored.run()
    assert result.ret == FAILED
    assert verdicts(result)["peak_memory_mib"] == verdicts(result)["kv_cache_mib"] == "REGRESSED"
    assert ("not measured again: it is broken" in text(result)) is bool(fails)


# Measured on one side only


def test_counts_and_memory_that_are_no_longer_measured_are_regressed(stored: Stored) -> None:
    stored.record(MODEL)
    stored.write(TURN.replace("test_turn", "test_model"))
    result = stored.run()
    assert result.ret == FAILED
    found = verdicts(result)
    assert found["weights_mib"] == found["peak_memory_mib"] == "REGRESSED"
    result.stdout.fnmatch_lines(["*REGRESSED weights_mib * MiB in the baseline, no longer measured: a stream's *"])


def test_a_time_that_is_no_longer_measured_is_inconclusive(stored: Stored) -> None:
    gate = ("-o", "llmperf_gate=prefill_ms")
    stored.record(MODEL, *gate)
    stored.change(**dict.fromkeys(set(CATALOGUE) - {"prefill_ms"}))
    stored.write(TURN.replace("test_turn", "test_model"))
    result = stored.run("-v", *gate)
    assert result.ret == OK
    assert verdicts(result)["prefill_ms"] == "INCONCLUSIVE"
    result.stdout.fnmatch_lines(["*test_model: prefill_ms * ms in the baseline, no longer measured: a stream *"])


def test_a_metric_that_is_not_in_the_baseline_is_new(stored: Stored) -> None:
    stored.record(TURN)
    stored.change(tpot_ms=None)
    result = stored.run("-v")
    assert result.ret == OK
    assert verdicts(result)["tpot_ms"] == "NEW"
    strictly = stored.run("--llmperf-strict=new")
    assert strictly.ret == FAILED
    strictly.stdout.fnmatch_lines(["NEW tpot_ms * ms (not in the baseline)"])


def test_a_test_without_a_baseline_is_new_and_told_how_to_record_one(stored: Stored) -> None:
    stored.write(TURN)
    result = stored.run()
    assert result.ret == OK
    assert counted(result) == "1 new"
    result.stdout.fnmatch_lines(["NEW: no baseline for cpu-* (pytest --llmperf-update records what is measured)"])
    strictly = stored.run("--llmperf-strict=new")
    assert strictly.ret == FAILED
    strictly.stdout.fnmatch_lines(
        ["NEW: no baseline for cpu-*", "  to record this: pytest test_chat.py::test_turn --llmperf-update"]
    )
    assert "not in the baseline" not in text(strictly)


def test_a_test_with_a_baseline_for_other_hardware_only_is_new_and_names_it(stored: Stored) -> None:
    stored.record(TURN)
    [folder] = stored.folder.glob("cpu-*")
    folder.rename(stored.folder / "cuda-nvidia-h200-x1")
    result = stored.run()
    assert result.ret == OK
    result.stdout.fnmatch_lines(["NEW: no baseline for cpu-*; there is one for cuda-nvidia-h200-x1 (*"])


def test_another_workload_is_new(stored: Stored) -> None:
    stored.record(TURN)
    stored.write(TURN.replace("**SIZES", "prompt_tokens=16, output_tokens=4"))
    result = stored.run()
    assert result.ret == OK
    result.stdout.fnmatch_lines(["NEW: the baseline is of another workload (*"])


# Limits beside a baseline


def test_a_broken_limit_is_broken_whatever_the_baseline_says(stored: Stored) -> None:
    stored.record(TURN)
    stored.write(TURN.replace("model=", "NEVER, model="))
    result = stored.run()
    assert result.ret == FAILED
    assert verdicts(result)["ttft_ms"] == "BROKEN"


def test_a_limit_that_holds_does_not_save_a_regressed_metric(stored: Stored, again: Again) -> None:
    again()
    stored.record(TURN.replace("model=", "tpot_ms < 60_000, model="))
    stored.change(**FASTER)
    result = stored.run()
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["  tpot_ms *< 60000*REGRESSED*"])


def test_a_failure_names_what_changed_since_the_baseline(stored: Stored, again: Again) -> None:
    again()
    stored.record(TURN)
    stored.change(**FASTER)
    stored.say(versions={"torch": "1.0"}, target="another")
    stored.run().stdout.fnmatch_lines(["  since the baseline: target another → stream:paced, torch 1.0 → *"])


@pytest.mark.parametrize("mark", ["xfail", "xfail(strict=True)"])
def test_an_expected_regression_is_xfailed(stored: Stored, again: Again, mark: str) -> None:
    again()
    stored.record(TURN)
    stored.change(**FASTER)
    stored.write(f"@pytest.mark.{mark}" + TURN)
    result = stored.run()
    result.assert_outcomes(xfailed=1)
    assert result.ret == OK
    assert counted(result) == "1 regressed (1 expected)"


def test_junit_has_the_verdict_of_a_regression(stored: Stored, again: Again) -> None:
    again()
    stored.record(TURN)
    stored.change(**FASTER)
    stored.run("--junitxml=junit.xml")
    junit = (stored.pytester.path / "junit.xml").read_text()
    assert 'name="verdict" value="REGRESSED"' in junit
    assert "<failure" in junit


def test_smoke_runs_are_not_compared(stored: Stored) -> None:
    stored.record(TURN)
    stored.change(**FASTER)
    result = stored.run("--llmperf=smoke", "--llmperf-strict=all")
    assert result.ret == OK
    assert "REGRESSED" not in text(result)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_of_a_failure_stays_within_the_terminal(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    again(fails="the fresh process measured nothing: FAILED test_chat.py::test_model - because of " + "this " * 30)
    stored.record(MODEL)
    stored.change(peak_memory_mib=0.5, weights_mib=0.5, **FASTER)
    lines = text(stored.run()).partition("REGRESSED")[2].partition("= llmperf =")[0].splitlines()[1:-1]
    assert any("peak_memory_mib" in line for line in lines)
    table = lines[lines.index("test_chat.py::test_model") : -2]  # the command to accept it stays in one line
    assert columns - 20 < max(map(len, table)) <= columns


def test_stored_figures_are_read_back_as_they_were_written(stored: Stored) -> None:
    stored.record(MODEL)
    [exact] = [json.loads(text) for name, text in stored.files().items() if name == "exact-cpu/test_chat.json"]
    [session] = exact["tests"]["test_model"]["sessions"]
    assert {"weights_mib", "kv_cache_mib", "flops_per_token"} <= set(session["metrics"])
    assert set(stored.sessions("test_model")[0]["metrics"]) == {"ttft_ms", "tpot_ms", "peak_memory_mib", "leak_mib"}


def test_of_many_estimates_beyond_their_tolerance_the_worst_are_told(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(TURN + "".join(TURN.replace("test_turn", f"test_{n}") for n in range(2)))
    stored.change(ttft_ms=1.2)
    monkeypatch.setenv("PACE", "1.1")
    told = [line for line in stored.run().stdout.lines if "within this machine's noise" in line]
    assert [line.partition(" ms ")[0].split()[1] for line in told] == ["tpot_ms"] * 3


def test_a_terminal_of_eighty_columns_is_enough(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stored.record(TURN)
    monkeypatch.setenv("PACE", "1.1")
    for option in ([], ["-v"], ["--llmperf-update"]):
        lines = text(stored.run(*option)).partition("= llmperf =")[2].splitlines()[1:]
        assert max(map(len, lines)) <= 80
