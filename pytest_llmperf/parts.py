"""What ranks saw, each of its own part, as one: times by the slowest, amounts added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.model import Conditions, Trace, Unknown

_Part = TypeVar("_Part")
_Number = TypeVar("_Number", int, float)


def latest(traces: Sequence[Trace]) -> Trace:
    """One request as all ranks saw it: a token has arrived when the slowest rank has it.

    Clocks of different machines are not compared: each rank's arrivals count from when it began itself.
    """
    first = traces[0]
    if len({(trace.counts, len(trace.arrivals)) for trace in traces}) > 1:
        seen = ", ".join(f"{len(trace.arrivals)} in rank {rank}" for rank, trace in enumerate(traces))
        raise MeasurementError(f"ranks saw tokens arrive at different times of one request: {seen}")
    since = [[arrival - trace.sent for arrival in trace.arrivals] for trace in traces]
    return dataclasses.replace(
        first,
        arrivals=tuple(first.sent + max(of_one) for of_one in zip(*since, strict=True)),
        prefill=_most([trace.prefill for trace in traces]),
        tokenize=_most([trace.tokenize for trace in traces]),
        detokenize=_most([trace.detokenize for trace in traces]),
        device_arrivals=tuple(map(max, zip(*(trace.device_arrivals for trace in traces), strict=True))),
    )


def conditions_of(seen: Sequence[Conditions]) -> Conditions:
    """Those of all ranks: the GPUs of each, and the most that was taken away from one."""
    return dataclasses.replace(
        seen[0],
        stolen=_most([each.stolen for each in seen]),
        withheld=_most([each.withheld for each in seen]),
        gpus=tuple(gpu for each in seen for gpu in each.gpus),
    )


def summed(parts: Sequence[_Part]) -> _Part:
    """Of a dataclass of amounts each the sum, or why one is unknown."""
    names = [field.name for field in dataclasses.fields(parts[0])]  # type: ignore[arg-type]  # a dataclass
    amounts: dict[str, Any] = {name: total([getattr(part, name) for part in parts]) for name in names}
    return type(parts[0])(**amounts)


def total(amounts: Sequence[_Number | Unknown]) -> _Number | Unknown:
    """Their sum, or why one is unknown."""
    return _of_known(sum, amounts)


def least(amounts: Sequence[_Number | Unknown]) -> _Number | Unknown:
    """The smallest, or why one is unknown."""
    return _of_known(min, amounts)


def _most(amounts: Sequence[float | Unknown]) -> float | Unknown:
    return _of_known(max, amounts)


def _of_known(what: Callable[[Sequence[_Number]], _Number], amounts: Sequence[_Number | Unknown]) -> _Number | Unknown:
    unknown = next((amount for amount in amounts if isinstance(amount, Unknown)), None)
    return what(cast("Sequence[_Number]", amounts)) if unknown is None else unknown
