"""What every reader of another tool's files makes of them: runs of requests, in this package's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_llmperf.imports.fields import Fields
from pytest_llmperf.model import Failure, Trace, Unknown


@dataclass(frozen=True)
class Load:
    """What a run asked of the server at a time. Where neither is known, as many are taken as were in flight.

    Args:
        concurrency: requests in flight at once.
        rate: requests per second, sent when they were due.
        constant: they came evenly at that rate, and not at random.
    """

    concurrency: int | None = None
    rate: float | None = None
    constant: bool = False

    def __str__(self) -> str:
        if self.rate is not None:
            return f"rate {self.rate:g}"
        return "" if self.concurrency is None else f"concurrency {self.concurrency}"


@dataclass(frozen=True)
class Run:
    """One benchmark that another tool made.

    Args:
        tool: which, with its version where the file says: `GuideLLM 0.8.1`.
        traces: of the requests that count and were answered.
        label: names it among others of its file.
        url: of the server; empty where the file does not say.
        notes: what a reader of the figures should know of how they came about.
        gaps: why single gaps between tokens are not known, where they are not: arrivals are the first and the last.
        starts: why it is not known when requests were sent, where it is not: each trace begins at 0.
    """

    tool: str
    model: str
    traces: tuple[Trace, ...]
    failures: tuple[Failure, ...] = ()
    load: Load = Load()
    label: str = ""
    url: str = ""
    notes: tuple[str, ...] = ()
    gaps: Unknown | None = None
    starts: Unknown | None = None


class Format(Protocol):
    """What one tool writes."""

    name: str
    """As `--format` takes it."""
    expected: str
    """Which file of which tool, and how it is had."""

    def holds(self, documents: Sequence[Fields]) -> bool:
        """Whether these JSON values are of that tool, be they complete or not."""
        ...

    def runs(self, documents: Sequence[Fields], path: Path) -> list[Run]:
        """The runs of a file.

        Raises:
            ForeignError: it does not say what a measurement is made of.
        """
        ...


_INSIDE = Unknown("a server's own affair, inside ttft")


def trace(sent: float, arrivals: Sequence[float], prompt_tokens: int, output_tokens: int, *, lag: float = 0.0) -> Trace:
    """One answered request."""
    return Trace(
        sent,
        tuple(arrivals),
        prompt_tokens,
        tokens=None if output_tokens == len(arrivals) else output_tokens,
        prefill=Unknown("a server does not show where prefill ends"),
        tokenize=_INSIDE,
        detokenize=_INSIDE,
        lag=lag,
    )


def several(number: int, of: str) -> str:
    """`1 request`, `12 requests`."""
    return f"{number} {of}{'s' * (number != 1)}"
