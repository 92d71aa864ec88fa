"""Energy per round, from a counter that counts all the time and is brought up to date now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_llmperf.model import Round, Unknown

LEAST_S = 1.0
"""NVML's counter moves up to 100 ms after the energy was taken: over less than this the reading would be rounding."""

Meter = Callable[[], float | Unknown]
"""Joules since whenever."""


def metered(serve: Callable[[], Round], meter: Meter) -> Callable[[], Round]:
    """Reads the meter before and after each round, outside of its times."""

    def serve_and_read() -> Round:
        before = meter()
        if isinstance(before, Unknown):
            return replace(serve(), energy=before)
        taken = serve()
        after = meter()
        if isinstance(after, Unknown):
            return replace(taken, energy=after)
        return replace(taken, energy=after - before if after >= before else _BEGUN_ANEW)

    return serve_and_read


_BEGUN_ANEW = Unknown("the GPU's energy counter began anew meanwhile", by_chance=True)


def evened(rounds: Sequence[Round]) -> list[Round]:
    """Rounds too short for the meter share what they took together, each as long as it was."""
    groups: list[list[Round]] = []
    for each in rounds:
        if groups and _wall(groups[-1]) < LEAST_S:
            groups[-1].append(each)
        else:
            groups.append([each])
    if len(groups) > 1 and _wall(groups[-1]) < LEAST_S:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [each for group in groups for each in _shared(group)]


def _shared(group: Sequence[Round]) -> list[Round]:
    refused = next((each.energy for each in group if isinstance(each.energy, Unknown)), None)
    if refused is None and _wall(group) < LEAST_S:
        refused = Unknown("the rounds together are too short for the GPU's energy counter", by_chance=True)
    if refused is not None:
        return [replace(each, energy=refused) for each in group]
    power = sum(each.energy for each in group if not isinstance(each.energy, Unknown)) / _wall(group)
    return [replace(each, energy=power * each.wall) for each in group]


def _wall(group: Sequence[Round]) -> float:
    return sum(each.wall for each in group)
