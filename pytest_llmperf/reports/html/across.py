"""The charts of several measurements: how times grow with the workload, where the roof is, and how runs went before."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.demand import decode_bytes, prefill_bytes, prefill_flops
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Measurement, Unknown, Workload
from pytest_llmperf.profiling.roofline import Floor, roofline
from pytest_llmperf.reports.html.chart import Chart, axis, label, short, upright
from pytest_llmperf.reports.html.single import bars
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.shifts import Series, Shift
from pytest_llmperf.reports.table import shape
from pytest_llmperf.results import Result
from pytest_llmperf.units import percent, short_number

_LOADS: Mapping[str, str] = {
    "prompt_tokens": "prompt tokens",
    "batch_size": "batch size",
    "concurrency": "requests at once",
    "request_rate": "requests per second",
}
"""Sizes over which a chart is drawn, where measurements differ in one alone."""
_MOST_LINES = 8
_MOST_RUNS = 100
_ALWAYS = ("ttft_ms", "tpot_ms", "peak_memory_mib")
"""Whose course is drawn in any case; of others where it has a change point."""


def charts(run: Run) -> list[Chart]:
    """All that several measurements of a run have to tell together."""
    grown = [over(run, size, metric) for size in _LOADS for metric in ("ttft_ms", "tpot_ms")]
    maps = [chart for metric in ("ttft_ms", "tpot_ms") for chart in heat_maps(run, metric)]
    roofs = [roof({result.key: run.bases[result.key].measurement for result in run.results if result.key in run.bases})]
    return [*maps, *(chart for chart in (*grown, *roofs) if chart is not None)]


@dataclass(frozen=True)
class _Family:
    """What measurements have in common that differ in nothing but sizes of the workload."""

    module: str
    target: str
    device: str
    variant: str
    rest: tuple[Any, ...]


def _families(run: Run, metric: str, *sizes: str) -> dict[_Family, list[Result]]:
    """Those of several members, each of other sizes. Where two have the same, tests are families of their own."""
    rest = [field.name for field in dataclasses.fields(Workload) if field.name not in (*sizes, "requests")]
    found: dict[_Family, list[Result]] = {}
    for result in run.results:
        workload = result.workload
        if metric not in result.medians or workload.mix or workload.prompt or None in _place(result, sizes):
            continue
        others = tuple(getattr(workload, name) for name in rest)
        family = _Family(result.key.partition("::")[0], result.target, result.device, result.variant, others)
        found.setdefault(family, []).append(result)
    apart: dict[_Family, list[Result]] = {}
    for family, results in found.items():
        of_many = len({_function(result) for result in results}) > 1 and _differ(results, sizes)
        for result in results:
            name = family.module if of_many else _function(result)
            apart.setdefault(dataclasses.replace(family, module=name), []).append(result)
    return {family: results for family, results in apart.items() if len(results) > 1 and _differ(results, sizes)}


def _differ(results: Sequence[Result], sizes: Sequence[str]) -> bool:
    return len({_place(result, sizes) for result in results}) == len(results)


def _function(result: Result) -> str:
    """Its test, whatever the parameters."""
    return result.test.partition("[")[0]


def _place(result: Result, sizes: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(result.workload, size) for size in sizes)


def over(run: Run, size: str, metric: str) -> Chart | None:
    """A time over one size of the workload, a line for each family."""
    families = [
        (family, sorted(results, key=lambda result: _number(result, size)))
        for family, results in _families(run, metric, size).items()
    ]
    data: list[dict[str, Any]] = []
    told = []
    for family, results in families[:_MOST_LINES]:
        rows = [result.medians[metric] for result in results]
        sizes = [_number(result, size) for result in results]
        values = [row.value or 0.0 for row in rows]
        name = " · ".join(filter(None, [family.module, family.variant, _told_rest(results[0], size)]))
        data.append(
            {
                "x": sizes,
                "y": short(values),
                "error_y": bars(rows),
                "mode": "lines+markers",
                "name": label(name),
                "line": {"color": f"line{len(data)}"},
            }
        )
        told.append(
            f"{name}: {', '.join(f'{short_number(v)} ms at {s:g}' for s, v in zip(sizes, values, strict=True))}"
        )
    if not data:
        return None
    if more := len(families) - len(data):
        told.append(f"{more} more are not drawn")
    ticks = sorted({value for line in data for value in line["x"]})
    layout = {
        "xaxis": axis(_LOADS[size], type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]),
        "yaxis": axis(metric, type="log", dtick=1) if _far_apart(data) else axis(metric, rangemode="tozero"),
        "showlegend": True,
    }
    name = metric.removesuffix("_ms").upper()
    return Chart(f"{name} against {_LOADS[size]}", f"{'; '.join(told)}.", data, layout, height=260 + 18 * len(data))


def _far_apart(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether values differ so much that the small ones would not be seen."""
    values = [value for line in lines for value in line["y"] if value > 0]
    return bool(values) and max(values) > _DECADE * min(values)


_DECADE = 10


def _number(result: Result, size: str) -> float:
    return float(getattr(result.workload, size))


def _told_rest(result: Result, size: str) -> str:
    """What the sizes were that did not change."""
    workload = result.workload
    if size == "prompt_tokens":
        return f"{workload.output_tokens} output tokens"
    without: dict[str, Any] = {"request_rate": None, "arrivals": None} if size == "request_rate" else {size: 1}
    return shape(dataclasses.replace(workload, **without))


def heat_maps(run: Run, metric: str) -> list[Chart]:
    """Prompt × output tokens, where both differ."""
    made = []
    for family, results in _families(run, metric, "prompt_tokens", "output_tokens").items():
        prompts = sorted({result.workload.prompt_tokens for result in results})
        outputs = sorted({result.workload.output_tokens for result in results})
        if len(prompts) < 2 or len(outputs) < 2:
            continue
        values = {_place(r, ("prompt_tokens", "output_tokens")): r.medians[metric].value for r in results}
        cells = [[values.get((prompt, output)) for prompt in prompts] for output in outputs]
        told = ", ".join(f"{p} → {o}: {short_number(v)} ms" for (p, o), v in sorted(values.items()) if v is not None)
        data = [
            {
                "type": "heatmap",
                "x": list(map(str, prompts)),
                "y": list(map(str, outputs)),
                "z": [[None if cell is None else float(f"{cell:.4g}") for cell in line] for line in cells],
                "text": [["" if cell is None else short_number(cell) for cell in line] for line in cells],
                "texttemplate": "%{text}",
                "textfont": {"color": "text"},
                "hovertemplate": "%{x} → %{y}: %{z} ms<extra></extra>",
                "xgap": 2,
                "ygap": 2,
                "showscale": False,
            }
        ]
        layout = {
            "xaxis": axis("prompt tokens", type="category"),
            "yaxis": axis("output tokens", type="category", automargin=True),
        }
        name = " · ".join(filter(None, [family.module, family.variant]))
        made.append(
            Chart(f"{metric}, prompt × output, {name}", f"{told}.", data, layout, height=150 + 36 * len(outputs))
        )
    return made


def roof(measurements: Mapping[str, Measurement]) -> Chart | None:
    """Where each phase stands below what its device reached, in shares of that, so that all stand below one roof."""
    data: list[dict[str, Any]] = []
    told = []
    for phase, symbol in (("prefill", "circle"), ("decode", "diamond")):
        points = {key: point for key, measured in measurements.items() if (point := _point(measured, phase))}
        if not points:
            continue
        data.append(
            {
                "x": short([point[0] for point in points.values()]),
                "y": short([point[1] for point in points.values()]),
                "text": [label(key) for key in points],
                "mode": "markers",
                "name": phase,
                "marker": {"size": 9, "symbol": symbol, "color": "head" if phase == "decode" else "base"},
            }
        )
        shares = [reached / min(1.0, intensity) for intensity, reached in points.values()]
        best = max(points, key=lambda key: points[key][1] / min(1.0, points[key][0]))
        told.append(
            f"{phase} reaches {percent(statistics.median(shares))} of its roof"
            + (f" in the middle, {percent(max(shares))} at best ({best})" if len(points) > 1 else "")
        )
    if not data:
        return None
    intensities = [x for line in data for x in line["x"]]
    left, right = min(0.1, *intensities) / 2, max(10.0, *intensities) * 2
    line = {"x": short([left, 1, right]), "y": short([left, 1, 1]), "mode": "lines", "name": "roof"}
    layout = {
        "xaxis": axis("FLOPs per byte, as a multiple of the ridge point's", type="log", dtick=1),
        "yaxis": axis("share of the device's FLOP rate", type="log", dtick=1),
        "showlegend": True,
    }
    return Chart("Roofline", f"{'; '.join(told)}.", [{**line, "line": {"color": "text"}}, *data], layout, height=320)


def _point(measurement: Measurement, phase: str) -> tuple[float, float] | None:
    """FLOPs per byte, by the device's, and its FLOP rate, by the device's; None where one of them is not known."""
    decode, ceilings, roofs = phase == "decode", measurement.ceilings, roofline(measurement)
    floor = roofs.tpot if decode else roofs.of_prefill
    moved = decode_bytes(measurement) if decode else prefill_bytes(measurement)
    flops = measurement.counts.decode_work.flops if decode else prefill_flops(measurement)
    if not isinstance(floor, Floor) or isinstance(moved, Unknown) or isinstance(flops, Unknown):
        return None
    if isinstance(ceilings.bandwidth, Unknown) or isinstance(ceilings.flop_rate, Unknown) or not (moved and flops):
        return None
    intensity = (flops / moved) / (ceilings.flop_rate / ceilings.bandwidth)
    return intensity, min(1.0, intensity) / floor.distance


def trends(series: Sequence[Series], found: Iterable[Shift]) -> list[Chart]:
    """The course of the metrics that matter, and of those that became others."""
    by_metric: dict[str, list[Shift]] = {}
    for shift in found:
        by_metric.setdefault(shift.series.metric, []).append(shift)
    return [
        _trend(each, by_metric.get(each.metric, []))
        for each in series
        if each.metric in _ALWAYS or each.metric in by_metric
    ]


def _trend(series: Series, found: Sequence[Shift]) -> Chart:
    skipped = max(0, len(series.values) - _MOST_RUNS)
    values, runs = series.values[skipped:], series.runs[skipped:]
    unit = CATALOGUE[series.metric].unit
    drawn = [shift for shift in found if shift.index >= skipped]
    data = [
        {
            "x": list(range(len(values))),
            "y": short(values),
            "text": [f"{run.code} · {run.began[:10]}" for run in runs],
            "mode": "lines+markers",
            "name": series.metric,
            "line": {"color": "head", "width": 1.5},
            "marker": {"size": 4},
        }
    ]
    parts = [f"{len(series.values)} runs, {short_number(series.values[0])} → {short_number(series.values[-1])} {unit}."]
    parts += [f"From {shift_code(shift)} on {told_shift(shift)}." for shift in found] or ["No change point."]
    parts += [f"The last {_MOST_RUNS} are drawn."] if skipped else []
    lines = [
        upright(shift.index - skipped - 0.5, color="regressed" if shift.is_worse else "improved", dash="dot", width=1.5)
        for shift in drawn
    ]
    places = sorted({0, len(runs) - 1, *(shift.index - skipped for shift in drawn)})
    layout = {
        "xaxis": axis("run", tickvals=places, ticktext=[runs[place].code for place in places]),
        "yaxis": axis(f"{series.metric}, {unit}" if not series.metric.endswith(unit.lower()) else series.metric),
        "shapes": lines,
    }
    return Chart(f"{series.metric}, run by run", " ".join(parts), data, layout)


def shift_code(shift: Shift) -> str:
    """The run with which it came: its commit and its day."""
    run = shift.series.runs[shift.index]
    return " of ".join(dict.fromkeys([run.code, run.began[:10]]))


def told_shift(shift: Shift) -> str:
    """`8.12 → 8.93 ms (+10.0 %)`."""
    unit = CATALOGUE[shift.series.metric].unit
    change = f" ({percent(shift.change, signed=True)})" if shift.before else ""
    return f"{short_number(shift.before)} → {short_number(shift.after)} {unit}{change}"
