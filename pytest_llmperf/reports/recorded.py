"""What recording changed, as a table and in words, and what every writer says below its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_llmperf.baselines.entries import Change
from pytest_llmperf.reports.table import UPDATE, Cell, Column, Table, counts, hints
from pytest_llmperf.results import Result
from pytest_llmperf.units import percent, short_number


@dataclass(frozen=True)
class Recorded:
    """What became of the stored baselines.

    Args:
        unfit: key → why it was not recorded.
        untimed: key → why its times were not.
        stale: stored tests that no longer exist.
        pruned: the stale ones were dropped.
        done: the run was to record.
        force: the option that records what is unfit.
    """

    changes: Sequence[Change] = ()
    unfit: Mapping[str, str] = field(default_factory=dict)
    untimed: Mapping[str, str] = field(default_factory=dict)
    stale: Sequence[str] = ()
    pruned: bool = False
    done: bool = False
    force: str = "--llmperf-force"


def together(one: Recorded | None, other: Recorded | None) -> Recorded | None:
    """What two runs did to the stored baselines."""
    if one is None or other is None:
        return one or other
    return replace(
        one,
        changes=(*one.changes, *other.changes),
        unfit={**one.unfit, **other.unfit},
        untimed={**one.untimed, **other.untimed},
        stale=tuple(dict.fromkeys([*one.stale, *other.stale])),
        pruned=one.pruned or other.pruned,
        done=one.done or other.done,
    )


_COLUMNS = (
    Column("recorded"),
    Column("metric"),
    Column("before", right=True),
    Column("now", right=True),
    Column("change", right=True),
)


def changed(recorded: Recorded) -> Table:
    """A row per figure that is another now, old → new."""
    table = Table("", "", _COLUMNS)
    for change in recorded.changes:
        name = change.key
        for metric, (before, now) in change.medians.items() if change.kind == "updated" else ():
            if before != now:
                cells = [short_number(before) if before is not None else "–", short_number(now)]
                share = percent(now / before - 1, signed=True) if before else ""
                table.rows.append((Cell(name), Cell(metric), *map(Cell, cells), Cell(share)))
                name = ""
    return table


def remarks(recorded: Recorded) -> list[str]:
    """What was recorded in one line, what was not and why, and what is stored in vain."""
    lines = []
    if recorded.done:
        kinds = [change.kind for change in recorded.changes]
        counts = [f"{kinds.count(kind)} {kind}" for kind in ("updated", "new", "unchanged")]
        lines.append(f"baselines: {', '.join(counts)}")
    for key, reason in recorded.unfit.items():
        lines.append(f"not recorded: {key}: {reason} ({recorded.force} records it all the same)")
    if recorded.untimed:
        lines.append(
            f"times not recorded, counts and memory only: {_few(list(recorded.untimed))}: "
            f"{_few(list(dict.fromkeys(recorded.untimed.values())), 2)} ({recorded.force} records them all the same)"
        )
    if recorded.stale:
        shown = _few(recorded.stale)
        new = any(change.kind == "new" for change in recorded.changes)
        fix = "dropped" if recorded.pruned else "pytest --llmperf-prune drops them"
        hint = "; renamed, if they are the new ones" if new and not recorded.pruned else ""
        lines.append(f"{len(recorded.stale)} stale: {shown}: no such tests ({fix}{hint})")
    return lines


def counted(results: Sequence[Result], recorded: Recorded | None) -> str:
    """How many measurements came to what, and how many tests are stale, in one line."""
    return counts(results, len(recorded.stale) if recorded else 0)


def lines_below(results: Sequence[Result], recorded: Recorded | None, update: str = UPDATE) -> list[str]:
    """What stands below the tables: what was recorded, or else what would tell more.

    Args:
        update: the command that records baselines.
    """
    said = remarks(recorded) if recorded else []
    return said if recorded and recorded.done else [*said, *hints(results, update)]


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
