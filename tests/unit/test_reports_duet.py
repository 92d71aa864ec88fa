"""What a duet says for itself: with what, by how much of it, what is undecided, and what there was nothing for."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.model import Workload
from pytest_llmperf.reports.table import SMALLER, SURER, advice, details, hints
from pytest_llmperf.results import Comparison, Result, Row, Verdict

BASE = "a1b2c3d4e (merge base with origin/main)"
PAIR = {"head": {"commit": "fedcba9876543210", "dirty": False}, "rounds": 18}


def row(verdict: Verdict = Verdict.REGRESSED, metric: str = "tpot_ms", **compared: Any) -> Row:
    known = {"base": 8.12, "change": 0.1, "spread": 0.011, "note": "tolerance 5 %; 2 pairs", **compared}
    return Row(metric, "median", "ms", 8.93, verdict=verdict, comparison=Comparison(verdict, **known))


def duet(*rows: Row, pairs: tuple[Any, ...] = (PAIR, PAIR), **fields: Any) -> Result:
    given = {"target": "gpt2", "device": "cpu", "rounds": 18, "against": BASE, "pairs": pairs, **fields}
    return Result(key="test_chat.py::test_turn", workload=Workload(), rows=rows or (row(),), **given)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ((PAIR, PAIR), "fedcba987: 2 pairs of processes, 36 rounds in turns"),
        ((PAIR,), "fedcba987: 1 pair of processes, 18 rounds in turns"),
        (
            ({"head": {**PAIR["head"], "dirty": True}, "rounds": 0},),
            "fedcba987 with changes: 1 pair of processes, one after the other, as both do not fit into memory at once",
        ),
    ],
    ids=["pairs", "pair", "apart"],
)
def test_the_table_names_both_commits_and_the_pairs(pairs: tuple[Any, ...], said: str) -> None:
    assert details(duet(pairs=pairs)).notes == [f"base {BASE}, head {said}"]


def test_what_base_lacks_is_said_in_the_table_and_at_the_end() -> None:
    result = duet(Row("tpot_ms", "median", "ms", 8.93), pairs=(), new=f"base {BASE}: it has no such test")
    assert details(result).notes == [f"base {BASE}: it has no such test"]
    assert hints([result]) == [f"NEW: test_chat.py::test_turn: base {BASE}: it has no such test"]


def test_no_baseline_is_offered_where_none_was_consulted() -> None:
    assert advice(duet(since=("torch 2.12.0 → 2.13.0",))) == ["beside the code: torch 2.12.0 → 2.13.0"]
    assert advice(duet(against="", since=("torch 2.12.0 → 2.13.0",))) == [
        "since the baseline: torch 2.12.0 → 2.13.0",
        "to accept this: pytest test_chat.py::test_turn --llmperf-update",
    ]
    assert hints([duet(row(Verdict.IMPROVED, change=-0.1))]) == []


def test_what_was_left_undecided_is_counted_by_reason() -> None:
    unfinished = row(Verdict.INCONCLUSIVE, note="within this machine's noise; 1 pair", unfinished=True)
    spent = "the 60 s of --llmperf-budget are spent"
    said = hints([duet(unfinished, undecided=spent), duet(unfinished, undecided=spent), duet(undecided="not that one")])
    assert f"2 undecided: {spent}" in said
    assert not any("not that one" in line for line in said)


@pytest.mark.parametrize(("against", "hint", "other"), [(BASE, SURER, SMALLER), ("", SMALLER, SURER)])
def test_what_would_tell_more_depends_on_the_rule(against: str, hint: str, other: str) -> None:
    said = hints([duet(row(Verdict.INCONCLUSIVE), against=against)])
    assert hint in said
    assert other not in said
