"""Tables in the width that there is: no figure and no name is cut, whatever has to give way for that."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pytest_llmperf.model import Operator, Phase, Profile, Workload
from pytest_llmperf.reports.grid import grids
from pytest_llmperf.reports.table import COMPARED, Cell, Column, Table, compared_row, details
from pytest_llmperf.reports.terminal import failure_text, summary
from pytest_llmperf.results import Comparison, Result, Row, Verdict

SLOWER = Comparison(Verdict.INCONCLUSIVE, 21.9, 0.826, 0.63, "within this machine's noise")
UNSEEN = Comparison(Verdict.INCONCLUSIVE, 101.4, 0.01, 0.33, "no change seen (± 33 %)", quiet=True)
SAME = Comparison(Verdict.OK, 18_425_856, 0.0, None, "exact")
MORE = Comparison(Verdict.REGRESSED, 18_425_856, 1e-7, None, "exact")
ROOM = Comparison(Verdict.REGRESSED, 4000.0, 0.1, None, "tolerance 1 %")
ROWS = (
    Row("ttft_ms", "median", "ms", 39.9, limit="< 2000", verdict=Verdict.INCONCLUSIVE, comparison=SLOWER),
    Row("tpot_ms", "median", "ms", 102.4, limit="< 500", verdict=Verdict.INCONCLUSIVE, comparison=UNSEEN),
    Row("total_tokens_per_s", "p99", "tokens/s", 12_345.6, limit="> 0.5", verdict=Verdict.OK),
    Row("peak_memory_mib", "median", "MiB", 4400.0, verdict=Verdict.REGRESSED, comparison=ROOM),
    Row("flops_per_token", "median", "FLOP", 18_425_856, verdict=Verdict.OK, comparison=SAME),
)
RESULT = Result("test_chat.py::test_turn", "gpt2", Workload(64, 12), "cpu AMD EPYC, 2 cores", 12, ROWS)


def lines(table: Table, width: int) -> list[str]:
    return [line.plain.rstrip() for line in grids([table], width)[0].lines]


def of(*rows: Row) -> Table:
    return Table("", "", COMPARED, [compared_row(row) for row in rows])


@pytest.mark.parametrize("width", [70, 80, 100, 120])
@pytest.mark.parametrize("written", [failure_text, lambda result, width: summary([result], width, False, 1)])
def test_a_comparison_of_long_figures_is_whole_at_any_width(written, width: int) -> None:
    text = written(RESULT, width)
    assert max(map(len, text.splitlines()[1:])) <= width, "the first line is for pytest's own summary"
    whole = ("total_tokens_per_s.p99", "12,346", "+82.6 % ± 63", "< 2000", "INCONCLUSIVE", "no change seen", "± 33 %")
    assert [each for each in whole if not re.search(rf"(?<![^\s(]){re.escape(each)}", text)] == []
    assert "18,425,856" in text or "18.4 M" in text
    assert re.search(r"tolerance 1 %", text), "beside it, or below"


def test_what_there_is_no_room_for_beside_stands_below() -> None:
    beside, below = (grids([of(*ROWS)], width)[0] for width in (140, 80))
    assert beside.lines[-2].plain.rstrip().endswith("tolerance 1 %")
    assert (beside.remarks, below.remarks) == (
        [],
        ["ttft_ms: within this machine's noise", "peak_memory_mib: tolerance 1 %"],
    )
    assert below.left_out == ["unit"]


def test_an_exact_difference_that_fewer_digits_would_hide_keeps_them_all() -> None:
    grown = Row("flops_per_token", "median", "FLOP", 18_425_858, verdict=Verdict.REGRESSED, comparison=MORE)
    assert re.search("18,425,856 +18,425,858 ", " ".join(lines(of(grown, *ROWS[:2]), 66)))
    assert re.search("18.4 M +18.4 M ", " ".join(lines(of(*ROWS[:2], ROWS[4]), 66)))


def test_a_name_that_is_too_long_has_a_line_of_its_own() -> None:
    table = Table("", "", (Column("operator"), Column("ms", right=True)), [])
    table.rows.extend([(Cell("x" * 30), Cell("1.5")), (Cell("mm"), Cell("22.5"))])
    assert lines(table, 30) == ["operator    ms", "─" * 14, "x" * 30, "           1.5", "mm        22.5"]


def test_an_operators_name_is_whole_at_80_columns() -> None:
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    phase = Phase(1.0, 1.0, 1.0, 0.010, (Operator(name, 4.0, 0.0002), Operator("aten::mm", 1.0, 0.009)))
    profiled = dataclasses.replace(RESULT, profile=Profile.of("gpt2", Workload(), phase, phase))
    assert f"\n  {name}" in failure_text(profiled, 80)


def test_text_is_folded_between_words() -> None:
    table = Table(
        "", "", (Column("name"), Column("definition", text=True)), [(Cell("a"), Cell("words and more words " * 9))]
    )
    assert all(re.fullmatch(r"(a +| +)((words|and|more) ?)+", line) for line in lines(table, 50)[2:])


def test_tables_of_the_same_columns_are_set_alike() -> None:
    one, other = of(ROWS[0]), of(ROWS[4])
    first, second = grids([one, other], 80)
    assert first.lines[0].plain == second.lines[0].plain


def test_a_column_in_which_nothing_stands_is_left_out_and_not_told() -> None:
    found = grids([of(ROWS[4])], 120)[0]
    assert "limit" not in found.lines[0].plain
    assert found.left_out == []


# What a comparison shows as head


def test_the_head_that_is_shown_is_what_the_change_is_taken_to() -> None:
    comparison = Comparison(Verdict.INCONCLUSIVE, 5.86, 0.479, 0.36, "6.05, then 12.4 when measured again")
    row = Row("tpot_ms", "median", "ms", 6.05, limit="< 7", verdict=Verdict.INCONCLUSIVE, comparison=comparison)
    result = dataclasses.replace(RESULT, rows=(row,))
    table = details(result)
    assert [cell.text for cell in table.rows[0]][:5] == ["tpot_ms", "5.86", "8.67", "ms", "+47.9 % ± 36"]
    assert table.notes[-1] == "tpot_ms: the limit is held to 6.05 ms, of the first process alone"
    assert "tpot_ms 5.86 → 8.67 ms (+47.9 % ± 36" in summary([result], 200, False, 0)


def test_what_is_exact_is_shown_as_it_was_read() -> None:
    assert compared_row(ROWS[4])[2].text == "18,425,856"
    assert compared_row(ROWS[3])[2].text == "4,400"
