"""How far are models from what the device can do, and is any of them faster than that?

Probes the device anew, in a cache folder of its own, and says how long that took; then measures each model and prints
its floors, what was measured, and both shares. A time below its floor would be an error of ours: exit code 1.

    python benchmarks/roofline.py [--threads 1 2] [--dtype float32 bfloat16] [--device auto] [--json FILE] [TARGET …]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.measure import Effort, measure, torch_threads
from pytest_llmperf.measure.conditions import watching
from pytest_llmperf.model import Measurement, Unknown, Workload
from pytest_llmperf.profiling.probe import SMALLEST, probe_of
from pytest_llmperf.profiling.roofline import Floor, roofline
from pytest_llmperf.targets import LoadOptions, Target, resolve
from pytest_llmperf.units import short_bytes, short_number

GROUPED = "num_attention_heads=16&num_key_value_heads=4&vocab_size=8000"
TARGETS = [
    "random:gpt2?n_layer=2&n_embd=64&n_head=4&vocab_size=500",
    "random:llama?num_hidden_layers=4&hidden_size=256&intermediate_size=688&vocab_size=8000",
    "random:gpt2",
    f"random:llama?num_hidden_layers=12&hidden_size=1024&intermediate_size=2816&{GROUPED}",
]
PROBE_BAR_S = 2.0
KEPT = ("ttft_ms", "tpot_ms", "mbu", "mfu", "energy_j_per_token")
SIZES = [SMALLEST, 2**20, 2**24, 2**40]


def probed(target: Target, threads: int) -> tuple[Table, bool]:
    """The ceilings of this device, each with the time that finding it took."""
    title = f"{target.device.name}, {target.dtype}, {threads} threads"
    table = Table("what", "reached", "seconds", title=title)
    slowest, clock = 0.0, time.perf_counter
    probe = probe_of(target, environment_of(target, threads), clock)
    for size in SIZES:
        started = clock()
        reached = probe.bandwidth(size)
        slowest = max(slowest, clock() - started)
        table.add_row(
            f"read {short_bytes(size) if size < 2**40 else 'the largest'}",
            _giga(reached, "GB/s"),
            f"{clock() - started:.2f}",
        )
    started = clock()
    reached = probe.flop_rate()
    took = clock() - started
    table.add_row("products", _giga(reached, "GFLOP/s"), f"{took:.2f}")
    table.caption = f"one measurement needs one size and the products: at most {slowest + took:.2f} s"
    return table, slowest + took <= PROBE_BAR_S


def _giga(rate: float | Unknown, unit: str) -> str:
    return rate.reason if isinstance(rate, Unknown) else f"{short_number(rate / 1e9)} {unit}"


def row(measurement: Measurement) -> list[str]:
    roof = roofline(measurement)
    cells = []
    for floor in (roof.ttft, roof.tpot):
        if isinstance(floor, Floor):
            cells += [short_number(floor.ms), short_number(floor.measured), f"{floor.distance:.1f} ({floor.bound_by})"]
        else:
            cells += ["–", "–", floor.reason]
    shares = [measurement.mbu, measurement.mfu]
    return [*cells, *("–" if share is None else f"{share:.3f}" for share in shares)]


def medians(measurement: Measurement) -> dict[str, float | None]:
    """What is kept of it; None where it is unknown."""
    return {name: sample.median if (sample := getattr(measurement, name)) is not None else None for name in KEPT}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-time", type=float, default=10.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parsed = parser.parse_args()
    os.environ["LLMPERF_CACHE"] = tempfile.mkdtemp(prefix="llmperf-")
    console = Console(width=160)
    workload = Workload(parsed.prompt_tokens, parsed.output_tokens, parsed.batch_size)
    columns = ("ttft floor", "ttft_ms", "times", "tpot floor", "tpot_ms", "times", "mbu", "mfu")
    found = Table("target", "dtype", "threads", *columns, title=f"{workload.prompt_tokens} → {workload.output_tokens}")
    faults = 0
    kept: dict[str, dict[str, float | str | None]] = {}
    for threads in parsed.threads:
        for dtype in parsed.dtype:
            for number, name in enumerate(parsed.targets):
                target = resolve(name).load(LoadOptions(device=parsed.device, dtype=dtype))
                if number == 0:
                    with torch_threads(threads):
                        table, in_time = probed(target, threads)
                    console.print(table)
                    faults += not in_time
                effort = Effort(max_time=parsed.max_time, threads=threads)
                environment = environment_of(target, threads)
                with watching(target.device.names, threads) as watch:
                    measurement = measure(target, workload, effort, environment=environment, watch=watch)
                faults += len(roofline(measurement).impossible)
                found.add_row(name, dtype, str(threads), *row(measurement))
                del target
                disturbed = measurement.conditions.disturbance(threads)
                kept[name] = {**medians(measurement), "disturbed": disturbed}
                if parsed.json:
                    parsed.json.write_text(json.dumps(kept))
    console.print(found)
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
