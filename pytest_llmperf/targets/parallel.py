"""A target that all ranks serve together, and see alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_llmperf import ranks
from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.parts import latest
from pytest_llmperf.targets.device import Device
from pytest_llmperf.targets.protocol import Clock, Request, Rest, Served, Target, no_rest


def of_all_ranks(target: Target) -> Target:
    """The target as all ranks see it; in a run of one process the target itself.

    Raises:
        UsageError: it is no part of a model, and every rank would ask all of it.
    """
    if ranks.world() == 1:
        return target
    if isinstance(target, Served):
        raise UsageError(f"{target.id}: under torchrun every rank would send all of the load; measure it without")
    return Parallel(target)


class Parallel:
    """The part of a target in one rank. Requests begin in all ranks together, and what fails in one fails in all."""

    def __init__(self, target: Target) -> None:
        self._own = target
        self.id = target.id
        self.dtype = target.dtype
        self.model: Any = target.model
        self.tokenizer: Any = target.tokenizer
        self.positions = target.positions

    @property
    def device(self) -> Device:
        """Of this rank."""
        return self._own.device

    def begin(self) -> None:
        self._own.begin()

    def request(self, workload: Workload, seed: int) -> Request:
        return self._own.request(workload, seed)

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        ranks.gathered(None)
        return latest(ranks.gathered(ranks.together(lambda: self._own.run(request, clock, rest))))

    def step_through(self, request: Request, mark: Callable[[], object]) -> Unknown | None:
        return ranks.together(lambda: self._own.step_through(request, mark))

    def weights_bytes(self) -> int | Unknown:
        """Of this rank."""
        return self._own.weights_bytes()

    def kv_cache_bytes(self, request: Request) -> int | Unknown:
        """Of this rank."""
        return ranks.together(lambda: self._own.kv_cache_bytes(request))
