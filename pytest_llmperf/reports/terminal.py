"""Writes tables for people: in colour on a terminal, in plain text everywhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from pytest_llmperf.model import Profile
from pytest_llmperf.reports.grid import Grid, grids
from pytest_llmperf.reports.profile import profile_tables
from pytest_llmperf.reports.recorded import Recorded, changed, counted, lines_below, remarks
from pytest_llmperf.reports.table import (
    UPDATE,
    Table,
    advice,
    beside_profile,
    details,
    explained,
    failure,
    overview,
    shape,
)
from pytest_llmperf.reports.variants import side_by_side
from pytest_llmperf.results import Result


def failure_text(result: Result, width: int) -> str:
    """What failed in one line, which pytest's summary repeats, then what was judged of that measurement."""
    table = _text(Group(_rendered(details(result, judged_only=True), width), *_reasons(result, width)), width)
    operators = ["", _text(_profile(result.profile, width, beside_profile(result)), width)] if result.profile else []
    return "\n".join([failure(result), table, *(f"  {line}" for line in advice(result)), *operators])


def full_text(result: Result, width: int) -> str:
    """Every metric of a measurement, as plain text; its operators stand in the summary."""
    return _text(_rendered(details(result), width), width)


def profile_text(profile: Profile, width: int) -> str:
    """The operators of a profile that was taken by itself, as plain text."""
    title = f"{profile.target} · {shape(profile.workload)}"
    return _text(Group(Text(title, overflow="fold"), _profile(profile, width)), width)


def _profile(profile: Profile, width: int, beside: Sequence[str] = ()) -> RenderableType:
    """Below the table of its measurement."""
    told = profile_tables(profile, beside=beside)
    parts = [part for table in told for part in (Text(""), _rendered(table, width - 2))]
    return _indented(Group(*parts[1:]), 2)


def summary(
    results: Sequence[Result],
    width: int,
    colour: bool,
    verbosity: int,
    recorded: Recorded | None = None,
    *,
    update: str = UPDATE,
) -> str:
    """The end of a run: a table, more of it with `-v` and `-vv`, one line with `-q`.

    Args:
        update: the command that records baselines.
    """
    line = Text(counted(results, recorded), style="bold")
    if verbosity < 0:
        said = remarks(recorded) if recorded and recorded.done else []
        return _text(Group(line, *map(Text, said)), width, colour)
    parts: list[RenderableType] = []
    if len(results) > 1 or verbosity == 0:
        parts += _overview(overview(results), width)
    if verbosity > 0:
        for result in results:
            parts += [_rendered(details(result, samples=verbosity > 1), width), *_reasons(result, width), Text("")]
            parts += _operators(result, width)
    else:
        for result in results:
            if operators := _operators(result, width):
                parts += [Text(result.key, style="bold"), *operators]
    for table in side_by_side(results):
        parts += [_rendered(table, width, tell_left_out=True), Text("")]
    if recorded and (table := changed(recorded)).rows:
        parts += [*_grid(table, width).lines, Text("")]
    below = (Text(remark, overflow="fold") for remark in lines_below(results, recorded, update))
    return _text(Group(*parts, line, *below), width, colour)


def _operators(result: Result, width: int) -> list[RenderableType]:
    """Of whatever no failure has told already."""
    if result.profile is None or result.is_red:
        return []
    return [_profile(result.profile, width, beside_profile(result)), Text("")]


def tables_text(tables: Sequence[Table], remarks: Sequence[str], width: int, colour: bool) -> str:
    """Tables with their titles and notes, one below the other, then lines of text."""
    parts = [part for table in tables for part in (_rendered(table, width), Text(""))]
    return _text(Group(*parts, *(Text(remark, overflow="fold") for remark in remarks)), width, colour)


def standard_output() -> tuple[bool, int]:
    """Whether it takes colour, and how wide it is."""
    console = Console()
    return console.is_terminal and not console.no_color, console.width


def table_text(table: Table, width: int, colour: bool) -> str:
    """One bare table."""
    return _text(Group(*_grid(table, width).lines), width, colour)


def _overview(tables: Sequence[Table], width: int) -> list[RenderableType]:
    """The tables of all modules, set alike."""
    below = (_indented(Group(*grid.lines, Text(""))) for grid in grids(tables, width - 2))
    return [Group(Text(table.title, style="bold"), grid) for table, grid in zip(tables, below, strict=True)]


def _rendered(table: Table, width: int, *, tell_left_out: bool = False) -> RenderableType:
    parts: list[RenderableType] = [Text(table.title, style="bold", overflow="fold")] if table.title else []
    parts += [_indented(Text(table.subtitle, style="dim", overflow="fold"))] if table.subtitle else []
    below = 2 if table.title else 0
    grid = _grid(table, width - below)
    notes = [*grid.remarks, *table.notes]
    if tell_left_out and grid.left_out:
        notes.append(f"-v or a wider terminal shows {', '.join(grid.left_out)}")
    parts += [_indented(Group(*grid.lines), below)] if table.rows else []
    parts += [_indented(Text(note, overflow="fold"), below) for note in notes]
    return Group(*parts)


def _reasons(result: Result, width: int) -> list[RenderableType]:
    """Operators that grew below their phase, and hints."""
    parts: list[RenderableType] = []
    for table in explained(result):
        parts += [_indented(Text(table.title, overflow="fold"))] if table.title else []
        parts += [_indented(Group(*_grid(table, width - 4, header=False).lines), 4)] if table.rows else []
        parts += [_indented(Text(table.subtitle, style="dim", overflow="fold"))] if table.subtitle else []
        parts += [_indented(Text(note, overflow="fold")) for note in table.notes]
    return parts


def _indented(content: RenderableType, columns: int = 2) -> Padding:
    return Padding(content, (0, 0, 0, columns))


def _grid(table: Table, width: int, *, header: bool = True) -> Grid:
    return grids([table], width, header=header)[0]


def _text(content: RenderableType, width: int, colour: bool = False) -> str:
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        height=100,  # or rich would ask the terminal for both
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        legacy_windows=False,
    )
    console.print(content)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
