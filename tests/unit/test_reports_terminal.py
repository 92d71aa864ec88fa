"""What people see: never wider than the terminal, in colour only where there is colour."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pytest_llmperf.model import Profile, Workload
from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.reports.terminal import failure_text, full_text, summary, table_text
from pytest_llmperf.results import Comparison, Explanation, Grown, Result, Row, Verdict
from tests.profiles import phase

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")

TTFT = Row("ttft_ms", "median", "ms", 12.14, 12.0, 12.3, "< 50", Verdict.OK, "close: within noise", (12.0, 12.14, 12.3))
TPOT = Row("tpot_ms", "median", "ms", 8.931, 8.9, 9.0, "< 8", Verdict.BROKEN, "", (8.9, 8.931, 9.0))
TAIL = Row(
    "itl_ms", "p99", "ms", 9.93, None, None, "< 20", Verdict.INCONCLUSIVE,
    "3 samples, p99 needs 100; give it --llmperf-max-time", (8.9, 8.93, 9.93),
)  # fmt: skip
RATE = Row("output_tokens_per_s", "median", "tokens/s", 1234.6, values=(1234.6,))
PEAK = Row("peak_memory_mib", "median", "MiB", 4000.0, values=(4000.0,))

CHAT = Result(
    "tests/test_chat.py::test_turn", "gpt2", Workload(512, 128), "cuda NVIDIA H200", 12, (TTFT, TPOT, TAIL, RATE, PEAK)
)
LONG = Result(
    f"tests/{'deeply/nested/' * 10}test_long.py::test_{'with_a_name_that_nobody_would_write_' * 4}[{'x' * 90}]",
    "random:gpt2?" + "&".join(f"option_{k}={k}" for k in range(12)),
    Workload(1_000_000, 100_000, 64),
    "cpu " + "AMD EPYC 9575F 64-Core Processor " * 4,
    1,
    (Row("ttft_ms", "median", "ms", 1.5, limit="< 2", verdict=Verdict.OK, note="a reason " * 30), PEAK),
)
RESULTS = [CHAT, LONG]


def _plain(text: str) -> str:
    return ESCAPE.sub("", text)


@pytest.mark.parametrize("width", [60, 80, 99, 100, 120, 200])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("verbosity", [-1, 0, 1, 2])
def test_no_line_is_wider_than_the_terminal(width: int, colour: bool, verbosity: int) -> None:
    text = _plain(summary(RESULTS, width, colour, verbosity))
    assert text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"COLUMNS": "200"}, {"FORCE_COLOR": "1"}, {"TERM": "xterm"}])
def test_the_width_asked_for_holds_whatever_the_environment_says(monkeypatch, environment: dict[str, str]) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for colour in (False, True):
        assert max(map(len, _plain(summary(RESULTS, 60, colour, 1)).splitlines())) <= 60


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbosity", [-1, 0, 1, 2])
def test_escape_codes_come_only_with_colour(width: int, verbosity: int) -> None:
    assert "\x1b" not in summary(RESULTS, width, False, verbosity)
    assert "\x1b[" in summary(RESULTS, width, True, verbosity)


@pytest.mark.parametrize("name", ["FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"])
def test_colour_is_decided_by_the_caller_and_not_by_the_environment(monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert "\x1b" not in summary(RESULTS, 80, False, 1)
    assert "\x1b[1;31mBROKEN" in summary(RESULTS, 80, True, 1)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbosity", [-1, 0, 1, 2])
def test_colour_changes_nothing_but_colour(width: int, verbosity: int) -> None:
    plain, coloured = (summary(RESULTS, width, colour, verbosity) for colour in (False, True))
    assert [line.rstrip() for line in _plain(coloured).splitlines()] == plain.splitlines()


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.BROKEN, "1;31"), (Verdict.REGRESSED, "1;31"), (Verdict.OK, "32"), (Verdict.INCONCLUSIVE, "33")],
)
def test_a_verdict_has_its_colour(verdict: Verdict, code: str) -> None:
    table = Table("", "", (Column("verdict"),), [(Cell(verdict.value, verdict),)])
    assert f"\x1b[{code}m{verdict.value}" in table_text(table, 80, True)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_can_be_shown_in_colour(verdict: Verdict) -> None:
    table = Table("", "", (Column("verdict"),), [(Cell(verdict.value, verdict),)])
    assert verdict.value in table_text(table, 80, True)


@pytest.mark.parametrize(("width", "shown"), [(66, 0), (80, 1), (120, 2)])
def test_less_important_columns_are_shown_where_there_is_room(width: int, shown: int) -> None:
    cold = dataclasses.replace(CHAT, rows=(Row("cold_ttft_ms", "median", "ms", 31.4), *CHAT.rows))
    header = summary([cold], width, False, 0).splitlines()[1].split()
    assert [name for name in header if name in ("cold_ttft_ms", "tokens/s")] == ["cold_ttft_ms", "tokens/s"][:shown]


@pytest.mark.parametrize("width", [80, 120])
def test_a_column_without_a_figure_takes_no_room_from_one_that_has_some(width: int) -> None:
    header = summary([CHAT], width, False, 0).splitlines()[1].split()
    assert header == ["test", "tokens", "ttft_ms", "tpot_ms", "tokens/s", "peak", "MiB", "verdict"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_columns_that_matter_are_shown_at_any_width(width: int) -> None:
    header = next(line for line in summary([CHAT], width, False, 0).splitlines() if "verdict" in line)
    assert [name for name in header.split() if name in ("test", "tokens", "ttft_ms", "tpot_ms", "verdict")] == [
        "test",
        "tokens",
        "ttft_ms",
        "tpot_ms",
        "verdict",
    ]


# Verbosity

COUNTS = "2 measured: 1 broken, 1 ok"


def test_quietly_the_summary_is_one_line() -> None:
    assert summary(RESULTS, 80, False, -1) == COUNTS


def test_ordinarily_the_summary_is_a_row_per_measurement() -> None:
    text = summary(RESULTS, 120, False, 0)
    row = next(line for line in text.splitlines() if "test_turn" in line)
    assert row.split() == ["test_turn", "512→128", "12.1", "8.93", "1,235", "4,000", "BROKEN"]
    assert "tests/test_chat.py" in text.splitlines()
    assert "measured   unit" not in text
    assert text.splitlines()[-1] == COUNTS


def test_ordinarily_a_single_measurement_is_a_row_too() -> None:
    text = summary([CHAT], 120, False, 0)
    assert "test_turn" in text
    assert "± 0.2" not in text
    assert text.splitlines()[-1] == "1 measured: 1 broken"


def test_verbosely_every_metric_of_every_measurement_is_shown_with_its_notes() -> None:
    text = summary(RESULTS, 120, False, 1)
    for told in (
        "12.1 ± 0.2",
        "itl_ms.p99",
        "output_tokens_per_s",
        "gpt2 · 512 → 128 tokens · batch 1 · cuda NVIDIA H200 · 12 rounds",
        "ttft_ms: close: within noise",
        "itl_ms.p99: 3 samples, p99 needs 100; give it --llmperf-max-time",
    ):
        assert told in text
    assert "samples: " not in text
    assert any(line.split()[:2] == ["test_turn", "512→128"] for line in text.splitlines())
    assert text.splitlines()[-1] == COUNTS


def test_verbosely_a_single_measurement_needs_no_overview() -> None:
    text = summary([CHAT], 120, False, 1)
    assert "512→128" not in text
    assert "tests/test_chat.py::test_turn" in text.splitlines()


def test_very_verbosely_samples_are_shown_too() -> None:
    text = summary(RESULTS, 120, False, 2)
    assert "ttft_ms samples: 12, 12.1, 12.3" in text
    assert "12.1 ± 0.2" in text


def test_figures_of_all_modules_stand_below_each_other() -> None:
    results = [CHAT, Result("tests/test_other.py::test_b", "gpt2", Workload(8, 4, 4), "cpu", 3, (TTFT,))]
    headers = [line for line in summary(results, 120, False, 0).splitlines() if "ttft_ms" in line]
    assert len(headers) == 2
    assert headers[0] == headers[1]


def test_long_names_are_folded_and_not_cut() -> None:
    text = summary([LONG], 80, False, 0)
    assert "…" not in text
    assert text.count("x") >= 90


def test_a_name_in_brackets_is_no_markup() -> None:
    keyed = Result("tests/test_a.py::test_b[red]", "gpt2", Workload(), "cpu", 3, (TTFT,))
    for verbosity in (0, 1):
        assert "test_b[red]" in summary([keyed], 80, False, verbosity)
        assert "test_b[red]" in _plain(summary([keyed], 80, True, verbosity))


# Texts that are stored


def test_the_text_of_a_failure_begins_with_what_failed_and_shows_only_limits() -> None:
    text = failure_text(CHAT, 80)
    assert text.splitlines()[0] == "BROKEN tpot_ms 8.93 ms (limit < 8)"
    assert [line.split()[0] for line in text.splitlines() if re.search(r" < \d", line)][1:] == [
        "ttft_ms",
        "tpot_ms",
        "itl_ms.p99",
    ]
    assert "output_tokens_per_s" not in text
    assert "ttft_ms: close: within noise" in text


def test_the_full_text_shows_every_metric() -> None:
    text = full_text(CHAT, 80)
    for row in CHAT.rows:
        assert row.metric in text


@pytest.mark.parametrize("written", [failure_text, full_text])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_stored_texts_are_plain_and_as_wide_as_is_said(monkeypatch, written, width: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    text = written(LONG, width)
    assert "\x1b" not in text
    assert width - 20 < max(map(len, text.splitlines()[written is failure_text :])) <= width


def test_lines_have_no_blanks_at_their_end() -> None:
    for verbosity in (0, 1, 2):
        text = summary(RESULTS, 120, False, verbosity)
        assert text.splitlines() == [line.rstrip() for line in text.splitlines()]


# Why something is REGRESSED

REGRESSED = Comparison(Verdict.REGRESSED, 8.12, 0.1, 0.01)
SLOWER = Row("tpot_ms", "median", "ms", 8.93, verdict=Verdict.REGRESSED, comparison=REGRESSED)
GROWN = {
    "prefill": (Grown("aten::_to_copy", (1, 2)),),
    "decode": (Grown("aten::copy_", (24, 48), (0.1, 0.71)), Grown("outside operators", None, (1.0, 1.5))),
}


def _explained(explanation: Explanation) -> Result:
    key, workload = "t.py::test_turn", Workload(512, 128)
    return Result(key, "gpt2", workload, "cuda NVIDIA H200", 12, (SLOWER,), explanation=explanation)


def test_what_grew_stands_below_the_failing_table_phase_by_phase_then_hints() -> None:
    text = failure_text(_explained(Explanation(GROWN, ("more copies",))), 80)
    assert text.splitlines()[-7:] == [
        "  what there is more of, prefill, calls",
        "    aten::_to_copy   1 → 2",
        "  where the time went, decode, ms per token",
        "    aten::copy_         0.10 → 0.71   24 → 48 calls",
        "    outside operators   1.00 → 1.50",
        "  hint: more copies",
        "  to accept this: pytest t.py::test_turn --llmperf-update",
    ]


def test_short_times_are_shown_with_more_digits() -> None:
    grown = {"decode": (Grown("aten::copy_", (24, 48), (0.0104, 0.0213)),)}
    assert "0.010 → 0.021   24 → 48 calls" in failure_text(_explained(Explanation(grown)), 80)


def test_a_row_without_times_among_others_says_why() -> None:
    grown = {"decode": (Grown("aten::copy_", (24, 48), (0.1, 0.71)), Grown("aten::eq", (1, 2)))}
    text = failure_text(_explained(Explanation(grown)), 100)
    assert "    aten::eq      too short to tell     1 → 2 calls" in text


def test_operators_are_told_with_the_time_of_a_token_without_the_profiler() -> None:
    profile = Profile.of("gpt2", Workload(512, 128), phase(addmm=4), phase(addmm=4))
    told = dataclasses.replace(_explained(Explanation()), profile=profile)
    assert "without it tpot_ms is 8.93" in failure_text(told, 100)
    assert "this is one of them" not in failure_text(told, 100)
    assert "this is one of them" in failure_text(dataclasses.replace(told, explanation=Explanation(GROWN)), 100)


def test_what_misses_operators_says_so_dimly() -> None:
    result = _explained(Explanation(missing="the baseline keeps none"))
    assert "\n  the baseline keeps none\n" in failure_text(result, 80)
    assert "\x1b[2mthe baseline keeps none" in summary([result], 80, colour=True, verbosity=1)


@pytest.mark.parametrize("width", [80, 120])
def test_an_explanation_fits_the_width(width: int) -> None:
    long = "aten::_scaled_dot_product_fused_attention_overrideable_for_some_device_or_other"
    result = _explained(Explanation({"decode": (Grown(long, (24, 48), (0.1, 0.71)),)}, ("a hint " * 20,)))
    text = summary([result], width, colour=False, verbosity=1)
    assert max(map(len, text.splitlines())) <= width
    assert "0.100 → 0.710   24 → 48 calls" in text
