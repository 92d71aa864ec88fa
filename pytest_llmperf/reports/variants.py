"""Variants of one test, side by side."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from pytest_llmperf.reports.table import Cell, Column, Table, figure
from pytest_llmperf.results import Result, Row
from pytest_llmperf.units import short_number

_SHOWN: Mapping[str, Column] = {
    "ttft_ms": Column("ttft_ms", right=True),
    "tpot_ms": Column("tpot_ms", right=True),
    "output_tokens_per_s": Column("tokens/s", right=True),
    "peak_memory_mib": Column("peak MiB", right=True),
    "flops_per_token": Column("FLOP/token", right=True),
    "ops_per_token": Column("ops/token", right=True),
    "acceptance_rate": Column("accepted", right=True),
    "tokens_per_step": Column("tokens/step", right=True),
}
_USUAL: Mapping[str, float] = {"tokens_per_step": 1}
"""What is not worth a column where it is so for all."""


def side_by_side(results: Sequence[Result]) -> list[Table]:
    """A table for each test of which there are several variants: figures, and what they are of the first one's."""
    tests: dict[str, list[Result]] = {}
    for result in results:
        if result.variant:
            tests.setdefault(_without_variant(result), []).append(result)
    in_order = {test: sorted(found, key=lambda result: result.variant_number) for test, found in tests.items()}
    return [_table(test, variants) for test, variants in in_order.items() if len(variants) > 1]


def _without_variant(result: Result) -> str:
    """Its key, as far as the variants of one test have it in common."""
    name, _, parameters = result.test.partition("[")
    own = result.variant.encode("unicode_escape").decode()  # as pytest writes it
    pattern = rf"(^|-)({re.escape(own)}|{re.escape(result.variant)})(?=-|$)"
    others = re.sub(pattern, "", parameters.removesuffix("]"), count=1).removeprefix("-")
    label = f"::{result.label}" if result.label else ""
    return name + (f"[{others}]" if others else "") + label


def _table(test: str, variants: Sequence[Result]) -> Table:
    known = {name: [each.medians.get(name) for each in variants] for name in _SHOWN}
    shown = [name for name, rows in known.items() if any(row and row.value != _USUAL.get(name) for row in rows)]
    shown.sort(key=lambda name: not _tells_apart(known[name]))
    columns = [dataclasses.replace(_SHOWN[name], spare=number > 0) for number, name in enumerate(shown)]
    told = f"variants, in proportion to {variants[0].variant} where their intervals lie apart"
    table = Table(test, told, (Column("variant"), *columns))
    for number, variant in enumerate(variants):
        cells = [_in_proportion(known[name][number], known[name][0]) for name in shown]
        table.rows.append((Cell(variant.variant), *cells))
    return table


def _tells_apart(rows: Sequence[Row | None]) -> bool:
    """Whether the first and any other lie apart."""
    return any(_proportion(row, rows[0]) for row in rows[1:])


def _in_proportion(row: Row | None, first: Row | None) -> Cell:
    """Twice the first's is `×2.00`; as much goes without saying."""
    if row is None or row.value is None:
        return figure(None)
    return Cell(f"{short_number(row.value)} {_proportion(row, first)}".rstrip())


def _proportion(row: Row | None, first: Row | None) -> str:
    if row is None or first is None or row.value is None or not first.value or _overlap(row, first):
        return ""
    proportion = f"×{row.value / first.value:.2f}"
    return "" if proportion == "×1.00" else proportion


def _overlap(one: Row, other: Row) -> bool:
    """Whether the 95 % intervals of two have anything in common; what is exact has none."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high
