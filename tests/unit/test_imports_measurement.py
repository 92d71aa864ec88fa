"""A run as a measurement: which samples are grouped how, what the workload is, and what is not known."""

from __future__ import annotations

import pytest

from pytest_llmperf.imports.measurement import measurement_of, place_of, target_of
from pytest_llmperf.imports.runs import Load, Run, trace
from pytest_llmperf.limits import parse
from pytest_llmperf.metrics import CATALOGUE, Per
from pytest_llmperf.model import Environment, Failure, Outcome, Unknown


def run(count=12, *, tokens=4, prompt=32, every=0.1, **given):
    """Requests that take 0.05 s to the first token and 0.01 s to each other one."""
    traces = []
    for number in range(count):
        sent = every * number
        traces.append(trace(sent, [sent + 0.05 + 0.01 * token for token in range(tokens)], prompt, tokens))
    return Run("a tool 1.0", "gpt2", tuple(traces), **{"load": Load(concurrency=4), **given})


def measured(given, *limits):
    return measurement_of(given, Environment(), [parse(limit) for limit in limits])


def test_times_are_those_of_the_requests():
    measurement = measured(run())
    assert measurement.ttft_ms == pytest.approx(50)
    assert measurement.tpot_ms == pytest.approx(10)
    assert measurement.itl_ms == pytest.approx(10)
    assert measurement.latency_ms == pytest.approx(80)
    assert len(measurement.itl_ms.samples) == 36


def test_rates_are_of_the_run_as_a_whole():
    measurement = measured(run(count=100))
    assert measurement.output_tokens_per_s.samples == pytest.approx([400 / (9.9 + 0.08)])
    assert measurement.total_tokens_per_s.samples == pytest.approx([3600 / (9.9 + 0.08)])


@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (7, 1), (8, 2), (12, 3), (40, 10), (1000, 10)])
def test_requests_are_grouped_by_parts_of_the_run(count, rounds):
    measurement = measured(run(count=count))
    assert [trace.sent for trace in measurement.traces] == pytest.approx([0.1 * number for number in range(count)])
    sizes = [len(values) for values in measurement.ttft_ms.by_round]
    assert (len(measurement.rounds), sum(sizes)) == (rounds, count)
    assert max(sizes) - min(sizes) <= 1


def test_failures_are_counted_once():
    failure = Failure(Outcome.SERVER_ERROR)
    measurement = measured(run(failures=(failure, failure)))
    assert sum(len(part.failures) for part in measurement.rounds) == 2


def test_what_the_file_does_not_say_is_unknown_with_its_reason():
    measurement = measured(run(gaps=Unknown("no gaps kept")))
    assert measurement.unknown["itl_ms"] == measurement.unknown["tokens_per_step"] == "no gaps kept"
    assert measurement.tpot_ms == pytest.approx(10)
    assert measurement.output_tokens_per_s is not None


def test_without_starts_there_are_no_rates():
    measurement = measured(run(starts=Unknown("no starts kept")))
    rates = [name for name, metric in CATALOGUE.items() if metric.per is Per.ROUND]
    assert {measurement.unknown[name] for name in rates} == {"no starts kept"}
    assert measurement.ttft_ms == pytest.approx(50)


def test_limits_on_times_of_a_request_are_its_objectives():
    limits = ["ttft_ms < 500", "itl_ms.p95 < 50", "output_tokens_per_s > 1", "peak_memory_mib < 1"]
    assert [str(limit) for limit in measured(run(), *limits).objectives] == limits[:2]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(concurrency=4), (4, None, None)),
        (Load(rate=2.5), (1, 2.5, None)),
        (Load(rate=2.5, constant=True), (1, 2.5, "constant")),
        (Load(), (2, None, None)),
    ],
)
def test_the_workload_is_what_was_asked_at_a_time(load, expected):
    workload = measured(run(every=0.05, load=load)).workload  # each takes 0.08 s: two are in flight
    assert (workload.concurrency, workload.request_rate, workload.arrivals) == expected
    assert (workload.prompt_tokens, workload.output_tokens) == (32, 4)


def test_requests_one_after_the_other_are_one_in_flight():
    assert measured(run(every=0.09, load=Load())).workload.concurrency == 1


def test_several_lengths_go_by_the_longest_and_are_told():
    both = Run("a tool", "gpt2", (*run(tokens=4, prompt=32).traces, *run(tokens=2, prompt=8).traces), notes=("first",))
    measurement = measured(both)
    assert (measurement.workload.prompt_tokens, measurement.workload.output_tokens) == (32, 4)
    assert measurement.notes == (
        "first",
        "prompts of 8 to 32 tokens: the workload is named by the longest",
        "answers of 2 to 4 tokens: the workload is named by the longest",
    )


@pytest.mark.parametrize(
    ("url", "model", "target", "place"),
    [
        ("http://127.0.0.1:8000/v1", "gpt2", "endpoint:localhost/gpt2", "localhost"),
        ("localhost:8000", "gpt2", "endpoint:localhost/gpt2", "localhost"),
        ("https://LLM.example.org:8000/v1", "org/model", "endpoint:llm.example.org:8000/org/model", "llm.example.org"),
        (
            "https://me:secret@llm.example.org",
            "/data/models/small",
            "endpoint:llm.example.org/small",
            "llm.example.org",
        ),
        ("", "", "endpoint:unknown/unknown", "unknown"),
        ("http://[::1", "./small", "endpoint:unknown/small", "unknown"),
        ("http://llm:port", "gpt2", "endpoint:unknown/gpt2", "unknown"),
    ],
)
def test_the_target_is_called_as_an_endpoint_is(url, model, target, place):
    given = Run("a tool", model, run().traces, url=url)
    assert (target_of(given), place_of(given)) == (target, place)
