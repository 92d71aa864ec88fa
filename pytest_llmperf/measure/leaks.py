"""Whether memory grows from round to round: a slope test on what was held after each.

`leak_mib` is what one call more leaves behind, once. This is about what goes on over many rounds, in the timed rounds
themselves: what only leaks now and then, or beside the tensors, is seen here alone.

The slope is Theil's and Sen's, the median of all slopes between two rounds (Sen 1968): caches that fill in a few steps,
and single rounds that hold more, do not move it. It is told only where it is certain: the interval of 99.9 % lies above
0, enough has been gathered in all, and what was gathered is still there when the garbage has been collected.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from pytest_llmperf.model import Round, Unknown
from pytest_llmperf.targets.device import Device
from pytest_llmperf.units import MIB, short_bytes

LEAST_ROUNDS = 8
"""After those in which caches fill: with fewer, no interval of 99.9 % is bounded."""
FILLING = 1 / 3
"""Share of the rounds in which allocators and caches may still fill."""
LEAST_GROWTH = {"cpu": 32 * MIB, "cuda": 2 * MIB, "mps": 2 * MIB}
"""In all rounds looked at. Live tensors are counted exactly; a resident set grows by what an allocator keeps, and by
the traces of the rounds themselves (1 KiB for 30 tokens)."""
_CONFIDENCE = 0.999
_MOST_POINTS = 300
"""All pairs of rounds are looked at."""


def leak_note(rounds: Sequence[Round], device: Device) -> str:
    """How fast memory grows, for a reader of the figures; empty where it is not certain that it does."""
    held = [taken.held for taken in rounds]
    known = [value for value in held if not isinstance(value, Unknown)]
    settled = known[int(len(known) * FILLING) :]
    if len(known) < len(held) or len(settled) < LEAST_ROUNDS:
        return ""
    kind = device.name.partition(":")[0]
    if settled[-1] - settled[0] < LEAST_GROWTH.get(kind, 2 * MIB):
        return ""
    slope, low, high = _slope(settled)
    if low <= 0 or not _stays(settled, device):
        return ""
    what = "the resident set" if kind == "cpu" else f"live memory on {device.name}"
    return (
        f"{what} grows by {short_bytes(slope)} per round ({short_bytes(low)} to {short_bytes(high)}, "
        f"{len(settled)} rounds)"
    )


def _slope(held: Sequence[int]) -> tuple[float, float, float]:
    """Bytes per round, and the interval around them."""
    from scipy.stats import theilslopes

    step = -(-len(held) // _MOST_POINTS)
    found = theilslopes(held[::step], range(0, len(held), step), alpha=_CONFIDENCE)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def _stays(held: Sequence[int], device: Device) -> bool:
    """Whether most of the growth outlives a collection of garbage: what cycles hold until then is no leak."""
    gc.collect()
    now = device.held_bytes()
    return not isinstance(now, Unknown) and now - held[0] > (held[-1] - held[0]) / 2
