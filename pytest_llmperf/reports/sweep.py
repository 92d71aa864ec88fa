"""A server at one load after the other: figures, a curve, and the most that it bears."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_llmperf.model import Measurement, Round, Sample
from pytest_llmperf.reports.table import Cell, Column, Table, failure, figure, verdict_cell
from pytest_llmperf.results import Result, Verdict
from pytest_llmperf.sweep import most_borne
from pytest_llmperf.units import short_number

_FIGURES: Mapping[str, tuple[str, str]] = {
    "ttft_ms": ("ttft_ms", "median"),
    "ttft p95": ("ttft_ms", "p95"),
    "tpot_ms": ("tpot_ms", "median"),
    "itl p99": ("itl_ms", "p99"),
    "tokens/s": ("output_tokens_per_s", "median"),
    "requests/s": ("requests_per_s", "median"),
    "goodput/s": ("goodput_per_s", "median"),
}
_SPARE = ("itl p99", "requests/s")
_CURVE = 16
"""Characters of its longest bar."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_KEPT_UP = 0.9
"""Of a rate; where fewer requests are answered than come, they queue for ever."""


@dataclass(frozen=True)
class Step:
    """What came of one load.

    Args:
        result: as judged; None where nothing could be measured.
        missing: then why.
    """

    load: float
    measurement: Measurement | None = None
    result: Result | None = None
    missing: str = ""

    @property
    def borne(self) -> bool:
        """Whether every limit was kept, and known to be; where there is none, whether requests were answered.

        A rate is borne only if it was had: where client or server fall behind, a lower one was measured.
        """
        return self.result is not None and self.result.verdict in (Verdict.OK, None) and not self.behind

    @property
    def behind(self) -> str:
        """How many requests were answered at a rate of which too few were."""
        rate = self.measurement.workload.request_rate if self.measurement is not None else None
        if self.measurement is None or rate is None:
            return ""
        slowed = [slowed for taken in self.measurement.rounds if (slowed := _slowed(taken)) is not None]
        if not slowed or statistics.median(slowed) <= 1 / _KEPT_UP:
            return ""
        return f"only {short_number(rate / statistics.median(slowed))}/s were answered"


def _slowed(taken: Round) -> float | None:
    """Seconds between answers for each second between the times that their requests were due at.

    The slope of a line, so that answers of different lengths, or the last one's time, do not look like falling behind.
    """
    due = [trace.sent for trace in taken.traces]
    if len(set(due)) < 2:
        return None
    return statistics.linear_regression(due, [trace.ended for trace in taken.traces]).slope


def sweep_tables(steps: Sequence[Step], by: str, target: str) -> list[Table]:
    """Loads in their order, with the curve of TTFT, and what they come to.

    Args:
        by: `concurrency` or `request_rate`.
    """
    columns = (
        Column(by.removeprefix("request_"), right=True),
        *(Column(name, right=True, spare=name in _SPARE) for name in _FIGURES),
        Column("verdict"),
        Column("", spare=True),
    )
    table = Table(target, "", columns)
    ordered = sorted(steps, key=lambda step: step.load)
    longest = max((_value(step, "ttft_ms", "median") or 0.0 for step in ordered), default=0.0)
    for step in ordered:
        figures = [figure(_value(step, *named)) for named in _FIGURES.values()]
        curve = Cell(_bar(_value(step, "ttft_ms", "median"), longest), dim=True)
        table.rows.append((Cell(short_number(step.load)), *figures, verdict_cell(_verdict(step)), curve))
    limited = any(step.result is None or step.result.verdict is not None for step in ordered)
    table.notes.extend([*_notes(ordered, by), *([finding(ordered, by)] if limited else [])])
    return [table]


def _notes(ordered: Sequence[Step], by: str) -> list[str]:
    """What is to be said of all loads once, then what is of some, with the load."""
    measured = [set(step.result.notes) for step in ordered if step.result is not None]
    general = set.intersection(*measured) if measured else set()
    notes = [note for step in ordered if step.result is not None for note in step.result.notes if note in general]
    for step in ordered:
        own = step.result.notes if step.result is not None else (step.missing,)
        said = [note for note in (*own, step.behind) if note and note not in general]
        notes += [f"{by} {short_number(step.load)}: {note}" for note in said]
    return list(dict.fromkeys(notes))


def finding(steps: Sequence[Step], by: str) -> str:
    """The most load that is borne, and what breaks above it."""
    ordered = sorted(steps, key=lambda step: step.load)
    most = most_borne({step.load: step.borne for step in ordered})
    above = next((step for step in ordered if most is None or step.load > most), None)
    why = f"; at {short_number(above.load)}: {_why(above)}" if above is not None else ""
    if most is None:
        return f"no load was borne{why}"
    served = next(step for step in ordered if step.load == most)
    tokens = _value(served, "output_tokens_per_s", "median")
    rate = f" ({short_number(tokens)} tokens/s)" if tokens is not None else ""
    return f"the most that keeps the limits: {by} {short_number(most)}{rate}{why or '; no higher one was tried'}"


def sweep_record(steps: Sequence[Step], by: str) -> str:
    """The same for programs, with everything seen."""
    ordered = sorted(steps, key=lambda step: step.load)
    seen = [
        {
            by: step.load,
            "borne": step.borne,
            "verdict": step.result.verdict.value if step.result and step.result.verdict else None,
            "missing": step.missing or None,
            "measurement": json.loads(step.measurement.to_json()) if step.measurement else None,
        }
        for step in ordered
    ]
    most = most_borne({step.load: step.borne for step in ordered})
    return json.dumps({"by": by, "most": most, "loads": seen}) + "\n"


def _verdict(step: Step) -> Verdict | None:
    return step.result.verdict if step.result is not None else Verdict.BROKEN


def _why(step: Step) -> str:
    if step.result is None:
        return step.missing
    if step.result.fails:
        unknown = [row.note for row in step.result.rows if row.fails and row.value is None]
        return "; ".join([failure(step.result), *dict.fromkeys(unknown)])
    if step.behind:
        return step.behind
    return f"{step.result.verdict.value if step.result.verdict else ''}: more requests would tell"


def _value(step: Step, metric: str, statistic: str) -> float | None:
    sample = step.measurement.samples[metric] if step.measurement is not None else None
    return sample.statistic(statistic) if isinstance(sample, Sample) else None


def _bar(value: float | None, longest: float) -> str:
    """Long in proportion, by eighths of a character."""
    if value is None or longest <= 0:
        return ""
    whole, eighths = divmod(round(8 * _CURVE * value / longest), 8)
    return _EIGHTHS[8] * whole + _EIGHTHS[eighths].strip()
