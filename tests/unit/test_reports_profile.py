"""Profiles as tables: the split of each phase, its largest operators, and what could not be seen."""

from __future__ import annotations

import dataclasses

from pytest_llmperf.model import Operator, Phase, Profile, Workload
from pytest_llmperf.reports.mission import mission_record, mission_tables
from pytest_llmperf.reports.profile import TOP, operators_table, profile_tables, split_table
from pytest_llmperf.reports.table import Table
from pytest_llmperf.reports.terminal import tables_text
from tests.profiles import UNSEEN, mission, phase


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


SEEN = phase(addmm=4, add=1, copy_=2, my_own=0.5)


def test_the_split_of_a_phase_says_where_all_of_its_time_went() -> None:
    table = split_table({"decode": SEEN})
    assert [column.name for column in table.columns[2:]] == ["compute", "elementwise", "overhead", "other", "Python"]
    assert texts(table) == [["decode", "10.000", "40 %", "10 %", "20 %", "5 %", "25 %"]]


def test_on_a_device_shares_are_of_its_kernels_and_the_rest_is_idle() -> None:
    rows = (Operator("aten::mm", 1.0, host=0.001, device=0.006), Operator("aten::view", 3.0, host=0.002))
    seen = Phase(1.0, 1.0, 1.0, 0.010, rows)
    table = split_table({"decode": seen})
    assert table.columns[-1].name == "idle"
    assert texts(table) == [["decode", "10.000", "60 %", "", "", "", "40 %"]]
    assert texts(operators_table("decode", seen)) == [
        ["aten::mm", "compute", "1", "1.000", "6.000", "60 %"],
        ["aten::view", "overhead", "3", "2.000", "", ""],
    ]


def test_operators_are_listed_by_their_time_and_the_rest_in_one_row() -> None:
    table = operators_table("decode", SEEN, most=2)
    assert table.columns[0].name == "decode, per token"
    assert texts(table) == [
        ["aten::addmm", "compute", "2", "4.000", "", "40 %"],
        ["aten::copy_", "overhead", "2", "2.000", "", "20 %"],
        ["2 others", "", "4", "1.500", "", "15 %"],
    ]


def test_eight_operators_are_shown_and_no_row_for_others_where_there_are_none() -> None:
    many = phase(**{f"op{number}": 0.5 for number in range(TOP + 1)})
    assert len(operators_table("prefill", many).rows) == TOP + 1
    few = phase(**{f"op{number}": 0.5 for number in range(TOP)})
    assert [row[0] for row in texts(operators_table("prefill", few))] == [f"aten::op{number}" for number in range(TOP)]


def test_the_long_name_of_a_compiled_graph_is_cut() -> None:
    seen = Phase(1.0, 1.0, 1.0, 0.010, (Operator("## Call CompiledFxGraph " + 40 * "f" + " ##", 1.0, 0.001),))
    [[name, *_]] = texts(operators_table("prefill", seen))
    assert name == "## Call CompiledFxGraph ffffffffffffffffffffffffff…"[:49] + "…"


def test_below_the_split_stands_how_its_times_came_about() -> None:
    seen = dataclasses.replace(SEEN, steps=8)
    table, *_ = profile_tables(Profile.of("fake", Workload(8, 1), SEEN, seen), beside=["without it tpot_ms is 5"])
    assert table.notes == [
        "under the profiler, which slows small operators down: shares count; without it tpot_ms is 5; "
        "decode is the least of 8 steps"
    ]


def test_a_phase_that_was_not_seen_says_why_and_the_other_is_shown() -> None:
    profile = Profile.of("fake", Workload(8, 1), SEEN, UNSEEN)
    tables = profile_tables(profile)
    assert [row[0] for row in texts(tables[0])] == ["prefill"]
    assert tables[0].notes[1:] == ["decode was not profiled: the target does not show its steps"]
    assert len(tables) == 2


def test_neither_phase_seen_leaves_two_reasons_and_no_table() -> None:
    [table] = profile_tables(Profile.of("fake", Workload(8, 1), UNSEEN, UNSEEN))
    assert table.rows == []
    assert len(table.notes) == 2


# The mission table

MISSIONS = [
    mission(32, cold=0.8, prefill=SEEN, decode=SEEN),
    mission(128, prefill=SEEN, decode=SEEN),
    mission(512, prefill=SEEN, decode=SEEN),
]


def test_each_length_has_a_cold_and_a_warm_row() -> None:
    flights = mission_tables(MISSIONS, ["1024 clipped to 512"])[0]
    assert [row[0] for row in texts(flights)] == [
        f"{prompt}→4 {state}" for prompt in (32, 128, 512) for state in ("cold", "warm")
    ]
    assert texts(flights)[0] == ["32→4 cold", "0.500", "800", "15", "5", "4.91", "300", "–"]
    assert flights.notes == ["1024 clipped to 512"]
    assert flights.subtitle == "cpu a processor · float32 · 1 thread · times in ms, memory in MiB"


def test_the_split_is_shown_of_all_lengths_and_operators_of_the_middle_one() -> None:
    _, shares, prefill, decode = mission_tables(MISSIONS)
    assert shares.notes[0].startswith("under the profiler, which slows small operators down: shares count")
    assert [row[0] for row in texts(shares)] == [
        *(f"prefill {prompt}" for prompt in (32, 128, 512)),
        *(f"decode after {prompt}" for prompt in (32, 128, 512)),
    ]
    assert prefill.columns[0].name == "prefill 128"
    assert decode.columns[0].name == "decode after 128, per token"


def test_a_mission_without_profiles_says_why_below_its_times() -> None:
    [flights] = mission_tables([mission(32)])
    assert flights.notes == [
        "prefill 32 was not profiled: the target does not show its steps",
        "decode after 32 was not profiled: the target does not show its steps",
    ]


def test_the_tables_fit_into_eighty_columns() -> None:
    text = tables_text(mission_tables(MISSIONS), [], 80, colour=False)
    assert max(map(len, text.splitlines())) <= 80
    for name in ("tokenize", "TTFT", "steady", "memory", "elementwise", "Python", "host ms", "share"):
        assert name in text


def test_the_record_for_programs_has_seconds_shares_and_findings() -> None:
    record = mission_record(MISSIONS, ["a note"])
    first = record["missions"][0]  # type: ignore[index]  # plain data
    assert first["cold"]["ttft"] == 0.8
    assert first["split"]["decode"]["compute"] == 0.4
    assert first["counts"]["decode"]["operators"][0]["name"] == "aten::addmm"
    assert record["findings"][0].startswith("with a prompt of 32 tokens, a cold start costs 40 times")  # type: ignore[index]  # plain data
    assert record["notes"] == ["a note"]
