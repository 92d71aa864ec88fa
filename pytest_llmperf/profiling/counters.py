"""The counting pass: once more the whole request to count its work, and its first tokens to profile them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from pytest_llmperf.model import Counts, Unknown, Work
from pytest_llmperf.profiling import ONE_TOKEN
from pytest_llmperf.targets import Request, Target

PROFILED_TOKENS = 10
"""Steps repeat themselves: more of them would take time and tell nothing."""
_NO_TIME = Unknown("one call alone takes longer than the time allowed for counting", by_chance=True)


def count(
    target: Target, request: Request, kv_cache: int | Unknown, *, timely: bool, trace: Path | None = None
) -> Counts:
    """What the target does for this request, apart from timing.

    Args:
        kv_cache: bytes of its cache after the last token.
        timely: whether there is time to serve it once more.
        trace: where a Chrome trace of the profile goes.
    """
    from pytest_llmperf.profiling.flops import Counted, work
    from pytest_llmperf.profiling.operators import profile

    unknown = Work(_NO_TIME, _NO_TIME)
    counted = work(target, request) if timely else Counted(unknown, unknown)
    profiled = profile(target, shorter(request, PROFILED_TOKENS), trace)
    return Counts(
        prefill=profiled.prefill,
        decode=profiled.decode,
        prefill_work=counted.prefill,
        decode_work=counted.decode,
        flops_by_step=counted.flops_by_step,
        cache_growth=_cache_growth(target, request, kv_cache),
    )


def shorter(request: Request, tokens: int) -> Request:
    """The same prompt, answered with at most so many tokens."""
    fewer = min(tokens, request.workload.output_tokens)
    return dataclasses.replace(request, workload=dataclasses.replace(request.workload, output_tokens=fewer))


def _cache_growth(target: Target, request: Request, kv_cache: int | Unknown) -> float | Unknown:
    """Bytes per token and sequence, by what the cache holds after one token.

    A static cache is as large as it will have to be: of that, too, it is what a longer answer adds.
    """
    if isinstance(kv_cache, Unknown):
        return kv_cache
    workload = request.workload
    if workload.output_tokens < 2:
        return ONE_TOKEN
    target.begin()  # a static cache is otherwise kept at the largest size that it ever had
    least = target.kv_cache_bytes(shorter(request, 1))
    target.begin()
    if isinstance(least, Unknown):
        return least
    return (kv_cache - least) / (workload.output_tokens - 1) / workload.batch_size


def compilations() -> int:
    """Graphs that torch has compiled in this process, and breaks in them."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"] + sum(counters["graph_break"].values()))
