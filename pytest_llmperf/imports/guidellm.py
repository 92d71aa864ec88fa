"""GuideLLM's `benchmarks.json`: several benchmarks, each with its requests.

    request_start           when the request was sent
    first_token_iteration   when the first piece with text came
    last_token_iteration    when the last one did
    targeted_start          when it was due, where a rate or a record said so

What lies between is not kept. `time_per_output_token_ms` is (last − sent) / N, the first token's time within it:
normalized latency, and never taken for tpot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports.failures import failure
from pytest_llmperf.imports.fields import Fields
from pytest_llmperf.imports.runs import Load, Run, several, trace
from pytest_llmperf.model import Trace, Unknown

_VERSIONS = (1, 2)
"""Of the report: GuideLLM 0.5 and 0.6, and those since. What is read stands in both in the same places."""
_SCHEDULED = ("constant", "poisson", "trace")
"""Strategies in which a request is due at some time, whatever became of the others."""
_NO_GAPS = Unknown("GuideLLM keeps no single gaps, only when the first token came and the last")


class GuideLlm:
    name = "guidellm"
    expected = "GuideLLM's benchmarks.json"

    def holds(self, documents: Sequence[Fields]) -> bool:
        return len(documents) == 1 and {"metadata", "benchmarks"} <= set(documents[0].values)

    def runs(self, documents: Sequence[Fields], path: Path) -> list[Run]:
        report = documents[0]
        metadata = report.within("metadata")
        if metadata.values.get("version") not in _VERSIONS:
            found = metadata.values.get("version")
            raise metadata.fault("version", f"expected 1 or 2, not {found!r}: run it again with GuideLLM 0.5 or later")
        tool = f"GuideLLM {metadata.text('guidellm_version')}".strip()
        found = [_run(one, tool) for one in report.each("benchmarks")]
        if not found:
            raise ForeignError(f"{report.place} holds no benchmarks")
        return found


def _run(benchmark: Fields, tool: str) -> Run:
    strategy = benchmark.within("config", "strategy")
    backend = benchmark.within("config", "backend")
    requests = benchmark.within("requests")
    answered = _within_window(requests.each("successful"), benchmark)
    due = strategy.text("type_") in _SCHEDULED
    traces = [_request(one, due=due) for one in answered]
    failures = [failure(one.within("info").text("error")) for one in requests.each("errored")]
    return Run(
        tool=tool,
        model=backend.text("model"),
        traces=tuple(sorted(traces, key=lambda trace: trace.sent)),
        failures=tuple(failures),
        load=_load(strategy),
        label=_label(strategy),
        url=backend.text("target"),
        notes=tuple(_notes(answered, requests)),
        gaps=_NO_GAPS,
        starts=_sampled(benchmark, requests),
    )


def _within_window(requests: Sequence[Fields], benchmark: Fields) -> list[Fields]:
    """Those in flight while GuideLLM measured: neither all through its warm-up nor all through its cool-down."""
    began, ended = benchmark.number("start_time"), benchmark.number("end_time")
    return [
        one for one in requests if one.number("request_end_time") >= began and one.number("request_start_time") <= ended
    ]


def _sampled(benchmark: Fields, requests: Fields) -> Unknown | None:
    """Why the rates of all requests are not known, where only some are in the file."""
    totals = benchmark.within("metrics", "request_totals")
    total = totals.count("successful", least=0) if totals.has("successful") else 0
    kept = len(requests.items("successful"))
    return Unknown(f"GuideLLM kept {kept} of {total} requests (sample_size)") if kept < total else None


def _notes(answered: Sequence[Fields], requests: Fields) -> list[str]:
    notes = []
    cut_off = len(requests.items("incomplete")) if requests.has("incomplete") else 0
    if cut_off:
        notes.append(f"{several(cut_off, 'request')} cut off when GuideLLM's time was up: neither answered nor failed")
    if not all(one.within("output_metrics").has("total_tokens") for one in answered):
        notes.append("the server sent no usage: GuideLLM took every piece of text for one token")
    return notes


def _request(request: Fields, *, due: bool) -> Trace:
    timings = request.within("info", "timings")
    if not (timings.has("first_token_iteration") and timings.has("last_token_iteration")):
        raise timings.fault(
            "first_token_iteration", "is missing: the answer was not streamed, and only streams have a first token"
        )
    started, first, last = (
        timings.number(name) for name in ("request_start", "first_token_iteration", "last_token_iteration")
    )
    if not started <= first <= last:
        raise timings.fault(
            "first_token_iteration", f"{first - started:g} s after it was sent, {last - first:g} s of decode"
        )
    sent = min(started, timings.number("targeted_start")) if due and timings.has("targeted_start") else started
    arrivals = [first, last] if last > first else [first]
    return trace(sent, arrivals, request.count("prompt_tokens"), request.count("output_tokens"), lag=started - sent)


def _load(strategy: Fields) -> Load:
    kind = strategy.text("type_")
    if kind in ("constant", "poisson"):
        return Load(rate=strategy.rate("rate"), constant=kind == "constant")
    if kind == "synchronous":
        return Load(concurrency=1)
    name = "streams" if kind == "concurrent" else "max_concurrency"
    return Load(concurrency=strategy.count(name) if strategy.has(name) else None)


def _label(strategy: Fields) -> str:
    """`concurrent@8`, as GuideLLM itself calls it."""
    load = _load(strategy)
    size = load.rate if load.rate is not None else load.concurrency
    kind = strategy.text("type_")
    return kind if size is None or kind == "synchronous" else f"{kind}@{size:g}"
