"""What more is measured before a verdict stands, and when it is enough."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf import settle
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.compare import PairTaken
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.judge import judge
from pytest_llmperf.model import Environment, Measurement, Sample, Unknown, Workload
from pytest_llmperf.results import Result, Verdict
from pytest_llmperf.settings import Settings
from pytest_llmperf.settle import Settling
from pytest_llmperf.verdict.comparison import Pair, most_pairs
from tests.stored import CPU, KEY, recording, session

HERE = Environment(device="cpu", hardware=CPU, dtype="float32", threads=1)
COMMIT = "abcdef0123456789"


def evidence(tpot: float = 8.0, against: str = "", label: str = "", **given: Any) -> Evidence:
    unknown = {name: Unknown("not asked") for name in ("itl_ms", "latency_ms")}
    known = {"ttft_ms": Sample([[3 * tpot]]), "tpot_ms": Sample([[tpot]] * 9)}
    samples = {name: known.get(name, Unknown("not asked")) for name in _catalogue()} | unknown
    measurement = Measurement("gpt2", Workload(128, 32), (), environment=HERE, samples=samples)
    return Evidence(KEY, measurement, Settings(), label, against=against, **given)


def _catalogue() -> list[str]:
    from pytest_llmperf.metrics import CATALOGUE

    return list(CATALOGUE)


def taken(change: float, error: float = 0.001) -> PairTaken:
    differences = {name: Pair(math.log1p(change), error) for name in ("ttft_ms", "tpot_ms")}
    base, head = session(), session(tpot=8 * (1 + change))
    for each in (base, head):
        del each.metrics["weights_mib"], each.metrics["peak_memory_mib"]
    return PairTaken(base, head, differences, 8)


@dataclasses.dataclass
class FakeFresh:
    """Notes what it is asked for; each further pair shows `change`."""

    change: float = 0.2
    error: float = 0.001
    tpot: float = 80.0
    fails: str = ""
    no_base: str = ""
    refuses: str = ""
    budget: int = 100
    keys: tuple[str, ...] = (KEY,)
    asked: list[str] = dataclasses.field(default_factory=list)

    def again(self, test: str) -> Mapping[str, Session]:
        self.asked.append("again")
        if self.fails:
            raise MeasurementError(self.fails)
        return {key: session(tpot=self.tpot) for key in self.keys}

    def pair(self, test: str, first: str, *, turns: bool) -> Mapping[str, PairTaken]:
        self.asked.append(f"{first} first{'' if turns else ', apart'}")
        if self.fails:
            raise MeasurementError(self.fails)
        pair = dataclasses.replace(taken(self.change, self.error), turns=turns)
        return dict.fromkeys(self.keys, pair)

    def base(self, commit: str) -> str:
        self.asked.append(f"base {commit}")
        if self.no_base:
            raise MeasurementError(self.no_base)
        return f"{commit[:9]} (recorded)"

    def refused(self) -> str:
        return self.refuses

    def spent(self) -> str:
        return "" if len(self.asked) < self.budget else "the budget is spent"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(Store(tmp_path), recorded="2026-11-20T10:00:00+00:00", commit=("fedcba", False), confirm=True)


def settled(gate: Gate, fresh: FakeFresh, *evidences: Evidence) -> list[Result]:
    stages: list[str] = []

    def run(stage: str, what: Callable[[], object]) -> None:
        stages.append(stage)
        what()

    by_key = {each.key: each for each in evidences}
    found = Settling(KEY, by_key, gate, fresh, lambda each: judge(each, gate), run).settled()
    assert all(stages), "whoever waits is told what for"
    return found


def tpot_of(result: Result) -> Any:
    return next(row for row in result.rows if row.metric == "tpot_ms")


# Duets


def test_a_suspect_is_settled_by_fresh_pairs_of_which_either_side_is_first_in_turn(gate: Gate) -> None:
    fresh = FakeFresh(change=0.2)
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=[taken(0.2)]))
    assert result.verdict is Verdict.REGRESSED
    assert fresh.asked[0] == "base first"
    assert len(result.pairs) == 1 + len(fresh.asked) >= 2


def test_what_is_no_suspect_takes_no_more_pairs(gate: Gate) -> None:
    fresh = FakeFresh()
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=[taken(0.001)]))
    assert fresh.asked == []
    assert result.quiet


def test_a_suspicion_that_fresh_pairs_do_not_share_ends(gate: Gate) -> None:
    fresh = FakeFresh(change=-0.05)
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=[taken(0.03)]))
    assert fresh.asked == ["base first"]
    assert result.verdict is Verdict.INCONCLUSIVE


def test_pairs_end_with_the_most_there_are_and_change_places_until_then(gate: Gate) -> None:
    fresh = FakeFresh(change=0.04, error=0.2)
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=[taken(0.04, 0.2)]))
    assert fresh.asked == (["base first", "head first"] * most_pairs("cpu"))[: most_pairs("cpu") - 1]
    assert result.verdict is Verdict.INCONCLUSIVE


def test_who_counts_inconclusive_as_failure_gets_pairs_until_it_is_known(gate: Gate) -> None:
    fresh = FakeFresh(change=0.001)
    strict = dataclasses.replace(gate, strict=frozenset({"inconclusive"}))
    (result,) = settled(strict, fresh, evidence(against="abc", pairs=[taken(0.001)]))
    assert result.verdict is Verdict.OK
    assert 2 <= len(fresh.asked) < most_pairs("cpu")


def test_a_pair_that_fails_leaves_it_undecided_and_says_why(gate: Gate) -> None:
    (result,) = settled(gate, FakeFresh(fails="no memory"), evidence(against="abc", pairs=[taken(0.2)]))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.undecided == "no memory"
    assert "no memory" in tpot_of(result).comparison.note


def test_a_spent_budget_starts_no_pair(gate: Gate) -> None:
    fresh = FakeFresh(budget=0)
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=[taken(0.2)]))
    assert (fresh.asked, result.undecided) == ([], "the budget is spent")


def test_a_pair_that_lacks_the_measurement_leaves_it_undecided(gate: Gate) -> None:
    other = evidence(against="abc", label="other", pairs=[taken(0.2)])
    (result,) = settled(gate, FakeFresh(), other)
    assert result.undecided == "a fresh pair did not measure it"


def test_what_one_measurement_lacks_does_not_keep_another_from_being_settled(gate: Gate) -> None:
    fresh = FakeFresh(change=0.06)
    both = [evidence(against="abc", label=label, pairs=[taken(0.06)]) for label in ("other", "")]
    other, result = settled(gate, fresh, *both)
    assert other.undecided == "a fresh pair did not measure it"
    assert (result.undecided, result.verdict) == ("", Verdict.REGRESSED)
    assert len(result.pairs) > 2 > len(other.pairs)


def test_without_room_for_both_processes_run_one_after_the_other(gate: Gate) -> None:
    fresh = FakeFresh(change=0.001)
    (result,) = settled(gate, fresh, evidence(against="abc", absent="no room", apart=True))
    assert fresh.asked == ["head first, apart"]
    assert result.new == ""
    assert len(result.pairs) == 1


def test_what_base_lacks_is_new_and_measured_no_further(gate: Gate) -> None:
    fresh = FakeFresh()
    (result,) = settled(gate, fresh, evidence(against="abc (main)", absent="it has no such test"))
    assert (result.verdict, fresh.asked) == (Verdict.NEW, [])
    assert result.new == "base abc (main): it has no such test"


def test_a_test_that_fails_by_a_metric_without_noise_takes_no_pairs_for_its_times(gate: Gate) -> None:
    pairs = [taken(0.03, 0.02), taken(0.03, 0.02)]
    for pair in pairs:
        pair.base.metrics["leak_mib"] = pair.base.metrics["tpot_ms"].model_copy(update={"median": 0.0})
        pair.head.metrics["leak_mib"] = pair.base.metrics["tpot_ms"].model_copy(update={"median": 9.0})
    fresh = FakeFresh(change=0.03, error=0.02)
    (result,) = settled(gate, fresh, evidence(against="abc", pairs=pairs))
    assert (result.verdict, fresh.asked) == (Verdict.REGRESSED, [])
    assert tpot_of(result).comparison.suspect


def test_where_neither_turns_nor_processes_apart_can_be_had_both_reasons_are_told(gate: Gate) -> None:
    there = evidence(against="abc (main)", absent="no room", apart=True)
    (result,) = settled(gate, FakeFresh(fails="it ended"), there)
    assert result.new == "base abc (main): no room; one after the other: it ended"


# Stored baselines


@pytest.fixture
def stored(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(settle, "commit_to_confirm", lambda evidence, gate: (COMMIT, ""))
    _record(gate)
    return gate


def _record(gate: Gate, **given: Any) -> None:
    gate.store.record([recording(KEY, session(**given))], append=False)


def slow() -> Evidence:
    return evidence(tpot=80.0)


def test_what_the_stored_times_call_regressed_is_settled_with_the_commit_that_recorded_them(stored: Gate) -> None:
    fresh = FakeFresh(change=0.2)
    (result,) = settled(stored, fresh, slow())
    assert fresh.asked[:3] == ["again", f"base {COMMIT}", "head first"]
    assert tpot_of(result).verdict is Verdict.REGRESSED
    assert tpot_of(result).comparison.note.endswith("pairs; by duet with abcdef012 (recorded)")


def test_where_no_process_can_be_started_none_is(stored: Gate) -> None:
    fresh = FakeFresh(refuses="under torchrun")
    (result,) = settled(stored, fresh, slow())
    assert (fresh.asked, result.unconfirmed) == ([], "under torchrun")
    assert tpot_of(result).verdict is Verdict.INCONCLUSIVE
    assert tpot_of(result).comparison.note.endswith("not measured again")


def test_one_duet_settles_all_that_a_test_measured(stored: Gate) -> None:
    labels = ("short", "long")
    keys = tuple(f"{KEY}::{label}" for label in labels)
    for key in keys:
        stored.store.record([recording(key, session())], append=False)
    fresh = FakeFresh(change=0.001, keys=keys)
    results = settled(stored, fresh, *(evidence(tpot=80.0, label=label) for label in labels))
    assert fresh.asked == ["again", f"base {COMMIT}", "head first"]
    assert not any(result.fails for result in results)


def test_what_was_recorded_at_another_commit_than_the_tests_others_stays_with_the_stored_rule(
    stored: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ("short", "long")
    keys = tuple(f"{KEY}::{label}" for label in labels)
    for key in keys:
        stored.store.record([recording(key, session())], append=False)
    commits = {"short": (COMMIT, ""), "long": ("0123456789abcdef", "")}
    monkeypatch.setattr(settle, "commit_to_confirm", lambda evidence, gate: commits[evidence.label])
    short, long = settled(
        stored, FakeFresh(change=0.001, keys=keys), *(evidence(tpot=80.0, label=label) for label in labels)
    )
    assert (short.fails, long.fails) == (False, True)
    assert long.undecided == "by the stored rule: the test's others were recorded at abcdef012"


def test_a_duet_that_sees_no_change_takes_the_regression_back(stored: Gate) -> None:
    fresh = FakeFresh(change=0.001)
    (result,) = settled(stored, fresh, slow())
    assert tpot_of(result).verdict is Verdict.INCONCLUSIVE
    assert not result.fails
    assert fresh.asked == ["again", f"base {COMMIT}", "head first"]


@pytest.mark.parametrize("fresh", [FakeFresh(no_base="it is gone"), FakeFresh(budget=1)], ids=["gone", "budget"])
def test_without_a_duet_the_stored_rule_stands_and_says_so(stored: Gate, fresh: FakeFresh) -> None:
    (result,) = settled(stored, fresh, slow())
    assert tpot_of(result).verdict is Verdict.REGRESSED
    assert "by the stored rule: " in tpot_of(result).comparison.note


def test_who_wants_no_confirmation_gets_none(stored: Gate) -> None:
    fresh = FakeFresh()
    (result,) = settled(dataclasses.replace(stored, confirm=False), fresh, slow())
    assert (tpot_of(result).verdict, fresh.asked) == (Verdict.REGRESSED, ["again"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dirty": True}, "recorded at abcdef012 with changes that are in no commit"),
        ({"versions": {"torch": "1.0"}}, "not the code alone has changed: torch 1.0 → none"),
        ({"commit": ""}, ""),
    ],
)
def test_a_duet_is_no_answer_where_more_than_the_code_may_have_changed(
    gate: Gate, given: dict[str, Any], reason: str
) -> None:
    _record(gate, **{"versions": {}, **given})
    fresh = FakeFresh()
    (result,) = settled(gate, fresh, slow())
    assert fresh.asked == ["again"]
    assert tpot_of(result).comparison.note.endswith(reason)
    assert tpot_of(result).verdict is Verdict.REGRESSED
