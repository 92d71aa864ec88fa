"""What more is measured before a verdict stands: fresh processes, and pairs of them against base."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pytest_llmperf.duet.compare import PairTaken
from pytest_llmperf.duet.script import SIDES, Side
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.judge import commit_to_confirm
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.results import Result, Row, Verdict

if TYPE_CHECKING:
    from pytest_llmperf.baselines import schema


class Fresh(Protocol):
    """Measures a test once more, in processes of their own."""

    def again(self, test: str) -> Mapping[str, schema.Session]:
        """In one process of head: what it measured, by key."""
        ...

    def pair(self, test: str, first: Side, *, turns: bool) -> Mapping[str, PairTaken]:
        """In one process of base and one of head, by key.

        Args:
            first: which of them is started first.
            turns: False lets one end before the other starts.
        """
        ...

    def base(self, commit: str) -> str:
        """Let `pair` compare with this commit from now on; what it is called."""
        ...

    def refused(self) -> str:
        """Why no process of head can be started; empty where one can."""
        ...

    def spent(self) -> str:
        """Why there is no time for more pairs; empty where there is."""
        ...


class Settling:
    """Measures a test again as long as that may change what it comes to.

    Args:
        judge: what one evidence comes to by now.
        run: calls a measurement that takes place elsewhere, while nothing here disturbs it.
    """

    def __init__(
        self,
        test: str,
        evidences: Mapping[str, Evidence],
        gate: Gate,
        fresh: Fresh,
        judge: Callable[[Evidence], Result],
        run: Callable[[str, Callable[[], object]], None],
    ) -> None:
        self._test = test
        self._evidences = evidences
        self._gate = gate
        self._fresh = fresh
        self._judge = judge
        self._run = run
        self._undecided: list[str] = []

    def settled(self) -> list[Result]:
        while True:
            results = [self._judge(evidence) for evidence in self._evidences.values()]
            more = self._next(results)
            if more is None:
                return results
            more()

    def _next(self, results: Sequence[Result]) -> Callable[[], None] | None:
        """What to measure next; None where all is settled, or cannot be."""
        if self._gate.recording:
            return self._measure_again if self._lacks_processes() else None
        going = [result for result in results if not self._given_up(self._evidences[result.key])]
        self._undecided = list(dict.fromkeys(row.metric for each in going for row in each.rows if self._is_open(row)))
        evidences = [self._evidences[result.key] for result in going]
        if any(evidence.against or evidence.confirming for evidence in self._evidences.values()):
            untried = any(evidence.apart and not evidence.pairs for evidence in evidences)
            wanted = bool(self._undecided) and not any(map(_fails_exactly, results))  # then it does, whatever time says
            return self._take_pair if wanted or untried else None
        return self._measure_again if self._undecided else self._confirmation(going)

    def _lacks_processes(self) -> bool:
        evidences = self._evidences.values()
        short = any(1 + len(evidence.again) < self._gate.processes for evidence in evidences)
        return short and not any(evidence.unconfirmed for evidence in evidences)

    @staticmethod
    def _given_up(evidence: Evidence) -> bool:
        """Whether nothing more can be had; another measurement of the test may still be settled."""
        return bool(evidence.unconfirmed or evidence.undecided)

    def _is_open(self, row: Row) -> bool:
        """Whether more processes may change the verdict, and someone waits for that."""
        must_know = "inconclusive" in self._gate.strict
        return row.comparison is not None and (row.comparison.suspect or (must_know and row.comparison.unfinished))

    def _measure_again(self) -> None:
        measured: Mapping[str, schema.Session] = {}

        def again() -> None:
            nonlocal measured
            measured = self._fresh.again(self._test)

        if reason := self._fresh.refused() or self._tried("measuring again in a fresh process", again):
            for evidence in self._evidences.values():
                evidence.unconfirmed = reason
            return
        for key, evidence in self._evidences.items():
            if key in measured:
                evidence.again.append(measured[key].model_copy(update={"recorded": self._gate.recorded}))
            else:
                evidence.unconfirmed = "a fresh process did not measure it"

    def _take_pair(self) -> None:
        going = {key: each for key, each in self._evidences.items() if not self._given_up(each)}
        compared = {key: each for key, each in going.items() if each.pairs or each.apart or each.confirming}
        number = 1 + max(len(evidence.pairs) for evidence in compared.values())
        turns = not any(evidence.apart for evidence in compared.values())
        taken: Mapping[str, PairTaken] = {}

        def pair() -> None:
            nonlocal taken
            taken = self._fresh.pair(self._test, SIDES[number % 2], turns=turns)

        waiting = f" ({', '.join(self._undecided)} undecided)" if self._undecided else ""
        reason = self._fresh.spent() or self._tried(f"pair {number}, fresh processes of base and head{waiting}", pair)
        for key, evidence in compared.items():
            if not reason and key in taken:
                evidence.pairs.append(taken[key])
            else:
                evidence.undecided = reason or "a fresh pair did not measure it"

    def _confirmation(self, results: Sequence[Result]) -> Callable[[], None] | None:
        """A duet with the code that was recorded, for what the stored baseline alone calls REGRESSED."""
        if not self._gate.confirm:
            return None
        regressed = [self._evidences[result.key] for result in results if any(map(_is_regressed_in_time, result.rows))]
        found = [(evidence, *commit_to_confirm(evidence, self._gate)) for evidence in regressed]
        known = [(evidence, commit, reason) for evidence, commit, reason in found if commit or reason]
        return functools.partial(self._confirm, known) if known else None

    def _confirm(self, regressed: Sequence[tuple[Evidence, str, str]]) -> None:
        """All measurements that a test has of it at once, since pairs serve them all; the commit is the first's."""
        commit = next((commit for _, commit, _ in regressed if commit), "")
        said = ""

        def prepare() -> None:
            nonlocal said
            said = self._fresh.base(commit)

        failed = ""
        if commit:
            failed = self._fresh.spent() or self._tried(f"checking out {commit[:9]} to compare with", prepare)
        for evidence, own, reason in regressed:
            reason = reason or failed or ("" if own == commit else f"the test's others were recorded at {commit[:9]}")
            if reason:
                evidence.undecided = f"by the stored rule: {reason}"
            else:
                evidence.confirming = said
        if said:
            self._take_pair()

    def _tried(self, stage: str, what: Callable[[], object]) -> str:
        """Why it could not be done; empty where it was."""
        try:
            self._run(stage, what)
        except LlmperfError as error:
            return str(error)
        return ""


def _fails_exactly(result: Result) -> bool:
    """By a metric without noise."""
    exact = [row for row in result.rows if CATALOGUE[row.metric].kind is not Kind.TIMED]
    return any(row.verdict is Verdict.REGRESSED for row in exact)


def _is_regressed_in_time(row: Row) -> bool:
    comparison = row.comparison
    timed = CATALOGUE[row.metric].kind is Kind.TIMED
    return timed and comparison is not None and comparison.verdict is Verdict.REGRESSED
