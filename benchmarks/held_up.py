"""What does the duet make of models that are held up by 2, 5 and 10 % of each step, and how far do processes lie apart?

Starts pairs of fresh processes, base and head. Both load one target after the other, and take turns with each as in a
duet, once for every share by which head is held up: one pair of processes serves all of them, since starting takes
longer than measuring. Head that is not held up makes an A/A pair, as those of `llmperf calibrate`.

A step is held up on the host once the device has done its work. A wait that did not see to this would hide behind the
device's work where that takes longer, and work added to the device behind the host's where that does. Base looks for
the end of the device's work as well, so that nothing else differs.

    python benchmarks/held_up.py [--pairs 3] [--seconds S] [--device auto] [--dtype bfloat16] [--json FILE]
                                 [--traces FOLDER] [TARGET …]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import itertools
import json
import math
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.baselines.noise import process_noise
from pytest_llmperf.cli.calibrate import TARGET
from pytest_llmperf.duet.calibrate import TakenPair, write_traces
from pytest_llmperf.duet.channel import Process, own_channel
from pytest_llmperf.duet.pairs import PairedRound, differences, take
from pytest_llmperf.duet.script import SIDES, Pace, Side, other
from pytest_llmperf.duet.sides import Conductor, Line, follow
from pytest_llmperf.duet.worker import Ready
from pytest_llmperf.measure import Effort, Serving, requests, server, torch_threads
from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.measure.rounds import warm_up
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Environment, Workload, plain
from pytest_llmperf.results import Verdict
from pytest_llmperf.targets import LoadOptions, Target, resolve
from pytest_llmperf.units import now, percent
from pytest_llmperf.verdict.comparison import (
    PAIRED_ROUNDS,
    PRIORS,
    Pair,
    alpha,
    most_pairs,
    pair_of,
    pairs_estimate,
    pairs_verdict,
)

SHARES = (0.0, 0.02, 0.05, 0.10)
TIMED = ("ttft_ms", "tpot_ms")
TOLERANCE = 0.05
EFFORT = Effort(max_time=4.0)
PATIENCE_S = 300.0
"""For starting, loading and warming up."""
FIRST_PREFILL = 1_000_001

Found = dict[str, dict[float, list[TakenPair]]]
"""The pairs of each target, by the share by which head was held up."""


# What either process does


class HeldUp:
    """Holds a model up for a share of each step's own time.

    Its thread's time, which stands still while the other side has its turn; waiting for the device is spent awake,
    so that it counts.
    """

    def __init__(self, target: Target) -> None:
        self.share = 0.0
        self._event = torch.cuda.Event() if target.device.name.startswith("cuda") else None
        self._began = 0.0
        model = target.model
        generate, forward = model.generate, model.forward

        @functools.wraps(generate)
        def beginning(*args: Any, **kwargs: Any) -> Any:
            self._began = time.thread_time()
            return generate(*args, **kwargs)

        @functools.wraps(forward)  # generate() asks for its arguments
        def held_up(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self._hold_up()
            return output

        model.generate, model.forward = beginning, held_up

    def _hold_up(self) -> None:
        if self._event is not None:
            self._event.record()
            while not self._event.query():
                pass
        ended = time.thread_time()
        while time.thread_time() < ended + self.share * (ended - self._began):
            pass
        self._began = time.thread_time()


def serving(target: Target, workload: Workload) -> Serving:
    """The target, warm."""
    clock = time.perf_counter
    target.begin()
    upcoming = requests(target, workload)
    prefills = requests(target, dataclasses.replace(workload, output_tokens=1), FIRST_PREFILL)
    serve = server(target, workload, upcoming, clock)
    warm = warm_up(serve, EFFORT, clock)
    return Serving(target, workload, EFFORT, upcoming, prefills, serve, warm, clock, lambda stage: None, Unwatched())


def follower(parsed: argparse.Namespace) -> None:
    """One process of a pair: loads each target in turn, and takes its turns at every share."""
    line = own_channel()
    for name in parsed.targets:
        line.hear("load")
        target = resolve(name).load(LoadOptions(parsed.device, parsed.dtype))
        held = HeldUp(target)
        with torch_threads(EFFORT.threads):
            warm = serving(target, workload_of(parsed))
            line.tell("loaded", target=target.id, environment=plain(environment_of(target, EFFORT.threads)))
            while (message := line.hear("share", "next"))["say"] == "share":
                held.share = message["share"]
                follow(line, parsed.follow)(warm)
        device = target.device
        del target, held, warm
        gc.collect()  # what wraps a method of a model is part of a circle
        device.release()
    line.hear("over")


# Who tells them


@dataclass(frozen=True)
class Taken:
    """One pair of processes at one target and share."""

    target: str
    share: float
    ready: Ready
    pair: TakenPair


def take_pair(parsed: argparse.Namespace, number: int) -> Iterator[Taken]:
    """All that a pair of processes is used for; which side starts first alternates."""
    first = SIDES[number % 2]
    command = [sys.executable, __file__, *arguments(parsed)]
    with start(command, first) as one, start(command, other(first)) as two:
        lines: dict[Side, Process] = {first: one, other(first): two}
        for name in parsed.targets:
            for line in lines.values():  # one after the other: neither finds the memory half taken
                line.tell("load")
                said = line.hear("loaded", patience=PATIENCE_S)
            environment = Environment(**said["environment"])
            for share in random.Random(number).sample(SHARES, len(SHARES)):
                paces = {side: ready(line, share if side == "head" else 0.0) for side, line in lines.items()}
                conductor = Conductor(lines, paces, workload_of(parsed))
                rounds = take(conductor.round, conductor.scripts(number), never, rounds=parsed.rounds)
                for line in lines.values():
                    line.tell("end")
                gating = [PairedRound(_gating(each.base), _gating(each.head)) for each in rounds]
                worker = Ready(said["target"], workload_of(parsed), environment, paces["base"])
                yield Taken(name, share, worker, TakenPair(first, gating))
            for line in lines.values():
                line.tell("next")


def start(command: Sequence[str], side: Side) -> Process:
    return Process([*command, f"--follow={side}"], side)


def ready(line: Line, share: float) -> Pace:
    line.tell("share", share=share)
    return Pace(**line.hear("ready", patience=PATIENCE_S)["pace"])


def never(rounds: object, metrics: object) -> bool:
    """There are as many rounds as were asked for."""
    return False


def _gating(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if CATALOGUE[name].gates}


def arguments(parsed: argparse.Namespace) -> list[str]:
    """What both processes have to know."""
    given = {"device": parsed.device, "prompt-tokens": parsed.prompt_tokens, "output-tokens": parsed.output_tokens}
    given |= {"dtype": parsed.dtype} if parsed.dtype else {}
    return [*(f"--{name}={value}" for name, value in given.items()), *parsed.targets]


def workload_of(parsed: argparse.Namespace) -> Workload:
    return Workload(parsed.prompt_tokens, parsed.output_tokens)


# What came of it


def judged(pairs: Sequence[Pair], device_type: str) -> tuple[int, Verdict]:
    """The verdict on a machine that is not calibrated, and after how many pairs: the first that decides."""
    most, prior = most_pairs(device_type), PRIORS.get(device_type, PRIORS["cpu"])
    for count in range(1, len(pairs) + 1):
        verdict = pairs_verdict(pairs[:count], prior, TOLERANCE, alpha=alpha(len(TIMED)), most=most)
        if verdict is not Verdict.INCONCLUSIVE:
            break
    return count, verdict


def figures(by_share: Mapping[float, Sequence[TakenPair]], device_type: str) -> dict[str, Any]:
    """Of one target: by metric what lies between processes, and what is seen of each share."""
    return {name: _figures(by_share, name, device_type) for name in TIMED}


def _figures(by_share: Mapping[float, Sequence[TakenPair]], metric: str, device_type: str) -> dict[str, Any]:
    prior = PRIORS.get(device_type, PRIORS["cpu"])
    pairs = {share: [pair_of(differences(each.rounds, metric)) for each in taken] for share, taken in by_share.items()}
    unchanged = pairs[0.0]
    process, df = process_noise([each.difference for each in unchanged], [each.error for each in unchanged])
    shares = []
    for share, seen in sorted(pairs.items()):
        count, verdict = judged(seen, device_type)
        estimate = pairs_estimate(seen[:count], prior)
        change, spread = math.expm1(estimate.change), estimate.spread
        shares.append({"share": share, "change": change, "spread": spread, "pairs": count, "verdict": verdict.value})
    noise = {"process": process, "df": df, "pairs": len(unchanged)}
    return {"noise": noise, "shares": shares}


def trace_file(folder: Path, ready: Ready) -> Path:
    """`pairs-cuda-nvidia-h200-x1-llama-2048-16.json.gz`: the type, its width and its layers, as far as it says."""
    sizes = re.findall(r"(?:n_embd|hidden_size|n_layer|num_hidden_layers)=(\d+)", ready.target)
    kind = re.sub(r"\W+", "-", ready.target.partition("?")[0].removeprefix("random:"))
    return folder / f"pairs-{'-'.join([ready.environment.hardware, kind, *sizes])}.json.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=[TARGET], metavar="TARGET")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=PAIRED_ROUNDS[0], help="of a pair, at each share")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no pair is begun that would not end by then")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="for the rounds of the A/A pairs, by target")
    parser.add_argument("--follow", choices=SIDES, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.follow:
        return follower(parsed)
    began, recorded = time.monotonic(), now()
    found: Found = {}
    kept: dict[str, Any] = {}
    ready: dict[str, Ready] = {}
    for number in range(parsed.pairs):
        spent = time.monotonic() - began
        if number and spent * (number + 1) / number > parsed.seconds:
            break
        for taken in take_pair(parsed, number):
            ready[taken.target] = taken.ready
            found.setdefault(taken.target, {}).setdefault(taken.share, []).append(taken.pair)
            if len(found[taken.target]) == len(SHARES):
                device_type = taken.ready.environment.device_type
                kept[taken.target] = figures(found[taken.target], device_type)
            if parsed.json:
                parsed.json.write_text(json.dumps(kept))
    Console(width=120).print(shown(kept))
    if parsed.traces:
        for name, by_share in found.items():
            write_traces(trace_file(parsed.traces, ready[name]), ready[name], by_share[0.0], recorded)
    return None


def shown(kept: Mapping[str, Any]) -> Table:
    table = Table("target", "metric", "held up by", "seen", "verdict", "pairs", title="base, and head held up")
    for (name, by_metric), metric in itertools.product(kept.items(), TIMED):
        for each in by_metric[metric]["shares"]:
            seen = f"{percent(each['change'], signed=True)} ± {100 * each['spread']:.1f}"
            row = percent(each["share"]), seen, each["verdict"], str(each["pairs"])
            table.add_row(name, metric, *row)
        noise = by_metric[metric]["noise"]
        table.add_row(name, metric, "A/A", f"σ_p {percent(noise['process'])}", "", str(noise["pairs"]))
    return table


if __name__ == "__main__":
    main()
