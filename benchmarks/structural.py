"""Are structural regressions caught by what is exact, on a busy machine, and told with the right reason?

Five small models with random weights, each with every change that applies to it. A case is measured as a test would be,
and judged by the stored rule against a session that was recorded of the unchanged model; timed metrics have no part
in it. Every change must make an exact metric or memory REGRESSED and be told with its own hint; an unchanged model
must never have one.

    python benchmarks/structural.py [--runs 10] [--unchanged 50] [--load N] [--device cpu] [--json FILE]
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pytest_llmperf import random_weights
from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.baselines.schema import Recording
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.gate import Evidence, Gate, recording
from pytest_llmperf.judge import judge
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.model import Measurement, Workload
from pytest_llmperf.results import Result, Verdict
from pytest_llmperf.settings import Settings
from pytest_llmperf.targets import LoadOptions, resolve

WORKLOAD = Workload(prompt_tokens=48, output_tokens=8)
EFFORT = Effort(rounds=3, threads=1, max_time=5.0)
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 500}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 500},
    "llama": {**SIZES, **HEADS, "intermediate_size": 128},
    "qwen3": {**SIZES, **HEADS, "intermediate_size": 128},
    "mixtral": {**SIZES, **HEADS, "intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2},
    "falcon_h1": {
        **SIZES,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
    },
}
"""By type; the last is a hybrid of attention and state space."""
LEAKED = {"cpu": 16 * 1024, "cuda": 2**20}
"""Numbers of four bytes, on each type of device: more than its allocator makes more or less of a call."""

Model = Any
Patch = Callable[[Model], None]


# What a user's own code might do


def layers(model: Model) -> list[Any]:
    return list(next(getattr(model.base_model, name) for name in ("layers", "h") if hasattr(model.base_model, name)))


def before_each_call(model: Model, does: Callable[[Any, dict[str, Any]], None]) -> None:
    forward = model.forward

    @functools.wraps(forward)  # generate() asks for its arguments
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        does(args, kwargs)
        return forward(*args, **kwargs)

    model.forward = wrapped


def cache_off(model: Model) -> None:
    model.generation_config.use_cache = False


def scalar_read_per_layer(model: Model) -> None:
    def read(module: Any, args: Any) -> None:
        float(args[0].sum())

    for layer in layers(model):
        layer.register_forward_pre_hook(read)


def upcast(model: Model) -> None:
    model.float()


def eager(model: Model) -> None:
    model.set_attn_implementation("eager")


def copy_cache(model: Model) -> None:
    def copy(args: Any, kwargs: dict[str, Any]) -> None:
        for layer in getattr(kwargs.get("past_key_values"), "layers", ()):
            if isinstance(getattr(layer, "keys", None), torch.Tensor):
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()

    before_each_call(model, copy)


def leak(model: Model) -> None:
    kept: list[torch.Tensor] = []
    generate = model.generate

    def leaking(*args: Any, **kwargs: Any) -> Any:
        kept.append(torch.zeros(LEAKED[model.device.type], device=model.device))
        return generate(*args, **kwargs)

    model.generate = leaking


def whole_logits(model: Model) -> None:
    before_each_call(model, lambda args, kwargs: kwargs.update(logits_to_keep=0))


def nothing(model: Model) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One change.

    Args:
        hint: how the hint that explains it begins, or what it holds.
        base, head: what the configuration says beside the model's own sizes.
    """

    patch: Patch
    hint: str
    base: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_TWICE_THE_HEADS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_head": 8, "n_embd": 128},  # whose heads share the width, as the next one's do
    "falcon_h1": {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 128},
    "": {"num_attention_heads": 8, "num_key_value_heads": 4},
}
CASES: Mapping[str, Case] = {
    "cache off": Case(cache_off, "the cache is not used"),
    "a scalar read per layer": Case(scalar_read_per_layer, "of the host per token"),
    "fp32 upcast": Case(upcast, "a wider dtype", base={"dtype": "bfloat16"}),
    "eager attention": Case(eager, "in place of a fused kernel"),
    "a copy of the cache per step": Case(copy_cache, "more copies per token"),
    "a leaked tensor per call": Case(leak, "of tensors behind"),
    "logits of the whole prompt": Case(whole_logits, "logits of the whole prompt"),
    "twice the heads": Case(nothing, "the model is larger", head=_TWICE_THE_HEADS),
}


def measured(kind: str, case: Case, device: str, *, changed: bool) -> Measurement:
    """A fresh model of this type, with the case's change or as it is before."""
    sizes = {**MODELS[kind], **case.base}
    if changed:
        sizes |= case.head.get(kind, case.head.get("", {}))
    target = resolve(random_weights(kind, **sizes)).load(LoadOptions(device, "float32"))
    if changed:
        case.patch(target.model)
    environment = environment_of(target, EFFORT.threads)
    return measure(target, WORKLOAD, EFFORT, environment=environment)


def session(gate: Gate, measurement: Measurement) -> Any:
    return gate.session(measurement, Settings(), gate.rules(Settings(), measurement.environment, "").gates)


def record(folder: Path, key: str, measurement: Measurement) -> None:
    gate = Gate(Store(folder))
    Store(folder).record([Recording(**recording(key, measurement, [session(gate, measurement)]))], append=False)


def judged(folder: Path, key: str, measurement: Measurement) -> Result:
    evidence = Evidence(key, measurement, Settings(), unconfirmed="one reading has to do")
    return judge(evidence, Gate(Store(folder)))


def regressed(result: Result) -> list[str]:
    """The metrics without noise that are."""
    kinds = (Kind.COUNTED, Kind.MEMORY)
    return [
        row.metric for row in result.rows if row.verdict is Verdict.REGRESSED and CATALOGUE[row.metric].kind in kinds
    ]


_NEIGHBOUR = """
import os

ours = os.getppid()
while os.getppid() == ours:
    sum(range(100_000))
"""
"""Ends with the process that started it, however that ends."""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    busy = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@dataclass
class Tally:
    """Of one change of one model, over all runs."""

    runs: int = 0
    caught: int = 0
    explained: int = 0
    by: collections.Counter[str] = field(default_factory=collections.Counter)
    hints: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, result: Result, hint: str) -> None:
        metrics = regressed(result)
        told = result.explanation.hints if result.explanation else ()
        self.runs += 1
        self.caught += bool(metrics)
        self.explained += any(hint in each for each in told)
        self.by.update(metrics)
        self.hints.update(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="of each change")
    parser.add_argument("--unchanged", type=int, default=3, help="runs of each unchanged model")
    parser.add_argument("--load", type=int, default=0, help="busy neighbour processes")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--hints", action="store_true", help="print every hint that was given")
    given = parser.parse_args()
    cases = [(kind, name) for kind in given.models for name in CASES]
    tallies = {each: Tally() for each in cases}
    alarms: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in given.models}
    with tempfile.TemporaryDirectory() as name, neighbours(given.load):
        folder = Path(name)
        for kind in given.models:
            for stored, case in {key(kind, case): case for case in CASES.values()}.items():
                record(folder, stored, measured(kind, case, given.device, changed=False))
        for _, (kind, change) in track([(run, each) for run in range(given.runs) for each in cases], "changed"):
            case = CASES[change]
            tallies[kind, change].add(
                judged(folder, key(kind, case), measured(kind, case, given.device, changed=True)), case.hint
            )
        for _, kind in track([(run, kind) for run in range(given.unchanged) for kind in given.models], "unchanged"):
            result = judged(folder, key(kind, UNCHANGED), measured(kind, UNCHANGED, given.device, changed=False))
            alarms[kind].update(regressed(result))
            alarms[kind]["runs"] += bool(regressed(result))
    show(given, tallies, alarms)
    if given.json:
        given.json.write_text(json.dumps({kind: kept(kind, given, tallies, alarms) for kind in given.models}))


def kept(
    kind: str,
    given: argparse.Namespace,
    tallies: Mapping[tuple[str, str], Tally],
    alarms: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """What is kept of one model."""
    of = {change: tallies[kind, change] for change in CASES}
    return {
        "runs": sum(tally.runs for tally in of.values()),
        "caught": sum(tally.caught for tally in of.values()),
        "missed": [change for change, tally in of.items() if tally.caught < tally.runs],
        "unchanged": given.unchanged,
        "false": alarms[kind].get("runs", 0),
    }


UNCHANGED = Case(nothing, "")


def key(kind: str, case: Case) -> str:
    """Under which the model is stored that a case starts from."""
    return f"test_{kind}.py::test_{case.base.get('dtype', 'float32')}"


def show(
    given: argparse.Namespace,
    tallies: Mapping[tuple[str, str], Tally],
    alarms: Mapping[str, Mapping[str, int]],
) -> None:
    console = Console(width=160)
    table = Table("change", *given.models, "by")
    for change in CASES:
        of = [tallies[kind, change] for kind in given.models]
        by = collections.Counter(metric for tally in of for metric in tally.by)
        shown = [f"{tally.caught}, {tally.explained} of {tally.runs}" for tally in of]
        table.add_row(change, *shown, ", ".join(name for name, _ in by.most_common()))
    wrong = [f"{alarms[kind].get('runs', 0)} of {given.unchanged}" for kind in given.models]
    table.add_row("none", *wrong, ", ".join({name for each in alarms.values() for name in each if name != "runs"}))
    console.print("caught, explained of all runs; in the last line false alarms")
    console.print(table)
    if given.hints:
        for (kind, change), tally in tallies.items():
            for hint, times in tally.hints.items():
                console.print(f"{kind}, {change}: {hint} ({times})", highlight=False)


if __name__ == "__main__":
    main()
