"""Loaded targets, kept for the session: tests that name the same target load it once."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from pytest_llmperf import ranks
from pytest_llmperf.errors import NoRoomError, OutOfMemoryTargetError, forget_frames
from pytest_llmperf.model import Unknown
from pytest_llmperf.parts import least
from pytest_llmperf.targets import shortage
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
        self.gave_way: dict[str, int | Unknown] = {}
        """Bytes of weights of the targets that made room for the one that was loaded last."""

    def load(
        self, reference: Reference, options: LoadOptions, *, fresh: bool = False
    ) -> tuple[Target, float | Unknown]:
        """The target, and the seconds that loading took, where it was loaded now.

        Args:
            fresh: load it even if a loaded one is at hand.

        Raises:
            TargetError: it cannot be had, or does not fit even alone.
        """
        self.gave_way.clear()
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
                target = ranks.together(lambda: reference.load(options))
                target.device.synchronize()
                return target, max(ranks.gathered(time.perf_counter() - started))
            except OutOfMemoryTargetError as error:
                forget_frames(error)  # which hold the half-built model
                if not self.let_go():
                    facts = shortage.of_device(device_of(options.device, options.gpus), error.__cause__)
                    raise OutOfMemoryTargetError(
                        shortage.told(error, facts, shortage.of_others(self.gave_way))
                    ) from error

    def _make_room(self, reference: Reference, options: LoadOptions) -> None:
        needed = reference.weights_estimate(options)
        if isinstance(needed, Unknown) or needed == 0:
            return
        device = device_of(options.device, options.gpus)
        while True:
            available = least(ranks.gathered(device.available_bytes()))
            if isinstance(available, Unknown) or available >= needed * HEADROOM:
                return
            if not self._targets:
                raise NoRoomError(
                    shortage.told(
                        f"{reference.id} needs about {short_bytes(needed)} for its weights, and {device.name} has "
                        f"{short_bytes(available)} left; use a smaller dtype, fewer layers or a larger machine",
                        shortage.of_device(device),
                        shortage.of_others(self.gave_way),
                    )
                )
            self._drop(next(iter(self._targets)), device)

    def _drop(self, key: Hashable, device: Device) -> None:
        target = self._targets.pop(key)
        self.gave_way[target.id] = target.weights_bytes()
        _let_go(target)
        del target
        gc.collect()
        device.release()

    def let_go(self, keep: Target | None = None) -> bool:
        """Let go of every target but one; whether there was any."""
        others = [(key, target.device) for key, target in self._targets.items() if target is not keep]
        for key, device in others:
            self._drop(key, device)
        return bool(others)

    def clear(self) -> None:
        """Let go of every target."""
        self.let_go()


def _let_go(target: object) -> None:
    if isinstance(target, Served):
        target.close()


_FROM_CACHE = Unknown("the target was already loaded in this session")
_GIVEN = Unknown("the test brought its target with it")
