"""The errors a user can meet, all shown as one message without a traceback.

A message names the bad value, the place it came from, and the fix.
"""

from __future__ import annotations

import traceback
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


def forget_frames(error: BaseException) -> None:
    """Empty the frames of an error's traceback, and of the errors before it: they hold tensors, for as long as anyone
    holds the error, as pytest does with that of the last test. They are told as before, without their variables.
    """
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and not any(one is other for other in seen):  # some compare badly: NVMLError does
            seen.append(one)
            traceback.clear_frames(one.__traceback__)
            pending += [one.__cause__, one.__context__]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'ttft_ms'?`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    import difflib  # only on the way to an error

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None
