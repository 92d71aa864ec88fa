"""What pytest-benchmark has no place for, in the form that github-action-benchmark takes of any tool.

Its form names no direction, so there are two files: `customSmallerIsBetter` of all that is better when smaller, and
beside it `customBiggerIsBetter`. Between them and pytest-benchmark's, every metric that is known is in one place.
"""

from __future__ import annotations

import json

from pytest_llmperf.metrics import CATALOGUE, Better
from pytest_llmperf.reports.benchmark import full_name, is_duration
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import subtitle
from pytest_llmperf.results import Result, Row
from pytest_llmperf.units import short_number


def smaller(run: Run) -> str:
    """Memory, counts, and whatever else is better when smaller."""
    return _written(run, Better.LOWER)


def bigger(run: Run) -> str:
    """Rates and shares that are better when bigger."""
    return _written(run, Better.HIGHER)


def _written(run: Run, better: Better) -> str:
    records = [
        _record(result, row)
        for result in run.results
        for row in result.medians.values()
        if CATALOGUE[row.metric].better is better and not is_duration(CATALOGUE[row.metric])
    ]
    return json.dumps(records, ensure_ascii=False, indent=1) + "\n"


def _record(result: Result, row: Row) -> dict[str, str | float | None]:
    noisy = row.low is not None and row.high is not None and row.high > row.low
    spread = {"range": f"± {short_number((row.high - row.low) / 2)}"} if noisy else {}  # type: ignore[operator]  # both are known
    said = [subtitle(result), f"limit {row.limit}" if row.limit else "", row.verdict.value if row.verdict else ""]
    known = {"name": full_name(result, row.metric), "unit": row.unit, "value": row.value, **spread}
    return {**known, "extra": " · ".join(filter(None, said))}
