"""A run of another tool as a measurement."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pytest_llmperf.imports.runs import Run
from pytest_llmperf.metrics import CATALOGUE, Per, summarize
from pytest_llmperf.model import Environment, Limit, Measurement, Round, Sample, Trace, Unknown, Workload
from pytest_llmperf.names import host_name, served_name
from pytest_llmperf.rates import is_objective

ROUNDS = 10
"""Parts of a run, one after the other: how far they lie apart is what is known of its noise (batch means)."""
FEWEST_REQUESTS = 4
"""Of a part."""


def measurement_of(run: Run, environment: Environment, limits: Sequence[Limit] = ()) -> Measurement:
    """The measurement that a run amounts to.

    Times of requests are grouped by parts of the run. What is of all requests together, as tokens per second, is of
    the run as a whole: its parts overlap.

    Args:
        limits: those on times of a request are its objectives.
    """
    whole = summarize(
        Measurement(
            target=target_of(run),
            workload=_workload(run),
            rounds=(Round(run.traces, failures=run.failures),),
            environment=environment,
            objectives=tuple(filter(is_objective, limits)),
            notes=(*run.notes, *_lengths(run.traces)),
        )
    )
    parts = summarize(dataclasses.replace(whole, rounds=_parts(run)))
    samples: dict[str, Sample | Unknown] = {
        name: (whole if metric.per is Per.ROUND else parts).samples[name] for name, metric in CATALOGUE.items()
    }
    return dataclasses.replace(parts, samples={**samples, **_not_said(run, whole.objectives)})


def target_of(run: Run) -> str:
    """As an endpoint of its own tests would be called: `endpoint:llm.example.org:8000/gpt2`."""
    return served_name(*_address(run), run.model or "unknown")


def place_of(run: Run) -> str:
    """The server's host."""
    return _address(run)[0]


def _address(run: Run) -> tuple[str, int | None]:
    try:
        address = urlsplit(run.url if "://" in run.url else f"//{run.url}")
        return host_name(address.hostname or "unknown"), address.port
    except ValueError:  # an address in brackets that are open, a port that is no number
        return "unknown", None


def _workload(run: Run) -> Workload:
    """Named by its longest prompt and answer, which is what a limit on tokens makes of several lengths."""
    load = run.load
    return Workload(
        prompt_tokens=max(trace.prompt_tokens for trace in run.traces),
        output_tokens=max(trace.output_tokens for trace in run.traces),
        concurrency=1 if load.rate is not None else load.concurrency or _in_flight(run.traces),
        request_rate=load.rate,
        arrivals="constant" if load.constant else None,
    )


def _in_flight(traces: Sequence[Trace]) -> int:
    """The most requests at once."""
    events = sorted([(trace.ended, -1) for trace in traces] + [(trace.sent, 1) for trace in traces])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return max(1, most)


def _lengths(traces: Sequence[Trace]) -> list[str]:
    """Said where not all are of one length."""
    lengths = {
        "prompts": [trace.prompt_tokens for trace in traces],
        "answers": [trace.output_tokens for trace in traces],
    }
    return [
        f"{what} of {min(tokens)} to {max(tokens)} tokens: the workload is named by the longest"
        for what, tokens in lengths.items()
        if min(tokens) < max(tokens)
    ]


def _parts(run: Run) -> tuple[Round, ...]:
    """Failures say not when they were, and stand in the first."""
    count = max(1, min(ROUNDS, len(run.traces) // FEWEST_REQUESTS))
    edges = [len(run.traces) * place // count for place in range(count + 1)]
    parts = [run.traces[begin:end] for begin, end in itertools.pairwise(edges)]
    return tuple(Round(part, failures=() if place else run.failures) for place, part in enumerate(parts))


def _not_said(run: Run, objectives: Sequence[Limit]) -> Mapping[str, Unknown]:
    """The metrics that the file does not tell, and why."""
    missing = {}
    if run.starts is not None:
        missing.update({name: run.starts for name, metric in CATALOGUE.items() if metric.per is Per.ROUND})
    if run.gaps is not None:
        missing.update({"itl_ms": run.gaps, "tokens_per_step": run.gaps})
        if any(CATALOGUE[limit.metric].per is Per.GAP for limit in objectives):
            missing["goodput_per_s"] = run.gaps
    return missing
