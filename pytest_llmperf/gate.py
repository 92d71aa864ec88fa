"""The gate of one run: by which rules its measurements are compared, what there is of each, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pytest_llmperf import metrics
from pytest_llmperf.baselines.compare import Baseline, Rules
from pytest_llmperf.baselines.entries import stored_workload
from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.schema import MOST_SAMPLES, Reading, Recording, Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.compare import PairTaken
from pytest_llmperf.metrics import Kind, Metric
from pytest_llmperf.model import (
    Environment,
    Measurement,
    Sample,
)
from pytest_llmperf.options import choose
from pytest_llmperf.profiling.kept import kept
from pytest_llmperf.settings import Settings
from pytest_llmperf.verdict.comparison import Noise, alpha
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
        force: record also what is BROKEN, and times that were disturbed.
        processes: of which a recorded session is made.
        confirm: what the stored rule alone calls REGRESSED is settled by a duet where it can be.
        explain: what is REGRESSED is told with the operators that grew.
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
    confirm: bool = False
    explain: bool = True
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

    def baseline(self, evidence: Evidence) -> Baseline:
        """What is stored of the same workload on the same hardware."""
        measurement = evidence.measurement
        environment, workload = measurement.environment, stored_workload(measurement.workload)
        return self.store.find(evidence.key, environment.hardware, environment.device_type, workload)

    def elsewhere(self, key: str) -> list[str]:
        """Of which hardware there is a baseline of the test, of whatever workload."""
        return self.store.hardware_with(key)

    def session(self, measurement: Measurement, settings: Settings, wanted: Callable[[Metric], bool]) -> Session:
        """What is kept of one process's measurement, of the metrics that are wanted."""
        environment = measurement.environment
        commit, dirty = self.commit
        profile = kept(measurement.counts)
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
            calls=profile.calls,
            times=profile.times,
            decode_flops=list(profile.decode_flops),
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


def _options(measurement: Measurement, settings: Settings) -> dict[str, Any]:
    """How the target was loaded and run, in plain data."""
    load = {f"load.{name}": value if _is_plain(value) else repr(value) for name, value in settings.load.items()}
    gpus = {} if settings.gpus is None else {"gpus": settings.gpus}
    return {"dtype": measurement.environment.dtype, "threads": measurement.environment.threads, **gpus, **load}


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
