"""The catalogue of metrics as a table, for `llmperf metrics` and for the docs."""

from __future__ import annotations

from pytest_llmperf.metrics import CATALOGUE, Metric
from pytest_llmperf.reports.table import Cell, Column, Table
from pytest_llmperf.reports.terminal import table_text

_NAMES = ("metric", "unit", "better", "kind", "sample", "gates", "definition")
_SPARE = ("better", "kind", "sample")


def catalogue_text(width: int, colour: bool) -> str:
    """The catalogue for a terminal."""
    columns = [Column(name, spare=name in _SPARE, text=name == "definition") for name in _NAMES]
    table = Table("", "", tuple(columns), [tuple(map(Cell, _cells(metric))) for metric in CATALOGUE.values()])
    return table_text(table, width, colour)


def catalogue_markdown() -> str:
    """The catalogue as the Markdown table of `docs/metrics.md`."""
    lines = ["| metric | unit | better | kind | sample | gates | definition | source |", "|" + "---|" * 8]
    for metric in CATALOGUE.values():
        name, *rest = _cells(metric)
        lines.append(f"| `{name}` | {' | '.join(rest)} | {metric.source} |")
    return "\n".join(lines)


def _cells(metric: Metric) -> list[str]:
    gates = "yes" if metric.gates else ""
    return [
        metric.name,
        metric.unit,
        metric.better.value,
        metric.kind.value,
        metric.per.value,
        gates,
        metric.definition,
    ]
