"""A measurement against its stored baseline, metric by metric: from sessions to the numbers that are judged."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.baselines.exact import GATING_VERSIONS, counted_with, is_exact
from pytest_llmperf.baselines.schema import Entry, Learned, Session
from pytest_llmperf.metrics import CATALOGUE, Kind, Metric
from pytest_llmperf.model import Unknown
from pytest_llmperf.results import Comparison, Verdict
from pytest_llmperf.verdict.comparison import PRIORS, Level, Noise, Spread, learn, stored_estimate
from pytest_llmperf.verdict.rule import judge_counted, judge_memory, judge_timed, no_longer_measured, worse

MEMORY_TOLERANCE = 0.01
_FEWEST_READINGS = 2
"""Of metrics without noise: the second is a fresh process, which shows whether the first was a matter of chance."""


@dataclass(frozen=True)
class Baseline:
    """What is stored of one test: sessions on this hardware, and those of its counted metrics."""

    sessions: Sequence[Session] = ()
    exact: Sequence[Session] = ()
    learned: Mapping[str, Learned] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """By what a measurement is compared.

    Args:
        tolerance: of timed metrics, as a fraction.
        tolerances: of single metrics, which also makes them gate.
        gate: metrics that gate beside those that always do.
        alpha: error to spend on each comparison.
        noise: of timed metrics, as calibrated on this machine.
    """

    device_type: str = "cpu"
    tolerance: float = 0.05
    tolerances: Mapping[str, float] = field(default_factory=dict)
    gate: frozenset[str] = frozenset()
    alpha: float = 0.002
    noise: Mapping[str, Noise] = field(default_factory=dict)

    def gates(self, metric: Metric) -> bool:
        return metric.kind is not Kind.REPORT and (
            metric.gates or metric.name in self.gate or metric.name in self.tolerances
        )

    def noise_of(self, metric: str) -> Noise:
        return self.noise.get(metric) or PRIORS.get(self.device_type, PRIORS["cpu"])

    def fewest(self, metric: Metric) -> int:
        """Processes that must agree before this metric is REGRESSED."""
        return self.noise_of(metric.name).fewest if metric.kind is Kind.TIMED else _FEWEST_READINGS


def compare(
    metric: Metric, baseline: Baseline, head: Sequence[Session], rules: Rules, missing: Unknown | None = None
) -> Comparison | None:
    """One metric of head's processes against the baseline; None where neither has it.

    A comparison that would be REGRESSED if more processes agreed is a `suspect`.

    Args:
        missing: why head does not have it.
    """
    stored = baseline.exact if is_exact(metric.name) else baseline.sessions
    base = [session for session in stored if metric.name in session.metrics]
    measured = [session for session in head if metric.name in session.metrics]
    if not base:
        return Comparison(Verdict.NEW, note="not in the baseline") if measured else None
    if not measured:
        versions = _other_versions(base, head[0]) if metric.kind is Kind.COUNTED else ""
        last = base[-1].metrics[metric.name].median
        return no_longer_measured(metric, last, missing or Unknown("unknown"), versions)
    if metric.kind is Kind.TIMED:
        found = _timed(metric, base, measured, rules, baseline.learned.get(metric.name))
    elif metric.kind is Kind.COUNTED:
        found = _counted(metric, base, measured)
    else:
        tolerance = rules.tolerances.get(metric.name, MEMORY_TOLERANCE)
        floor = metric.least.cuda if rules.device_type == "cuda" else metric.least.cpu
        readings = _medians(_of_one_code(base), metric.name)
        found = judge_memory(readings, _medians(measured, metric.name), metric, tolerance, floor)
    return found.after(len(measured), rules.fewest(metric))


def _timed(
    metric: Metric, base: Sequence[Session], head: Sequence[Session], rules: Rules, learned: Learned | None
) -> Comparison:
    tolerance = rules.tolerances.get(metric.name, rules.tolerance)
    if min(_medians([*base, *head], metric.name)) <= 0:
        shown = _medians(base, metric.name)[-1]
        return Comparison(Verdict.INCONCLUSIVE, shown, note="a time of 0 has no ratio to another")
    stored = levels(base, metric.name)
    spread = Spread(learned.deviation, learned.df) if learned else None
    estimate = stored_estimate(stored, levels(head, metric.name), rules.noise_of(metric.name), spread, worse(metric))
    shown = math.exp(statistics.fmean(level.mean for level in stored))
    return judge_timed(shown, estimate, metric, tolerance, rules.alpha)


def _counted(metric: Metric, base: Sequence[Session], head: Sequence[Session]) -> Comparison:
    comparable = [session for session in base if counted_with(session) == counted_with(head[0])] or base[-1:]
    stored = _medians(_of_one_code(comparable), metric.name)
    return judge_counted(stored, _medians(head, metric.name), metric, _other_versions(base, head[0]))


def _other_versions(base: Sequence[Session], head: Session) -> str:
    """What base was counted with, where no session of it had head's versions."""
    then, now = counted_with(base[-1]), counted_with(head)
    if any(counted_with(session) == now for session in base):
        return ""
    named = zip(GATING_VERSIONS, then, now, strict=True)
    return ", ".join(f"{name} {before}" for name, before, after in named if before not in ("", after)) or "others"


def _of_one_code(sessions: Sequence[Session]) -> list[Session]:
    """The latest session and those that measured the same code: only their readings have to agree."""
    latest = sessions[-1]
    clean = bool(latest.commit) and not latest.dirty
    return [
        session
        for session in sessions
        if session.recorded == latest.recorded
        or (clean and (session.commit, session.dirty) == (latest.commit, latest.dirty))
    ]


def levels(sessions: Sequence[Session], metric: str) -> list[Level]:
    """ln of a metric by sitting: processes of one sitting share what was particular about the machine then."""
    known = [session for session in sessions if metric in session.metrics]
    sittings = itertools.groupby(sorted(known, key=lambda session: session.recorded), lambda s: s.recorded)
    readings = ([session.metrics[metric] for session in sitting] for _, sitting in sittings)
    return [Level.of([r.median for r in sitting], [r.error for r in sitting]) for sitting in readings]


def learned(entry: Entry, noise: Noise = PRIORS["cpu"]) -> dict[str, Learned]:
    """What an entry's sessions, which are about to be replaced, taught about the spread of each timed metric.

    What was learned before of a metric that no session has stays as it is.
    """
    taught = {}
    names = {**entry.learned, **{name: None for session in entry.sessions for name in session.metrics}}
    for name in names:
        if name in CATALOGUE and CATALOGUE[name].kind is Kind.TIMED:
            before = entry.learned.get(name)
            seen = levels(entry.sessions, name) if min(_medians(entry.sessions, name), default=0) > 0 else []
            spread = learn(seen, noise, Spread(before.deviation, before.df) if before else None)
            if spread is not None:
                taught[name] = Learned(deviation=float(f"{spread.deviation:.3g}"), df=spread.df)
    return taught


def since(baseline: Baseline, head: Session) -> list[str]:
    """What changed around the code since the latest stored session: `torch 2.12.0 → 2.13.0`."""
    stored = next(reversed((*baseline.exact, *baseline.sessions)), None)
    if stored is None:
        return []
    changed = [f"target {stored.target} → {head.target}"] if stored.target != head.target else []
    changed += [*_changed(stored.options, head.options), *changed_around(stored, head)]
    if (stored.commit, stored.dirty) != (head.commit, head.dirty) and stored.commit:
        changed.append(f"commit {_code(stored)} → {_code(head)}")
    return changed


def changed_around(stored: Session, head: Session) -> list[str]:
    """What is no matter of the project's own code: versions of software, and what a machine is set to.

    Of a machine not all is recorded at all times: what only one side knows has not changed as far as anyone can tell.
    """
    both = stored.machine.keys() & head.machine.keys()
    then, now = ({name: side.machine[name] for name in side.machine if name in both} for side in (stored, head))
    return [*_changed(stored.versions, head.versions), *_changed(then, now)]


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names]


def _code(session: Session) -> str:
    return f"{session.commit[:9] or 'none'}{' with changes' * session.dirty}"


def _medians(sessions: Sequence[Session], metric: str) -> list[float]:
    return [session.metrics[metric].median for session in sessions if metric in session.metrics]
