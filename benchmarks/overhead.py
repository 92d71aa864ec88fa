"""Does measuring disturb what is measured?

Alternates, in random order within each pair, one generation as the plugin takes it and one of the same
`generate()` with the same arguments, timed by a stopwatch of three lines in place of everything the plugin
does. Prints the median of the ratios, reported over bare, with its 95 % interval.

    python benchmarks/overhead.py [--pairs N] [--seconds S] [--threads 1] [--device auto] [--json FILE] [TARGET …]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pytest_llmperf.measure import collector_quiet, torch_threads
from pytest_llmperf.model import Trace, Workload
from pytest_llmperf.targets import LoadOptions, Request, Target, resolve

MILLISECOND_MODEL = "random:gpt2?n_layer=2&n_embd=128&n_head=4&vocab_size=1000"
GPT2_SMALL = "random:gpt2"
BAR = (0.99, 1.01)
PAIRS = {MILLISECOND_MODEL: 1500, GPT2_SMALL: 120}
"""As many as the interval of `ttft_ms` needs to be narrower than the bar on a shared machine."""
WARM_UP = 5
FEWEST = 10
"""Pairs, whatever time they take: fewer have no interval worth the name."""


class Stopwatch:
    """The least that can time a generation from inside."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def reported(target: Any, request: Request) -> dict[str, float]:
    with collector_quiet():
        trace = target.run(request, time.perf_counter)
    return figures(trace)


def bare(target: Any, request: Request) -> dict[str, float]:
    watch = Stopwatch()
    sent = time.perf_counter()
    generate(target, request, streamer=watch)
    return figures(Trace(sent, tuple(watch.times[1:]), prompt_tokens=0))


def generate(target: Any, request: Request, **extra: Any) -> None:
    target.model.generate(
        **request.prompt,
        max_new_tokens=request.workload.output_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        pad_token_id=0,
        **extra,
    )


def figures(trace: Trace) -> dict[str, float]:
    return {
        "ttft_ms": trace.ttft,
        "tpot_ms": (trace.arrivals[-1] - trace.arrivals[0]) / (trace.output_tokens - 1),
        "latency_ms": trace.arrivals[-1] - trace.sent,
    }


def ratios(target: Target, workload: Workload, pairs: int, ends: float = math.inf) -> dict[str, list[float]]:
    """Per metric, as reported over bare, one ratio a pair.

    Args:
        ends: by the clock, when no other pair is begun.
    """
    found: dict[str, list[float]] = {}
    arms: list[Callable[[Any, Request], dict[str, float]]] = [reported, bare]
    for pair in range(-WARM_UP, pairs):
        if pair >= FEWEST and time.perf_counter() >= ends:
            break
        request = target.request(workload, seed=pair + WARM_UP)
        seen = {arm.__name__: arm(target, request) for arm in random.sample(arms, 2)}
        if pair >= 0:
            for metric, ours in seen["reported"].items():
                found.setdefault(metric, []).append(ours / seen["bare"][metric])
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, size=(2000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=[MILLISECOND_MODEL, GPT2_SMALL], metavar="TARGET")
    parser.add_argument("--pairs", type=int, help="default: 1500 of the 1 ms model, 120 of GPT-2 small")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end then, if there are fewer pairs by then")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parsed = parser.parse_args()
    ends = time.perf_counter() + parsed.seconds
    table = Table("target", "metric", "ratio", "95 % interval", f"within {BAR[0]}–{BAR[1]}", title="as reported / bare")
    missed = 0
    kept: dict[str, dict[str, Any]] = {}
    workload = Workload(prompt_tokens=32, output_tokens=parsed.output_tokens)
    for left, name in zip(range(len(parsed.targets), 0, -1), parsed.targets, strict=True):
        own = time.perf_counter() + (ends - time.perf_counter()) / left
        target = resolve(name).load(LoadOptions(device=parsed.device, dtype=parsed.dtype))
        with torch_threads(parsed.threads):
            found = ratios(target, workload, parsed.pairs or PAIRS.get(name, 200), own)
        del target
        kept[name] = {}
        for metric, values in found.items():
            low, high = interval(values)
            met = BAR[0] <= low and high <= BAR[1]
            missed += not met
            median = statistics.median(values)
            kept[name][metric] = {"pairs": len(values), "ratio": median, "low": low, "high": high}
            table.add_row(name, metric, f"{median:.4f}", f"{low:.4f} – {high:.4f}", "yes" if met else "NO")
        if parsed.json:
            parsed.json.write_text(json.dumps(kept))
    Console().print(table)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
