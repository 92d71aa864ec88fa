"""How far a model is from what its device could do: times against their floors.

No phase is faster than its bytes at the device's bandwidth, nor than its FLOPs at the device's rate: the larger of both
is its floor, and says what binds it. A measured time below it is an error of ours: of a count, or of a probe.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pytest_llmperf import metrics, ranks
from pytest_llmperf.demand import decode_bytes, prefill_bytes, prefill_flops
from pytest_llmperf.model import Ceilings, Measurement, Sample, Unknown
from pytest_llmperf.parts import summed
from pytest_llmperf.profiling.probe import Probe, probe_of
from pytest_llmperf.targets import Clock, Target
from pytest_llmperf.units import milliseconds, percent, short_number

MEMORY = "memory"
ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class Floor:
    """The least time that a phase could take.

    Args:
        metric: the time that it bounds.
        ms: the least of it.
        measured: the median, in ms.
        bound_by: `memory` or `arithmetic`, whichever takes longer.
    """

    metric: str
    ms: float
    measured: float
    bound_by: str

    @property
    def distance(self) -> float:
        """How many times its floor was measured."""
        return self.measured / self.ms


@dataclass(frozen=True)
class Roofline:
    """The floors of both phases, or why there are none. That of prefill bounds `ttft_ms` as well as `prefill_ms`."""

    ttft: Floor | Unknown
    prefill: Floor | Unknown
    tpot: Floor | Unknown

    @property
    def of_prefill(self) -> Floor | Unknown:
        """Of the time that `mfu` is a share of."""
        return self.ttft if isinstance(self.prefill, Unknown) else self.prefill

    @property
    def impossible(self) -> list[str]:
        """Times that were measured below their floors, each with its floor: errors of ours."""
        floors = (self.ttft, self.prefill, self.tpot)
        below = [floor for floor in floors if isinstance(floor, Floor) and floor.distance < 1]
        return [f"{floor.metric} {short_number(floor.measured)} (floor {short_number(floor.ms)})" for floor in below]


def roofline(measurement: Measurement) -> Roofline:
    """What its counts and the device's ceilings make of its times."""
    prefill = prefill_bytes(measurement), prefill_flops(measurement)
    decode = decode_bytes(measurement), measurement.counts.decode_work.flops
    return Roofline(
        ttft=_floor(measurement, "ttft_ms", *prefill),
        prefill=_floor(measurement, "prefill_ms", *prefill),
        tpot=_floor(measurement, "tpot_ms", *decode),
    )


def _floor(measurement: Measurement, metric: str, moved: float | Unknown, flops: float | Unknown) -> Floor | Unknown:
    ceilings = measurement.ceilings
    sample = measurement.samples.get(metric, _NOT_SUMMARIZED)
    parts = (moved, flops, ceilings.bandwidth, ceilings.flop_rate, sample)
    if unknown := next((part for part in parts if isinstance(part, Unknown)), None):
        return unknown
    moving, computing = moved / ceilings.bandwidth, flops / ceilings.flop_rate  # type: ignore[operator]  # all known
    bound_by = MEMORY if moving >= computing else ARITHMETIC
    return Floor(metric, milliseconds(max(moving, computing)), float(sample), bound_by)  # type: ignore[arg-type]  # too


_NOT_SUMMARIZED = Unknown("its metrics were not computed")


def under_ceilings(measurement: Measurement, target: Target, clock: Clock) -> Measurement:
    """The measurement with the ceilings of its device, probed for a working set like its own.

    A model that beats a ceiling tells that the device was held up while it was probed: then it is probed once more.
    """
    needed = (decode_bytes(measurement), prefill_bytes(measurement), prefill_flops(measurement))
    known = [value for value in needed[:2] if not isinstance(value, Unknown)]
    unknown = next((value for value in needed if isinstance(value, Unknown)), None)
    if not known:
        assert unknown is not None
        return _with(measurement, Ceilings(unknown, unknown))
    probe = probe_of(target, measurement.environment, clock)
    seen = _with(measurement, _ceilings(measurement, probe, min(known)))
    if roofline(seen).impossible:
        seen = _with(measurement, _ceilings(measurement, probe, min(known), anew=True))
    return seen


def _ceilings(measurement: Measurement, probe: Probe, working_set: float, *, anew: bool = False) -> Ceilings:
    """Of all ranks together, each of which reads and multiplies its part."""
    rate = _other_products(measurement) or probe.flop_rate(anew=anew)
    own = Ceilings(probe.bandwidth(working_set / ranks.world(), anew=anew), rate)
    return summed(ranks.gathered(own))


def _with(measurement: Measurement, ceilings: Ceilings) -> Measurement:
    return metrics.summarize(dataclasses.replace(measurement, ceilings=ceilings))


_IN_OTHER_TYPES = ("quantized::", "onednn::q", "aten::_int_mm", "aten::_scaled_mm", "aten::_scaled_grouped_mm")


def _other_products(measurement: Measurement) -> Unknown | None:
    """Whether it multiplies in other types than its own, at a rate that is not probed."""
    names = [operator.name for operator in measurement.counts.prefill.operators]
    other = next((name for name in names if name.startswith(_IN_OTHER_TYPES)), None)
    return Unknown(f"{other} multiplies in another type than {measurement.environment.dtype}") if other else None


def findings(measurement: Measurement) -> list[str]:
    """What the roofline says of a measurement, a sentence each; nothing of what is unknown."""
    below = roofline(measurement).impossible
    impossible = [f"{each}: faster than this machine can be, an error of llmperf" for each in below]
    return [*shares(measurement).values(), *impossible]


def shares(measurement: Measurement) -> dict[str, str]:
    """What is to be said of `mbu` and `mfu`, where they are known."""
    roof, ceilings = roofline(measurement), measurement.ceilings
    decode = _finding("decode reads weights and cache", "bandwidth", measurement, "mbu", ceilings.bandwidth, "GB/s")
    prefill = _finding("prefill computes", "rate", measurement, "mfu", ceilings.flop_rate, "GFLOP/s")
    return {
        metric: f"{said}; {floor.metric} is {short_number(floor.distance)} times its floor, which {floor.bound_by} sets"
        for metric, said, floor in (("mbu", decode, roof.tpot), ("mfu", prefill, roof.of_prefill))
        if said and isinstance(floor, Floor)
    }


def _finding(does: str, what: str, measurement: Measurement, metric: str, most: float | Unknown, unit: str) -> str:
    share = measurement.samples.get(metric)
    if not isinstance(share, Sample) or isinstance(most, Unknown):
        return ""
    reached, ceiling = short_number(share * most / 1e9), short_number(most / 1e9)
    return f"{does} at {percent(share)} of this machine's {what} ({reached} of {ceiling} {unit})"
