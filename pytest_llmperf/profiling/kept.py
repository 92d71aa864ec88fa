"""What a baseline keeps of a profile: as much as a later explanation needs, the same of the same code.

Calls are exact and belong to a device type; times are in milliseconds per step and belong to the hardware. Views,
allocations and operators that only call others are put together, for there are many, and what they call tells more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from pytest_llmperf.model import Counts, Operator, Phase, Unknown
from pytest_llmperf.roles import is_operator, is_wait
from pytest_llmperf.units import milliseconds

PHASES = ("prefill", "decode")
VIEWS = "views"
ALLOCATIONS = "allocations"
OUTSIDE = "outside operators"
"""Time of a phase that no operator of torch took: Python, or a device that had nothing to do."""
OTHERS = "others"

LEAST_SHARE = 0.005
"""Of the time of all operators of a phase. Those that take less are put together."""
_ALLOCATE = re.compile(r"aten::(empty(_like|_strided)?|new_empty|resize_|set_)")
_VIEW = re.compile(
    r"""aten::(_reshape_alias|_unsafe_view|alias|as_strided|chunk|detach_?|diagonal|expand(_as)?|flatten|lift_fresh|movedim
    |narrow|permute|reshape|resolve_(conj|neg)|select|slice|split(_with_sizes)?|squeeze|swapaxes|t|transpose|unbind
    |unflatten|unfold|unsqueeze|view(_as)?)""",
    re.VERBOSE,
)
_CALLS_ANOTHER = re.compile(
    r"""aten::(_?convolution|contiguous|conv1d|dropout|einsum|feature_dropout|item|layer_norm|linear|log_softmax|matmul|ones
    |ones_like|result_type|rms_norm|scaled_dot_product_attention|softmax|stack|to|type_as|zeros|zeros_like)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Kept:
    """Of one process.

    Args:
        calls: operator → phase → calls per step.
        times: operator → phase → milliseconds per step on the host in itself, then on the device if there is one.
        decode_flops: of the first step of decode and of the last.
    """

    calls: dict[str, dict[str, int | float]] = field(default_factory=dict)
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    decode_flops: tuple[int, ...] = ()


def kept(counts: Counts) -> Kept:
    """What is kept of a counting pass; nothing where it saw nothing."""
    calls: dict[str, dict[str, int | float]] = defaultdict(dict)
    times: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for name in PHASES:
        phase: Phase = getattr(counts, name)
        for operator, number in _calls(phase).items():
            calls[operator][name] = int(number) if number == int(number) else round(number, 3)
        for operator, taken in _times(phase).items():
            times[operator][name] = taken
    by_step = counts.flops_by_step
    return Kept(dict(calls), dict(times), (by_step[0], by_step[-1]) if by_step else ())


def _calls(phase: Phase) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for operator in phase.operators:
        if (is_operator(operator.name) or is_wait(operator.name)) and (row := _row(operator)) != OTHERS:
            found[row] += operator.calls
    return found


def _row(operator: Operator) -> str:
    if _ALLOCATE.fullmatch(operator.name):
        return ALLOCATIONS
    if _VIEW.fullmatch(operator.name):
        return VIEWS
    return OTHERS if _CALLS_ANOTHER.fullmatch(operator.name) else operator.name


def _times(phase: Phase) -> dict[str, list[float]]:
    if not phase.operators or isinstance(phase.seconds, Unknown):
        return {}
    host: dict[str, float] = defaultdict(float)
    device: dict[str, float] = defaultdict(float)
    for operator in phase.operators:
        row = _row(operator)
        host[row] += operator.host
        device[row] += operator.device
    total = sum(host.values()) + sum(device.values())
    small = [row for row in host if host[row] + device[row] < LEAST_SHARE * total and row != OTHERS]
    for row in small:
        host[OTHERS] += host.pop(row)
        device[OTHERS] += device.pop(row)
    host[OUTSIDE] = max(0.0, phase.seconds - (sum(device.values()) or sum(host.values())))
    return {row: [_digits(host[row]), *([_digits(device[row])] if device[row] else [])] for row in host}


def _digits(seconds: float) -> float:
    return max(0.0, float(f"{milliseconds(seconds):.3g}"))  # the profiler rounds: what is left may be less than none
