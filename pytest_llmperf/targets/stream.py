"""`stream(fn)`: any engine at all, as long as it yields its tokens as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets.device import Cpu, device_of
from pytest_llmperf.targets.protocol import Clock, LoadOptions, Request, Rest, Target, no_rest
from pytest_llmperf.workloads import prompt_ids

TokenStream = Callable[[list[int], int], Iterable[object]]
"""`fn(prompt_ids, output_tokens)` yields one object per token."""


@dataclass(frozen=True)
class Stream:
    """Names a token stream; see `stream`."""

    fn: TokenStream
    vocabulary: int = 32_000
    cacheable = False
    in_process = True

    @property
    def id(self) -> str:
        return f"stream:{getattr(self.fn, '__name__', type(self.fn).__name__)}"

    def weights_estimate(self, options: LoadOptions) -> int:
        return 0

    def load(self, options: LoadOptions) -> Target:
        if options.gpus is not None:
            device_of(options.device, options.gpus)  # they must be there; which of them its engine takes, it decides
        return StreamTarget(self)


def stream(fn: TokenStream, *, vocabulary: int = 32_000) -> Stream:
    """A target of the user's own: `fn(prompt_ids, output_tokens)` yields each token when it is made.

    It must yield exactly `output_tokens` times. Its times are taken on the host as each item arrives;
    what memory its engine uses cannot be seen from here.

    Args:
        vocabulary: prompt ids are drawn from 0 … vocabulary − 1.
    """
    if not callable(fn):
        raise UsageError(f"stream({fn!r}): expected a function fn(prompt_ids, output_tokens) that yields tokens")
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise UsageError(f"stream(…, vocabulary={vocabulary!r}): expected a whole number of at least 1")
    return Stream(fn, vocabulary)


class StreamTarget:
    dtype = "unknown"
    model = None
    tokenizer = None
    positions: int | None = None

    def __init__(self, reference: Stream) -> None:
        self.id = reference.id
        self.device = Cpu()
        self._reference = reference

    def begin(self) -> None:
        """Nothing of a stream is known to be left behind."""

    def request(self, workload: Workload, seed: int) -> Request:
        if workload.batch_size != 1:
            raise UsageError(f"batch_size={workload.batch_size}: {self.id} answers one prompt at a time")
        if workload.prompt is not None:
            raise UsageError(f"prompt=: {self.id} has no tokenizer; it takes token ids, so set prompt_tokens=")
        return Request(workload, prompt_ids(workload, self._reference.vocabulary, (), seed)[0])

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        asked = request.workload.output_tokens
        arrivals: list[float] = []
        sent = clock()
        tokens = self._reference.fn(request.prompt, asked)
        if not isinstance(tokens, Iterable):
            raise MeasurementError(f"{self.id} returned {tokens!r}: expected an iterable that yields each token")
        for _ in tokens:
            arrivals.append(clock())
            if len(arrivals) > asked:
                break
            rest()
        if len(arrivals) != asked:
            more = "more than " if len(arrivals) > asked else ""
            raise MeasurementError(
                f"{self.id} yielded {more}{min(len(arrivals), asked)} tokens where {asked} were asked for: "
                f"yield once per token, output_tokens times"
            )
        return Trace(
            sent,
            tuple(arrivals),
            prompt_tokens=len(request.prompt),
            prefill=Unknown("a stream does not show where its prefill ends"),
        )

    def step_through(self, request: Request, mark: Callable[[], object]) -> None:
        asked = request.workload.output_tokens
        for _ in itertools.islice(self._reference.fn(request.prompt, asked), asked + 1):
            mark()

    def weights_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def kv_cache_bytes(self, request: Request) -> Unknown:
        return _OUT_OF_SIGHT


_OUT_OF_SIGHT = Unknown("a stream's model is out of sight")
