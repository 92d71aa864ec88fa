"""Verdicts anew, from nothing but what they rest on: what a report must hold to be believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.baselines.compare import Baseline, Rules
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.compare import PairTaken
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.judge import judge
from pytest_llmperf.metrics import CATALOGUE, Metric
from pytest_llmperf.model import Environment, Measurement, Unknown, subject
from pytest_llmperf.results import Result
from pytest_llmperf.settings import Settings


def rejudge(basis: Basis) -> Result:
    """What the measurement comes to, by the rules it was judged by."""
    samples = {**dict.fromkeys(CATALOGUE, _LATER), **basis.measurement.samples}
    evidence = Evidence(
        basis.test,
        dataclasses.replace(basis.measurement, samples=samples),
        Settings(limits=basis.limits),
        label=basis.label,
        again=list(basis.head[1:]),
        unconfirmed=basis.unconfirmed,
        against=basis.against,
        absent=basis.absent,
        pairs=[PairTaken.from_plain(pair) for pair in basis.pairs],
        confirming=basis.confirming,
        undecided=basis.undecided,
    )
    gate = None if basis.rules is None else _AsKept.of(basis, basis.rules)
    return judge(evidence, gate, judged=basis.rules is not None)


_LATER = Unknown("the report is older than this metric")


def differences(result: Result, basis: Basis | None) -> list[str]:
    """Where the verdicts of a result are not those that its basis comes to, in a line each."""
    if basis is None:
        return [f"{result.key}: the report does not hold what its verdicts rest on"]
    try:
        anew = rejudge(basis)
    except Exception as error:  # of numbers and names that anybody may have changed
        return [f"{result.key}: what its verdicts rest on makes no sense: {type(error).__name__}: {error}"]
    then, now = _verdicts(result), _verdicts(anew)
    return [
        f"{result.key}: {name}: reported {then.get(name, 'not')}, recomputed {now.get(name, 'not')}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def _verdicts(result: Result) -> dict[str, str]:
    """By row, and of the whole."""
    rows = {
        f"{subject(row.metric, row.statistic)} {row.limit or ''}".strip(): f"{row.verdict.value}{' fails' * row.fails}"
        for row in result.rows
        if row.verdict is not None
    }
    return {**rows, "test": f"{result.verdict.value if result.verdict else 'nothing'}{' fails' * result.fails}"}


@dataclass(frozen=True)
class _AsKept(Gate):
    """A gate that knows what another one knew of one measurement, and looks nowhere else."""

    basis: Basis = field(kw_only=True)
    as_ruled: Rules = field(kw_only=True)

    @classmethod
    def of(cls, basis: Basis, rules: Rules) -> _AsKept:
        return cls(
            Store(Path()),
            strict=basis.strict,
            recording=basis.recording,
            force=basis.force,
            processes=basis.processes,
            basis=basis,
            as_ruled=rules,
        )

    def rules(self, settings: Settings, environment: Environment, target: str) -> Rules:
        return self.as_ruled

    def baseline(self, evidence: Evidence) -> Baseline:
        return self.basis.baseline

    def elsewhere(self, key: str) -> list[str]:
        return list(self.basis.elsewhere)

    def session(self, measurement: Measurement, settings: Settings, wanted: Callable[[Metric], bool]) -> Session:
        return self.basis.head[0]
