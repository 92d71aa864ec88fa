"""Operator profiles as tables: where the time of each phase went, and the operators that took the most of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_llmperf.model import Operator, Phase, Profile, Unknown, split
from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.roles import Role
from pytest_llmperf.units import milliseconds, percent, short_number

TOP = 8
"""Operators shown of each phase; the rest is one row."""
SHARES_COUNT = "under the profiler, which slows small operators down: shares count"
_LONGEST_NAME = 50
"""As attention's on CPU; compiled graphs are named by hashes, of which nobody reads more."""
_OPERATORS = (
    Column("is"),
    Column("calls", right=True),
    Column("host ms", right=True),
    Column("device ms", right=True),
    Column("share", right=True),
)


def profile_tables(profile: Profile, most: int = TOP, beside: Sequence[str] = ()) -> list[Table]:
    """The split of both phases, then the operators of each.

    Args:
        beside: what else to know of these times.
    """
    phases = {"prefill": profile.prefill, "decode": profile.decode}
    seen = {name: phase for name, phase in phases.items() if name not in profile.unknown}
    table = split_table(seen)
    if seen:
        table.notes.append("; ".join([SHARES_COUNT, *beside, *_steps(profile.decode)]))
    table.notes.extend(f"{name} was not profiled: {why}" for name, why in profile.unknown.items())
    return [table, *(operators_table(name, phase, most) for name, phase in seen.items())]


def _steps(decode: Phase) -> list[str]:
    return [f"decode is the least of {decode.steps} steps"] if decode.steps else []


def split_table(phases: Mapping[str, Phase]) -> Table:
    """A row per phase, under any name that begins with the phase's own."""
    shares = [split(phase) for phase in phases.values()]
    outside = "idle" if any(phase.on_device for phase in phases.values()) else "Python"
    names = {**{role.value: role.value for role in Role}, "outside": outside}
    columns = (
        Column("where the time went"),
        Column("ms", right=True),
        *(Column(name, right=True) for name in names.values()),
    )
    table = Table("", "", columns)
    for (name, phase), share in zip(phases.items(), shares, strict=True):
        table.rows.append((Cell(name), _milliseconds(phase.seconds), *(_share(share[key]) for key in names)))
    return table


def operators_table(name: str, phase: Phase, most: int = TOP) -> Table:
    """The operators that took the most time on host and device, and all others in one row."""
    table = Table("", "", (Column(f"{name}, per token" if name.startswith("decode") else name), *_OPERATORS))
    ordered = sorted(phase.operators, key=lambda row: -(row.host + row.device))
    table.rows.extend(_row(phase, row) for row in ordered[:most])
    if rest := ordered[most:]:
        others = Operator(
            f"{len(rest)} others",
            sum(row.calls for row in rest),
            sum(row.host for row in rest),
            sum(row.device for row in rest),
        )
        name_, _, *figures = _row(phase, others)
        table.rows.append((name_, Cell(""), *figures))
    return table


def _row(phase: Phase, row: Operator) -> tuple[Cell, ...]:
    name = row.name if len(row.name) <= _LONGEST_NAME else f"{row.name[: _LONGEST_NAME - 1]}…"
    return (
        Cell(name),
        Cell(row.role.value, dim=True),
        Cell(short_number(row.calls)),
        Cell(_ms(row.host)),
        Cell(_ms(row.device) if row.device else ""),
        _share(phase.share(row)),
    )


def _milliseconds(seconds: float | Unknown) -> Cell:
    return Cell("–", dim=True) if isinstance(seconds, Unknown) else Cell(_ms(seconds))


def _ms(seconds: float) -> str:
    """To the microsecond: what is shorter is not worth reading."""
    return f"{milliseconds(seconds):,.3f}"


def _share(share: float | None) -> Cell:
    """Whole percents; nothing where there is nothing."""
    if share is None:
        return Cell("–", dim=True)
    return Cell(percent(round(share, 2))) if share >= 0.005 else Cell("")
