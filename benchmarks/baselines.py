"""How long do stored baselines take to be read and compared, and what does one changed test rewrite?

Makes baselines of 10, 100 and 1,000 tests in modules of ten, each of 10 metrics and 5 sessions of 20 samples, with
operators kept; reads them in a fresh store, and judges every metric of every test against one more session.

    python benchmarks/baselines.py
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pytest_llmperf.baselines.compare import Rules, compare
from pytest_llmperf.baselines.schema import Reading, Recording, Session
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.metrics import CATALOGUE, Kind

TESTS = (10, 100, 1_000)
SESSIONS = 5
PER_MODULE = 10
OPERATORS = 36
"""Of which calls and times are kept, as of GPT-2."""
HARDWARE = "cpu-benchmark-2c"
METRICS = [metric for metric in CATALOGUE.values() if metric.kind is not Kind.REPORT][:10]
RULES = Rules(gate=frozenset(metric.name for metric in METRICS))
WORKLOAD = {"prompt_tokens": 128, "output_tokens": 32, "batch_size": 1, "concurrency": 1}


def session(draw: random.Random, number: int) -> Session:
    def reading() -> Reading:
        samples = sorted(float(f"{draw.gauss(8, 0.2):.4g}") for _ in range(20))
        return Reading(median=samples[10], error=0.05, samples=samples)

    return Session(
        recorded=f"2026-11-{number + 1:02}T12:00:00+00:00",
        commit="0" * 40,
        target="gpt2",
        options={"dtype": "float32", "threads": 1},
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        metrics={metric.name: reading() for metric in METRICS},
        calls={f"aten::{name}": {"decode": 8, "prefill": 8} for name in range(OPERATORS)},
        times={f"aten::{name}": {"decode": [draw.random()], "prefill": [draw.random()]} for name in range(OPERATORS)},
        decode_flops=[277504, 282624],
    )


def recordings(tests: int, sessions: int) -> list[Recording]:
    draw = random.Random(0)
    return [
        Recording(
            key=f"tests/test_{number // PER_MODULE}.py::test_{number}",
            hardware=HARDWARE,
            device_type="cpu",
            workload=WORKLOAD,
            sessions=[session(draw, which) for which in range(sessions)],
        )
        for number in range(tests)
    ]


def read_and_compare(folder: Path, heads: list[Recording]) -> float:
    started = time.perf_counter()
    store = Store(folder)
    for head in heads:
        baseline = store.find(head.key, HARDWARE, "cpu", WORKLOAD)
        for metric in METRICS:
            compare(metric, baseline, head.sessions, RULES)
    return time.perf_counter() - started


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def main() -> None:
    table = Table("tests", "files", "size", "read and compared", "per test", "rewritten by one changed test")
    for tests in TESTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            Store(folder).record(recordings(tests, SESSIONS), append=False)
            heads = recordings(tests, 1)
            seconds = min(read_and_compare(folder, heads) for _ in range(3))
            before = files(folder)
            Store(folder).record(heads[:1], append=False)
            changed = sum(before[path] != stamp for path, stamp in files(folder).items())
            size = sum(path.stat().st_size for path in before) / 2**20
            table.add_row(
                f"{tests:,}",
                str(len(before)),
                f"{size:.1f} MiB",
                f"{seconds:.3f} s",
                f"{seconds / tests * 1e3:.2f} ms",
                f"{changed} of {len(before)} files",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
