"""AIPerf's `profile_export.jsonl`: one line per request, each metric with its unit.

    time_to_first_token    to the first response with content
    inter_chunk_latency    between responses with content: single gaps, of chunks where several tokens come at once
    request_latency        to the last response with content
    output_sequence_length tokens, encoded anew from the text unless --use-server-token-count

What was asked of the server stands in `profile_export_aiperf.json` beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports.failures import failure
from pytest_llmperf.imports.fields import Fields, objects
from pytest_llmperf.imports.runs import Load, Run, several, trace
from pytest_llmperf.model import Failure, Trace, Unknown

_RECORDS = "profile_export.jsonl"
_SUMMARY = "profile_export_aiperf.json"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0, "s": 1.0}
_RATES = ("poisson", "gamma", "constant")
_NO_GAPS = Unknown(f"{_RECORDS} has no inter_chunk_latency, only when the first token came and the last")


class AiPerf:
    name = "aiperf"
    expected = f"AIPerf's {_RECORDS}"

    def holds(self, documents: Sequence[Fields]) -> bool:
        return all(
            "aiperf_version" in one.values or {"metadata", "metrics"} <= set(one.values) or _is_raw(one)
            for one in documents
        )

    def runs(self, documents: Sequence[Fields], path: Path) -> list[Run]:
        for one in documents:
            if "metrics" not in one.values:
                what = "raw responses" if _is_raw(one) else "totals"
                raise ForeignError(f"{path} holds {what}: import {_RECORDS} beside it, which has a line per request")
        summary = _summary(path)
        if summary.values.get("is_complete") is False:
            raise ForeignError(f"{summary.place}: the run is not complete: {summary.text('incomplete_reason')}")
        by_phase: dict[str, list[Fields]] = {}
        for line in documents:
            metadata = line.within("metadata")
            if metadata.text("benchmark_phase") != "warmup":
                by_phase.setdefault(metadata.text("phase_name"), []).append(line)
        if not by_phase:
            raise ForeignError(f"{path} holds requests of the warm-up alone")
        several_phases = len(by_phase) > 1
        return [_run(lines, summary, phase if several_phases else "") for phase, lines in by_phase.items()]


def _is_raw(one: Fields) -> bool:
    return {"metadata", "responses"} <= set(one.values)


def _summary(path: Path) -> Fields:
    """What stands beside the records, by AIPerf's own name or a prefix that it was given; empty where nothing does."""
    beside = [other for other in (path.with_suffix(".json"), path.with_name(_SUMMARY)) if other.is_file()]
    return objects(beside[0])[0] if beside else Fields({}, _SUMMARY)


def _run(lines: Sequence[Fields], summary: Fields, phase: str) -> Run:
    load = _load(summary, phase)
    ended = [line for line in lines if not line.within("metadata").values.get("was_cancelled")]
    failed = [line for line in ended if line.has("error")]
    answered = [line for line in ended if not line.has("error")]
    origin = min((line.within("metadata").count("request_start_ns") for line in answered), default=0)
    traces = [_request(line, origin, due=load.rate is not None) for line in answered]
    return Run(
        tool=f"AIPerf {summary.text('aiperf_version')}".strip(),
        model=_first(summary.within("input_config", "models"), "items"),
        traces=tuple(sorted(traces, key=lambda trace: trace.sent)),
        failures=tuple(map(_failure, failed)),
        load=load,
        label=phase or str(load),
        url=_url(summary),
        notes=tuple(_notes(answered, cancelled=len(lines) - len(ended), known=bool(summary.values))),
        gaps=_NO_GAPS if any(map(_lacks_gaps, answered)) else None,
    )


def _notes(answered: Sequence[Fields], *, cancelled: int, known: bool) -> list[str]:
    notes = []
    if cancelled:
        notes.append(f"{several(cancelled, 'request')} cancelled by AIPerf: neither answered nor failed")
    if not all(line.within("metrics").has("usage_completion_tokens") for line in answered):
        notes.append(
            "AIPerf counted output tokens by encoding the text anew, which is not what the server generated; "
            "--use-server-token-count has the server's own count"
        )
    if not known:
        notes.append(f"{_SUMMARY} is not beside the file: model, address and load are not known")
    return notes


def _failure(line: Fields) -> Failure:
    error = line.within("error")
    status = error.count("code", least=0) if error.has("code") else None
    return failure(f"{error.text('type')} {error.text('message')}".strip(), status)


def _request(line: Fields, origin: int, *, due: bool) -> Trace:
    metadata, metrics = line.within("metadata"), line.within("metrics")
    if not metrics.has("time_to_first_token"):
        raise metrics.fault("time_to_first_token", "is missing: the answer was not streamed; run AIPerf --streaming")
    started = metadata.count("request_start_ns")
    start = (started - origin) / 1e9
    lag = (
        max(0, started - metadata.count("credit_issued_ns")) / 1e9 if due and metadata.has("credit_issued_ns") else 0.0
    )
    first, last = _seconds(metrics, "time_to_first_token"), _seconds(metrics, "request_latency")
    if last < first:
        raise metrics.fault("request_latency", f"{last:g} s, before the first token at {first:g} s")
    gaps = _gaps(metrics) if metrics.has("inter_chunk_latency") else [last - first]
    if abs(sum(gaps) - (last - first)) > _ROUNDING_S:
        raise metrics.fault("inter_chunk_latency", f"gaps of {sum(gaps):g} s in all, in {last - first:g} s of decode")
    arrivals = list(itertools.accumulate([start + first, *gaps])) if last > first else [start + first]
    output_tokens = _tokens(metrics, "usage_completion_tokens", "output_sequence_length")
    return trace(
        start - lag, arrivals, _tokens(metrics, "usage_prompt_tokens", "input_sequence_length"), output_tokens, lag=lag
    )


_ROUNDING_S = 1e-6


def _lacks_gaps(line: Fields) -> bool:
    """One chunk has none to lack."""
    metrics = line.within("metrics")
    decode = _seconds(metrics, "request_latency") - _seconds(metrics, "time_to_first_token")
    return decode > 0 and not metrics.has("inter_chunk_latency")


def _gaps(metrics: Fields) -> list[float]:
    chunks = metrics.within("inter_chunk_latency")
    return [value * _unit(chunks) for value in chunks.numbers("value")]


def _seconds(metrics: Fields, name: str) -> float:
    if not metrics.has(name):
        raise metrics.fault(name, "is missing")
    metric = metrics.within(name)
    return metric.number("value") * _unit(metric)


def _unit(metric: Fields) -> float:
    unit = metric.text("unit")
    if unit not in _SECONDS:
        raise metric.fault("unit", f"expected one of {', '.join(_SECONDS)}, not {unit!r}")
    return _SECONDS[unit]


def _tokens(metrics: Fields, counted: str, estimated: str) -> int:
    """The server's own count, else AIPerf's."""
    name = counted if metrics.has(counted) else estimated
    if not metrics.has(name):
        raise metrics.fault(name, "is missing")
    return metrics.within(name).count("value")


def _load(summary: Fields, name: str) -> Load:
    """Of the phase of that name; the last where it has none, since warming up comes first."""
    config = summary.within("input_config")
    phases = config.each("phases") if config.has("phases") else []
    if not phases:
        return Load()
    phase = next((one for one in phases if one.text("name") == name), phases[-1])
    if phase.text("type") in _RATES and phase.has("rate"):
        return Load(rate=phase.rate("rate"), constant=phase.text("type") == "constant")
    return Load(concurrency=phase.count("concurrency") if phase.has("concurrency") else None)


def _first(of: Fields, name: str) -> str:
    rows = of.each(name) if of.has(name) else []
    return rows[0].text("name") if rows else ""


def _url(summary: Fields) -> str:
    endpoint = summary.within("input_config", "endpoint")
    urls = endpoint.items("urls") if endpoint.has("urls") else []
    return str(urls[0]) if urls else ""
