"""The command `llmperf import`: what other load generators measured, judged as if it had been measured here."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.baselines.environment import commit
from pytest_llmperf.baselines.schema import Recording
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.cli import check_folder, show
from pytest_llmperf.errors import ForeignError, UsageError, did_you_mean
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.imports import Run, read
from pytest_llmperf.imports.measurement import measurement_of, place_of
from pytest_llmperf.judge import judge
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.model import Environment, Failure, Measurement
from pytest_llmperf.reports.recorded import Recorded
from pytest_llmperf.reports.terminal import summary
from pytest_llmperf.results import Result
from pytest_llmperf.settings import Settings, check, merge
from pytest_llmperf.units import now

_KEY = re.compile(r"(cpu|cuda|mps|served)-[A-Za-z0-9._-]+")


def import_(parsed: argparse.Namespace) -> int:
    """1 if anything is BROKEN or REGRESSED."""
    _check(parsed)
    settings = merge([check(parsed.limit, {})])
    gate = _gate(parsed)
    judged = [_judged(taken, gate) for taken in _evidence(parsed, settings, gate)]
    results = [result for _, result in judged]
    recorded = _record(parsed, gate, results)
    verbosity = max(parsed.verbose, int(len(results) == 1))
    show(
        lambda width, colour: summary(results, width, colour, verbosity, recorded, update="llmperf import --update"),
        lambda: "[\n" + ",\n".join(_report(*one) for one in judged) + "\n]\n",
        parsed.json,
    )
    return int(any(result.fails for result in results))


def _check(parsed: argparse.Namespace) -> None:
    check_folder("--json", parsed.json)
    module, _, name = parsed.test.partition("::")
    if not (module and name and parsed.test.isprintable()):
        raise UsageError(f"--test {parsed.test}: expected a name like tests/test_serving.py::test_load")
    if parsed.hardware and not _KEY.fullmatch(parsed.hardware):
        raise UsageError(f"--hardware {parsed.hardware}: expected a key like served-h200 or cuda-nvidia-h200-x1")


def _gate(parsed: argparse.Namespace) -> Gate:
    folder = Path(parsed.baselines).absolute()
    return Gate(
        Store(folder),
        recorded=now(),
        commit=commit(Path.cwd(), folder),
        tolerance=parsed.tolerance,
        strict=parsed.strict,
        comparisons=sum(metric.gates and metric.kind is Kind.TIMED for metric in CATALOGUE.values()),
        recording=parsed.update or parsed.append,
        force=parsed.force,
    )


def _evidence(parsed: argparse.Namespace, settings: Settings, gate: Gate) -> list[Evidence]:
    """One measurement per load; further runs of the same load are what further processes measured of it."""
    by_load: dict[str, list[Run]] = {}
    for path in parsed.files:
        for run in _selected(read(path, parsed.format), parsed.select, path):
            by_load.setdefault(run.label, []).append(run)
    found = []
    for label, runs in by_load.items():
        measurements = [_measurement(run, parsed.hardware, settings) for run in runs]
        _check_alike(measurements, label)
        first = Evidence(parsed.test, measurements[0], settings, label if len(by_load) > 1 else "")
        rules = gate.rules(settings, first.measurement.environment, first.measurement.target)
        first.again = [gate.session(one, settings, rules.gates) for one in measurements[1:]]
        found.append(first)
    return found


def _check_alike(measurements: Sequence[Measurement], label: str) -> None:
    first, *others = measurements
    for other in others:
        if (other.workload, other.environment.hardware) != (first.workload, first.environment.hardware):
            raise UsageError(
                f"{label or 'these runs'}: of one name, and not of one workload on one hardware: {first.workload} on "
                f"{first.environment.hardware}, {other.workload} on {other.environment.hardware}; import them apart"
            )


def _selected(runs: Sequence[Run], labels: Sequence[str], path: Path) -> list[Run]:
    known = [run.label for run in runs]
    for label in labels:
        if label not in known:
            raise UsageError(f"--select {label}: {path} holds {', '.join(known)}{did_you_mean(label, known)}")
    chosen = [run for run in runs if not labels or run.label in labels]
    for run in chosen:
        if not run.traces:
            shown = Failure.counted(run.failures) or "none was sent"
            raise ForeignError(f"{path}: {run.label}: no request was answered ({shown})")
    return chosen


def _measurement(run: Run, hardware: str, settings: Settings) -> Measurement:
    place = place_of(run)
    environment = Environment(
        device=f"served:{place}",
        device_name=f"by {run.tool}",
        hardware=hardware or f"served-{re.sub(r'[^a-z0-9.]+', '-', place)}",
        versions={"load generator": run.tool},
    )
    return measurement_of(run, environment, settings.limits)


def _judged(evidence: Evidence, gate: Gate) -> tuple[Measurement, Result]:
    result = judge(evidence, gate)
    if not evidence.again and any(row.comparison and row.comparison.suspect for row in result.rows):
        evidence.unconfirmed = "one run proves nothing, and a second file of the same load may"
        result = judge(evidence, gate)
    return evidence.measurement, result


def _record(parsed: argparse.Namespace, gate: Gate, results: Sequence[Result]) -> Recorded | None:
    if not gate.recording:
        return None
    fit = [Recording(**result.recording) for result in results if result.recording and not result.unfit]
    changes = gate.store.record(fit, append=parsed.append)
    unfit = {result.key: result.unfit for result in results if result.unfit}
    return Recorded(tuple(changes), unfit, done=True, force="--force")


def _report(measurement: Measurement, result: Result) -> str:
    return json.dumps({**json.loads(measurement.to_json()), "recording": result.recording})
