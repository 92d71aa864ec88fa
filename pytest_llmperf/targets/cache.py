"""Loaded targets, kept for the session: tests that name the same target load it once."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from pytest_llmperf.errors import NoRoomError, OutOfMemoryTargetError
from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import Device, device_of
from pytest_llmperf.targets.protocol import LoadOptions, Reference, Served, Target
from pytest_llmperf.units import short_bytes

HEADROOM = 1.1
"""Weights are not all that a load takes; the tenth more is for buffers and the allocator's rounding."""


class TargetCache:
    """Targets by reference and load options; the least recently used give way when memory runs short."""

    def __init__(self, progress: Callable[[str], None] = lambda stage: None) -> None:
        self._targets: OrderedDict[Hashable, Target] = OrderedDict()
        self._progress = progress

    def load(
        self, reference: Reference, options: LoadOptions, *, fresh: bool = False
    ) -> tuple[Target, float | Unknown]:
        """The target, and the seconds that loading took, where it was loaded now.

        Args:
            fresh: load it even if a loaded one is at hand.

        Raises:
            TargetError: it cannot be had, or does not fit even alone.
        """
        key = (reference, options.key)
        if reference.cacheable and reference.in_process:  # `auto`, `cuda` and `cuda:0` may be one place
            place = device_of(options.device, options.gpus).name
            key = (reference, dataclasses.replace(options, device=place).key)
        if fresh:
            _let_go(self._targets.pop(key, None))
        if reference.cacheable and key in self._targets:
            self._targets.move_to_end(key)
            return self._targets[key], _FROM_CACHE
        self._progress(f"loading {reference.id}")
        self._make_room(reference, options)
        target, seconds = self._timed_load(reference, options)
        if not reference.cacheable:
            return target, _GIVEN
        self._targets[key] = target
        return target, seconds

    def _timed_load(self, reference: Reference, options: LoadOptions) -> tuple[Target, float]:
        while True:
            started = time.perf_counter()
            try:
                target = reference.load(options)
                target.device.synchronize()
                return target, time.perf_counter() - started
            except OutOfMemoryTargetError:
                if not self._targets:
                    raise
            self.clear()  # outside of `except`, whose error holds on to the half-built model

    def _make_room(self, reference: Reference, options: LoadOptions) -> None:
        needed = reference.weights_estimate(options)
        if isinstance(needed, Unknown) or needed == 0:
            return
        device = device_of(options.device, options.gpus)
        while True:
            available = device.available_bytes()
            if isinstance(available, Unknown) or available >= needed * HEADROOM:
                return
            if not self._targets:
                raise NoRoomError(
                    f"{reference.id} needs about {short_bytes(needed)} for its weights, and {device.name} has "
                    f"{short_bytes(available)} left; use a smaller dtype, fewer layers or a larger machine"
                )
            self._drop_oldest(device)

    def _drop_oldest(self, device: Device) -> None:
        _let_go(self._targets.popitem(last=False)[1])
        gc.collect()
        device.release()

    def clear(self) -> None:
        """Let go of every target."""
        while self._targets:
            self._drop_oldest(next(iter(self._targets.values())).device)


def _let_go(target: object) -> None:
    if isinstance(target, Served):
        target.close()


_FROM_CACHE = Unknown("the target was already loaded in this session")
_GIVEN = Unknown("the test brought its target with it")
