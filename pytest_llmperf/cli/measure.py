"""The commands of `llmperf` that need no baselines: `metrics` and `measure`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pytest_llmperf.baselines.compare import Rules
from pytest_llmperf.baselines.environment import commit
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.cli import check_folder, show
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.gate import Gate, recording
from pytest_llmperf.model import Measurement
from pytest_llmperf.reports.catalogue import catalogue_markdown, catalogue_text
from pytest_llmperf.reports.table import shape
from pytest_llmperf.reports.terminal import standard_output, summary
from pytest_llmperf.results import Result
from pytest_llmperf.session import Defaults, Llm, Session
from pytest_llmperf.settings import Settings, check
from pytest_llmperf.units import now
from pytest_llmperf.workloads import grid


def metrics(parsed: argparse.Namespace) -> int:
    colour, width = standard_output()
    print(catalogue_markdown() if parsed.markdown else catalogue_text(width, colour))
    return 0


def measure(parsed: argparse.Namespace) -> int:
    check_folder("--json", parsed.json)
    sizes = {"prompt_tokens": parsed.prompt_tokens, "output_tokens": parsed.output_tokens}
    at_once = {"batch_size": parsed.batch_size, "concurrency": parsed.concurrency}
    workloads = grid({**sizes, **at_once}, parsed.prompt)
    defaults = Defaults(parsed.device, parsed.dtype, parsed.threads, parsed.rounds, parsed.max_time)
    console = Console(stderr=True)
    with console.status("starting") as status:
        session = Session(defaults, lambda stage: status.update(stage or "…"))
        level = check(parsed.limit, {"model": parsed.target})
        llm = Llm(session, level.keywords["model"].id, [level])
        measurements = []
        for workload in workloads:
            label = shape(workload) if len(workloads) > 1 else None
            try:
                measurements.append(llm.measure(label, workload=workload))
            except LlmperfError as error:
                if len(workloads) == 1:
                    raise
                print(f"llmperf: {shape(workload)}: {error}", file=sys.stderr)
    if not measurements:
        return 1
    results, verbosity = llm.results(), max(parsed.verbose, int(len(workloads) == 1))
    show(lambda width, colour: summary(results, width, colour, verbosity), lambda: _report(measurements), parsed.json)
    return _status(results, len(workloads))


def _report(measurements: Sequence[Measurement]) -> str:
    """Everything seen, each measurement with what a baseline would store of it."""
    gate = Gate(Store(Path()), recorded=now(), commit=commit(Path.cwd(), Path.cwd()))
    records = []
    for measurement in measurements:
        session = gate.session(measurement, Settings(), Rules().gates)
        key = f"{measurement.target}::{shape(measurement.workload)}"
        record = {**json.loads(measurement.to_json()), "recording": recording(key, measurement, [session])}
        records.append(json.dumps(record))
    return "[\n" + ",\n".join(records) + "\n]\n"


def _status(results: Sequence[Result], asked: int) -> int:
    return int(len(results) < asked or any(result.fails for result in results))
