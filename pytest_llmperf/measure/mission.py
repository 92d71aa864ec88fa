"""One mission: a prompt served cold, by the first request after a fresh load, and then warm."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_llmperf import metrics
from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.measure.memory import peak_rss
from pytest_llmperf.measure.quiet import torch_threads
from pytest_llmperf.model import Measurement, Sample, Trace, Unknown, Workload
from pytest_llmperf.profiling.room import MemoryPicture, memory_picture, positions_of
from pytest_llmperf.targets import Clock, Target
from pytest_llmperf.units import MIB

_FIRST_PROMPT = 2_000_001
"""Other than those of rounds."""
_TOKENIZED = 5
"""Times that a warm tokenizer is timed."""


@dataclass(frozen=True)
class Flight:
    """How one request went; warm, the median of several.

    Args:
        tokenize: seconds of text → ids; None where there is no tokenizer.
        ttft: seconds to the first token.
        steady: seconds from the first token to the last.
        tokens: that were generated, of all sequences.
        rate: of them, per second of the whole request.
        per_token: seconds of `steady` for each token after the first; None where there is only one.
        peak_rss: peak resident set of this process meanwhile, in bytes.
        peak_memory: weights and the peak of other live tensors, in bytes; None where it was not looked at.
    """

    tokenize: float | None
    ttft: float
    steady: float
    tokens: int
    rate: float
    per_token: float | None
    peak_rss: int | None
    peak_memory: int | None = None


@dataclass(frozen=True)
class Mission:
    """One length of prompt, and all that was measured of it."""

    prompt_tokens: int
    cold: Flight
    warm: Flight
    measurement: Measurement
    picture: MemoryPicture


def fly(
    target: Target,
    workload: Workload,
    threads: int | None,
    measured: Callable[[], Measurement],
    clock: Clock = time.perf_counter,
) -> Mission:
    """Serve a target that has served nothing yet, then measure it.

    Args:
        measured: measures it at this workload.
    """
    target.begin()
    request = target.request(workload, _FIRST_PROMPT)
    with torch_threads(threads):
        tokenize = _tokenizing(target.tokenizer, request.prompt, clock)
        cold_tokenize = tokenize()
        with peak_rss() as rss, collector_quiet():
            trace = target.run(request, clock)
        warm_tokenize = [tokenize() for _ in range(_TOKENIZED)]
    measurement = metrics.summarize(dataclasses.replace(measured(), cold=trace))
    return Mission(
        trace.prompt_tokens,
        _cold(trace, cold_tokenize, rss.value),
        _warm(measurement, statistics.median(filter(None, warm_tokenize)) if cold_tokenize else None),
        measurement,
        memory_picture(measurement, target.device, positions_of(target)),
    )


def _tokenizing(tokenizer: Any, prompt: Any, clock: Clock) -> Callable[[], float | None]:
    """Seconds that the prompt takes as a text; the ids of a request are of exact length, which no text's are."""
    if tokenizer is None or not isinstance(prompt, Mapping):
        return lambda: None
    text = tokenizer.decode(prompt["input_ids"][0])

    def seconds() -> float:
        started = clock()
        tokenizer(text)
        return clock() - started

    return seconds


def _cold(trace: Trace, tokenize: float | None, rss: int | Unknown) -> Flight:
    tokens = trace.output_tokens
    return Flight(
        tokenize=tokenize,
        ttft=trace.ttft,
        steady=trace.decode,
        tokens=tokens * trace.sequences,
        rate=tokens * trace.sequences / (trace.ttft + trace.decode),
        per_token=trace.decode / (tokens - 1) if tokens > 1 else None,
        peak_rss=_known(rss),
    )


def _warm(measurement: Measurement, tokenize: float | None) -> Flight:
    def of(name: str) -> Sample | None:
        value = measurement.samples[name]
        return value if isinstance(value, Sample) else None

    traces = measurement.traces
    tpot, peak = of("tpot_ms"), of("peak_memory_mib")
    return Flight(
        tokenize=tokenize,
        ttft=statistics.median(trace.ttft for trace in traces),
        steady=statistics.median(trace.decode for trace in traces),
        tokens=traces[0].output_tokens * traces[0].sequences,
        rate=of("output_tokens_per_s") or 0.0,
        per_token=None if tpot is None else tpot / 1e3,
        peak_rss=_known(measurement.memory.peak_rss),
        peak_memory=None if peak is None else round(peak * MIB),
    )


def _known(value: int | Unknown) -> int | None:
    return None if isinstance(value, Unknown) else value
