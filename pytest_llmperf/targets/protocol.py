"""What a target must offer: the whole of it.

To add a kind of target, write a reference and a target of these forms: `model=` takes any such reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pytest_llmperf.model import Memory, Round, Trace, Unknown, Workload
from pytest_llmperf.targets.device import Device

Clock = Callable[[], float]
"""A monotonic clock in seconds."""
Rest = Callable[[], None]
"""Called after each token has arrived, and may take its time: the clock then stands still."""


def no_rest() -> None:
    """Goes on at once."""


@dataclass(frozen=True)
class LoadOptions:
    """How a target is brought onto its device.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `float32`, `bfloat16`, …; None leaves it to the target.
        load: keywords for `from_pretrained`, or fields of the generation config.
        gpus: over so many of them; None leaves it to the target.
    """

    device: str = "auto"
    dtype: str | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    gpus: int | None = None

    @property
    def key(self) -> Hashable:
        """Equal for options that load the same."""
        load = sorted((name, repr(value)) for name, value in self.load.items())
        return (self.device, self.dtype, tuple(load), self.gpus)


@dataclass(frozen=True)
class Request:
    """One request, prepared outside the timed part.

    Args:
        workload: with the lengths of this one request, where they differ.
        prompt: in the target's own form: token ids on its device, or text where tokenization is timed.
        due: seconds after its round begins at which it is to be sent; None as soon as there is room for it.
    """

    workload: Workload
    prompt: Any
    due: float | None = None

    def shorter(self, tokens: int) -> Request:
        """The same prompt, answered with at most so many tokens."""
        fewer = min(tokens, self.workload.output_tokens)
        return dataclasses.replace(self, workload=dataclasses.replace(self.workload, output_tokens=fewer))


@runtime_checkable
class Reference(Protocol):
    """Names a target, before it is loaded."""

    @property
    def id(self) -> str:
        """Stable and readable, for test ids and reports."""
        ...

    @property
    def cacheable(self) -> bool:
        """Whether tests of a session may share the loaded target."""
        ...

    @property
    def in_process(self) -> bool:
        """Whether it serves from this process, one batch at a time."""
        ...

    def weights_estimate(self, options: LoadOptions) -> int | Unknown:
        """Bytes of weights that loading will take."""
        ...

    def load(self, options: LoadOptions) -> Target:
        """The target itself.

        Raises:
            TargetError: naming the target and what to do.
        """
        ...


class Target(Protocol):
    """Something that answers requests; produces traces and nothing else."""

    id: str
    dtype: str
    model: Any
    """The model object, or None."""
    tokenizer: Any
    """The tokenizer, or None."""
    positions: int | None
    """Tokens that it can count, where they end somewhere: prompt and answer together, less the last token."""

    @property
    def device(self) -> Device: ...

    def begin(self) -> None:
        """Called once before a measurement: lets go of what earlier workloads left behind."""
        ...

    def request(self, workload: Workload, seed: int) -> Request:
        """A request whose prompt differs for every seed."""
        ...

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        """Serve one request and say when its tokens came.

        Args:
            rest: called between tokens by a target that then does nothing until it returns; others leave it.

        Raises:
            MeasurementError: not exactly the tokens that were asked for.
        """
        ...

    def step_through(self, request: Request, mark: Callable[[], object]) -> Unknown | None:
        """Serve one request with nothing of ours in its way, and mark where each step of the model ends.

        Args:
            mark: called before each token is chosen, or after it where that cannot be told.

        Returns:
            Why the target does not show its steps; None where it does.
        """
        ...

    def weights_bytes(self) -> int | Unknown:
        """Parameters and buffers, each storage once."""
        ...

    def kv_cache_bytes(self, request: Request) -> int | Unknown:
        """Serve the request once more, and size its cache after the last token."""
        ...


@runtime_checkable
class Served(Protocol):
    """A target out of this process, which answers many requests at a time; a `Target` besides."""

    versions: Mapping[str, str]
    """Of the server's software, as far as it says."""
    notes: tuple[str, ...]
    """What was left out of the requests, or put otherwise, because the server refuses it."""

    def serve(self, workload: Workload, upcoming: Iterator[Request], clock: Clock) -> Round:
        """One round of the workload's load: as many requests as it takes, from those upcoming.

        Raises:
            MeasurementError: not one request that counts was answered as it was asked.
        """
        ...

    def memory(self) -> Memory:
        """Of the server's processes since `begin()`, where they are in sight."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...
