"""What a profile shows that is worth a sentence, each in plain words and only where it is worth saying.

A finding is a function of missions alone, shortest prompt first. To add one, write it and name it in `_FINDINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_llmperf.measure.mission import Mission
from pytest_llmperf.model import Phase, Unknown
from pytest_llmperf.profiling import roofline, room
from pytest_llmperf.roles import Role
from pytest_llmperf.units import milliseconds, percent, short_number

COLD = 2.0
"""Times that a first request must take of a warm one's: less is no more than a first round's noise."""
OVERHEAD = 0.2
"""Share of a phase from which on its overhead could be worth someone's work."""
OUTSIDE = 0.4
"""Likewise, of what is no operator; some of it is the profiler's own."""
LONGER = 1.25
"""Times that a token must take after the longest prompt of one after the shortest."""


def findings(missions: Sequence[Mission]) -> list[str]:
    of_all = [sentence for find in _FINDINGS if (sentence := find(missions))]
    middle = shown(missions)
    how_fast = [_at(middle, sentence) for sentence in roofline.findings(middle.measurement)]
    return [*of_all, *how_fast, *room.sentences(missions[-1].picture)]


def cold_start(missions: Sequence[Mission]) -> str | None:
    worst = max(missions, key=_times_cold)
    times = _times_cold(worst)
    if times < COLD:
        return None
    figures = f"{_ms(worst.cold.ttft)} → {_ms(worst.warm.ttft)} ms"
    return _at(worst, f"a cold start costs {_times(times)} times a warm first token ({figures})")


def slower_with_the_prompt(missions: Sequence[Mission]) -> str | None:
    short, long = missions[0], missions[-1]
    if not short.warm.per_token or not long.warm.per_token or long.warm.per_token < LONGER * short.warm.per_token:
        return None
    times = _times(long.warm.per_token / short.warm.per_token)
    return f"a token after {long.prompt_tokens} takes {times} times as long as one after {short.prompt_tokens}"


def prefill_overhead(missions: Sequence[Mission]) -> str | None:
    return _overhead("prefill", shown(missions))


def decode_overhead(missions: Sequence[Mission]) -> str | None:
    return _overhead("decode", shown(missions))


def outside_of_operators(missions: Sequence[Mission]) -> str | None:
    middle = shown(missions)
    decode = middle.measurement.counts.decode
    share = decode.outside
    if share is None or share < OUTSIDE:
        return None
    if decode.on_device:
        idle = f"the device has nothing to do for {_whole(share)} of decode: the host does not keep up with it"
        return _at(middle, idle)
    return _at(middle, f"{_whole(share)} of decode is in no operator, but in Python between them (and in the profiler)")


def waits(missions: Sequence[Mission]) -> str | None:
    middle = shown(missions)
    syncs = middle.measurement.counts.decode.syncs
    if isinstance(syncs, Unknown) or not syncs:
        return None
    if syncs == 1:
        return _at(middle, "one scalar is read per token, by which generate() learns whether to stop")
    return _at(middle, f"the host waits {short_number(syncs)} times per token, where generate() itself needs one wait")


def no_cache(missions: Sequence[Mission]) -> str | None:
    """With a cache a step does one token's work beside attention; without, that of prefill and of all tokens since."""
    for mission in missions:
        counts = mission.measurement.counts
        steps, prefill = counts.flops_by_step, counts.prefill_work.flops
        if isinstance(prefill, Unknown) or len(steps) < 2 or mission.prompt_tokens < 2:
            continue
        if steps[0] >= prefill and steps[-1] > steps[0]:
            figures = f"{steps[0]:.3g} → {steps[-1]:.3g} over {len(steps)} tokens"
            grow = f"FLOPs per token grow with the position ({figures}), from those of prefill on: is the cache used?"
            return _at(mission, grow)
    return None


def compiled_anew(missions: Sequence[Mission]) -> str | None:
    for mission in missions:
        compiles = mission.measurement.counts.compiles
        if not isinstance(compiles, Unknown) and compiles:
            rounds = len(mission.measurement.rounds)
            graphs = "graph was" if compiles == 1 else "graphs were"
            return _at(mission, f"{compiles} {graphs} compiled anew, or broken, in {rounds} warm rounds")
    return None


_FINDINGS: Sequence[Callable[[Sequence[Mission]], str | None]] = (
    cold_start,
    slower_with_the_prompt,
    prefill_overhead,
    decode_overhead,
    outside_of_operators,
    waits,
    no_cache,
    compiled_anew,
)


def shown(missions: Sequence[Mission]) -> Mission:
    """The one whose operators are shown."""
    return missions[len(missions) // 2]


def _at(mission: Mission, sentence: str) -> str:
    return f"with a prompt of {mission.prompt_tokens} tokens, {sentence}"


def _overhead(name: str, mission: Mission) -> str | None:
    phase: Phase = getattr(mission.measurement.counts, name)
    share = phase.overhead
    if share is None or share < OVERHEAD:
        return None
    rows = [row for row in phase.operators if row.role is Role.OVERHEAD]
    most = max(rows, key=lambda row: phase.share(row) or 0.0)
    calls = f"{short_number(most.calls)} calls{' per token' if name == 'decode' else ''}"
    return _at(mission, f"{_whole(share)} of {name} is overhead, most of it {most.name} ({calls})")


def _times_cold(mission: Mission) -> float:
    return mission.cold.ttft / mission.warm.ttft if mission.warm.ttft else 0.0


def _times(times: float) -> str:
    return f"{times:.0f}" if times >= 10 else f"{times:.1f}"


def _ms(seconds: float) -> str:
    return short_number(float(f"{milliseconds(seconds):.3g}"))


def _whole(share: float) -> str:
    return percent(round(share, 2))
