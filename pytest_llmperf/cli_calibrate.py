"""`llmperf calibrate`: the noise of this machine."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import UsageError

TARGET = "random:gpt2?n_layer=2&n_embd=256&n_head=4&vocab_size=1000"
"""Small enough for any machine, and large enough that a token takes about as long as in models that are tested."""
SEEN_AGAINST = (1, 5, 20)
"""Stored sessions for which the table tells what would show."""


def run(parsed: argparse.Namespace) -> int:
    """Take the pairs, store what they tell, print it."""
    from rich.console import Console

    from pytest_llmperf.baselines.store import Store
    from pytest_llmperf.duet.calibrate import calibration, raw, take_pairs
    from pytest_llmperf.duet.process import Job
    from pytest_llmperf.model import Workload
    from pytest_llmperf.targets import LoadOptions, resolve

    if parsed.traces is not None and not parsed.traces.parent.is_dir():
        raise UsageError(f"--traces {parsed.traces}: there is no folder {parsed.traces.parent}")
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
    found = calibration(traces, job, recorded)
    environment = traces[0].environment
    store = Store(parsed.baselines.absolute())
    path = store.add_noise(environment.hardware, found)
    known = store.noise(environment.hardware)
    print(_told(found, known, environment, len(traces)))
    print(f"stored in {path}; again on other days, it learns what lies between sessions", file=sys.stderr)
    return 0


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def _told(found: Any, known: Any, environment: Any, pairs: int) -> str:
    from rich.console import Console

    from pytest_llmperf.baselines.noise import noise_of
    from pytest_llmperf.duet.calibrate import visible_by_duet, visible_stored
    from pytest_llmperf.reports.calibrated import calibrated
    from pytest_llmperf.reports.terminal import full_table_text

    console = Console()
    levels = []
    for metric, noise in noise_of(known, environment).items():
        visible = [visible_stored(noise, sessions) for sessions in SEEN_AGAINST]
        visible.append(visible_by_duet(noise, environment.device_type))
        if metric in found.metrics:
            levels.append((metric, found.metrics[metric].rounds, noise, visible))
    return full_table_text(calibrated(levels, pairs), console.width, console.is_terminal and not console.no_color)
