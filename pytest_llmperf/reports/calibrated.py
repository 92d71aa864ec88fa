"""What a calibration learned, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.units import percent
from pytest_llmperf.verdict.comparison import Noise

_NOISE = ("rounds", "process", "session")
_VISIBLE = ("vs 1", "vs 5", "vs 20", "duet")
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
        "vs 1, 5, 20 stored sessions, and by duet: the smallest slowdown that is REGRESSED at a tolerance of 5 %"
    )
    return table
