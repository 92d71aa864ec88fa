"""`llmperf calibrate`: the noise of this machine."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.schema import Calibration
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.calibrate import calibration, raw, take_pairs, visible_by_duet, visible_stored
from pytest_llmperf.duet.process import Job
from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Environment, Workload
from pytest_llmperf.reports.calibrated import calibrated
from pytest_llmperf.reports.table import Table
from pytest_llmperf.reports.terminal import standard_output, tables_text
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.targets.device import device_of
from pytest_llmperf.verdict.comparison import Noise

SEEN_AGAINST = (1, 5, 20)
"""Stored sessions for which the table tells what would show."""


def calibrate(parsed: argparse.Namespace) -> int:
    """Take the pairs, store what they tell, print it."""
    if parsed.traces is not None and not parsed.traces.parent.is_dir():
        raise UsageError(f"--traces {parsed.traces}: there is no folder {parsed.traces.parent}")
    store = Store(parsed.baselines.absolute())
    store.noise(hardware(device_of(parsed.device).name))  # a file that cannot be read is better known now
    job = Job(
        resolve(parsed.target),
        LoadOptions(parsed.device, parsed.dtype),
        Workload(parsed.prompt_tokens, parsed.output_tokens),
        None if parsed.threads == "all" else parsed.threads,
    )
    recorded = datetime.now(timezone.utc).isoformat(timespec="seconds")
    console = Console(stderr=True)
    console.print(f"{parsed.pairs} pairs of processes; let the machine do what it does when tests run")
    with console.status("starting") as status:
        traces = take_pairs(job, parsed.pairs, rounds=parsed.rounds, progress=lambda stage: status.update(stage or "…"))
    if parsed.traces is not None:
        _write(parsed.traces, raw(traces, job, recorded))
    found, environment = calibration(traces, job, recorded), traces[0].environment
    path = store.add_noise(environment.hardware, found)
    noise = noise_of(store.noise(environment.hardware), environment)
    colour, width = standard_output()
    print(tables_text([_table(found, noise, environment, len(traces))], [], width, colour))
    print(f"stored in {path}; again on other days, it learns what lies between sessions", file=sys.stderr)
    return 0


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def _table(found: Calibration, noise: Mapping[str, Noise], environment: Environment, pairs: int) -> Table:
    levels = []
    for metric, seen in found.metrics.items():
        visible = [visible_stored(noise[metric], sessions) for sessions in SEEN_AGAINST]
        visible.append(visible_by_duet(noise[metric], environment.device_type))
        levels.append((metric, seen.rounds, noise[metric], visible))
    return calibrated(levels, pairs)
