"""What the machine did while a measurement was made: facts, seen between rounds and apart from the times themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pytest_llmperf import cgroup, nvml, ranks
from pytest_llmperf.model import Conditions, Gpu, Range, Round, Unknown
from pytest_llmperf.parts import total

Value = TypeVar("Value")


class Unwatched:
    """Nobody looks: everything counts, and nothing is known."""

    def look(self, *, ended: bool = False) -> str | None:
        """What disturbed the machine since the last look, empty if nothing did; None if that is too short ago to tell.

        What cannot be told yet is left to the next look.

        Args:
            ended: other work follows, and is not to be mistaken for this: what NVML has yet to count is let go.
        """
        return None

    def forget(self, rounds: int = 0) -> None:
        """What was last looked at does not count.

        Args:
            rounds: that are taken again.
        """

    @property
    def seen(self) -> Conditions:
        """Over all that counts."""
        return Conditions()

    @property
    def unseen(self) -> tuple[str, ...]:
        """What might have disturbed it without being seen, and why that is so."""
        return ()

    def energy(self) -> float | Unknown:
        """Joules that the GPUs have taken since whenever."""
        return Round.energy


class Watch(Unwatched):
    """Looks at the machine between rounds, and says of each stretch of them whether anything disturbed it.

    Args:
        gpus: that hold the model.
        threads: of this process that are busy.
        shared: why it cannot be told who kept the machine busy; None where all but this process are others.
    """

    def __init__(self, gpus: Sequence[WatchedGpu] = (), threads: int = 1, shared: Unknown | None = None) -> None:
        self._gpus = gpus
        self._threads = threads
        self._shared = shared
        self._stretches: list[tuple[float, Conditions]] = []
        self._again = 0
        self._in_the_end: tuple[Gpu, ...] = ()
        self._mhz = _mhz()
        self._before, self._since = _Account.now(), time.time()

    def look(self, *, ended: bool = False) -> str | None:
        wall = time.monotonic() - self._before.wall
        if ranks.agreed(wall < SHORTEST_S):
            if ended:  # how they stand can be told at any moment
                self._in_the_end = tuple(gpu.look(self._shared or _TOO_SHORT) for gpu in self._gpus)
            return None
        foreign = [self._shared or gpu.foreign(self._since) for gpu in self._gpus]
        if None in foreign and wall < COUNTED_S and not ended:
            return None
        now = _Account.now()
        stretch = self._before.until(now)
        gpus = tuple(gpu.look(share or 0.0) for gpu, share in zip(self._gpus, foreign, strict=True))
        stretch = replace(stretch, foreign=self._shared or stretch.foreign, gpus=gpus)
        self._stretches.append((now.wall - self._before.wall, stretch))
        self._before, self._since = now, time.time()
        return next(filter(None, ranks.gathered(stretch.disturbance(self._threads))), "")

    def forget(self, rounds: int = 0) -> None:
        self._stretches.pop()
        self._again += rounds

    @property
    def seen(self) -> Conditions:
        if not self._stretches:
            foreign = self._shared or _TOO_SHORT
            known = Conditions(foreign, _TOO_SHORT, self._before.processors, _TOO_SHORT)
            return replace(known, gpus=self._in_the_end, again=self._again)
        return replace(_over(self._stretches), mhz=_all([self._mhz, _mhz()], _span), again=self._again)

    @property
    def unseen(self) -> tuple[str, ...]:
        told: dict[str, list[str]] = {}
        for gpu in _gpus_over(self._stretches):
            for fact, might in ((gpu.slowed, "heat and power brakes"), (gpu.foreign, "the work of other processes")):
                if isinstance(fact, Unknown) and fact != self._shared:
                    told.setdefault(f"could not be seen on {gpu.name} ({fact.reason})", []).append(might)
        return tuple(f"{' and '.join(might)} {where}" for where, might in told.items())

    def energy(self) -> float | Unknown:
        own = _all([gpu.energy() for gpu in self._gpus], sum) if self._gpus else _NO_ENERGY
        return total(ranks.gathered(own))


@contextmanager
def watching(names: Sequence[str], threads: int, shared: Unknown | None = None) -> Iterator[Watch]:
    """A watch over the machine, and over the GPUs of these names (`cuda:1`).

    Args:
        threads, shared: see `Watch`.
    """
    with ExitStack() as open_while:
        gpus = [name for name in names if name.startswith("cuda")]
        library = open_while.enter_context(nvml.opened()) if gpus else None
        yield Watch([WatchedGpu(name, _shown(library, name)) for name in gpus], threads, shared)


class WatchedGpu:
    """A GPU under watch.

    Args:
        gpu: as NVML shows it, or why it does not.
    """

    def __init__(self, name: str, gpu: nvml.Gpu | Unknown) -> None:
        self._name = name
        self._gpu = gpu
        self._errors = _known(gpu, nvml.Gpu.memory_errors)

    def energy(self) -> float | Unknown:
        """Joules since whenever."""
        return _known(self._gpu, nvml.Gpu.energy)

    def foreign(self, since: float) -> float | Unknown | None:
        """The share of time for which kernels of other processes ran; None while NVML has not counted.

        Args:
            since: a moment of `time.time()`.
        """
        gpu = self._gpu
        if isinstance(gpu, Unknown):
            return gpu
        users = gpu.users()
        own = nvml.own_pid(users if isinstance(users, frozenset) else ())
        if isinstance(users, frozenset) and isinstance(own, int) and users <= {own}:
            return 0.0
        shares = gpu.work(since)
        if isinstance(shares, Unknown):
            return shares
        if not shares:
            return None
        if isinstance(own, Unknown):
            return own
        return min(1.0, sum(share for pid, share in shares.items() if pid != own))

    def look(self, foreign: float | Unknown) -> Gpu:
        """How it stands, and how many errors its memory had since the last look.

        Args:
            foreign: the share of time for which kernels of other processes ran.
        """
        gpu = self._gpu
        if isinstance(gpu, Unknown):
            return Gpu(self._name, gpu, gpu, gpu, gpu, gpu, gpu, gpu)
        mask = gpu.held_down()
        before, self._errors = self._errors, gpu.memory_errors()
        return Gpu(
            self._name,
            sm_mhz=_both(gpu.sm_mhz()),
            memory_mhz=_both(gpu.memory_mhz()),
            celsius=_both(gpu.celsius()),
            slowed=_known(mask, lambda mask: tuple(cause for bit, cause in _SLOWED.items() if mask & bit)),
            capped=_known(mask, lambda mask: bool(mask & _POWER_CAP)),
            foreign=foreign,
            memory_errors=_all([before, self._errors], lambda counts: max(0, counts[1] - counts[0])),
        )


_POWER_CAP = 0x4
_SLOWED = {
    0x20: "its temperature, as the driver found",
    0x40: "its temperature",
    0x80: "a power brake from outside",
}
"""NVML's clocks event reasons. Neither idleness, nor clocks that someone has set, nor its own power limit disturb; the
general slowdown of its hardware (8) is told of every change of clocks, and with one of these where it is meant."""


def _shown(library: Any, name: str) -> nvml.Gpu | Unknown:
    if isinstance(library, Unknown):
        return library
    try:
        return nvml.Gpu(library, nvml.handle(library, int(name.partition(":")[2])))
    except (library.NVMLError, AttributeError) as error:
        return Unknown(f"NVML does not show {name}: {error}")


def _over(stretches: Sequence[tuple[float, Conditions]]) -> Conditions:
    """Of several stretches of these lengths: what was taken away on the average, and the extremes of the rest."""
    walls = [wall for wall, _ in stretches]
    seen = [each for _, each in stretches]

    def mean(name: str) -> float | Unknown:
        def weighed(values: Sequence[float]) -> float:
            return sum(value * wall for value, wall in zip(values, walls, strict=True)) / sum(walls)

        return _all([getattr(each, name) for each in seen], weighed)

    return Conditions(
        foreign=mean("foreign"),
        stolen=mean("stolen"),
        processors=seen[-1].processors,
        withheld=mean("withheld"),
        gpus=_gpus_over(stretches),
    )


def _gpus_over(stretches: Sequence[tuple[float, Conditions]]) -> tuple[Gpu, ...]:
    return tuple(_of_gpu(looks) for looks in zip(*(seen.gpus for _, seen in stretches), strict=True))


def _of_gpu(looks: Sequence[Gpu]) -> Gpu:
    def over(name: str, take: Callable[[Sequence[Any]], Any]) -> Any:
        return _all([getattr(each, name) for each in looks], take)

    def seen(name: str, take: Callable[[Sequence[Any]], Any]) -> Any:
        """What was seen once was there, whatever another look could not tell."""
        known = [value for each in looks if not isinstance(value := getattr(each, name), Unknown)]
        return take(known) or over(name, take)

    return Gpu(
        looks[0].name,
        sm_mhz=over("sm_mhz", _extremes),
        memory_mhz=over("memory_mhz", _extremes),
        celsius=over("celsius", _extremes),
        slowed=seen("slowed", lambda causes: tuple(dict.fromkeys(cause for each in causes for cause in each))),
        capped=over("capped", any),
        foreign=over("foreign", max),
        memory_errors=seen("memory_errors", sum),
    )


def _all(values: Sequence[Any], take: Callable[[Sequence[Any]], Value]) -> Value | Unknown:
    """What all of them come to; why not, if one of them is unknown."""
    return next((value for value in values if isinstance(value, Unknown)), None) or take(values)


def _known(value: Any, take: Callable[[Any], Value]) -> Value | Unknown:
    return value if isinstance(value, Unknown) else take(value)


def _both(value: float | Unknown) -> Range | Unknown:
    return value if isinstance(value, Unknown) else (float(value), float(value))


def _extremes(ranges: Sequence[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _span(values: Sequence[float]) -> Range:
    return min(values), max(values)


def _mhz() -> float | Unknown:
    """Clock of the processors, on the average over them; read but twice, since it asks each of them."""
    import psutil

    try:
        clock = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError, RuntimeError, ValueError, IndexError):  # of a virtual one
        clock = None
    return float(clock.current) if clock is not None and clock.current else Unknown("this system does not tell it")


@dataclass(frozen=True)
class _Account:
    """Seconds, summed over all processors."""

    wall: float
    busy: float
    stolen: float
    own: float
    withheld: float
    processors: int

    @classmethod
    def now(cls) -> _Account:
        import psutil

        times = psutil.cpu_times()
        stolen = getattr(times, "steal", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # contained in user and nice
        own = os.times()
        return cls(
            time.monotonic(),
            sum(times) - guests - idle - stolen,
            stolen,
            own.user + own.system,
            cgroup.withheld(),
            psutil.cpu_count() or 1,
        )

    def until(self, end: _Account) -> Conditions:
        wall = end.wall - self.wall
        foreign = max(0.0, (end.busy - self.busy) - (end.own - self.own)) / wall
        stolen, withheld = max(0.0, end.stolen - self.stolen) / wall, max(0.0, end.withheld - self.withheld) / wall
        if withheld and (end.own - self.own) / wall >= _ALL_OF_IT * cgroup.quota():
            withheld = 0.0  # what the code itself uses up is no disturbance of it
        return Conditions(foreign, stolen, self.processors, withheld)


_ALL_OF_IT = 0.9
"""Share of a quota that a process uses which uses it up by itself."""
SHORTEST_S = 0.2
"""The kernel counts in hundredths of a second; below this the share would be rounding."""
COUNTED_S = 1.0
"""NVML counts whose kernels ran every sixth of a second to every second, by the GPU. Where others use it, too, rounds
wait for that: else a neighbour would be seen in one stretch of several, and be gone with it."""
_TOO_SHORT = Unknown("too short a time to tell")
_NO_ENERGY = Unknown("only NVIDIA GPUs are asked for the energy that they take")
