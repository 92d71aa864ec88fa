"""What a calibration learned, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.units import percent
from pytest_llmperf.verdict.comparison import Noise

_NOISE = ("rounds", "processes", "sessions")
_VISIBLE = ("1 stored", "5 stored", "20 stored", "duet")
_COLUMNS = (Column("metric"), *(Column(name, right=True) for name in (*_NOISE, *_VISIBLE)))


def calibrated(levels: Sequence[tuple[str, float, Noise, Sequence[float]]], pairs: int) -> Table:
    """A row per metric: its noise between rounds, processes and sessions, then the smallest slowdowns that show."""
    table = Table("noise of this machine", f"standard deviations, from {pairs} pairs of processes", _COLUMNS)
    for metric, rounds, noise, visible in levels:
        shares = (rounds, noise.process, noise.session, *visible)
        table.rows.append((Cell(metric), *(Cell(percent(share)) for share in shares)))
        if noise.bimodal:
            table.notes.append(f"{metric}: processes fall into two groups, so that three must agree")
    table.notes.append(
        "stored, duet: the smallest slowdown that is REGRESSED at a tolerance of 5 %, against so many stored "
        "sessions, and by duet"
    )
    return table
