"""Sets tables in the width that there is. No figure and no name is ever cut.

Until it fits: columns stand closer together; those that can be spared are left out, the last first, and what they
remark goes below the table; cells say it in short; text is folded between words; and a name that is still too long
has a line of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from pytest_llmperf.reports.table import Cell, Table
from pytest_llmperf.results import Verdict

_APART, _CLOSE = 3, 2
"""Blanks between columns, and where room is short."""
_NAME = 32
"""For a name longer than this no column is left out: it has a line of its own."""
_TEXT = 40
"""Nor is one for text that could be folded to this."""
_STYLES = {
    Verdict.BROKEN: "bold red",
    Verdict.REGRESSED: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NEW: "cyan",
    Verdict.IMPROVED: "bold green",
    Verdict.OK: "green",
}


@dataclass(frozen=True)
class Grid:
    """A table as lines, what is to be said below it, and the columns that there was no room for."""

    lines: list[Text]
    remarks: list[str]
    left_out: list[str]


def grids(tables: Sequence[Table], width: int, *, header: bool = True) -> list[Grid]:
    """Tables of the same columns, set alike, so that their figures stand below each other."""
    rows = [row for table in tables for row in table.rows]
    forms = list(_forms(Table("", "", tables[0].columns, rows)))
    form = next((form for form in forms if form.least <= width), forms[-1])
    widths = form.fitted(width)
    return [_grid(table, form, widths, header=header) for table in tables]


@dataclass(frozen=True)
class _Form:
    """One way to set a table: the columns that are kept, the blanks between them, and whether cells say it in short."""

    table: Table
    kept: list[int]
    apart: int
    short: bool = False

    def text(self, cell: Cell) -> str:
        return _in_short(cell) if self.short else cell.text

    def head(self, place: int) -> list[str]:
        name = self.table.columns[place].name
        return name.split() if self.short else name.split("\n")

    @property
    def least(self) -> int:
        """The width that it needs."""
        name, *others = (self._least(place) for place in self.kept)
        return min(name, _NAME) + sum(others) + self._between

    def fitted(self, width: int) -> list[int]:
        """Of each column that is kept. Names and text give way first, the widest of them before others."""
        widths = [self._natural(place) for place in self.kept]
        least = [max(map(cell_len, self.head(0))), *(self._least(place) for place in self.kept[1:])]
        for bounds in (least, [1] * len(widths)):
            while sum(widths) + self._between > width:
                wider = [number for number, bound in enumerate(bounds) if widths[number] > bound]
                if not wider:
                    break
                widths[max(wider, key=widths.__getitem__)] -= 1
        names = (cell_len(row[0].text) for row in self.table.rows)
        return [max([least[0], *(name for name in names if name <= widths[0])]), *widths[1:]]

    @property
    def _between(self) -> int:
        return self.apart * (len(self.kept) - 1)

    def _texts(self, place: int) -> list[str]:
        return [self.text(row[place]) for row in self.table.rows]

    def _natural(self, place: int) -> int:
        return max(map(cell_len, [*self.head(place), *self._texts(place)]), default=0)

    def _least(self, place: int) -> int:
        natural = self._natural(place)
        if not self.table.columns[place].text:
            return natural
        return min(natural, max([_TEXT, *(cell_len(word) for text in self._texts(place) for word in text.split())]))


def _forms(table: Table) -> Iterator[_Form]:
    """From the one that says most to the one that needs least."""
    spare = [place for place, column in enumerate(table.columns) if column.spare]
    for count in range(len(spare), -1, -1):
        for apart in (_APART, _CLOSE):
            yield _with_something(_Form(table, _without(table, spare[count:]), apart))
    yield _with_something(_Form(table, _without(table, spare), _CLOSE, short=True))


def _without(table: Table, left_out: Sequence[int]) -> list[int]:
    return [place for place in range(len(table.columns)) if place not in left_out]


def _with_something(form: _Form) -> _Form:
    """The form without columns in which no row says anything."""
    rows = form.table.rows
    kept = [k for k in form.kept if k == 0 or not rows or any(form.text(row[k]) for row in rows)]
    return _Form(form.table, kept, form.apart, form.short)


def _grid(table: Table, form: _Form, widths: Sequence[int], *, header: bool) -> Grid:
    lines = _head(form, widths) if header else []
    for row in table.rows:
        name, *others = (Text(form.text(row[place]), _style(row[place]), overflow="fold") for place in form.kept)
        if name.cell_len > widths[0]:
            lines.append(name)
            name = Text()
        cells = [[name], *(_folded(cell, width) for cell, width in zip(others, widths[1:], strict=True))]
        lines += _side_by_side(cells, form, widths)
    out = [k for k in _without(table, form.kept) if any(row[k].text for row in table.rows)]
    noted = [(row[0].text, _in_short(row[k])) for row in table.rows for k in out if table.columns[k].remark]
    remarks = [f"{name}: {remark}" for name, remark in noted if remark]
    return Grid(lines, remarks, [table.columns[k].name for k in out if not table.columns[k].remark])


def _in_short(cell: Cell) -> str:
    return cell.text if cell.short is None else cell.short


def _head(form: _Form, widths: Sequence[int]) -> list[Text]:
    heads = [form.head(place) for place in form.kept]
    most = max(map(len, heads))
    cells = [[Text(part, "dim") for part in [""] * (most - len(head)) + head] for head in heads]
    return [*_side_by_side(cells, form, widths), Text("─" * (sum(widths) + form.apart * (len(widths) - 1)))]


def _side_by_side(cells: Sequence[Sequence[Text]], form: _Form, widths: Sequence[int]) -> list[Text]:
    """Cells of one row, each of one line or several, as lines."""
    lines = []
    for number in range(max(map(len, cells))):
        line = Text(overflow="fold")
        for place, width, cell in zip(form.kept, widths, cells, strict=True):
            part = cell[number] if number < len(cell) else Text()
            blanks = " " * (width - part.cell_len)
            line.append_text(Text(" " * form.apart) if place else Text())
            line.append_text(Text(blanks) + part if form.table.columns[place].right else part + Text(blanks))
        lines.append(line)
    return lines


def _folded(cell: Text, width: int) -> list[Text]:
    if cell.cell_len <= width:
        return [cell]
    return [Text(part, cell.style) for part in textwrap.wrap(cell.plain, width)]


def _style(cell: Cell) -> str:
    return _STYLES[cell.verdict] if cell.verdict else "dim" if cell.dim else ""
