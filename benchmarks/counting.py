"""What does counting and profiling cost beside the measurement that it belongs to?

Each stage of `measure()` is timed as its progress is told, in one run: warming up, rounds, memory, and counting, which
is one more request under a dispatch mode, a short one under the profiler, and a shorter one for the cache's growth.

    python benchmarks/counting.py [--target random:gpt2] [--prompt-tokens 128] [--output-tokens 32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Workload
from pytest_llmperf.targets import LoadOptions, Target, resolve

STAGES = ("warming up", "round", "measuring memory", "counting")


def seconds_by_stage(target: Target, workload: Workload) -> dict[str, float]:
    told: list[tuple[str, float]] = []
    measure(target, workload, Effort(), progress=lambda stage: told.append((stage, time.perf_counter())))
    told.append(("", time.perf_counter()))
    spent: dict[str, float] = defaultdict(float)
    for (stage, began), (_, ended) in pairwise(told):
        spent[next(known for known in STAGES if stage.startswith(known))] += ended - began
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="random:gpt2")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    target = resolve(options.target).load(LoadOptions(device="auto"))
    workload = Workload(options.prompt_tokens, options.output_tokens)
    measure(target, workload, Effort(rounds=1))  # finds the device's ceilings, once per machine
    runs = [seconds_by_stage(target, workload) for _ in range(options.repeats)]
    table = Table(*STAGES, "counting / the rest", title=f"{target.id}, {target.device.name}: seconds, median of runs")
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    rest = sum(medians.values()) - medians["counting"]
    table.add_row(*(f"{medians[stage]:.2f}" for stage in STAGES), f"{medians['counting'] / rest:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
