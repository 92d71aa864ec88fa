"""How often does a gate fail a build in which nothing changed?

Records a baseline of the example suite, runs the unchanged suite against it again and again, and does the same with
pytest-benchmark's `--benchmark-compare-fail=median:5%` over the same generations, run by run in turn.

    python benchmarks/unchanged.py [--runs 30] [--max-time 2]
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
from pathlib import Path

from rich.console import Console
from rich.progress import track
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


def pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--max-time", default="2", help="seconds for the timed rounds of one measurement")
    options = parser.parse_args()
    verdicts: collections.Counter[str] = collections.Counter()
    failed = {"llmperf": 0, "pytest-benchmark, median:5%": 0}
    seconds = dict.fromkeys(failed, 0.0)
    last = ""
    with tempfile.TemporaryDirectory() as name:
        peer = Path(name)
        (peer / "test_peer.py").write_text(PEER)
        ours = [
            str(ROOT / "examples"),
            f"--llmperf-baselines={peer / 'baselines'}",
            f"--llmperf-max-time={options.max_time}",
        ]
        for status, output in (pytest(ROOT, *ours, "--llmperf-update"), pytest(peer, "--benchmark-save=first")):
            assert status == 0, output
        for _ in track(range(options.runs), console=Console(stderr=True)):
            for gate, (folder, arguments) in zip(
                failed,
                ((ROOT, ours), (peer, ["--benchmark-compare", "--benchmark-compare-fail=median:5%"])),
                strict=True,
            ):
                started = time.perf_counter()
                status, output = pytest(folder, *arguments)
                seconds[gate] += time.perf_counter() - started
                failed[gate] += status != 0
                if folder == ROOT:
                    last = output
                    print(re.findall(r"^\d+ measured: .*$", output, re.MULTILINE), file=sys.stderr)
                    for count, verdict in re.findall(
                        r"(\d+) (\w+)(?: \(|,|$|;)", output.rpartition("measured: ")[2].split("\n")[0]
                    ):
                        verdicts[verdict] += int(count)
    table = Table("gate", "unchanged runs", "failed", "seconds per run")
    for gate in failed:
        table.add_row(
            gate,
            str(options.runs),
            f"{failed[gate]} ({failed[gate] / options.runs:.0%})",
            f"{seconds[gate] / options.runs:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(f"verdicts of all measurements: {dict(verdicts)}")
    console.print("the end of the last run:\n", last[last.rfind("= llmperf =") :], markup=False, highlight=False)


if __name__ == "__main__":
    main()
