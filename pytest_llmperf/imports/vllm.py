"""`vllm bench serve --save-result --save-detailed`: one JSON object of columns, one value per request in each.

    ttfts         seconds to the first event with `choices`
    itls          seconds between such events, one list per request
    start_times   when each was sent; only newer versions write it
    queue_times   seconds that a request waited for `--max-concurrency` before it was sent

What vLLM's client times are events and not tokens. At `/chat/completions` the first event is the role's, and an
answer may end with an event that only says why it ends: where there are more events than tokens, those are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports.failures import failure
from pytest_llmperf.imports.fields import Fields
from pytest_llmperf.imports.runs import Load, Run, trace
from pytest_llmperf.model import Failure, Outcome, Trace, Unknown

_COLUMNS = ("ttfts", "itls", "input_lens", "output_lens", "errors")
_OPTIONAL = ("start_times", "queue_times")
_NO_STARTS = Unknown("the file does not say when requests were sent: only newer versions of vLLM write start_times")


class Vllm:
    name = "vllm"
    expected = "the JSON file of vllm bench serve --save-result --save-detailed"

    def holds(self, documents: Sequence[Fields]) -> bool:
        return all({"request_throughput", "completed", "model_id"} <= set(one.values) for one in documents)

    def runs(self, documents: Sequence[Fields], path: Path) -> list[Run]:
        return [_run(one) for one in documents]  # --append-result writes one object after the other


def _run(file: Fields) -> Run:
    rows = _rows(file)
    chat = "chat" in (file.text("endpoint_type") or file.text("backend"))
    load, notes = _load(file, len(rows))
    seen = [_request(row, chat=chat, due=load.rate is not None) for row in rows]
    traces = [one for one in seen if isinstance(one, Trace)]
    timed = file.has("start_times")
    if chat and any(len(trace.arrivals) < len(row.items("itls")) + 1 for trace, row in _answered(seen, rows)):
        notes.append(
            "vllm bench times every event of a chat: where there were others than one per token, the first was taken "
            "for the role's, and ttft is that of the second"
        )
    return Run(
        tool="vllm bench serve",
        model=file.text("model_id"),
        traces=tuple(sorted(traces, key=lambda trace: trace.sent)),
        failures=tuple(one for one in seen if isinstance(one, Failure)),
        load=load,
        label=str(load),
        notes=tuple(notes),
        starts=None if timed else _NO_STARTS,
    )


def _rows(file: Fields) -> list[Fields]:
    missing = [name for name in _COLUMNS if not file.has(name)]
    if missing:
        raise ForeignError(
            f"{file.place} has no {', '.join(missing)}: without single requests only totals are left, which nothing "
            f"can be judged by; run vllm bench serve with --save-detailed"
        )
    columns = {name: file.items(name) for name in (*_COLUMNS, *filter(file.has, _OPTIONAL))}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ForeignError(f"{file.place}: columns of different lengths ({shown}): expected one value per request")
    requests = zip(*columns.values(), strict=True)
    return [
        Fields(dict(zip(columns, values, strict=True)), f"{file.place}: request {number}")
        for number, values in enumerate(requests)
    ]


def _load(file: Fields, requests: int) -> tuple[Load, list[str]]:
    most = file.count("max_concurrency") if file.has("max_concurrency") else None
    if file.values.get("request_rate") in (None, "inf"):
        return Load(concurrency=requests if most is None else most), []
    notes = [f"at most {most} requests were in flight: a slow server lowers the rate"] if most is not None else []
    if file.has("burstiness") and file.number("burstiness") != 1:
        notes.append(f"requests came with a burstiness of {file.number('burstiness'):g}, where 1 is Poisson's")
    if file.text("ramp_up_strategy"):
        notes.append("the rate was ramped up: the figures are of all the rates on the way")
    return Load(rate=file.rate("request_rate")), notes


def _request(row: Fields, *, chat: bool, due: bool) -> Trace | Failure:
    output_tokens = row.count("output_lens", least=0)
    if row.text("errors") or output_tokens == 0:
        said = row.text("errors")
        return failure(said) if said else Failure(Outcome.MALFORMED, "no token came, and no reason was kept")
    first, gaps = row.number("ttfts"), row.numbers("itls")
    if not first:
        raise row.fault("ttfts", "0, for an answer of tokens: it was not streamed, and only streams have a first token")
    start = row.number("start_times") if row.has("start_times") else 0.0
    lag = row.number("queue_times") if due and row.has("queue_times") else 0.0
    events = list(itertools.accumulate([start + first, *gaps]))
    arrivals = _tokens(events, output_tokens, chat=chat)
    if len(arrivals) > output_tokens:
        raise row.fault(
            "itls",
            f"{len(events)} events for {output_tokens} tokens: which of them are no tokens is not said; a server that "
            f"sends no usage has its text encoded anew to count them",
        )
    return trace(start - lag, arrivals, row.count("input_lens"), output_tokens, lag=lag)


def _tokens(events: list[float], output_tokens: int, *, chat: bool) -> list[float]:
    """The events that brought tokens."""
    if chat and len(events) != output_tokens and len(events) > 1:
        events = events[1:]
    return events[:-1] if len(events) == output_tokens + 1 else events


def _answered(seen: Sequence[Trace | Failure], rows: Sequence[Fields]) -> list[tuple[Trace, Fields]]:
    return [(one, row) for one, row in zip(seen, rows, strict=True) if isinstance(one, Trace)]
