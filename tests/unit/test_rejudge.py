"""Every verdict follows from the report alone: what is judged anew from its JSON is what was reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf import itl_ms, tpot_ms, ttft_ms
from pytest_llmperf.baselines.schema import Recording, Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.compare import one_after_the_other
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.gate import recording as as_recorded
from pytest_llmperf.judge import basis_of, judge
from pytest_llmperf.model import Conditions, Sample
from pytest_llmperf.rejudge import differences, rejudge
from pytest_llmperf.reports import document
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Verdict
from pytest_llmperf.settings import Settings
from tests.stored import KEY, day, recording, session
from tests.unit.test_judge import measured
from tests.unit.test_settle import evidence, taken

BASE = "abcdef012 (merge base with main)"
Case = tuple[Evidence, Gate]


def gate(folder: Path, *tpot: float, **given: Any) -> Gate:
    """Of a baseline with a session for each time per output token."""
    sessions = [session(day(number), each) for number, each in enumerate(tpot, 1)]
    if sessions:
        Store(folder).record([recording(KEY, *map(of_times, sessions))], append=False)
    return Gate(Store(folder), **given)


def of_times(stored: Session) -> Session:
    del stored.metrics["weights_mib"], stored.metrics["peak_memory_mib"]
    return stored


def limited(*limits: Any, rounds: tuple[float, ...] = (8.0,) * 9, **given: Any) -> Evidence:
    known = evidence(**given)
    samples = {**known.measurement.samples, "tpot_ms": Sample([[value] for value in rounds])}
    known.measurement = dataclasses.replace(known.measurement, samples=samples)
    known.settings = Settings(limits=limits)
    return known


def disturbed(tpot: float) -> Evidence:
    known = evidence(tpot)
    known.measurement = dataclasses.replace(known.measurement, conditions=Conditions(0.0, 1.0, 2))
    return known


def counted(folder: Path) -> Case:
    """An operator more in each step."""
    recorder = Gate(Store(folder))
    before, now = measured(1), measured(2)
    rules = recorder.rules(Settings(), before.environment, "gpt2")
    kept = recorder.session(before, Settings(), rules.gates)
    Store(folder).record([Recording(**as_recorded(KEY, before, [kept]))], append=False)
    return Evidence(KEY, now, Settings(), unconfirmed="there is one process"), Gate(Store(folder))


def again(*tpot: float) -> list[Any]:
    return [of_times(session(day(9), each)) for each in tpot]


CASES: dict[str, tuple[Callable[[Path], Case], Verdict, bool]] = {
    "limit kept": (lambda folder: (limited(tpot_ms < 10), gate(folder, 8, 8)), Verdict.INCONCLUSIVE, False),
    "limit kept and nothing stored": (lambda folder: (limited(tpot_ms < 10), gate(folder)), Verdict.NEW, False),
    "limit broken": (lambda folder: (limited(tpot_ms < 5, ttft_ms < 50), gate(folder)), Verdict.BROKEN, True),
    "limit close": (
        lambda folder: (limited(tpot_ms < 8.05, rounds=(7.0, 8.0, 9.0, 8.2, 7.9)), gate(folder)),
        Verdict.NEW,
        False,
    ),
    "limit on a tail of few": (lambda folder: (limited(tpot_ms.p99 < 10), gate(folder)), Verdict.INCONCLUSIVE, False),
    "limit on the unknown": (lambda folder: (limited(itl_ms < 10), gate(folder)), Verdict.BROKEN, True),
    "nothing stored": (lambda folder: (evidence(), gate(folder)), Verdict.NEW, False),
    "nothing stored, strictly": (
        lambda folder: (evidence(), gate(folder, strict=frozenset({"new"}))),
        Verdict.NEW,
        True,
    ),
    "nothing changed": (lambda folder: (evidence(), gate(folder, *[8.0] * 9, tolerance=0.5)), Verdict.OK, False),
    "too few to tell": (lambda folder: (evidence(8.4), gate(folder, 8)), Verdict.INCONCLUSIVE, False),
    "too few to tell, strictly": (
        lambda folder: (evidence(8.4), gate(folder, 8, strict=frozenset({"inconclusive"}))),
        Verdict.INCONCLUSIVE,
        True,
    ),
    "slower, measured again": (
        lambda folder: (evidence(80, again=again(80, 80)), gate(folder, 8, 8)),
        Verdict.REGRESSED,
        True,
    ),
    "slower, and not when measured again": (
        lambda folder: (evidence(80, again=again(8)), gate(folder, 8, 8)),
        Verdict.INCONCLUSIVE,
        False,
    ),
    "slower, not measured again": (
        lambda folder: (evidence(80, unconfirmed="there is one process"), gate(folder, 8, 8)),
        Verdict.INCONCLUSIVE,
        False,
    ),
    "slower while disturbed": (lambda folder: (disturbed(80), gate(folder, 8, 8)), Verdict.INCONCLUSIVE, False),
    "slower while disturbed, strictly": (
        lambda folder: (disturbed(80), gate(folder, 8, 8, strict=frozenset({"conditions"}))),
        Verdict.INCONCLUSIVE,
        True,
    ),
    "slower, recorded": (
        lambda folder: (evidence(80, again=again(80)), gate(folder, 8, 8, recording=True, processes=2)),
        Verdict.REGRESSED,
        False,
    ),
    "slower, by duet": (
        lambda folder: (
            evidence(80, again=again(80), confirming=BASE, pairs=[taken(0.2), taken(0.2)]),
            gate(folder, 8, 8),
        ),
        Verdict.REGRESSED,
        True,
    ),
    "slower, and taken back by a duet": (
        lambda folder: (
            evidence(80, again=again(80), confirming=BASE, pairs=[taken(0.001)] * 3),
            gate(folder, 8, 8),
        ),
        Verdict.INCONCLUSIVE,
        False,
    ),
    "faster": (lambda folder: (evidence(0.8, again=again(0.8, 0.8)), gate(folder, 8, 8)), Verdict.IMPROVED, False),
    "more of what is counted": (counted, Verdict.REGRESSED, True),
    "a pair": (lambda folder: (evidence(9.6, BASE, pairs=[taken(0.2)]), gate(folder)), Verdict.INCONCLUSIVE, False),
    "pairs": (lambda folder: (evidence(9.6, BASE, pairs=[taken(0.2)] * 2), gate(folder)), Verdict.REGRESSED, True),
    "pairs that differ": (
        lambda folder: (evidence(9.6, BASE, pairs=[taken(0.2), taken(0.0), taken(0.3, 0.2)]), gate(folder)),
        Verdict.INCONCLUSIVE,
        False,
    ),
    "pairs, faster": (
        lambda folder: (evidence(4, BASE, pairs=[taken(-0.5)] * 8), gate(folder)),
        Verdict.IMPROVED,
        False,
    ),
    "pairs, left undecided": (
        lambda folder: (evidence(9.6, BASE, pairs=[taken(0.2)], undecided="the 1 s are spent"), gate(folder)),
        Verdict.INCONCLUSIVE,
        False,
    ),
    "pairs, one process after the other": (
        lambda folder: (
            evidence(80, BASE, apart=True, pairs=[one_after_the_other(session(), session(tpot=80))] * 3),
            gate(folder),
        ),
        Verdict.REGRESSED,
        True,
    ),
    "not in base": (
        lambda folder: (evidence(against=BASE, absent="it has no such test"), gate(folder)),
        Verdict.NEW,
        False,
    ),
}


def reported(found: Evidence, by: Gate) -> Run:
    """Its report, as whoever reads the JSON has it."""
    run = Run("2026-11-22T10:00:00+00:00", results=(judge(found, by),), bases={found.key: basis_of(found, by)})
    return document.run_of(document.written(run))


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_recomputed_from_the_report_alone(tmp_path: Path, name: str) -> None:
    build, verdict, fails = CASES[name]
    run = reported(*build(tmp_path / "stored"))
    [result] = run.results
    assert (result.verdict, result.fails) == (verdict, fails)
    basis = run.bases[result.key]
    assert differences(result, basis) == []
    anew = rejudge(basis)
    assert [row.verdict for row in anew.rows] == [row.verdict for row in result.rows]
    assert [row.comparison for row in anew.rows] == [row.comparison for row in result.rows]
    assert (anew.new, anew.new_fails, anew.unfit) == (result.new, result.new_fails, result.unfit)


def test_the_cases_have_every_verdict() -> None:
    assert {verdict for _, verdict, _ in CASES.values()} == set(Verdict)


def tampered(run: Run, change: Callable[[dict[str, Any]], None]) -> list[str]:
    """What is told of a report in which somebody has changed something."""
    content = json.loads(document.written(run))
    change(content)
    read = document.run_of(json.dumps(content))
    [result] = read.results
    return differences(result, read.bases.get(result.key))


def row(content: dict[str, Any], metric: str = "tpot_ms") -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in content["results"][0]["rows"] if each["metric"] == metric)
    return found


def test_a_verdict_that_was_changed_is_told(tmp_path: Path) -> None:
    run = reported(evidence(9.6, BASE, pairs=[taken(0.2)] * 2), gate(tmp_path))
    told = tampered(run, lambda content: row(content).update(verdict="OK"))
    assert told == [f"{KEY}: tpot_ms: reported OK, recomputed REGRESSED fails"]
    told = tampered(run, lambda content: row(content).update(outcome=False))
    assert told == [f"{KEY}: tpot_ms: reported REGRESSED, recomputed REGRESSED fails"]


def test_a_failure_that_was_taken_out_is_told(tmp_path: Path) -> None:
    run = reported(limited(tpot_ms < 5), gate(tmp_path))
    told = tampered(run, lambda content: content["results"][0]["rows"].remove(row(content)))
    assert f"{KEY}: tpot_ms < 5: reported not, recomputed BROKEN fails" in told
    assert f"{KEY}: test: reported NEW, recomputed BROKEN fails" in told


def test_a_report_without_what_its_verdicts_rest_on_is_told(tmp_path: Path) -> None:
    run = reported(evidence(), gate(tmp_path))
    told = tampered(run, lambda content: content["bases"].clear())
    assert told == [f"{KEY}: the report does not hold what its verdicts rest on"]


def test_nothing_but_the_report_is_consulted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored where it is read is none of its business."""
    run = reported(evidence(80, again=again(80, 80)), gate(tmp_path / "baselines", 8, 8))
    monkeypatch.chdir(tmp_path)
    Store(tmp_path).record([recording(KEY, session(tpot=80))], append=False)
    [result] = run.results
    assert differences(result, run.bases[KEY]) == []


def test_a_smoke_run_has_no_verdict_to_recompute() -> None:
    found = limited(tpot_ms < 5)
    assert differences(judge(found, None, judged=False), basis_of(found, None, judged=False)) == []


def test_what_makes_no_sense_is_told_and_ends_nothing(tmp_path: Path) -> None:
    found, by = limited(tpot_ms < 10), gate(tmp_path)
    result, basis = judge(found, by), basis_of(found, by)
    (limit,) = basis.limits
    odd = dataclasses.replace(basis, limits=(dataclasses.replace(limit, operator="is"),))
    assert differences(result, odd) == [f"{KEY}: what its verdicts rest on makes no sense: KeyError: 'is'"]


def test_a_report_from_before_a_metric_comes_to_the_same_verdicts(tmp_path: Path) -> None:
    found, by = limited(tpot_ms < 10), gate(tmp_path)
    result, basis = judge(found, by), basis_of(found, by)
    samples = {name: value for name, value in basis.measurement.samples.items() if name != "energy_j_per_token"}
    older = dataclasses.replace(basis, measurement=dataclasses.replace(basis.measurement, samples=samples))
    assert len(samples) == len(basis.measurement.samples) - 1
    assert differences(result, older) == []
