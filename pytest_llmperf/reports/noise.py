"""What calibrations say of a machine, and what that lets a comparison see."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.reports.terminal import table_text
from pytest_llmperf.units import percent
from pytest_llmperf.verdict.comparison import PRIORS, Noise
from pytest_llmperf.verdict.visible import POWER, visible_duet, visible_stored

SESSIONS = (1, 5, 20)
_PROCESS_MEDIAN = 0.01
"""Standard error to which rounds are taken, where time allows."""
_HIDDEN_DF = 4.0
"""A spread between processes that is worth less than this is no better known than an uncalibrated one."""


@dataclass(frozen=True)
class Level:
    """The noise of one metric.

    Args:
        rounds: standard deviation of ln(value) between rounds of one process.
        error: standard error of one pair's difference.
        pairs: that were measured.
        sessions_measured: whether what lies between sessions was, rather than assumed.
    """

    metric: str
    noise: Noise
    rounds: float
    error: float
    pairs: int
    sessions_measured: bool


def noise_text(levels: Sequence[Level], tolerance: float, most_pairs: int, width: int, colour: bool) -> str:
    """Two tables, and what they call for."""
    parts = [
        "noise, as standard deviation",
        textwrap.indent(table_text(_levels(levels), width - 2, colour), "  "),
        "",
        textwrap.fill(
            f"smallest slowdown that is REGRESSED in {round(10 * POWER)} of 10 runs at a tolerance of "
            f"{percent(tolerance)}, by a stored baseline of so many sessions and by duet",
            width,
        ),
        textwrap.indent(table_text(_visible(levels, tolerance, most_pairs), width - 2, colour), "  "),
        "",
        *[textwrap.fill(remark, width) for remark in _remarks(levels)],
    ]
    return "\n".join(parts)


def _levels(levels: Sequence[Level]) -> Table:
    columns = (
        Column("metric"),
        Column("within a process", right=True),
        Column("between processes", right=True),
        Column("between sessions", right=True),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            Cell(each.metric),
            Cell(percent(each.rounds)),
            Cell(f"{'two kinds, ' if each.noise.bimodal else ''}{'below ' * _hidden(each)}{_process(each)}"),
            Cell(_sessions(each)),
        )
        for each in levels
    ]
    return Table("", "", columns, rows)


def _sessions(level: Level) -> str:
    if level.sessions_measured:
        return percent(level.noise.session)
    assumed = level.noise.session in {prior.session for prior in PRIORS.values()}
    return f"{percent(level.noise.session)} assumed" if assumed else f"at least {percent(level.noise.session)}"


def _process(level: Level) -> str:
    return percent(max(level.noise.process, level.error) if _hidden(level) else level.noise.process)


def _hidden(level: Level) -> bool:
    """Whether the pairs' own errors leave nothing to be said of what lies between processes."""
    return is_hidden(level.noise, level.pairs)


def is_hidden(noise: Noise, pairs: int) -> bool:
    """Whether so little is known of what lies between processes, after so many pairs."""
    return noise.df < min(_HIDDEN_DF, pairs / 2)


def _visible(levels: Sequence[Level], tolerance: float, most_pairs: int) -> Table:
    names = ["1 session", *(f"{count} sessions" for count in SESSIONS[1:]), "duet"]
    table = Table("", "", (Column("metric"), *(Column(name, right=True) for name in names)))
    for each in levels:
        stored = [visible_stored(each.noise, count, tolerance, min(_PROCESS_MEDIAN, each.rounds)) for count in SESSIONS]
        duet = visible_duet(each.noise, each.error, tolerance, most_pairs)
        table.rows.append((Cell(each.metric), *(Cell(_change(c)) for c in [*stored, duet])))
    return table


def _change(visible: float | None) -> str:
    return "> 100 %" if visible is None or visible > 1 else percent(visible)


def _remarks(levels: Sequence[Level]) -> list[str]:
    remarks = []
    if not all(each.sessions_measured for each in levels):
        remarks.append("between sessions: not known until the same is calibrated on three days")
    if hidden := [each.metric for each in levels if _hidden(each)]:
        remarks.append(
            f"between processes: hidden for {' and '.join(hidden)} by what lies within them; more pairs, "
            "or a quieter machine, would show it"
        )
    if any(each.noise.bimodal for each in levels):
        remarks.append("two kinds of processes: nothing is REGRESSED before three of them agree")
    return remarks
