"""A run in Markdown, for the summary of a build and for a comment on a pull request: what fails and why comes first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_llmperf.reports.recorded import changed, counted, lines_below
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import (
    Cell,
    Table,
    advice,
    details,
    explained,
    overview,
)
from pytest_llmperf.reports.variants import side_by_side
from pytest_llmperf.results import Result

MOST = 60_000
"""Characters; GitHub takes 65,536 in a comment, and 1 MiB in the summary of a step."""
_MOST_FAILING = 10
_MOST_FAILURES = 10
_LONGEST = 300
"""Characters of why a test failed."""


def written(run: Run) -> str:
    """The report, as much of it as a comment may hold: what fails, then the rest, folded."""
    failing = run.failing
    blocks = [_heading(run), *_failures(run), *map(_failing, failing[:_MOST_FAILING])]
    if len(failing) > _MOST_FAILING:
        blocks.append(f"and {len(failing) - _MOST_FAILING} more that fail, in the table of all")
    if told := lines_below(run.results, run.recorded):
        blocks.append("\n".join(["**To know:**", "", *(f"- {_escaped(line)}" for line in told)]))
    blocks += [_folded("Variants", map(_table, tables)) for tables in [side_by_side(run.results)] if tables]
    if run.recorded is not None and (table := changed(run.recorded)).rows:
        blocks.append(_folded("What was recorded", [_table(table)]))
    if run.results:
        blocks.append(_folded(f"All that was measured ({len(run.results)})", map(_table, overview(run.results))))
    return _cut([block for block in blocks if block])


def _heading(run: Run) -> str:
    mark = "❌" if run.fails else "✅" if run.results else "⚠️"
    code = f"head `{run.commit[:9]}`{' with changes' * run.dirty}" if run.commit else ""
    parts = [*(f"base {_escaped(base)}" for base in run.against), code, *map(_escaped, run.devices)]
    fault = f"**{_escaped(run.fault)}**\n\n" if run.fault else ""
    return (
        f"### {mark} llmperf: {counted(run.results, run.recorded)}\n\n{fault}{' · '.join(filter(None, parts))}".rstrip()
    )


def _failures(run: Run) -> list[str]:
    """What failed otherwise, and so was not judged."""
    if not run.failures:
        return []
    shown = [*run.failures.items()][:_MOST_FAILURES]
    lines = [f"- `{_code(test)}`: {_escaped(why[:_LONGEST])}" for test, why in shown]
    more = [f"- and {len(run.failures) - len(shown)} more"] if len(run.failures) > len(shown) else []
    return ["\n".join(["**Failed, and not by a verdict:**", "", *lines, *more])]


def _failing(result: Result) -> str:
    table = details(result, judged_only=True)
    reasons = [line for reason in explained(result) for line in _reason(reason)]
    lines = [*_notes(table), *reasons, *(f"- {_escaped(line)}" for line in advice(result))]
    verdict = result.verdict.value if result.verdict else ""
    title = f"#### {verdict} `{_code(table.title)}`\n\n{_escaped(table.subtitle)}"
    return "\n\n".join([title, _rows(table), *(["\n".join(lines)] if lines else [])])


def _reason(table: Table) -> list[str]:
    """Operators that grew as a list: a table in Markdown has no room for two of them side by side."""
    rows = [
        f"  - `{_code(row[0].text)}` {' · '.join(_escaped(cell.text) for cell in row[1:] if cell.text)}"
        for row in table.rows
    ]
    title = [f"- {_escaped(table.title)}"] if table.title else []
    return [*title, *rows, *(f"- {_escaped(text)}" for text in (table.subtitle, *table.notes) if text)]


def _table(table: Table) -> str:
    parts = [f"**{_escaped(table.title)}**" if table.title else "", _escaped(table.subtitle), _rows(table)]
    return "\n\n".join(filter(None, [*parts, "\n".join(_notes(table))]))


def _notes(table: Table) -> list[str]:
    return [f"- {_escaped(note)}" for note in table.notes]


def _rows(table: Table) -> str:
    """Columns that say nothing are left out."""
    shown = [number for number in range(len(table.columns)) if any(_says(row[number]) for row in table.rows)]
    columns = [table.columns[number] for number in shown]
    lines = [
        _line(_escaped(column.name) for column in columns),
        _line("--:" if column.right else "---" for column in columns),
    ]
    return "\n".join([*lines, *(_line(_cell(row[number]) for number in shown) for row in table.rows)])


def _says(cell: Cell) -> bool:
    return cell.text not in ("", "–")


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    return f"**{text}**" if cell.verdict is not None and cell.verdict.fails else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _folded(title: str, blocks: Iterable[str]) -> str:
    return "\n\n".join([f"<details><summary>{title}</summary>", *blocks, "</details>"])


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def _escaped(text: str) -> str:
    """Text that says what it says, whatever a test is called, and calls nobody by name."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\u200b")


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'").replace("|", "¦")


def _cut(blocks: Sequence[str]) -> str:
    """As many blocks from the first on as there is room for; a table that is too long loses its last rows."""
    written, left = "", MOST
    for block in blocks:
        room = left - len(_MORE) - 16
        part = block if len(block) <= room else _shortened(block, room)
        if not part:
            return f"{written}{_MORE}\n"
        written += f"{part}\n\n"
        left = MOST - len(written)
    return f"{written.rstrip()}\n"


def _shortened(block: str, room: int) -> str:
    """Its first lines, closed if it is folded; nothing where not even a few fit."""
    end = "\n\n</details>" * block.endswith("</details>")
    note = f"\n\n{_MORE}"
    kept = block[: max(0, room - len(end) - len(note))].rpartition("\n")[0]
    return f"{kept}{note}{end}" if kept.count("\n") >= _FEWEST_LINES else ""


_MORE = "… cut here, as a comment holds no more: the other reports have all of it"
_FEWEST_LINES = 8
