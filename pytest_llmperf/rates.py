"""What a round comes to per second: of everything that arrived while the requests that count were under way.

Others of the same load were answered meanwhile, before and after; what of theirs fell into that time is part of what
was served in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_llmperf.model import Limit, Round, Sample, Trace, Unknown
from pytest_llmperf.units import milliseconds

CLOCK_STOOD = Unknown("the clock did not move during a round")
NO_OBJECTIVES = Unknown("the test limits none of the times of a request: ttft_ms, tpot_ms, itl_ms, latency_ms")
SINGLE_TOKEN = Unknown("time per output token needs at least 2 output tokens")
SINGLE_ARRIVAL = Unknown("inter-token latency needs at least 2 arrivals")
AT_ONCE = Unknown("all output tokens arrived at once")


def tpot(trace: Trace) -> float | Unknown:
    """Seconds per output token after the first."""
    if trace.output_tokens < 2:
        return SINGLE_TOKEN
    if len(trace.arrivals) < 2:
        return AT_ONCE
    return trace.decode / (trace.output_tokens - 1)


def latency(trace: Trace) -> float:
    """Seconds from the request to its last token."""
    return trace.ended - trace.sent


def output_tokens(taken: Round) -> float | Unknown:
    """Per second."""
    return _rate(taken, lambda trace: trace.sequences * trace.output_tokens, _output_within)


def total_tokens(taken: Round) -> float | Unknown:
    """Prompt and output tokens per second; a prompt counts when its first token comes."""
    return _rate(
        taken,
        lambda trace: trace.sequences * (trace.prompt_tokens + trace.output_tokens),
        lambda trace, within: trace.prompt_tokens * within(trace.arrivals[0]) + _output_within(trace, within),
    )


def requests(taken: Round) -> float | Unknown:
    """Requests per second that got their last token."""
    return _rate(taken, lambda trace: 1, _ended_within)


def goodput(taken: Round, objectives: Sequence[Limit]) -> float | Unknown:
    """Requests per second that met every objective, each held against the request's own values."""
    if not objectives:
        return NO_OBJECTIVES
    met = {id(trace): _met(trace, objectives) for trace in (*taken.traces, *taken.beside)}
    if unknown := next((value for value in met.values() if isinstance(value, Unknown)), None):
        return unknown
    return _rate(
        taken,
        lambda trace: int(met[id(trace)] is True),
        lambda trace, within: (met[id(trace)] is True) * _ended_within(trace, within),
    )


def is_objective(limit: Limit) -> bool:
    """Whether a request by itself keeps the limit or breaks it."""
    return limit.metric in _OF_A_REQUEST


_Within = Callable[[float], bool]


def _rate(taken: Round, whole: Callable[[Trace], float], part: Callable[[Trace, _Within], float]) -> float | Unknown:
    """Of a round's own requests the whole, and of those beside them what falls into their time."""
    if taken.wall <= 0:
        return CLOCK_STOOD
    total = sum(map(whole, taken.traces))
    if taken.beside:
        start, end = taken.began, taken.began + taken.wall
        total += sum(part(trace, lambda when: start <= when <= end) for trace in taken.beside)
    return total / taken.wall


def _output_within(trace: Trace, within: _Within) -> float:
    counts = trace.counts or (trace.output_tokens / len(trace.arrivals),) * len(trace.arrivals)
    return sum(count for when, count in zip(trace.arrivals, counts, strict=True) if within(when))


def _ended_within(trace: Trace, within: _Within) -> bool:
    return within(trace.ended)


def _met(trace: Trace, objectives: Sequence[Limit]) -> bool | Unknown:
    met = True
    for limit in objectives:
        values = _OF_A_REQUEST[limit.metric](trace)
        if isinstance(values, Unknown):
            return values
        met = met and limit.holds(Sample([[milliseconds(value) for value in values]]).statistic(limit.statistic))
    return met


def _tpots(trace: Trace) -> Sequence[float] | Unknown:
    value = tpot(trace)
    return value if isinstance(value, Unknown) else [value]


_OF_A_REQUEST: dict[str, Callable[[Trace], Sequence[float] | Unknown]] = {
    "ttft_ms": lambda trace: [trace.ttft],
    "tpot_ms": _tpots,
    "itl_ms": lambda trace: trace.gaps or SINGLE_ARRIVAL,
    "latency_ms": lambda trace: [latency(trace)],
}
