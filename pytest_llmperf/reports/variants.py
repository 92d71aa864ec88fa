"""Variants of one test, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_llmperf.model import Result
from pytest_llmperf.reports.table import Cell, Column, Table, figure
from pytest_llmperf.units import short_number

_SHOWN: Mapping[str, Column] = {
    "ttft_ms": Column("ttft_ms", right=True),
    "tpot_ms": Column("tpot_ms", right=True),
    "output_tokens_per_s": Column("tokens/s", right=True, wide_only=True),
    "peak_memory_mib": Column("peak MiB", right=True),
    "flops_per_token": Column("FLOP/token", right=True, wide_only=True),
    "ops_per_token": Column("ops/token", right=True, wide_only=True),
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
    figures = [{row.metric: row.value for row in each.rows if row.statistic == "median"} for each in variants]
    shown = [metric for metric in _SHOWN if any(own.get(metric) not in (None, _USUAL.get(metric)) for own in figures)]
    columns = [Column("variant", whole=True), *(_SHOWN[metric] for metric in shown)]
    table = Table(test, f"variants, in proportion to {variants[0].variant}", tuple(columns))
    for variant, own in zip(variants, figures, strict=True):
        cells = [_in_proportion(own.get(metric), figures[0].get(metric)) for metric in shown]
        table.rows.append((Cell(variant.variant), *cells))
    return table


def _in_proportion(value: float | None, first: float | None) -> Cell:
    """Twice the first's is `×2.00`; as much goes without saying."""
    proportion = f"×{value / first:.2f}" if value is not None and first else "×1.00"
    if value is None or proportion == "×1.00":
        return figure(value)
    return Cell(f"{short_number(value)} {proportion}")
