"""The gate of one run: what each measurement is compared with, by which rules, and what is recorded of it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pytest_llmperf import metrics
from pytest_llmperf.baselines.compare import Baseline, Rules, changed_around, compare, since
from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.schema import MOST_SAMPLES, Reading, Recording, Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.compare import PairTaken, compare_pairs
from pytest_llmperf.metrics import Kind, Metric
from pytest_llmperf.model import (
    Comparison,
    Environment,
    Measurement,
    Result,
    Row,
    Sample,
    Unknown,
    Verdict,
    Workload,
    plain,
)
from pytest_llmperf.options import choose
from pytest_llmperf.settings import Settings
from pytest_llmperf.units import short_number
from pytest_llmperf.verdict.comparison import Noise, alpha
from pytest_llmperf.verdict.rule import judge_limit, reading
from pytest_llmperf.verdict.statistics import interval


@dataclass(frozen=True)
class Gate:
    """What measurements of a run are compared with.

    Args:
        recorded: when the run began, in UTC: its processes share what is particular about the machine now.
        commit: of the code under test, and whether tracked files differ from it.
        tolerance: of timed metrics, where marks do not say.
        gate: metrics that gate beside those that always do.
        strict: what fails beside BROKEN and REGRESSED: `new`, `inconclusive`, `conditions`, `versions`.
        comparisons: gating timed comparisons that the run may make.
        recording: what is measured becomes the baseline, and nothing is REGRESSED.
        force: record also what is BROKEN or was disturbed.
        processes: of which a recorded session is made.
    """

    store: Store
    recorded: str = ""
    commit: tuple[str, bool] = ("", False)
    tolerance: float = 0.05
    gate: frozenset[str] = frozenset()
    strict: frozenset[str] = frozenset()
    comparisons: int = 2
    recording: bool = False
    force: bool = False
    processes: int = 1
    _noise: dict[Any, Mapping[str, Noise]] = field(default_factory=dict)

    def check(self, key: str, device: str) -> None:
        """Read what is stored of a test before any time goes into measuring it.

        Raises:
            BaselineError: it cannot be read.
        """
        environment = Environment(device=device, hardware=hardware(device))
        self.store.find(key, environment.hardware, environment.device_type, {})
        self.store.noise(environment.hardware)

    def rules(self, settings: Settings, environment: Environment, target: str) -> Rules:
        """By what a measurement of this target is compared."""
        of = environment.hardware, environment.threads, environment.dtype, target
        if of not in self._noise:
            self._noise[of] = noise_of(self.store.noise(environment.hardware), environment, target)
        return Rules(
            device_type=environment.device_type,
            tolerance=choose("tolerance", mark=settings.tolerance, run=self.tolerance),
            tolerances={tolerance.metric: tolerance.fraction for tolerance in settings.tolerances},
            gate=self.gate,
            alpha=alpha(self.comparisons),
            noise=self._noise[of],
        )

    def session(self, measurement: Measurement, settings: Settings, wanted: Callable[[Metric], bool]) -> Session:
        """What is kept of one process's measurement, of the metrics that are wanted."""
        environment = measurement.environment
        commit, dirty = self.commit
        return Session(
            recorded=self.recorded,
            commit=commit,
            dirty=dirty,
            target=_portable(measurement.target),
            options=_options(measurement, settings),
            versions=dict(environment.versions),
            machine=dict(environment.machine),
            metrics={
                metric.name: _reading(metric, sample)
                for metric in metrics.CATALOGUE.values()
                if wanted(metric) and isinstance(sample := measurement.samples[metric.name], Sample)
            },
        )


@dataclass
class Evidence:
    """One measurement of a test, and what fresh processes measured of the same."""

    test: str
    measurement: Measurement
    settings: Settings
    label: str = ""
    again: list[Session] = field(default_factory=list)
    unconfirmed: str = ""
    """Why no fresh process could measure it."""
    against: str = ""
    """The base that it was measured against in turns; empty where a stored baseline is consulted."""
    absent: str = ""
    """Why base did not measure it."""
    pairs: list[PairTaken] = field(default_factory=list)
    confirming: str = ""
    """The base of a duet that settles what the stored baseline makes suspect."""
    apart: bool = False
    """Both have no room in memory at once: the processes of its pairs run one after the other."""
    undecided: str = ""
    """Why no more pairs were measured."""

    @property
    def key(self) -> str:
        """Under which it is reported and stored: `nodeid[::label]`."""
        return f"{self.test}::{self.label}" if self.label else self.test


def judge(evidence: Evidence, gate: Gate | None, *, judged: bool = True) -> Result:
    """Limits and comparisons as rows, then every other metric that is known, in the catalogue's order."""
    measurement, limits = evidence.measurement, evidence.settings.limits
    rows = [judge_limit(limit, measurement, judged=judged) for limit in limits]
    shown = {(row.metric, row.statistic) for row in rows}
    order = list(metrics.CATALOGUE)
    rows += [row for name in order if (name, "median") not in shown and (row := reading(name, measurement))]
    environment = measurement.environment
    result = Result(
        key=evidence.key,
        target=measurement.target,
        workload=measurement.workload,
        device=f"{environment.device} {environment.device_name}",
        rounds=len(measurement.rounds),
        rows=tuple(rows),
        label=evidence.label,
    )
    if gate is not None and judged:
        result = (_AgainstBase if evidence.against else _AgainstStored)(evidence, gate).complete(result)
    return dataclasses.replace(result, rows=tuple(sorted(result.rows, key=lambda row: order.index(row.metric))))


class _Comparing:
    """Adds to a result what there is to compare it with makes of it."""

    def __init__(self, evidence: Evidence, gate: Gate) -> None:
        self.evidence = evidence
        self.gate = gate
        self.environment = evidence.measurement.environment
        self.rules = gate.rules(evidence.settings, self.environment, evidence.measurement.target)
        self.head = [gate.session(evidence.measurement, evidence.settings, self.rules.gates), *evidence.again]

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
            **self._told(judged),
        )

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
        workload = stored_workload(evidence.measurement.workload)
        environment = self.environment
        self.baseline = gate.store.find(evidence.key, environment.hardware, environment.device_type, workload)
        self.disturbance = evidence.measurement.conditions.disturbance(environment.threads or 1)

    def _told(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "since": tuple(since(self.baseline, self.head[0])),
            "recording": recording(self.evidence.key, self.evidence.measurement, self.head),
            "unfit": self._unfit(broken=any(row.verdict is Verdict.BROKEN for row in rows)),
        }

    def _unfit(self, *, broken: bool) -> str:
        if self.gate.force:
            return ""
        if broken:
            return "it breaks a limit"
        if self.gate.recording and self.evidence.unconfirmed:
            return f"measured in {len(self.head)} of {self.gate.processes} processes: {self.evidence.unconfirmed}"
        return self.disturbance

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
            readings = [session.metrics[metric.name].median for session in again if metric.name in session.metrics]
            shown = ", ".join(map(short_number, readings)) or "nothing"
            return found.with_note(f"{shown} when measured again")
        return self._confirmed(metric, found) if found.verdict is Verdict.REGRESSED else found

    def _confirmed(self, metric: Metric, found: Comparison) -> Comparison:
        """What a duet with the code that was recorded makes of a timed metric that the stored rule calls REGRESSED."""
        base = self.evidence.confirming
        settled = compare_pairs(metric, self.evidence.pairs, self.rules) if self.evidence.pairs else None
        if settled is not None and settled.change is not None:
            return settled.with_note(f"by duet with {base}")
        return found.with_note(self.evidence.undecided or f"by the stored rule{', no duet with ' * bool(base)}{base}")

    def _why_new(self) -> str:
        if self.baseline.sessions:
            return ""
        elsewhere = self.gate.store.hardware_with(self.evidence.key)
        hardware = self.environment.hardware
        if hardware in elsewhere:
            return "the baseline is of another workload"
        others = f"; there is one for {', '.join(elsewhere)}" if elsewhere else ""
        return f"no baseline for {hardware}{others}"


def commit_to_confirm(evidence: Evidence, gate: Gate) -> tuple[str, str]:
    """The commit that a stored baseline was recorded at, if a duet with it would tell the same; else why not."""
    comparing = _AgainstStored(evidence, gate)
    stored = [*comparing.baseline.exact, *comparing.baseline.sessions][-1]
    if not stored.commit:
        return "", "recorded outside git"
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
        return f"base {self.evidence.against}: {self.evidence.absent}" if not self.evidence.pairs else ""

    def _told(self, rows: Sequence[Row]) -> dict[str, Any]:
        pairs = self.evidence.pairs
        differing = since(Baseline(sessions=[pairs[0].base]), self.head[0]) if pairs else []
        return {
            "against": self.evidence.against,
            "pairs": tuple(pair.to_plain() for pair in pairs),
            "since": tuple(line for line in differing if not line.startswith("commit ")),
        }


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


def recording(key: str, measurement: Measurement, sessions: Sequence[Session]) -> dict[str, Any]:
    """What a baseline stores of a measurement, in plain data."""
    environment = measurement.environment
    return Recording(
        key=key,
        hardware=environment.hardware,
        device_type=environment.device_type,
        workload=stored_workload(measurement.workload),
        sessions=list(sessions),
    ).model_dump()


def stored_workload(workload: Workload) -> dict[str, Any]:
    """A workload as it is stored and compared; of a text only its digest."""
    sizes: dict[str, Any] = {name: value for name, value in plain(workload).items() if value is not None}
    if workload.prompt is not None:
        sizes["prompt"] = f"sha256:{hashlib.sha256(workload.prompt.encode()).hexdigest()[:16]}"
    return sizes


def _options(measurement: Measurement, settings: Settings) -> dict[str, Any]:
    """How the target was loaded and run, in plain data."""
    load = {f"load.{name}": value if _is_plain(value) else repr(value) for name, value in settings.load.items()}
    return {"dtype": measurement.environment.dtype, "threads": measurement.environment.threads, **load}


def _portable(target: str) -> str:
    """A folder by its name alone: where it lies is the machine's affair."""
    return PurePath(target).name if PurePath(target).is_absolute() else target


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value))


def _reading(metric: Metric, sample: Sample) -> Reading:
    """Figures as they are stored: exact where the metric is, else no longer than they are worth."""
    if metric.kind is not Kind.TIMED:
        return Reading(median=sample.median)
    low, high = interval(sample, "median") or (sample.median, sample.median)
    ordered = sorted(sample.samples)
    count = min(len(ordered), MOST_SAMPLES)
    step = (len(ordered) - 1) / max(1, count - 1)
    return Reading(
        median=_digits(sample.median, 6),
        error=_digits((high - low) / (2 * 1.96), 2),
        samples=[_digits(ordered[round(index * step)], 4) for index in range(count)],
    )


def _digits(value: float, significant: int) -> float:
    return float(f"{value:.{significant}g}")
