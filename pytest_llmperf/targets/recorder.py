"""Watches one generation without being in its way: what the host sees by a streamer, what the device does by stamps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_llmperf.model import Trace, Unknown
from pytest_llmperf.targets.device import Device, Stamp
from pytest_llmperf.targets.protocol import Clock, Rest, no_rest


class _StepSignature:
    """Stands for a bound `__call__(input_ids, scores)`, its signature ready."""

    __signature__ = inspect.signature(lambda input_ids, scores: scores)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


class StampingProcessor:
    """A logits processor that changes nothing and stamps every step.

    transformers asks for `inspect.signature(processor.__call__)` at every step: computed, it adds 30 % to the
    TPOT of a 1 ms model; ready-made, 0.8 %.
    """

    def __init__(self, stamp: Callable[[], object]) -> None:
        self._stamp = stamp
        self.__call__ = _StepSignature()  # type: ignore[method-assign]  # what transformers looks at, not what it calls

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._stamp()
        return scores


@dataclass
class Recorder:
    """Watches one generation: a streamer for the host's view, stamps for the device's."""

    clock: Clock
    device: Device
    rest: Rest = no_rest
    arrivals: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    drafted: int | None = None
    """Tokens that assisted decoding proposed."""
    _began: list[Stamp] = field(default_factory=list)
    _ended: list[Stamp] = field(default_factory=list)
    _steps: list[Stamp] = field(default_factory=list)
    _prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate()`: once with the prompt (B, P), then per step with tokens (B,) or (1, k)."""
        if not self._prompt_seen and value.ndim == 2:
            self._prompt_seen = True
            return
        self.arrivals.append(self.clock())
        self.counts.append(value.shape[1] if value.ndim == 2 else 1)
        self.rest()

    def end(self) -> None:
        """No token: nothing to record."""

    @contextmanager
    def watching(self, model: Any) -> Iterator[list[StampingProcessor]]:
        """Stamps where the prompt's forward pass begins and ends; gives the logits processors this takes.

        Only where the device has a clock of its own is every step worth a stamp.
        """
        stamp = functools.partial(self.device.stamp, self.clock)
        with (
            _stamped_once(model, "prepare_inputs_for_generation", self._began, stamp),
            _stamped_once(model, "_prefill", self._ended, stamp) as shows_prefill,
            _returning(model, "_get_candidate_generator", self._count_drafts),
        ):
            each_step = StampingProcessor(lambda: self._steps.append(stamp()))
            yield [] if shows_prefill and not self.device.has_own_clock else [each_step]

    def _count_drafts(self, generator: Any) -> None:
        """Of an assistant that is about to propose tokens."""
        propose = generator.get_candidates
        self.drafted = self.drafted or 0

        def proposing(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            proposed = propose(input_ids, *args, **kwargs)
            self.drafted += proposed[0].shape[1] - input_ids.shape[1]
            return proposed

        generator.get_candidates = proposing

    def prefill_seconds(self) -> float | Unknown:
        ended = self._ended or self._steps
        return self.device.seconds(self._began[0], ended[0]) if self._began and ended else Trace.prefill

    def device_arrivals(self) -> tuple[float, ...]:
        if not self.device.has_own_clock or not self._began:
            return ()
        return tuple(self.device.seconds(self._began[0], step) for step in self._steps)


def _stamped_once(
    model: Any, method: str, stamps: list[Stamp], stamp: Callable[[], Stamp]
) -> AbstractContextManager[bool]:
    """Stamps when a method of the model first returns; gives whether it has that method."""

    def returned(result: object) -> None:
        if not stamps:
            stamps.append(stamp())

    return _returning(model, method, returned)


@contextmanager
def _returning(model: Any, method: str, tell: Callable[[Any], None]) -> Iterator[bool]:
    """Tells what a method of the model returns, each time; gives whether it has that method.

    Forward hooks would do the same, but compilation traces them into its graphs.
    """
    original = getattr(model, method, None)
    if original is None:
        yield False
        return

    @functools.wraps(original)  # generate() reads the method's signature
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        tell(result)
        return result

    had = vars(model).get(method)
    setattr(model, method, wrapped)
    try:
        yield True
    finally:
        delattr(model, method)
        if had is not None:
            setattr(model, method, had)
