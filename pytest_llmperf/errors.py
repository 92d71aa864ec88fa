"""The errors a user can meet, all shown as one message without a traceback.

A message names the bad value, the place it came from, and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable


class LlmperfError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(LlmperfError):
    """A mark, an option or a call of `llm` asks for something that does not exist or cannot be."""


class TargetError(LlmperfError):
    """The target cannot be found, loaded, fitted into memory or run."""


class NoRoomError(TargetError):
    """A target does not fit into the memory that is left."""


class OutOfMemoryTargetError(NoRoomError):
    """Memory ran out; other targets may give way and the attempt be made again."""


class DeviceMissingError(TargetError):
    """The device asked for is not on this machine (ini `llmperf_missing_device` may skip instead)."""


class MeasurementError(LlmperfError):
    """The target ran, but not what was asked of it: its times would be those of other work."""


class BaselineError(LlmperfError):
    """A stored baseline cannot be read or written."""


class ReportError(LlmperfError):
    """A report cannot be read or written."""


class ForeignError(LlmperfError):
    """A file of another tool cannot be read, or does not say what a measurement is made of."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'ttft_ms'?`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    import difflib  # only on the way to an error

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None
