"""The charts of one measurement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.model import Measurement, Round, Sample, quantile, split
from pytest_llmperf.reports.html.chart import Chart, axis, colour, label, short, thinned, upright
from pytest_llmperf.reports.table import row_name
from pytest_llmperf.results import Result, Row
from pytest_llmperf.units import milliseconds, percent, short_number

_MOST_REQUESTS = 12
"""Lines of a timeline."""
_MOST_TOKENS = 200
"""Points of one of them."""
_MOST_BINS = 40
_FAR = 1.5
"""Times the 99th percentile, beyond which gaps are told and not drawn."""


def charts(result: Result, measurement: Measurement) -> list[Chart]:
    """All there is to draw of it."""
    drawn = [
        timeline(measurement),
        gaps(measurement),
        compared(result),
        memory(measurement),
        operators(measurement),
        grown(result),
    ]
    return [chart for chart in drawn if chart is not None]


def timeline(measurement: Measurement) -> Chart | None:
    """When each token of a typical round came."""
    if not measurement.rounds:
        return None
    ordered = sorted(measurement.rounds, key=lambda taken: taken.wall)
    taken: Round = ordered[(len(ordered) - 1) // 2]
    shown = thinned(taken.traces, _MOST_REQUESTS)
    data, thin = [], False
    for number, trace in enumerate(shown, 1):
        tokens = itertools.accumulate(trace.counts or (1,) * len(trace.arrivals))
        points = [(trace.sent, 0), *zip(trace.arrivals, tokens, strict=True)]
        kept = thinned(points, _MOST_TOKENS)
        thin = thin or len(kept) < len(points)
        data.append(
            {
                "x": short([milliseconds(when - taken.began) for when, _ in kept]),
                "y": [count for _, count in kept],
                "name": f"request {number}",
                "mode": "lines+markers" if len(kept) <= 70 and len(shown) == 1 else "lines",
                "line": {"shape": "hv", "color": "head", "width": 1.5},
                "marker": {"size": 4},
            }
        )
    first, last = (milliseconds(when) for when in (taken.traces[0].ttft, taken.traces[0].ended - taken.traces[0].sent))
    parts = [
        f"A typical round of {len(measurement.rounds)}: the first token after {short_number(first)} ms, "
        f"the last of {taken.traces[0].output_tokens} after {short_number(last)} ms."
    ]
    if len(shown) < len(taken.traces):
        parts.append(f"{len(shown)} of {len(taken.traces)} requests are drawn.")
    if thin:
        parts.append(f"{_MOST_TOKENS} points of each are drawn.")
    layout = {"xaxis": axis("ms", rangemode="tozero"), "yaxis": axis("tokens", rangemode="tozero")}
    return Chart("Token timeline", " ".join(parts), data, layout)


def gaps(measurement: Measurement) -> Chart | None:
    """How long it took from one token to the next."""
    sample = measurement.samples.get("itl_ms")
    if not isinstance(sample, Sample) or len(sample.samples) < 2:
        return None
    import numpy

    values = sample.samples
    middle, high = quantile(values, 0.5), quantile(values, 0.99)
    near = [value for value in values if value <= _FAR * high]
    bins = min(_MOST_BINS, len(numpy.histogram_bin_edges(near, "auto")) - 1)
    heights, edges = numpy.histogram(near, bins=max(bins, 8))
    centres = (edges[:-1] + edges[1:]) / 2
    data = [
        {
            "type": "bar",
            "x": short(centres.tolist()),
            "y": heights.tolist(),
            "width": float(f"{edges[1] - edges[0]:.4g}"),
            "marker": {"color": "head"},
            "name": "gaps",
        }
    ]
    told = f"{len(values)} gaps: half are within {short_number(middle)} ms, 99 of 100 within {short_number(high)} ms."
    if len(near) < len(values):
        told += f" {len(values) - len(near)} more, up to {short_number(max(values))} ms, lie beyond what is drawn."
    layout = {
        "xaxis": axis("ms between tokens"),
        "yaxis": axis("gaps"),
        "bargap": 0.05,
        "shapes": [_mark(middle, "solid"), _mark(high, "dot")],
        "annotations": [_above(middle, "median"), _above(high, "p99")],
    }
    return Chart("Gaps between tokens", told, data, layout)


def _mark(at: float, dash: str) -> dict[str, Any]:
    return upright(at, color="text", width=1, dash=dash)


def _above(at: float, text: str) -> dict[str, Any]:
    return {"x": at, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False}


def compared(result: Result) -> Chart | None:
    """The change of each metric from base to head, with its interval."""
    rows = [row for row in result.rows if row.comparison is not None and row.comparison.change is not None]
    rows = [row for row in rows if row.comparison and (row.comparison.change or row.comparison.spread)]
    if not rows:
        return None
    changes = [100 * (_compared(row)[0]) for row in rows]
    spreads = [100 * (_compared(row)[1]) for row in rows]
    data = [
        {
            "x": short(changes),
            "y": [row_name(row) for row in rows],
            "error_x": {"type": "data", "array": short(spreads), "thickness": 1.5, "width": 4, "color": "text"},
            "mode": "markers",
            "marker": {"size": 10, "color": [colour(row.verdict) for row in rows]},
            "name": "change",
        }
    ]
    told = f"From base to head: {'; '.join(map(_change, rows))}."
    layout = {
        "xaxis": axis("change, with its 95 % interval", ticksuffix=" %", rangemode="tozero"),
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "shapes": [_mark(0, "solid")],
    }
    return Chart("Base against head", told, data, layout, height=90 + 24 * len(rows))


def _compared(row: Row) -> tuple[float, float]:
    assert row.comparison is not None
    return row.comparison.change or 0.0, row.comparison.spread or 0.0


def _change(row: Row) -> str:
    change, spread = _compared(row)
    verdict = f", {row.verdict.value}" if row.verdict else ""
    return f"{row_name(row)} {percent(change, signed=True)}{f' ± {percent(spread)}' if spread else ''}{verdict}"


def memory(measurement: Measurement) -> Chart | None:
    """What the peak is made of, and what the allocator holds beyond it."""
    names = {"weights": "weights_mib", "KV cache": "kv_cache_mib", "activations": "activations_mib"}
    known = {name: float(sample) for name, metric in names.items() if (sample := _known(measurement, metric))}
    peak, reserved = _known(measurement, "peak_memory_mib"), _known(measurement, "peak_reserved_mib")
    if not known:
        return None
    if peak and reserved and reserved > peak:
        known["rest"] = reserved - peak
    of_peak = f"The peak of {short_number(peak)} MiB" if peak else "Memory"
    told = f"{of_peak}: {', '.join(f'{name} {short_number(value)} MiB' for name, value in known.items())}."
    if "rest" in known:
        told += " The rest is what the allocator reserved beyond the peak."
    return _stacked("Memory", told, {"": known}, "MiB")


def _known(measurement: Measurement, metric: str) -> float | None:
    sample = measurement.samples.get(metric)
    return float(sample) if isinstance(sample, Sample) else None


def operators(measurement: Measurement) -> Chart | None:
    """Where the time of each phase went, by the part that operators play."""
    phases = {"prefill": measurement.counts.prefill, "decode": measurement.counts.decode}
    seen = {name: phase for name, phase in phases.items() if phase.operators}
    if not seen:
        return None
    shares = {
        name: {part: 100 * share for part, share in split(phase).items() if share} for name, phase in seen.items()
    }
    told = "; ".join(
        f"{name}: {', '.join(f'{part} {percent(share / 100)}' for part, share in parts.items())}"
        for name, parts in shares.items()
    )
    return _stacked("Where the time went", f"{told}.", shares, "% of the phase, under the profiler")


def _stacked(title: str, told: str, bars: Mapping[str, Mapping[str, float]], unit: str) -> Chart:
    parts = dict.fromkeys(part for shares in bars.values() for part in shares)
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "x": short([shares.get(part, 0.0) for shares in bars.values()]),
            "y": list(bars),
            "marker": {"color": f"part{number}"},
        }
        for number, part in enumerate(parts)
    ]
    layout = {
        "barmode": "stack",
        "showlegend": True,
        "xaxis": axis(unit),
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return Chart(title, told, data, layout, height=150 + 34 * len(bars))


def grown(result: Result) -> Chart | None:
    """The operators that take longer than they did."""
    told = result.explanation
    rows = [(phase, row) for phase, found in (told.grown if told else {}).items() for row in found if row.milliseconds]
    if not rows:
        return None
    names = [label(f"{row.operator} ({phase})", 40) for phase, row in rows]
    times = [row.milliseconds or (0.0, 0.0) for _, row in rows]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": side,
            "x": short([pair[place] for pair in times]),
            "y": names,
            "marker": {"color": side},
        }
        for place, side in enumerate(("base", "head"))
    ]
    sentences = [
        f"{row.operator} {short_number(before)} → {short_number(now)} ms in {phase}"
        for (phase, row), (before, now) in zip(rows, times, strict=True)
    ]
    layout = {
        "barmode": "group",
        "showlegend": True,
        "xaxis": axis("ms, per token in decode"),
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return Chart("What grew", f"{'; '.join(sentences)}.", data, layout, height=130 + 34 * len(rows))


def bars(rows: Sequence[Row]) -> dict[str, Any]:
    """Error bars of 95 % intervals, where they are known."""
    ups = [(row.high or 0.0) - (row.value or 0.0) if row.high is not None else 0.0 for row in rows]
    downs = [(row.value or 0.0) - (row.low or 0.0) if row.low is not None else 0.0 for row in rows]
    return {"type": "data", "symmetric": False, "array": short(ups), "arrayminus": short(downs), "thickness": 1}
