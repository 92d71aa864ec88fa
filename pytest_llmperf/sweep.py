"""How much load a server bears: the search for the most at which it still keeps its limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

CLOSE = 1.1
"""The most that is known to be borne is at least as close to the least that is known not to be."""


def most_borne(bears: Mapping[float, bool]) -> float | None:
    """The most below which everything was borne: what holds above a load that does not is luck."""
    most = None
    for load, borne in sorted(bears.items()):
        if not borne:
            break
        most = load
    return most


def search(bears: Callable[[float], bool], most: float, *, whole: bool) -> None:
    """Try loads until the most that is borne is known: doubled while it is, then halfway between the two, by ratio.

    Where the first is not borne, no lower one is tried: at a low rate a single round takes minutes.

    Args:
        bears: measures at a load.
        most: is never exceeded.
        whole: loads are whole numbers.
    """
    good, load = 0.0, min(1.0, most)
    while bears(load):
        good = load
        if good >= most:
            return
        load = min(2 * good, most)
    bad = load
    while good and bad > CLOSE * good:
        between = math.sqrt(good * bad)
        load = math.floor(between) if whole else float(f"{between:.3g}")
        if load == good:
            load = good + 1
        if load >= bad:
            return
        if bears(load):
            good = load
        else:
            bad = load
