"""The command `llmperf calibrate`."""

from __future__ import annotations

import argparse
import statistics
import sys

from rich.console import Console

from pytest_llmperf.baselines.noise import FEWEST_DAYS, days_of, noise_of, own_of
from pytest_llmperf.baselines.schema import NoiseFile
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.cli import check_folder
from pytest_llmperf.duet.calibrate import calibration, take_pairs, write_traces
from pytest_llmperf.duet.worker import Job, Ready
from pytest_llmperf.errors import UsageError
from pytest_llmperf.measure import Effort
from pytest_llmperf.model import Workload
from pytest_llmperf.options import OPTIONS
from pytest_llmperf.reports.noise import Level, noise_text
from pytest_llmperf.reports.terminal import standard_output
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.units import now, short_duration
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS, most_pairs, precise_enough

TARGET = "random:gpt2?n_layer=2&n_embd=256&n_head=4&vocab_size=1000"
"""About 2 ms per token: neither all overhead nor all arithmetic, and nothing to download."""
FEWEST_PAIRS = 2


def calibrate(parsed: argparse.Namespace) -> int:
    if parsed.pairs < FEWEST_PAIRS:
        raise UsageError(f"--pairs {parsed.pairs}: expected at least {FEWEST_PAIRS}; 10 tell what they can")
    if parsed.rounds is not None and parsed.rounds < PAIRED_ROUNDS[0]:
        raise UsageError(f"--rounds {parsed.rounds}: expected at least {PAIRED_ROUNDS[0]}; fewer show no precision")
    check_folder("--traces", parsed.traces)
    job = Job(
        resolve(TARGET if parsed.target is None else parsed.target),
        LoadOptions(parsed.device, parsed.dtype),
        Workload(prompt_tokens=parsed.prompt_tokens, output_tokens=parsed.output_tokens),
        Effort(threads=parsed.threads if isinstance(parsed.threads, int) else None),
    )
    store = Store(parsed.baselines)
    recorded = now()
    rounds = str(parsed.rounds or f"{PAIRED_ROUNDS[0]} to {PAIRED_ROUNDS[-1]}")
    _tell(f"{parsed.pairs} pairs of processes of {job.reference.id}, {rounds} rounds of each")

    def begun(ready: Ready, most: float) -> None:
        store.noise(ready.environment.hardware)  # read before any time goes into what would be added to it
        _tell(f"takes at most {short_duration(most)}")

    with Console(stderr=True).status("starting") as status:
        ready, taken = take_pairs(job, parsed.pairs, parsed.rounds, begun=begun, progress=status.update)
    if parsed.traces is not None:
        write_traces(parsed.traces, ready, taken, recorded)
    environment = ready.environment
    path = store.add_noise(environment.hardware, calibration(ready, taken, recorded))
    known = store.noise(environment.hardware)
    colour, width = standard_output()
    print(f"{ready.target} · {environment.device} {environment.device_name} · {environment.dtype} · ", end="")
    print(f"threads {environment.threads}")
    most = most_pairs(environment.device_type)
    print(noise_text(_levels(known, ready), OPTIONS["tolerance"].default, most, width, colour))
    print(f"stored in {path}")
    return 0


def _levels(file: NoiseFile | None, ready: Ready) -> list[Level]:
    """What is known now of the noise of what was calibrated."""
    environment = ready.environment
    levels = []
    for metric, noise in noise_of(file, environment, ready.target).items():
        own = own_of(file, environment, ready.target)
        pairs = [c.metrics[metric] for c in own if metric in c.metrics]
        errors = [error for each in pairs for error in each.errors]
        levels.append(
            Level(
                metric,
                noise,
                statistics.fmean(each.rounds for each in pairs),
                max(statistics.median(errors), precise_enough(noise)),
                len(errors),
                days_of(own, metric) >= FEWEST_DAYS,
            )
        )
    return levels


def _tell(line: str) -> None:
    print(f"llmperf calibrate: {line}", file=sys.stderr)
