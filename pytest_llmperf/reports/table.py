"""Results as tables of text, the same for every writer. Knows no terminal."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Workload, subject
from pytest_llmperf.results import Comparison, Grown, Result, Row, Verdict
from pytest_llmperf.units import brief_number, percent, plus_minus, short_number
from pytest_llmperf.verdict.rule import EXACT, worse

NOT_JUDGED = "not judged"
SMALLER = (
    "INCONCLUSIVE: not to be told from this machine's noise; llmperf calibrate, and --llmperf-append on other days, "
    "let smaller changes be seen"
)
SURER = (
    "INCONCLUSIVE: not to be told from this machine's noise; llmperf calibrate lets smaller changes be seen, and "
    "--llmperf-strict=inconclusive takes pairs until it is known"
)


@dataclass(frozen=True)
class Cell:
    text: str
    verdict: Verdict | None = None
    """Colours the cell, where the writer has colours."""
    dim: bool = False
    short: str | None = None
    """What it says where room is short."""


@dataclass(frozen=True)
class Column:
    name: str
    right: bool = False
    """Numbers are aligned right."""
    spare: bool = False
    """Left out where room is short."""
    remark: bool = False
    """Then it stands below the table."""
    text: bool = False
    """May be folded between words."""


@dataclass(frozen=True)
class Table:
    title: str
    subtitle: str
    columns: tuple[Column, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_BEFORE = (Column("test"), Column("tokens", right=True))
_FIGURES = {
    "cold_ttft_ms": Column("cold_ttft_ms", right=True, spare=True),
    "ttft_ms": Column("ttft_ms", right=True),
    "tpot_ms": Column("tpot_ms", right=True),
    "output_tokens_per_s": Column("tokens/s", right=True, spare=True),
    "peak_memory_mib": Column("peak MiB", right=True),
}
_DETAILS = (
    Column("metric"),
    Column("measured", right=True),
    Column("unit", spare=True),
    Column("limit", right=True),
    Column("verdict"),
    Column("n", right=True, spare=True),
)
COMPARED = (
    Column("metric"),
    Column("base", right=True),
    Column("head", right=True),
    Column("unit", spare=True),
    Column("change", right=True),
    Column("limit", right=True),
    Column("verdict"),
    Column("", spare=True, remark=True),
)
_GROWN = (Column("operator"), Column("time", right=True), Column("calls", right=True))


def overview(results: Sequence[Result]) -> list[Table]:
    """One table per test module, a row per measurement. A column that can be spared is there if a figure of it is."""
    known = {metric for result in results for metric in result.medians}
    shown = {name: column for name, column in _FIGURES.items() if name in known or not column.spare}
    columns = (*_BEFORE, *shown.values(), Column("verdict"))
    tables: dict[str, Table] = {}
    for result in results:
        module, _, name = result.key.partition("::")
        table = tables.setdefault(module, Table(module, "", columns))
        medians = result.medians
        figures = [figure(medians[metric].value if metric in medians else None) for metric in shown]
        verdict = verdict_cell(result.verdict)
        if result.expected_to_fail or result.quiet or (result.verdict is Verdict.REGRESSED and not result.fails):
            verdict = dataclasses.replace(verdict, verdict=None, dim=True)
        table.rows.append((Cell(name or module), Cell(shape(result.workload)), *figures, verdict))
    return list(tables.values())


def details(result: Result, *, judged_only: bool = False, samples: bool = False) -> Table:
    """One measurement: a row per metric, or per limit; with `samples` each row's values in short."""
    compared = any(row.comparison is not None and row.comparison.base is not None for row in result.rows)
    table = Table(result.key, subtitle(result), COMPARED if compared else _DETAILS)
    for row in result.rows:
        if judged_only and row.limit is None and (not compared or row.comparison is None):
            continue
        table.rows.append(compared_row(row) if compared else _row(row))
        notes = [row.note, long_note(row) if compared else "", _of_limit(row) if compared else ""]
        table.notes.extend(f"{row_name(row)}: {note}" for note in notes if note)
        if samples and len(row.values) > 1:
            table.notes.append(f"{row_name(row)} samples: {_in_short(row.values)}")
    if result.against:
        table.notes.append(duet(result))
    if result.unconfirmed:
        table.notes.append(f"not measured again: {result.unconfirmed}")
    return table


def explained(result: Result) -> list[Table]:
    """Why it is REGRESSED: a table per phase of the operators that grew, then one that has only notes, the hints."""
    told = result.explanation
    if told is None:
        return []
    tables = [_grown(phase, rows) for phase, rows in told.grown.items()]
    return [*tables, Table("", told.missing, _GROWN, notes=[f"hint: {hint}" for hint in told.hints])]


def _grown(phase: str, rows: Sequence[Grown]) -> Table:
    timed = any(row.milliseconds for row in rows)
    title = "where the time went" if timed else "what there is more of"
    unit = f"{'ms' if timed else 'calls'}{' per token' * (phase == 'decode')}"
    most = max((value for row in rows for value in row.milliseconds or ()), default=0.0)
    table = Table(f"{title}, {phase}, {unit}", "", _GROWN)
    for row in rows:
        times = [f"{value:.{2 if most >= 1 else 3}f}" for value in row.milliseconds or ()]
        spent = Cell(" → ".join(times)) if times else Cell("too short to tell" * timed, dim=True)
        calls = f"{' → '.join(map(short_number, row.calls))}{' calls' * timed}" if row.calls else ""
        table.rows.append((Cell(row.operator), spent, Cell(calls)))
    return table


def beside_profile(result: Result) -> list[str]:
    """What else a reader of its operators should know."""
    tpot = result.medians.get("tpot_ms")
    grown = bool(result.explanation and result.explanation.grown)
    return [
        *([f"without it tpot_ms is {short_number(tpot.value)}"] if tpot and tpot.value else []),
        *(["what grew is told by all processes, this is one of them"] if grown else []),
    ]


def duet(result: Result) -> str:
    """What a duet was with, and how much of it there was."""
    if not result.pairs:
        return result.new
    head = result.pairs[0]["head"]
    pairs = f"{len(result.pairs)} pair{'s' * (len(result.pairs) != 1)} of processes"
    rounds = sum(pair["rounds"] for pair in result.pairs)
    how = f"{rounds} rounds in turns" if rounds else "one after the other, as both do not fit into memory at once"
    return f"base {result.against}, head {head['commit'][:9]}{' with changes' * head['dirty']}: {pairs}, {how}"


def _row(row: Row) -> tuple[Cell, ...]:
    return (
        Cell(row_name(row)),
        _measured(row),
        Cell(row.unit, dim=True),
        Cell(row.limit or ""),
        _verdict(row),
        Cell(str(len(row.values)) if row.values else "", dim=True),
    )


def compared_row(row: Row) -> tuple[Cell, ...]:
    comparison = row.comparison
    base = comparison.base if comparison else None
    head = _head(row)
    blurred = base is not None and head is not None and base != head and brief_number(base) == brief_number(head)
    note = _note(row)
    return (
        Cell(row_name(row)),
        Cell("") if base is None else _briefly(figure(base), None if blurred else base),
        _briefly(figure(head), None if blurred else head),
        Cell(row.unit, dim=True),
        _changed(comparison),
        Cell(row.limit or ""),
        _verdict(row),
        Cell(note if _fits(note) else "", dim=True, short="" if row.verdict is Verdict.OK or note == EXACT else None),
    )


def _briefly(cell: Cell, value: float | None) -> Cell:
    """The cell of a figure, with fewer digits where room is short; None keeps them all."""
    return cell if value is None else dataclasses.replace(cell, short=brief_number(value))


def _head(row: Row) -> float | None:
    """What the change is taken from: of times all that head's processes measured, and not the first of them alone."""
    comparison = row.comparison
    if comparison is None or comparison.head is None:
        return row.value
    return comparison.head


def _note(row: Row) -> str:
    """The remark on a comparison, where its verdict does not say it."""
    return "" if row.comparison is None or _is_quiet(row) else row.comparison.note


def long_note(row: Row) -> str:
    """A remark that is too long for a column, and stands below the table."""
    return "" if _fits(_note(row)) else _note(row)


def _fits(note: str) -> bool:
    return len(note) <= _SHORT_NOTE


_SHORT_NOTE = 28


def _of_limit(row: Row) -> str:
    """What a limit was judged on, where a comparison of several processes shows another figure."""
    head = _head(row)
    if row.limit is None or row.value is None or head is None or abs(row.value - head) <= _ALIKE * abs(head):
        return ""
    return f"the limit is held to {short_number(row.value)} {row.unit}, of the first process alone"


_ALIKE = 0.05
"""A share of a figure by which another is as good as the same."""


def _change(comparison: Comparison) -> str:
    """`+10.0 % ± 1.1`; nothing where there is no change to speak of."""
    if comparison.change is None or comparison.quiet or (comparison.spread is None and not comparison.change):
        return ""
    shown = percent(comparison.change, signed=True, exact=comparison.spread is None)
    return f"{shown} {_spread(comparison)}".rstrip()


def _spread(comparison: Comparison) -> str:
    if comparison.spread is None:
        return ""
    lost = comparison.spread > max(1.0, abs(comparison.change or 0.0))  # its figure would say no more
    return f"± {'>100' if lost else f'{100 * comparison.spread:.{int(comparison.spread < 0.0995)}f}'}"


def _changed(comparison: Comparison | None) -> Cell:
    """What cannot be told from no change says how far it can not, where the verdict has no room for that."""
    if comparison is None:
        return Cell("")
    if comparison.quiet and comparison.spread is not None:
        return Cell("", dim=True, short=f"{_spread(comparison)} %")
    return Cell(_change(comparison))


def _verdict(row: Row) -> Cell:
    if row.limit is None and row.comparison is None:
        return Cell("")
    if row.comparison is not None and _is_quiet(row):
        return Cell(row.comparison.note, dim=True, short=row.comparison.note.partition(" (")[0])
    return verdict_cell(row.verdict)


def _is_quiet(row: Row) -> bool:
    return row.comparison is not None and row.comparison.quiet and row.verdict is Verdict.INCONCLUSIVE


def subtitle(result: Result) -> str:
    """`gpt2 · 512 → 128 tokens · batch 1 · cuda NVIDIA H200 · 12 rounds`."""
    workload = result.workload
    target = [] if result.key.partition("::")[0] == result.target else [result.target]  # else it is the title
    return " · ".join(
        [
            *target,
            workload.mix or f"{workload.prompt_tokens} → {workload.output_tokens} tokens",
            *filter(None, [pace(workload) or ("" if workload.mix else f"batch {workload.batch_size}")]),
            result.device,
            f"{result.rounds} round{'s' * (result.rounds != 1)}",
        ]
    )


def failure(result: Result) -> str:
    """The rows that fail, in one line: `BROKEN ttft_ms 61.2 ms (limit < 50)`."""
    parts = [
        f"{row.verdict.value} {_failing(result, row)}" for row in result.rows if row.verdict is not None and row.fails
    ]
    return ", ".join([*parts, *([f"{Verdict.NEW.value}: {result.new}"] if result.new_fails else [])])


def _failing(result: Result, row: Row) -> str:
    comparison = row.comparison
    if row.verdict is Verdict.BROKEN or comparison is None:
        value = "not measured" if row.value is None else f"{short_number(row.value)} {row.unit}"
        return f"{row_name(row)} {value}" + (f" (limit {row.limit})" if row.limit else "")
    base = "" if comparison.base is None else short_number(comparison.base)
    head = _head(row)
    if head is None:
        where = "base" if result.against else "the baseline"
        return f"{row_name(row)} {base} {row.unit} in {where}, {comparison.note}"
    reasons = ", ".join(filter(None, [_change(comparison), comparison.note]))
    value = f"{base}{' → ' * bool(base)}{short_number(head)} {row.unit}"
    return f"{row_name(row)} {value}" + (f" ({reasons})" if reasons else "")


def advice(result: Result) -> list[str]:
    """What else the reader of a failed comparison wants to know."""
    compared = [row for row in result.rows if row.fails and row.comparison and row.verdict is not Verdict.BROKEN]
    lines = []
    if compared and result.since:
        lines.append(f"{'beside the code' if result.against else 'since the baseline'}: {', '.join(result.since)}")
    if (compared or result.new_fails) and not result.against:
        lines.append(
            f"to {'accept' if compared else 'record'} this: pytest {shlex.quote(result.test)} --llmperf-update"
        )
    return lines


def row_name(row: Row) -> str:
    return subject(row.metric, row.statistic)


def counts(results: Sequence[Result], stale: int = 0) -> str:
    """`12 measured: 1 broken, 10 ok, 1 without limits; 2 stale`."""
    tally = Counter(result.verdict for result in results)
    judged = [f"{tally[verdict]} {verdict.lower()}" for verdict in Verdict if tally[verdict]]
    expected = sum(result.fails for result in results if result.expected_to_fail)
    if expected:
        judged[0] += f" ({expected} expected)"
    unjudged = [result for result in results if result.verdict is None]
    smoke = sum(any(row.limit for row in result.rows) for result in unjudged)
    judged += [f"{smoke} {NOT_JUDGED}"] if smoke else []
    judged += [f"{len(unjudged) - smoke} without limits"] if len(unjudged) > smoke else []
    told = f": {', '.join(judged)}" if judged else ""
    return f"{len(results)} measured{told}" + (f"; {stale} stale" if stale else "")


UPDATE = "pytest --llmperf-update"


def hints(results: Sequence[Result], update: str = UPDATE) -> list[str]:
    """What would tell more, each thing once.

    Args:
        update: the command that records baselines.
    """
    lines = [
        f"{result.key}: faster than this machine can be: {result.impossible}" for result in results if result.impossible
    ]
    lines += _noted(results)
    stored = [result for result in results if not result.against]
    if new := dict.fromkeys(result.new for result in stored if result.new):
        lines.append(f"NEW: {'; '.join(new)} ({update} records what is measured)")
    lines += _partly_new(stored, update)
    lines += [f"NEW: {result.key}: {result.new}" for result in results if result.against and result.new]
    if any(result.verdict is Verdict.IMPROVED for result in stored):
        lines.append(f"IMPROVED: {update} makes it the baseline")
    unsure = [(result, row) for result in results for row in result.rows if _is_unsure(row)]
    unsure.sort(key=lambda told: -_harm(told[1]))
    lines += [f"{result.key}: {_failing(result, row)}" for result, row in unsure[:_MOST_UNSURE]]
    if len(unsure) > _MOST_UNSURE:
        lines.append(f"and {len(unsure) - _MOST_UNSURE} more like that (-v shows them)")
    lines += dict.fromkeys(f"not measured again: {result.unconfirmed}" for result in results if result.unconfirmed)
    undecided = Counter(result.undecided for result in results if any(_is_open(row) for row in result.rows))
    lines += [f"{count} undecided: {reason}" for reason, count in undecided.items() if reason]
    noisy = [result for result in results if not result.unconfirmed and any(_is_noisy(row) for row in result.rows)]
    lines += dict.fromkeys(SURER if result.against else SMALLER for result in noisy if not result.disturbed)
    return [*lines, *_disturbed(results)]


def _partly_new(results: Sequence[Result], update: str) -> list[str]:
    """What tests lack that are NEW although they have a baseline, as one of counts alone; and that the rest held."""
    partly = [result for result in results if result.verdict is Verdict.NEW and not result.new]
    rows = [row for result in partly for row in result.rows if row.comparison is not None]
    if not rows:
        return []
    names = ", ".join(dict.fromkeys(row_name(row) for row in rows if _is_new(row)))
    where = partly[0].key if len(partly) == 1 else f"{len(partly)} tests"
    return [f"NEW: {where}: no baseline of {names}; all else was compared and is no worse ({update} records it)"]


def _is_new(row: Row) -> bool:
    return row.comparison is not None and row.comparison.verdict is Verdict.NEW


def _noted(results: Sequence[Result]) -> list[str]:
    """What is to be known of figures; of several results once."""
    keys: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            keys.setdefault(note, []).append(result.key)
    return [f"{of[0] if len(of) == 1 else f'{len(of)} tests'}: {note}" for note, of in keys.items()]


def _disturbed(results: Sequence[Result]) -> list[str]:
    """That times decide nothing in what was measured while disturbed, where one of them might have."""
    unsure = [each for each in results if each.disturbed and any(_is_unsure_in_time(row) for row in each.rows)]
    if not unsure:
        return []
    told = "; ".join(list(dict.fromkeys(result.disturbed for result in unsure))[:_MOST_REASONS])
    return [
        f"{len(unsure)} measured while disturbed ({told}): times do not gate there; a quieter machine helps, or "
        f"--llmperf-against=REF, which measures base in the same minutes"
    ]


_MOST_REASONS = 2


def _is_unsure_in_time(row: Row) -> bool:
    return row.verdict is Verdict.INCONCLUSIVE and row.comparison is not None and row.comparison.spread is not None


def _is_noisy(row: Row) -> bool:
    """INCONCLUSIVE, and by nothing else than noise."""
    comparison = row.comparison
    noisy = row.verdict is Verdict.INCONCLUSIVE and comparison is not None and comparison.spread is not None
    return noisy and comparison is not None and not comparison.cause


def _is_open(row: Row) -> bool:
    """More pairs of processes might have decided it."""
    return row.comparison is not None and row.comparison.unfinished and not row.comparison.quiet


_MOST_UNSURE = 3


def _harm(row: Row) -> float:
    """How much worse a row looks than its baseline; what cannot be told comes first."""
    if row.comparison is None or row.comparison.change is None:
        return math.inf
    return worse(CATALOGUE[row.metric]) * row.comparison.change


def _is_unsure(row: Row) -> bool:
    """INCONCLUSIVE, and no change within its tolerance; one that fails has been told already."""
    comparison = row.comparison
    return row.verdict is Verdict.INCONCLUSIVE and not row.fails and comparison is not None and not comparison.quiet


def shape(workload: Workload) -> str:
    """`512→128`, with the batch size where there is one, `8×512→128`, and with its load, `512→128 · 16 at once`."""
    batch = f"{workload.batch_size}×" if workload.batch_size > 1 else ""
    lengths = workload.mix or f"{batch}{workload.prompt_tokens}→{workload.output_tokens}"
    return " · ".join(filter(None, [lengths, pace(workload)]))


def pace(workload: Workload) -> str:
    """What a load comes to beside its lengths: `16 at once`, `4 requests/s, constant`; empty for one at a time."""
    parts = []
    if workload.concurrency > 1:
        parts.append(f"{workload.concurrency} at once")
    if workload.request_rate is not None:
        parts.append(f"{workload.request_rate:g} requests/s")
    parts += filter(None, [workload.arrivals])
    if workload.shared_prefix_tokens is not None:
        parts.append(f"{workload.shared_prefix_tokens} tokens shared")
    return ", ".join(parts)


def verdict_cell(verdict: Verdict | None) -> Cell:
    return Cell(verdict.value, verdict) if verdict else Cell("–", dim=True)


def figure(value: float | None) -> Cell:
    """A number, or a dash for what is not known."""
    return Cell("–", dim=True) if value is None else Cell(short_number(value))


def _measured(row: Row) -> Cell:
    if row.value is None:
        return Cell("–", dim=True)
    if row.low is None or row.high is None or row.high <= row.low:
        return Cell(short_number(row.value))
    return Cell(plus_minus(row.value, (row.high - row.low) / 2))


def _in_short(values: Sequence[float], most: int = 10) -> str:
    shown = [short_number(value) for value in values[:most]]
    return ", ".join(shown) + (f", … ({len(values)} in all)" if len(values) > most else "")
