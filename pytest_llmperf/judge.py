"""What a measurement comes to: its limits, and what its baseline or its base makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_llmperf import metrics
from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.baselines.compare import Baseline, changed_around, compare, since
from pytest_llmperf.baselines.entries import is_timed, untimed
from pytest_llmperf.baselines.exact import counted_with
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.duet.compare import PairTaken, compare_pairs
from pytest_llmperf.gate import Evidence, Gate, recording
from pytest_llmperf.metrics import Kind, Metric
from pytest_llmperf.model import Limit, Measurement, Unknown
from pytest_llmperf.profiling.explain import Change, Seen, explain
from pytest_llmperf.profiling.roofline import roofline, shares
from pytest_llmperf.results import Comparison, Explanation, Result, Row, Verdict
from pytest_llmperf.units import short_number
from pytest_llmperf.verdict.rule import judge_limit, reading


def judge(evidence: Evidence, gate: Gate | None, *, judged: bool = True) -> Result:
    """Limits and comparisons as rows, then every other metric that is known, in the catalogue's order."""
    measurement, limits = evidence.measurement, _limits(evidence)
    rows = [_with_reason(judge_limit(limit, measurement, judged=judged), measurement) for limit in limits]
    shown = {(row.metric, row.statistic) for row in rows}
    order = list(metrics.CATALOGUE)
    rows += [row for name in order if (name, "median") not in shown and (row := reading(name, measurement))]
    environment = measurement.environment
    ranks = environment.versions.get("ranks")
    result = Result(
        key=evidence.key,
        target=measurement.target,
        workload=measurement.workload,
        device=f"{environment.device} {environment.device_name}{f', {ranks} ranks' if ranks else ''}",
        rounds=len(measurement.rounds),
        rows=tuple(rows),
        label=evidence.label,
        notes=measurement.notes,
        impossible=", ".join(roofline(measurement).impossible),
    )
    if gate is not None and judged:
        result = (_AgainstBase if evidence.against else _AgainstStored)(evidence, gate).complete(result)
    return dataclasses.replace(result, rows=tuple(sorted(result.rows, key=lambda row: order.index(row.metric))))


def _limits(evidence: Evidence) -> Sequence[Limit]:
    """The test's own, and that nothing fails, where something did and no limit says how much may."""
    limits = evidence.settings.limits
    if not evidence.measurement.failures or any(limit.metric == NO_FAILURES.metric for limit in limits):
        return limits
    return (*limits, NO_FAILURES)


NO_FAILURES = Limit("failed_share", "median", "<=", 0)


def _with_reason(row: Row, measurement: Measurement) -> Row:
    """A broken limit on a share with what it is a share of, on a time with what disturbed the machine."""
    if row.verdict is not Verdict.BROKEN:
        return row
    timed = metrics.CATALOGUE[row.metric].kind is Kind.TIMED
    disturbance = measurement.conditions.disturbance(measurement.environment.threads or 1) if timed else ""
    said = [row.note, shares(measurement).get(row.metric), disturbance and f"meanwhile {disturbance}"]
    return dataclasses.replace(row, note="; ".join(filter(None, said)))


def basis_of(evidence: Evidence, gate: Gate | None, *, judged: bool = True) -> Basis:
    """All that `judge` looked at."""
    own = {name: getattr(evidence, name) for name in ("unconfirmed", "against", "absent", "confirming", "undecided")}
    known = Basis(evidence.test, evidence.measurement, evidence.label, tuple(evidence.settings.limits), **own)
    if gate is None or not judged:
        return known
    comparing = (_AgainstBase if evidence.against else _AgainstStored)(evidence, gate)
    timed = [metric.name for metric in metrics.CATALOGUE.values() if metric.kind is Kind.TIMED]
    rules = dataclasses.replace(comparing.rules, noise={name: comparing.rules.noise_of(name) for name in timed})
    return dataclasses.replace(
        known,
        rules=rules,
        baseline=comparing.baseline,
        elsewhere=tuple(gate.elsewhere(evidence.key)),
        head=tuple(comparing.head),
        pairs=tuple(pair.to_plain() for pair in evidence.pairs),
        strict=gate.strict,
        recording=gate.recording,
        force=gate.force,
        processes=gate.processes,
    )


class _Comparing:
    """Adds to a result what there is to compare it with makes of it."""

    def __init__(self, evidence: Evidence, gate: Gate) -> None:
        self.evidence = evidence
        self.gate = gate
        self.environment = evidence.measurement.environment
        self.rules = gate.rules(evidence.settings, self.environment, evidence.measurement.target)
        self.head = [gate.session(evidence.measurement, evidence.settings, self.rules.gates), *evidence.again]
        self.baseline = Baseline()

    def complete(self, result: Result) -> Result:
        rows = list(result.rows)  # not by name: two limits may bracket one metric
        first = {row.metric: place for place, row in reversed([*enumerate(rows)]) if row.statistic == "median"}
        for metric in filter(self.rules.gates, metrics.CATALOGUE.values()):
            sample = self.evidence.measurement.samples[metric.name]
            comparison = self._compared(metric, sample if isinstance(sample, Unknown) else None)
            if comparison is None:
                continue
            if metric.name in first:
                rows[first[metric.name]] = _with(rows[first[metric.name]], comparison)
            else:
                rows.append(_with(Row(metric.name, "median", metric.unit, None), comparison))
        judged = tuple(self._by_options(row) for row in rows)
        new = self._why_new()
        return dataclasses.replace(
            result,
            rows=judged,
            new=new,
            new_fails=bool(new) and "new" in self.gate.strict and not self.gate.recording,
            unconfirmed=self.evidence.unconfirmed,
            undecided=self.evidence.undecided,
            explanation=self._explanation(judged),
            **self._told(judged),
        )

    def _explanation(self, rows: Sequence[Row]) -> Explanation | None:
        """Why it is REGRESSED; None where nothing is, or nobody is to be told."""
        regressed = {row.metric for row in rows if row.comparison and row.comparison.verdict is Verdict.REGRESSED}
        if not regressed or not self.gate.explain or self.gate.recording:
            return None
        base, head = self._sides()
        workload = self.evidence.measurement.workload
        positions = workload.prompt_tokens + 1, workload.prompt_tokens + workload.output_tokens - 1
        try:
            return explain(Change(_seen(base), _seen(head), regressed, positions))
        except Exception as error:  # the verdict stands, whatever is wrong with what would explain it
            return Explanation(missing=f"it could not be explained: {type(error).__name__}: {error}")

    def _sides(self) -> tuple[Sequence[Session], Sequence[Session]]:
        """What is known of base and of head, the latest last."""
        raise NotImplementedError

    def _compared(self, metric: Metric, missing: Unknown | None) -> Comparison | None:
        """One metric's comparison; None where neither side has it."""
        raise NotImplementedError

    def _why_new(self) -> str:
        """Why the whole test has nothing to be compared with; empty where it has."""
        raise NotImplementedError

    def _told(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What else the result says of what it was compared with."""
        raise NotImplementedError

    def _by_options(self, row: Row) -> Row:
        """The row with its outcome, where options say other than its verdict."""
        if row.verdict is Verdict.REGRESSED and self.gate.recording:
            return dataclasses.replace(row, outcome=False)
        cause = row.comparison.cause if row.comparison else ""
        names = {Verdict.NEW: "new", Verdict.INCONCLUSIVE: "inconclusive"}
        strictly = {names.get(row.verdict, ""), cause} & self.gate.strict if row.verdict else set()
        if row.verdict is Verdict.NEW and self._why_new():  # the whole test is, which is said once
            strictly = set()
        return dataclasses.replace(row, outcome=True) if strictly and not self.gate.recording else row


class _AgainstStored(_Comparing):
    def __init__(self, evidence: Evidence, gate: Gate) -> None:
        super().__init__(evidence, gate)
        self.baseline = gate.baseline(evidence)
        self.disturbance = evidence.measurement.conditions.disturbance(self.environment.threads or 1)

    def _told(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "since": tuple(since(self.baseline, self.head[0])),
            "recording": recording(self.evidence.key, self.evidence.measurement, self._recorded()),
            "unfit": self._unfit(broken=any(row.verdict is Verdict.BROKEN for row in rows)),
            "disturbed": self.disturbance,
        }

    def _recorded(self) -> Sequence[Session]:
        """What a baseline keeps of head: no times of what was disturbed."""
        return self.head if self.gate.force or not self.disturbance else list(map(untimed, self.head))

    def _unfit(self, *, broken: bool) -> str:
        if self.gate.force:
            return ""
        if broken:
            return "it breaks a limit"
        if self.gate.recording and self.evidence.unconfirmed:
            return f"measured in {len(self.head)} of {self.gate.processes} processes: {self.evidence.unconfirmed}"
        return ""

    def _compared(self, metric: Metric, missing: Unknown | None) -> Comparison | None:
        found = compare(metric, self.baseline, self.head, self.rules, missing)
        if found is None:
            return None
        if metric.kind is not Kind.TIMED:
            # One reading without noise is enough where no other can be had, or none is asked for.
            if found.suspect and (self.evidence.unconfirmed or self.gate.recording):
                note = "not measured again" if self.evidence.unconfirmed else ""
                return found.with_note(note, verdict=Verdict.REGRESSED, suspect=False)
            return found
        if self.disturbance and (found.suspect or found.verdict is Verdict.REGRESSED):
            return found.with_note(self.disturbance, verdict=Verdict.INCONCLUSIVE, suspect=False, cause="conditions")
        if found.suspect and self.evidence.unconfirmed:
            return found.with_note("not measured again", suspect=False)
        again = self.evidence.again
        if (
            found.verdict is Verdict.REGRESSED
            and again
            and not _fails(compare(metric, self.baseline, again, self.rules))
        ):
            found = dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE)  # the mean of both would hide who did it
        if found.verdict is Verdict.INCONCLUSIVE and not found.quiet and again:
            first, *others = (session.metrics.get(metric.name) for session in self.head)
            shown = ", ".join(short_number(reading.median) for reading in others if reading) or "nothing"
            before = short_number(first.median) if first else "nothing"
            return found.with_note(f"{before}, then {shown} when measured again")
        return self._confirmed(metric, found) if found.verdict is Verdict.REGRESSED else found

    def _sides(self) -> tuple[Sequence[Session], Sequence[Session]]:
        """Those that a duet confirmed it with, else what is stored, counted with these versions if anything is."""
        if self.evidence.pairs:
            return _both(self.evidence.pairs)
        exact = sorted(self.baseline.exact, key=lambda each: counted_with(each) == counted_with(self.head[0]))
        return [*self.baseline.sessions, *exact], self.head

    def _confirmed(self, metric: Metric, found: Comparison) -> Comparison:
        """What a duet with the code that was recorded makes of a timed metric that the stored rule calls REGRESSED."""
        base = self.evidence.confirming
        settled = compare_pairs(metric, self.evidence.pairs, self.rules) if self.evidence.pairs else None
        if settled is not None and settled.change is not None:
            return settled.with_note(f"by duet with {base}")
        return found.with_note(self.evidence.undecided)

    def _why_new(self) -> str:
        if self.baseline.sessions:
            return ""
        elsewhere = self.gate.elsewhere(self.evidence.key)
        hardware = self.environment.hardware
        if hardware in elsewhere:
            return "the baseline is of another workload"
        others = f"; there is one for {', '.join(elsewhere)}" if elsewhere else ""
        counts = "; counts alone were compared" if self.baseline.exact else ""
        return f"no baseline for {hardware}{others}{counts}"


def commit_to_confirm(evidence: Evidence, gate: Gate) -> tuple[str, str]:
    """The commit that a stored baseline was recorded at, if a duet with it would tell the same; else why not."""
    comparing = _AgainstStored(evidence, gate)
    stored = [session for session in comparing.baseline.sessions if is_timed(session)][-1]
    if not stored.commit:
        return "", ""
    if stored.dirty:
        return "", f"recorded at {stored.commit[:9]} with changes that are in no commit"
    around = changed_around(stored, comparing.head[0])
    return ("", f"not the code alone has changed: {', '.join(around)}") if around else (stored.commit, "")


class _AgainstBase(_Comparing):
    def _compared(self, metric: Metric, missing: Unknown | None) -> Comparison | None:
        if not self.evidence.pairs:
            return None
        found = compare_pairs(metric, self.evidence.pairs, self.rules, missing)
        if found is None or not found.suspect or not self.evidence.undecided:
            return found
        certain = metric.kind is not Kind.TIMED  # one reading without noise is enough where no other can be had
        return found.with_note(
            "" if certain else self.evidence.undecided,
            suspect=False,
            verdict=Verdict.REGRESSED if certain else found.verdict,
        )

    def _why_new(self) -> str:
        if self.evidence.pairs:
            return ""
        apart = f"; one after the other: {self.evidence.undecided}" if self.evidence.undecided else ""
        return f"base {self.evidence.against}: {self.evidence.absent}{apart}"

    def _told(self, rows: Sequence[Row]) -> dict[str, Any]:
        pairs = self.evidence.pairs
        differing = since(Baseline(sessions=[pairs[0].base]), self.head[0]) if pairs else []
        return {
            "against": self.evidence.against,
            "pairs": tuple(pair.to_plain() for pair in pairs),
            "since": tuple(line for line in differing if not line.startswith("commit ")),
        }

    def _sides(self) -> tuple[Sequence[Session], Sequence[Session]]:
        return _both(self.evidence.pairs)


def _both(pairs: Sequence[PairTaken]) -> tuple[Sequence[Session], Sequence[Session]]:
    return [pair.base for pair in pairs], [pair.head for pair in pairs]


def _seen(sessions: Sequence[Session]) -> Seen:
    """The latest that any of them says, and all their times."""
    calls = [session for session in sessions if session.calls]
    return Seen(
        calls=calls[-1].calls if calls else {},
        times=[session.times for session in sessions if session.times],
        decode_flops=next((each.decode_flops for each in reversed(sessions) if each.decode_flops), []),
        metrics={name: reading.median for session in sessions for name, reading in session.metrics.items()},
    )


def _fails(comparison: Comparison | None) -> bool:
    """Whether it is REGRESSED, or would be if more processes agreed."""
    return comparison is not None and (comparison.suspect or comparison.verdict is Verdict.REGRESSED)


def _with(row: Row, comparison: Comparison) -> Row:
    """One row for a metric's limit and its comparison; a limit that was judged is not hidden by NEW."""
    if row.verdict is None or comparison.verdict is not Verdict.NEW:
        verdict = Verdict.worst([v for v in (row.verdict, comparison.verdict) if v])
    else:
        verdict = row.verdict
    return dataclasses.replace(row, comparison=comparison, verdict=verdict)
