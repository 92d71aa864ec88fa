"""How often does a gate fail a build in which nothing changed?

Records a baseline of the example suite and runs the unchanged suite against it again and again. At the same time, on
another core, pytest-benchmark does so with `--benchmark-compare-fail=median:5%` over generations of the same models:
each is the other's noisy neighbour.

    python benchmarks/unchanged.py [--runs 30] [--max-time 0.5]
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PEER = """
import pytest
import torch

from pytest_llmperf.model import Workload
from pytest_llmperf.targets import LoadOptions, random_weights
from pytest_llmperf.workloads import PRESETS

torch.set_num_threads(1)
LLAMA = random_weights("llama", num_hidden_layers=4, hidden_size=256, intermediate_size=688, vocab_size=8_000)
GPT2 = random_weights("gpt2")
WORK = [(LLAMA, shape) for shape in PRESETS.values()] + [(GPT2, Workload(n, 16)) for n in (16, 128, 512)]
LOADED = {}


@pytest.mark.parametrize("target, workload", WORK)
def test_generate(benchmark, target, workload):
    if target not in LOADED:
        LOADED[target] = target.load(LoadOptions(device="cpu"))
    loaded = LOADED[target]
    prompt = loaded.request(workload, 1).prompt
    benchmark(
        loaded.model.generate, **prompt, max_new_tokens=workload.output_tokens, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )
"""


@dataclass
class Gate:
    """A pytest command that records, then one that compares."""

    name: str
    folder: Path
    record: Sequence[str]
    compare: Sequence[str]
    failed: int = 0
    seconds: float = 0.0
    outputs: list[str] = field(default_factory=list)

    def run(self, runs: int) -> None:
        status, output = self.pytest(self.record)
        if status:
            raise SystemExit(f"{self.name}: could not record\n{output}")
        for number in range(1, runs + 1):
            started = time.perf_counter()
            status, output = self.pytest(self.compare)
            self.seconds += time.perf_counter() - started
            self.failed += status != 0
            self.outputs.append(output)
            last = [line for line in output.splitlines() if line.strip()][-1].strip("= ")
            print(f"{self.name}: run {number} of {runs}: {last}", file=sys.stderr, flush=True)

    def pytest(self, arguments: Sequence[str]) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def verdicts(outputs: Sequence[str]) -> collections.Counter[str]:
    """Of all measurements in all runs."""
    counted: collections.Counter[str] = collections.Counter()
    for output in outputs:
        (told,) = re.findall(r"^\d+ measured: (.*)$", output, re.MULTILINE)
        for count, verdict in re.findall(r"(\d+) (broken|regressed|inconclusive|new|improved|ok)\b", told):
            counted[verdict] += int(count)
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--max-time", default="0.5", help="seconds for the timed rounds of one measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "test_peer.py").write_text(PEER)
        common = [str(ROOT / "examples"), f"--llmperf-baselines={name}/b", f"--llmperf-max-time={options.max_time}"]
        recorded = [*common, "--llmperf-update", "--llmperf-force"]
        ours = Gate("llmperf", ROOT, recorded, common)
        compared = ["--benchmark-compare", "--benchmark-compare-fail=median:5%"]
        peer = Gate("pytest-benchmark, median:5%", Path(name), ["--benchmark-save=first"], compared)
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda gate: gate.run(options.runs), (ours, peer)))
    table = Table("gate", "unchanged runs", "failed", "seconds per run")
    for gate in (ours, peer):
        share = f"{gate.failed} ({gate.failed / options.runs:.0%})"
        table.add_row(gate.name, str(options.runs), share, f"{gate.seconds / options.runs:.0f}")
    console = Console()
    console.print(table)
    console.print(f"verdicts of all measurements: {dict(verdicts(ours.outputs))}")
    last = ours.outputs[-1]
    console.print("the end of the last run:\n", last[last.rfind("= llmperf =") :], markup=False, highlight=False)


if __name__ == "__main__":
    main()
