"""What a device can reach: how fast it reads memory, and how fast it multiplies matrices.

A ceiling is a best and not a median: the fastest of several ways, sizes and repetitions. Bandwidth is that of a working
set no larger than the model's own, since what fits into a cache is read many times faster; a smaller one is never
slower, which makes it safe to round sizes down.

Figures are kept per machine in `$LLMPERF_CACHE`, or else in the user's cache folder. They only ever rise: what is
faster than all that was seen before was possible all along.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.model import Environment, Unknown
from pytest_llmperf.targets import Clock, Target
from pytest_llmperf.targets.device import Device

SMALLEST = 2**16
"""Bytes. Less than this is gone before a clock can tell."""
LARGEST = 2**30
LARGEST_ON_CPU = 2**28
"""No cache of one process is larger, and a gigabyte would take seconds to fill."""
PRODUCTS = (256, 512, 1024, 2048)
PRODUCTS_ON_GPU = (2048, 4096, 8192)
"""Rows and columns of square matrices: small ones fit into a core's cache, and large ones fill a GPU. Each has its part
of the time, so there are few."""
SECONDS = 0.6
"""For each of both figures."""
MOST = 1e18
"""Bytes or FLOPs per second: a thousand times what any device reaches."""
_LONG_ENOUGH = 2e-4
"""Seconds between two stamps, so that neither the clock nor a launch is what is timed."""
_MOST_CALLS = 200
_SHARE_OF_FREE = 4
"""A probe takes at most this part of the memory that is left."""

Work = tuple[Callable[[], object], float]
"""Something to do, and how much of it that is: bytes, or FLOPs."""


def size_class(count: float, device: str, free: int | Unknown = Unknown("")) -> int:
    """Bytes to probe for a working set of so many: the next lower power of two, or one and a half of it."""
    most = LARGEST_ON_CPU if device == "cpu" else LARGEST
    if not isinstance(free, Unknown):
        most = min(most, free // _SHARE_OF_FREE)
    count = max(SMALLEST, min(count, most))
    power = 1 << int(math.log2(count))
    return power * 3 // 2 if count >= power * 1.5 else power


def best(works: Iterable[Work], device: Device, seconds: float, clock: Clock) -> float:
    """The highest amount per second, over all works and repetitions; 0 by a clock that stands still.

    Args:
        seconds: for all of them together, each at most a quarter; what would not end in time is not begun.
    """
    ends = clock() + seconds
    rate = 0.0
    for work, amount in works:
        if rate and clock() + 2 * amount / rate > ends:
            break
        until = clock() + seconds / 4
        work()  # sets up what later calls find ready
        took = _timed(work, 1, device, clock) or _timed(work, _MOST_CALLS, device, clock)
        if not took:  # the clock stands still
            return 0.0
        rate = max(rate, amount / took)
        calls = max(1, min(_MOST_CALLS, math.ceil(_LONG_ENOUGH / took)))
        while took and clock() + took * calls < until:
            took = _timed(work, calls, device, clock)
            rate = max(rate, amount / took if took else 0.0)
    return rate


def _timed(work: Callable[[], object], calls: int, device: Device, clock: Clock) -> float:
    """Seconds per call."""
    device.synchronize()
    start = device.stamp(clock)
    for _ in range(calls):
        work()
    end = device.stamp(clock)
    device.synchronize()
    return device.seconds(start, end) / calls


def reads(size: int, place: str) -> Iterator[Work]:
    """Ways to read so many bytes: a sum, a copy of one half to the other, and a vector times a matrix.

    In float32 whatever the model has: bytes come no faster in another type, and may be slow for other reasons.
    """
    import torch

    matrix = torch.ones(size // 4096, 1024, device=place)
    row, column = torch.ones(1, len(matrix), device=place), torch.ones(1, 1024, device=place)
    source, copy = matrix.view(2, -1)
    yield matrix.sum, size
    yield lambda: torch.mm(row, matrix), size
    yield lambda: torch.nn.functional.linear(column, matrix), size
    yield lambda: copy.copy_(source), size


def products(dtype: str, place: str, free: int | Unknown) -> Iterator[Work]:
    """Products of square matrices, the smaller ones first."""
    import torch

    for width in PRODUCTS if place == "cpu" else PRODUCTS_ON_GPU:
        if not isinstance(free, Unknown) and 3 * width * width * 8 * _SHARE_OF_FREE > free:
            return
        one = torch.ones(width, width, dtype=getattr(torch, dtype), device=place)
        yield functools.partial(torch.mm, one, one.clone()), 2 * width**3


@dataclass(frozen=True)
class Probe:
    """The ceilings of one device, for models of one dtype.

    Args:
        where: what tells this machine, and how it is used, from others.
        place: where tensors go, as torch names it.
    """

    device: Device
    place: str
    dtype: str
    where: str
    clock: Clock
    kept: Kept

    def bandwidth(self, working_set: float, *, anew: bool = False) -> float | Unknown:
        """Bytes per second, out of a working set of so many; a larger one that was faster holds for it, too."""
        size = size_class(working_set, self.device.name, self.device.available_bytes())
        reached = self._figure("read", str(size), lambda: reads(size, self.place), anew)
        if isinstance(reached, Unknown):
            return reached
        kept = self._kept("read").items()
        return max([reached, *(rate for other, rate in kept if other.isdecimal() and int(other) >= size)])

    def flop_rate(self, *, anew: bool = False) -> float | Unknown:
        """FLOPs per second of matrix products in the dtype."""
        import torch

        if not getattr(getattr(torch, self.dtype, None), "is_floating_point", False):
            return Unknown(f"products of {self.dtype} are not probed")
        free = self.device.available_bytes()
        precise = f", {torch.get_float32_matmul_precision()} precision" if self.dtype == "float32" else ""
        return self._figure("products", self.dtype + precise, lambda: products(self.dtype, self.place, free), anew)

    def _kept(self, kind: str) -> Mapping[str, float]:
        return self.kept.read().get(f"{self.where}: {kind}", {})

    def _figure(self, kind: str, name: str, works: Callable[[], Iterable[Work]], anew: bool) -> float | Unknown:
        with self.kept.alone():
            if not anew and (known := self._kept(kind).get(name)):
                return known
            try:
                reached = best(works(), self.device, SECONDS, self.clock)
            except (RuntimeError, MemoryError) as error:  # of torch: no memory, or no such product
                return Unknown(
                    f"the device could not be probed: {str(error).partition(chr(10))[0] or type(error).__name__}",
                    by_chance=True,
                )
            finally:
                self.device.release()
            if not reached:
                return Unknown("the clock stood still while the device was probed", by_chance=True)
            return self.kept.raised(f"{self.where}: {kind}", name, reached)


@dataclass(frozen=True)
class Kept:
    """Figures in a file, for all processes of a machine; a folder that cannot be written keeps nothing."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "ceilings.json"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other process probes meanwhile: each would take from what the other reaches."""
        import filelock

        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(self.path.with_suffix(".lock"), timeout=_PATIENCE_S))
            yield

    def read(self) -> dict[str, dict[str, float]]:
        """What is kept; nothing where the file is damaged."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                str(kind): {str(name): float(value) for name, value in figures.items() if 0 < value < MOST}
                for kind, figures in kept.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def raised(self, kind: str, name: str, value: float) -> float:
        """The higher one of what is kept and this, which is then kept."""
        kept = self.read()
        figures = kept.setdefault(kind, {})
        figures[name] = max(value, figures.get(name, 0.0))
        with contextlib.suppress(OSError):
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=self.path.name)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1, sort_keys=True)
            Path(temporary).replace(self.path)
        return figures[name]


_PATIENCE_S = 10.0
"""Several times what a probe takes; whoever waits longer probes all the same."""


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where figures are kept: `$LLMPERF_CACHE`, or `pytest-llmperf` in the user's cache folder."""
    if own := environ.get("LLMPERF_CACHE"):
        return Path(own)
    users = environ.get("XDG_CACHE_HOME") or environ.get("LOCALAPPDATA")
    try:
        return (Path(users) if users else Path.home() / ".cache") / "pytest-llmperf"
    except RuntimeError:  # nobody's home
        return Path(tempfile.gettempdir()) / "pytest-llmperf"


def probe_of(target: Target, environment: Environment, clock: Clock) -> Probe:
    """The probe of the device that a loaded target is on; of several GPUs, the first."""
    import torch

    place = target.device.names[0]
    threads = f"threads {torch.get_num_threads()}" if place == "cpu" else place
    where = f"{environment.device_name}, {threads}, torch {torch.__version__}"
    return Probe(target.device, place, target.dtype, where, clock, Kept(cache_folder()))
