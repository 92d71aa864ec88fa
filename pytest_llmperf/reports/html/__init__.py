"""A run as one page of HTML that asks no network for anything: tables that need no script, and charts by plotly.js."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Profile
from pytest_llmperf.profiling.roofline import findings
from pytest_llmperf.reports.history import History
from pytest_llmperf.reports.html import across, single
from pytest_llmperf.reports.html.chart import Chart, colour
from pytest_llmperf.reports.profile import profile_tables
from pytest_llmperf.reports.recorded import changed, counted, lines_below
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.shifts import FEWEST_RUNS, Series, Shift, series_of, shifts
from pytest_llmperf.reports.table import (
    NOT_JUDGED,
    Cell,
    Column,
    Table,
    advice,
    details,
    explained,
    failure,
    overview,
)
from pytest_llmperf.reports.variants import side_by_side
from pytest_llmperf.results import Result, Verdict

NO_HISTORY = History()
_SCRIPT, _STYLE = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
_SHIFTS = (
    Column("measurement"),
    Column("metric"),
    Column("since"),
    Column("change", right=True),
    Column("is"),
)


@dataclass(frozen=True)
class Section:
    """One measurement.

    Args:
        anchor: by which the page links to it.
        said: of it in one line, where it fails.
        metrics: those that were judged; all, where none was.
        others: the rest.
        reasons: what it says to a failure.
        trends: its course through earlier runs.
    """

    anchor: str
    result: Result
    place: str
    said: str
    metrics: Table
    others: Table
    reasons: Sequence[Table]
    advice: Sequence[str]
    findings: Sequence[str]
    operators: Sequence[Table]
    charts: Sequence[Chart]
    trends: Sequence[Chart]


def written(run: Run, history: History = NO_HISTORY) -> str:
    """The page."""
    courses = {result.key: _courses(run, result, history) for result in run.results}
    found = {key: [shift for each in series for shift in shifts(each)] for key, series in courses.items()}
    sections = [
        _section(run, result, number, across.trends(courses[result.key], found[result.key]))
        for number, result in enumerate(sorted(run.results, key=_order), 1)
    ]
    together = across.charts(run)
    drawn = [*(chart for section in sections for chart in (*section.charts, *section.trends)), *together]
    return (
        _environment()
        .get_template("page.html")
        .render(
            run=run,
            counts=counted(run.results, run.recorded),
            verdicts=_tally(run),
            bases=run.against,
            devices=run.devices,
            began=datetime.fromisoformat(run.began).strftime("%Y-%m-%d %H:%M %Z"),
            told=lines_below(run.results, run.recorded),
            recorded=[table for table in [changed(run.recorded)] if table.rows] if run.recorded else [],
            overviews=_overviews(run, {section.result.key: section.anchor for section in sections}),
            variants=side_by_side(run.results),
            sections=sections,
            across=together,
            history=history,
            fewest_runs=FEWEST_RUNS,
            shifts=_shifts([shift for each in found.values() for shift in each]),
            figures=_packed(json.dumps([chart.figure for chart in drawn])),
            plotly=_packed(get_plotlyjs()),
            allowed=[_digest(_SCRIPT), _digest(get_plotlyjs())],
            script=Markup(_SCRIPT),  # these two are our own
            style=Markup(_STYLE),
        )
    )


def _environment() -> Environment:
    loader = PackageLoader("pytest_llmperf.reports.html", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(colour=colour, shown=_shown)
    return environment


def _shown(table: Table) -> list[int]:
    """Its columns, without those that say nothing."""
    return [number for number in range(len(table.columns)) if any(row[number].text for row in table.rows)]


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _digest(script: str) -> str:
    """By which the page's policy tells the scripts that may run from all others."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _order(result: Result) -> tuple[bool, int]:
    """What fails, then the worst verdict."""
    return not result.is_red, result.rank


def _tally(run: Run) -> Mapping[str, int]:
    """How many came to each verdict, the worst first."""
    said = [result.verdict.value if result.verdict else NOT_JUDGED for result in run.results]
    return {name: said.count(name) for name in (*(verdict.value for verdict in Verdict), NOT_JUDGED) if name in said}


def _overviews(run: Run, anchors: Mapping[str, str]) -> list[tuple[Table, list[str]]]:
    """Each table with the anchors of its rows."""
    modules: dict[str, list[str]] = {}
    for result in run.results:
        modules.setdefault(result.key.partition("::")[0], []).append(anchors[result.key])
    return list(zip(overview(run.results), modules.values(), strict=True))


def _courses(run: Run, result: Result, history: History) -> list[Series]:
    """Of the metrics that gate: the others say the same less surely."""
    basis = run.bases.get(result.key)
    known = series_of(history, result.key, basis.measurement.environment.hardware) if basis else []
    return [series for series in known if CATALOGUE[series.metric].gates]


def _section(run: Run, result: Result, number: int, trends: Sequence[Chart]) -> Section:
    basis = run.bases.get(result.key)
    every, judged = details(result), details(result, judged_only=True)
    metrics = judged if judged.rows else every
    return Section(
        anchor=f"test-{number}",
        result=result,
        place=run.places.get(result.test, ""),
        said=failure(result),
        metrics=metrics,
        others=_without(every, metrics),
        reasons=explained(result),
        advice=advice(result),
        findings=findings(basis.measurement) if basis else [],
        operators=_operators(result, basis),
        charts=single.charts(result, basis.measurement) if basis else [],
        trends=trends,
    )


def _without(table: Table, told: Table) -> Table:
    rows = [row for row in table.rows if row not in told.rows]
    return dataclasses.replace(table, rows=rows, notes=[note for note in table.notes if note not in told.notes])


def _operators(result: Result, basis: Basis | None) -> list[Table]:
    profile = result.profile
    if profile is None and basis is not None:
        counted = basis.measurement.counts
        profile = Profile.of(result.target, result.workload, counted.prefill, counted.decode)
    return [table for table in profile_tables(profile) if table.rows] if profile else []


def _shifts(found: Sequence[Shift]) -> Table:
    """The newest first."""
    table = Table("", "", _SHIFTS)
    for shift in sorted(found, key=lambda shift: shift.series.runs[shift.index].began, reverse=True):
        verdict = Verdict.REGRESSED if shift.is_worse else Verdict.IMPROVED
        table.rows.append(
            (
                Cell(shift.series.key),
                Cell(shift.series.metric),
                Cell(across.shift_code(shift)),
                Cell(across.told_shift(shift)),
                Cell("worse" if shift.is_worse else "better", verdict),
            )
        )
    return table
