"""The counting pass: once more the whole request to count its work, and its first tokens to profile them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pytest_llmperf import ranks
from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.model import Counts, Phase, Unknown, Work
from pytest_llmperf.parts import total
from pytest_llmperf.profiling import NO_OPERATOR, NO_PRODUCT, NOT_BY_TOKEN, NOT_IN_DECODE, ONE_TOKEN
from pytest_llmperf.profiling.busy import busy
from pytest_llmperf.targets import Request, Target

PROFILED_TOKENS = 10
"""Steps repeat themselves: more of them would take time and tell nothing."""
_ELSEWHERE = (NO_OPERATOR, NO_PRODUCT, NOT_IN_DECODE)
"""Why it is not the model that was seen, and neither would its operators be."""
_NO_TIME = Unknown("one call alone takes longer than the time allowed for counting", by_chance=True)


_Seen = TypeVar("_Seen")
_Other = TypeVar("_Other")


def count(
    target: Target,
    request: Request,
    kv_cache: int | Unknown,
    *,
    timely: Callable[[int], bool] = lambda tokens: True,
    compiles: int | Unknown = Counts.compiles,
    trace: Path | None = None,
) -> Counts:
    """What the target does for this request, apart from timing: work in all ranks together, operators in rank 0.

    Args:
        kv_cache: bytes of its cache after the last token, in this rank.
        timely: whether there is time to serve it once more, with so many output tokens.
        compiles: what was compiled in this process while it was timed.
        trace: where a Chrome trace of the profile goes.

    Raises:
        LlmperfError: as serving does. Any other error is of counting alone, and leaves its counts unknown.
    """
    if "torch" not in sys.modules:  # nothing of it can run, and importing it takes seconds
        return unseen(NO_OPERATOR, kv_cache)
    if occupied := busy():
        return unseen(occupied, kv_cache, compiles)
    from pytest_llmperf.profiling.flops import Counted, work
    from pytest_llmperf.profiling.operators import Profiled, profile

    with collector_quiet():
        whole = timely(request.workload.output_tokens)
        own = _tried(lambda: work(target, request), Counted.unseen) if whole else Counted.unseen(_NO_TIME)
        counted = Counted.of_all(ranks.gathered(own))
        if (why := counted.prefill.flops) in _ELSEWHERE and isinstance(why, Unknown):
            return unseen(why, kv_cache, compiles)
        if not timely(PROFILED_TOKENS):
            return unseen(_NO_TIME, kv_cache)
        profiled = _tried(lambda: profile(target, request.shorter(PROFILED_TOKENS), trace), Profiled.unseen)
        profiled = ranks.agreed(profiled)
        by_token = NOT_BY_TOKEN not in (counted.prefill.flops, profiled.prefill.ops)
        growth = _tried(lambda: _cache_growth(target, request, kv_cache if by_token else NOT_BY_TOKEN), lambda why: why)
    return Counts(
        prefill=profiled.prefill,
        decode=profiled.decode,
        prefill_work=counted.prefill,
        decode_work=counted.decode,
        flops_by_step=counted.flops_by_step,
        cache_growth=total(ranks.gathered(growth)),
        compiles=compiles if target.model is not None or compiles else _why_unseen(profiled.prefill.ops, compiles),
    )


def unseen(why: Unknown, kv_cache: int | Unknown, compiles: int | Unknown = 0) -> Counts:
    """Nothing is counted, and why."""
    phase, work = Phase(why, why, why, why), Work(why, why)
    growth = kv_cache if isinstance(kv_cache, Unknown) else why
    seen = compiles and not isinstance(compiles, Unknown)  # wherever it was compiled; that nothing was says nothing
    return Counts(phase, phase, work, work, cache_growth=growth, compiles=compiles if seen else why)


def _why_unseen(ops: float | Unknown, compiles: int | Unknown) -> int | Unknown:
    """Where no operator of a model is seen, no graph of it would be."""
    return ops if isinstance(ops, Unknown) else compiles


def _tried(counting: Callable[[], _Seen], unseen: Callable[[Unknown], _Seen | _Other]) -> _Seen | _Other:
    try:
        return counting()
    except LlmperfError:
        raise
    except Exception as error:  # whatever a model does when it is watched: it was measured, and that is not lost
        first = next(iter(str(error).splitlines()), "")
        return unseen(Unknown(f"counting failed: {type(error).__name__}: {first}"))


def _cache_growth(target: Target, request: Request, kv_cache: int | Unknown) -> float | Unknown:
    """Bytes per token and sequence, by what the cache holds after two tokens: a prefill's leavings may be larger.

    A static cache is as large as it will have to be: of that, too, it is what a longer answer adds.
    """
    if isinstance(kv_cache, Unknown):
        return kv_cache
    workload = request.workload
    if workload.output_tokens < 2:
        return ONE_TOKEN
    from pytest_llmperf.profiling.flops import eager

    fewest = 2 if workload.output_tokens > 2 else 1
    target.begin()  # a static cache is otherwise kept at the largest size that it ever had
    with eager():
        least = target.kv_cache_bytes(request.shorter(fewest))
    target.begin()
    if isinstance(least, Unknown):
        return least
    return (kv_cache - least) / (workload.output_tokens - fewest) / workload.batch_size


def compilations() -> int:
    """Graphs that torch has compiled in this process, and breaks in them."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"] + sum(counters["graph_break"].values()))
