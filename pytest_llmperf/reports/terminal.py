"""Writes tables for people: in colour on a terminal, in plain text everywhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from pytest_llmperf.model import Profile, Result, Verdict
from pytest_llmperf.reports.profile import profile_tables
from pytest_llmperf.reports.recorded import Recorded, changed, remarks
from pytest_llmperf.reports.table import (
    UPDATE,
    Cell,
    Table,
    advice,
    counts,
    details,
    explained,
    failure,
    hints,
    overview,
)
from pytest_llmperf.reports.variants import side_by_side

WIDE = 100
"""Columns from which on the less important ones are shown."""
_PLAIN_WIDTH = 100
"""Width of texts that are stored with a result and read anywhere."""
_STYLES = {
    Verdict.BROKEN: "bold red",
    Verdict.REGRESSED: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NEW: "cyan",
    Verdict.IMPROVED: "bold green",
    Verdict.OK: "green",
}


def failure_text(result: Result) -> str:
    """What failed in one line, then what was judged of that measurement, as plain text."""
    told = [_rendered(details(result, judged_only=True), _PLAIN_WIDTH), *_reasons(result, _PLAIN_WIDTH)]
    table = _text(Group(*told))
    return "\n".join([failure(result), table, *(f"  {line}" for line in advice(result)), *_profile_text(result)])


def full_text(result: Result) -> str:
    """Every metric of a measurement, as plain text."""
    return "\n".join([_text(_rendered(details(result), _PLAIN_WIDTH)), *_profile_text(result)])


def _profile_text(result: Result) -> list[str]:
    return ["", _text(_profile(result.profile, _PLAIN_WIDTH))] if result.profile else []


def _profile(profile: Profile, width: int) -> RenderableType:
    """Below the table of its measurement."""
    parts = [part for table in profile_tables(profile) for part in (Text(""), _rendered(table, width))]
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
    stale = len(recorded.stale) if recorded else 0
    line = Text(counts(results, stale), style="bold")
    said = remarks(recorded) if recorded else []
    if verbosity < 0:
        return _text(Group(line, *map(Text, said if recorded and recorded.done else [])), width, colour)
    parts: list[RenderableType] = []
    if len(results) > 1 or verbosity == 0:
        parts += _overview(overview(results), width)
    if verbosity > 0:
        for result in results:
            parts += [_rendered(details(result, samples=verbosity > 1), width), *_reasons(result, width), Text("")]
            parts += [_profile(result.profile, width), Text("")] if result.profile else []
    else:
        for result in results:
            if result.profile and not result.fails:  # else the failure's text has it
                parts += [Text(result.key, style="bold"), _profile(result.profile, width), Text("")]
    for table in side_by_side(results):
        parts += [_rendered(table, width), Text("")]
    if recorded and (table := changed(recorded)).rows:
        parts += [_grid(table, width), Text("")]
    told = [*said, *([] if recorded and recorded.done else hints(results, update))]
    return _text(Group(*parts, line, *(Text(remark, overflow="fold") for remark in told)), width, colour)


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
    return _text(_grid(table, width), width, colour)


def _overview(tables: Sequence[Table], width: int) -> list[RenderableType]:
    """The tables of all modules, their columns of one width, so that figures stand below each other."""
    widths = {
        column.name: max([len(column.name), *(len(row[index].text) for table in tables for row in table.rows)])
        for index, column in enumerate(tables[0].columns)
        if index > 0
    }
    return [_module(table, widths, width) for table in tables]


def _module(table: Table, widths: dict[str, int], width: int) -> RenderableType:
    rendered = _grid(table, width)
    for column in rendered.columns:
        column.width = widths.get(str(column.header))
    rendered.expand = True
    rendered.columns[0].ratio = 1  # all room left over goes to the name
    return Group(Text(table.title, style="bold"), Padding(rendered, (0, 0, 1, 2)))


def _rendered(table: Table, width: int) -> RenderableType:
    parts: list[RenderableType] = [Text(table.title, style="bold", overflow="fold")] if table.title else []
    parts += [_indented(Text(table.subtitle, style="dim", overflow="fold"))] if table.subtitle else []
    below = 2 if table.title else 0
    parts += [_indented(_grid(table, width), below)] if table.rows else []
    parts += [_indented(Text(note, overflow="fold"), below) for note in table.notes]
    return Group(*parts)


def _reasons(result: Result, width: int) -> list[RenderableType]:
    """Operators that grew below their phase, and hints."""
    parts: list[RenderableType] = []
    for table in explained(result):
        parts += [_indented(Text(table.title, overflow="fold"))] if table.title else []
        parts += [_indented(_indented(_grid(table, width, header=False)))] if table.rows else []
        parts += [_indented(Text(table.subtitle, style="dim", overflow="fold"))] if table.subtitle else []
        parts += [_indented(Text(note, overflow="fold")) for note in table.notes]
    return parts


def _indented(content: RenderableType, columns: int = 2) -> Padding:
    return Padding(content, (0, 0, 0, columns))


def _grid(table: Table, width: int, *, header: bool = True) -> RichTable:
    """The table's columns and rows, without the columns that there is no room for or nothing in."""
    there = [index for index, column in enumerate(table.columns) if width >= WIDE or not column.wide_only]
    kept = [index for index in there if not table.rows or any(row[index].text for row in table.rows)]
    rendered = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=header, header_style="dim")
    for index in kept:
        column = table.columns[index]
        justify: Literal["left", "right"] = "right" if column.right else "left"
        rendered.add_column(column.name, justify=justify, overflow="fold", no_wrap=column.whole)
    for row in table.rows:
        rendered.add_row(*(_styled(row[index]) for index in kept))
    return rendered


def _styled(cell: Cell) -> Text:
    return Text(cell.text, style=_STYLES[cell.verdict] if cell.verdict else "dim" if cell.dim else "")


def _text(content: RenderableType, width: int = _PLAIN_WIDTH, colour: bool = False) -> str:
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
