"""What is stored, as tables: what there is, and one against another."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.baselines.compare import levels
from pytest_llmperf.baselines.exact import device_type, exact_folder, is_exact_folder
from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.schema import NoiseFile
from pytest_llmperf.baselines.store import Contents
from pytest_llmperf.baselines.stored import Stored, tests
from pytest_llmperf.baselines.versus import Compared, Versus
from pytest_llmperf.errors import UsageError
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.model import Environment, Workload
from pytest_llmperf.reports.noise import is_hidden
from pytest_llmperf.reports.table import COMPARED, SMALLER, Cell, Column, Table, compared_row, figure, long_note, shape
from pytest_llmperf.results import Row, Verdict
from pytest_llmperf.units import percent, short_number

_MOST_METRICS = 6
"""Columns for metrics in a table with a row per test; the first ones also where room is short."""
_MOST_METRICS_IN_SHORT = 3
_MOST_NAMED = 10
"""Tests of one hardware that only one side holds."""
_FULL = (
    Column("metric"),
    Column("value", right=True),
    Column("unit"),
    Column("sessions", right=True),
    Column("spread", right=True),
    Column("learned", right=True),
)
_NOISE = (
    Column("metric"),
    Column("threads", right=True),
    Column("between processes", right=True),
    Column("between sessions", right=True),
    Column("pairs", right=True),
    Column("", text=True),
)


def tables(contents: Contents, *, in_full: bool = False) -> list[Table]:
    """A table per hardware and test module, or with `in_full` per test; then what is known of the noise."""
    found = []
    for hardware, known in by_hardware(contents).items():
        for module, keys in _by_module(known).items():
            if in_full:
                found += [_full(key, hardware, known[key]) for key in keys]
            else:
                found.append(_module(module, hardware, {key: known[key] for key in keys}))
    return [*found, *(_noise(hardware, noise) for hardware, noise in contents.noise.items())]


def by_hardware(contents: Contents) -> dict[str, dict[str, Stored]]:
    """Every test once for each hardware; under `exact-…` only those that are stored for none."""
    hardware = [name for name in contents.entries if not is_exact_folder(name)]
    known = {name: tests(contents, name) for name in hardware}
    for name in contents.entries:
        if is_exact_folder(name):
            elsewhere = {key for other in hardware if exact_folder(device_type(other)) == name for key in known[other]}
            known[name] = {key: entry for key, entry in tests(contents, name).items() if key not in elsewhere}
    return {name: entries for name, entries in known.items() if entries}


def held(name: str, contents: Contents) -> str:
    """`baselines: 12 tests on 2 kinds of hardware, 31 sessions`."""
    known = by_hardware(contents)
    if not known:
        return f"{name}: the noise of {', '.join(contents.noise)}"
    tests, sessions = _sizes(known)
    hardware = f"{len(known)} kinds of hardware" if len(known) != 1 else next(iter(known))
    return f"{name}: {tests} on {hardware}, {sessions}"


def merged(contents: Contents, shards: int, into: str, files: int) -> str:
    """`12 tests of 3 shards, 31 sessions; 4 files written in baselines`."""
    tests, sessions = _sizes(by_hardware(contents))
    written = _count(files, "file") if files else "nothing new"
    return f"{tests} of {_count(shards, 'shard')}, {sessions}; {written} written in {into}"


def _sizes(known: Mapping[str, Mapping[str, Stored]]) -> tuple[str, str]:
    """`12 tests`, `31 sessions`; a test on several kinds of hardware is one."""
    keys = {key for entries in known.values() for key in entries}
    sessions = sum(_sittings(entry) for entries in known.values() for entry in entries.values())
    return _count(len(keys), "test"), _count(sessions, "session")


def _count(number: int, thing: str, things: str = "") -> str:
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def _by_module(known: Mapping[str, Stored]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for key in known:
        modules.setdefault(key.partition("::")[0], []).append(key)
    return modules


# What there is


def _module(module: str, hardware: str, known: Mapping[str, Stored]) -> Table:
    present = {name for entry in known.values() for name in entry.metrics}
    metrics = sorted((name for name in CATALOGUE if name in present), key=lambda name: not CATALOGUE[name].gates)
    shown = metrics[:_MOST_METRICS]
    columns = (
        Column("test"),
        Column("tokens", right=True),
        Column("sessions", right=True),
        Column("recorded"),
        Column("commit", spare=True),
        *(Column(_short(name), True, number >= _MOST_METRICS_IN_SHORT) for number, name in enumerate(shown)),
    )
    table = Table(module, hardware, columns)
    for key, entry in known.items():
        sittings, processes = _sittings(entry), _processes(entry)
        sessions = f"{sittings} ({processes})" if processes > sittings else str(sittings)
        cells = [key.partition("::")[2] or key, _shape(entry.workload), sessions, *_when(entry)]
        figures = [figure(entry.figure(name)) for name in shown]
        table.rows.append((*map(Cell, cells), *figures))
    if any(_processes(entry) > _sittings(entry) for entry in known.values()):
        table.notes.append("sessions, and in brackets their processes where they are more")
    if len(metrics) > len(shown):
        table.notes.append(f"more with -v: {', '.join(metrics[len(shown) :])}")
    return table


def _full(key: str, hardware: str, entry: Stored) -> Table:
    latest = entry.latest
    day, commit = _when(entry)
    told = [
        latest.target,
        _shape(entry.workload),
        hardware,
        f"{_count(_sittings(entry), 'session')} of {_count(_processes(entry), 'process', 'processes')}",
        f"recorded {day}{f' at {commit}' * bool(commit)}",
    ]
    table = Table(key, " · ".join(told), _FULL)
    for name in entry.metrics:
        learned = entry.learned.get(name)
        cells = [
            Cell(name),
            figure(entry.figure(name)),
            Cell(CATALOGUE[name].unit, dim=True),
            Cell(str(len({session.recorded for session in entry.having(name)}))),
            Cell(_spread(entry, name)),
            Cell(f"{percent(learned.deviation)} ({short_number(learned.df)} df)" if learned else ""),
        ]
        table.rows.append(tuple(cells))
    for name, facts in (("versions", latest.versions), ("options", latest.options), ("machine", latest.machine)):
        if facts:
            table.notes.append(f"{name}: {', '.join(f'{fact} {value}' for fact, value in facts.items())}")
    return table


def _spread(entry: Stored, metric: str) -> str:
    """How far its sessions lie apart: the standard deviation of times, the range of what has no noise."""
    medians = [session.metrics[metric].median for session in entry.having(metric)]
    if CATALOGUE[metric].kind is Kind.TIMED:
        sittings = levels(entry.sessions, metric) if min(medians) > 0 else []
        return f"± {percent(statistics.stdev(level.mean for level in sittings))}" if len(sittings) > 1 else ""
    low, high = min(medians), max(medians)
    return f"{short_number(low)} – {short_number(high)}" if low < high else ""


def _noise(hardware: str, file: NoiseFile) -> Table:
    recorded = max(calibration.recorded for calibration in file.calibrations)
    told = f"{_count(len(file.calibrations), 'calibration')}, the last {recorded[:10]}"
    table = Table(f"noise of {hardware}", told, _NOISE)
    for threads in dict.fromkeys(calibration.threads for calibration in file.calibrations):
        environment = Environment(device=device_type(hardware), hardware=hardware, threads=threads)
        for metric, noise in noise_of(file, environment).items():
            pairs = sum(len(c.metrics[metric].errors) for c in file.calibrations if c.threads == threads)
            cells = [
                metric,
                "" if threads is None else str(threads),
                "hidden by rounds" if is_hidden(noise, pairs) else percent(noise.process),
                percent(noise.session),
                str(pairs),
                "processes fall into two groups" if noise.bimodal else "",
            ]
            table.rows.append(tuple(map(Cell, cells)))
    return table


def _when(entry: Stored) -> tuple[str, str]:
    latest = entry.latest
    return latest.recorded[:10], f"{latest.commit[:9]}{'+' * latest.dirty}" if latest.commit else ""


def _sittings(entry: Stored) -> int:
    return len({session.recorded for session in entry.sessions or entry.exact})


def _processes(entry: Stored) -> int:
    return len(entry.sessions or entry.exact)


def _short(metric: str) -> str:
    """A metric's name as the head of a narrow column: the unit stands apart, so that it may fold there."""
    return metric.replace("_mib", " MiB").replace("_memory", "").replace("_cache", "")


def _shape(workload: Mapping[str, Any]) -> str:
    sizes = {name: value for name, value in workload.items() if name in Workload.__dataclass_fields__}
    try:
        return shape(Workload(**sizes))
    except UsageError:  # of a form that this version does not know
        return json.dumps(dict(workload))


# One against another


def compared(found: Versus, *, in_full: bool = False) -> list[Table]:
    """A table per test with what is not OK; with `in_full` all of it."""
    shown = []
    for each in found.compared:
        rows = [row for row in each.rows if in_full or row.verdict is not Verdict.OK]
        if rows:
            shown.append(_against(each, rows))
    return shown


def _against(each: Compared, rows: Sequence[Row]) -> Table:
    head, base = each.head, each.base
    told = [
        head.latest.target,
        _shape(head.workload),
        each.hardware,
        f"{_count(_sittings(base), 'session')} against {_sittings(head)}",
    ]
    table = Table(each.key, " · ".join(told), COMPARED)
    for row in rows:
        table.rows.append(compared_row(row))
        if note := long_note(row):
            table.notes.append(f"{row.metric}: {note}")
    if each.shared:
        table.notes.append(f"{_count(each.shared, 'session')} of head are base's own, and tell of no change")
    if each.since and any(row.verdict is not Verdict.OK for row in rows):
        table.notes.append(f"since base: {', '.join(each.since)}")
    return table


def remarks(found: Versus, names: tuple[str, str], *, in_full: bool = False) -> list[str]:
    """The count of verdicts, what only one of the two holds, and what would tell more."""
    tally = Counter(each.verdict for each in found.compared)
    judged = [f"{tally[verdict]} {verdict.lower()}" for verdict in Verdict if tally[verdict]]
    lines = [f"{len(found.compared)} compared: {', '.join(judged)}" if judged else "nothing compared"]
    lines += [f"NEW {each.key} ({each.hardware}): {each.new}" for each in found.compared if each.new]
    for verdict, left, name in (("NEW", found.new, names[1]), ("gone", found.gone, names[0])):
        for hardware, keys in left.items():
            shown = keys if in_full else keys[:_MOST_NAMED]
            lines += [f"{verdict} {key} ({hardware}): only in {name}" for key in shown]
            if len(shown) < len(keys):
                lines.append(f"{verdict} and {len(keys) - len(shown)} more ({hardware}): only in {name}; -v names them")
    rows = [row.comparison for each in found.compared for row in each.rows if row.comparison]
    if any(comparison.suspect for comparison in rows):
        lines.append(
            f"not enough processes in {names[1]} to say REGRESSED: record more of them, with "
            f"--llmperf-update --llmperf-sessions=2, or one session more with --llmperf-append"
        )
    return [*lines, SMALLER] if any(comparison.quiet for comparison in rows) else lines
