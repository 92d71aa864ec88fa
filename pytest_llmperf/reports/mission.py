"""The mission table: prompts of several lengths, cold and warm, then where their time went."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.measure.mission import Flight, Mission
from pytest_llmperf.model import Unknown, plain, split
from pytest_llmperf.reports.findings import findings, shown
from pytest_llmperf.reports.profile import SHARES_COUNT, TOP, operators_table, split_table
from pytest_llmperf.reports.table import Cell, Column, Table, figure
from pytest_llmperf.units import mebibytes, milliseconds

_COLUMNS = (
    Column("tokens"),
    *(
        Column(name, right=True)
        for name in ("tokenize", "TTFT", "steady", "ms per\ntoken", "tokens\nper s", "peak\nRSS", "peak\nmemory")
    ),
)


def mission_tables(missions: Sequence[Mission], notes: Sequence[str] = (), most: int = TOP) -> list[Table]:
    """Times, the split of each phase at each length, and the operators at the middle one."""
    tables = [_flights(missions, notes)]
    counts = {mission.prompt_tokens: mission.measurement.counts for mission in missions}
    phases = {
        **{f"prefill {tokens}": each.prefill for tokens, each in counts.items()},
        **{f"decode after {tokens}": each.decode for tokens, each in counts.items()},
    }
    seen = {name: phase for name, phase in phases.items() if not isinstance(phase.seconds, Unknown)}
    if seen:
        tables.append(split_table(seen))
        tables[-1].notes.append(f"{SHARES_COUNT}; without it a token takes as long as the table above says")
    middle = shown(missions)
    for name, phase in (
        (f"prefill {middle.prompt_tokens}", middle.measurement.counts.prefill),
        (f"decode after {middle.prompt_tokens}", middle.measurement.counts.decode),
    ):
        if isinstance(phase.seconds, Unknown):
            tables[-1].notes.append(f"{name} was not profiled: {phase.seconds.reason}")
        else:
            tables.append(operators_table(name, phase, most))
    return tables


def mission_record(missions: Sequence[Mission], notes: Sequence[str]) -> dict[str, object]:
    """The same for programs: seconds and bytes."""
    first = missions[0].measurement
    return {
        "target": first.target,
        "environment": plain(first.environment),
        "missions": [
            {
                "prompt_tokens": mission.prompt_tokens,
                "cold": plain(mission.cold),
                "warm": plain(mission.warm),
                "counts": plain(mission.measurement.counts),
                "split": {
                    "prefill": split(mission.measurement.counts.prefill),
                    "decode": split(mission.measurement.counts.decode),
                },
            }
            for mission in missions
        ],
        "findings": findings(missions),
        "notes": list(notes),
    }


def _flights(missions: Sequence[Mission], notes: Sequence[str]) -> Table:
    measurement = missions[0].measurement
    environment = measurement.environment
    threads = environment.threads
    subtitle = [
        f"{environment.device} {environment.device_name}",
        environment.dtype,
        f"{threads} thread{'s' * (threads != 1)}" if threads else "all threads",
        "times in ms, memory in MiB",
    ]
    table = Table(measurement.target, " · ".join(subtitle), _COLUMNS, notes=list(notes))
    for mission in missions:
        table.rows.append(_row(f"{mission.prompt_tokens}→{mission.cold.tokens} cold", mission.cold))
        table.rows.append(_row(f"{mission.prompt_tokens}→{mission.warm.tokens} warm", mission.warm))
    return table


def _row(name: str, flight: Flight) -> tuple[Cell, ...]:
    return (
        Cell(name),
        _ms(flight.tokenize),
        _ms(flight.ttft),
        _ms(flight.steady),
        _ms(flight.per_token),
        figure(_rounded(flight.rate)),
        _mib(flight.peak_rss),
        _mib(flight.peak_memory),
    )


def _ms(seconds: float | None) -> Cell:
    return figure(seconds and _rounded(milliseconds(seconds)))


def _mib(count: int | None) -> Cell:
    return figure(count and _rounded(mebibytes(count)))


def _rounded(value: float) -> float:
    """Whole, where its three digits say no more."""
    return value if value < 100 else round(value)
