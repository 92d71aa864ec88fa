"""AIPerf's records, as runs: a real file, and what else may stand in one."""

from __future__ import annotations

import json
import statistics

import pytest

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports import read
from pytest_llmperf.model import Outcome
from tests.foreign import AIPERF, aiperf

SUMMARY = json.loads(AIPERF.with_name("profile_export_aiperf.json").read_text())


@pytest.fixture
def one(tmp_path):
    """The single run of the file, changed so."""

    def read_one(*changes):
        (run,) = read(aiperf(tmp_path / "run", *changes))
        return run

    return read_one


def each(change):
    """A change of every line's metrics."""
    return lambda lines: [change(line["metrics"]) for line in lines]


def test_the_figures_of_a_real_file_are_aiperfs_own(one):
    run = one()
    assert (run.tool, run.model, run.url) == ("AIPerf 0.13.0", "paced", "http://127.0.0.1:8766")
    assert (run.load.concurrency, run.load.rate, run.label) == (4, None, "concurrency 4")
    assert (run.notes, run.failures, run.gaps, run.starts) == ((), (), None, None)
    traces = run.traces
    assert {(trace.prompt_tokens, trace.output_tokens) for trace in traces} == {(32, 16)}

    def ms(seconds):
        return pytest.approx(1e3 * seconds)

    assert SUMMARY["time_to_first_token"]["p50"] == ms(statistics.median(trace.ttft for trace in traces))
    assert SUMMARY["inter_token_latency"]["avg"] == ms(statistics.fmean(trace.decode / 15 for trace in traces))
    gaps = [gap for trace in traces for gap in trace.gaps]
    assert SUMMARY["inter_chunk_latency"]["p50"] == ms(statistics.median(gaps))
    assert SUMMARY["request_latency"]["avg"] == ms(statistics.fmean(trace.ended - trace.sent for trace in traces))


@pytest.mark.parametrize(("unit", "factor"), [("ns", 1e6), ("us", 1e3), ("ms", 1), ("sec", 1e-3)])
def test_a_time_is_read_in_its_unit(one, unit, factor):
    def change(metrics):
        metrics["time_to_first_token"] = {"value": metrics["time_to_first_token"]["value"] * factor, "unit": unit}

    assert [trace.ttft for trace in one(each(change)).traces] == pytest.approx([trace.ttft for trace in one().traces])


def test_an_unknown_unit_is_refused(one):
    with pytest.raises(ForeignError, match=r"time_to_first_token\.unit: expected one of ns, us, ms, .* not 'min'"):
        one(each(lambda metrics: metrics["time_to_first_token"].update(unit="min")))


def test_without_chunk_gaps_only_the_first_and_the_last_token_are_known(one):
    run = one(each(lambda metrics: metrics.pop("inter_chunk_latency")))
    assert run.gaps is not None
    assert "inter_chunk_latency" in run.gaps.reason
    assert {len(trace.arrivals) for trace in run.traces} == {2}
    assert {trace.output_tokens for trace in run.traces} == {16}


def test_one_token_has_no_gaps_to_lack(one):
    def change(metrics):
        del metrics["inter_chunk_latency"]
        metrics["request_latency"] = metrics["time_to_first_token"]
        metrics["usage_completion_tokens"]["value"] = 1

    run = one(each(change))
    assert run.gaps is None
    assert {(len(trace.arrivals), trace.output_tokens) for trace in run.traces} == {(1, 1)}


def test_gaps_that_are_not_those_between_the_first_token_and_the_last_are_refused(one):
    with pytest.raises(ForeignError, match=r"inter_chunk_latency: gaps of 0\.\d+ s in all, in 0\.\d+ s of decode"):
        one(each(lambda metrics: metrics["inter_chunk_latency"]["value"].pop()))


def test_a_last_token_before_the_first_is_refused(one):
    with pytest.raises(ForeignError, match=r"request_latency: 0\.001 s, before the first token"):
        one(each(lambda metrics: metrics["request_latency"].update(value=1.0)))


def test_an_answer_that_was_not_streamed_is_refused(one):
    with pytest.raises(
        ForeignError, match=r"time_to_first_token: is missing: the answer was not streamed; .* --streaming"
    ):
        one(each(lambda metrics: metrics.pop("time_to_first_token")))


def test_the_servers_count_of_tokens_goes_before_aiperfs_and_the_lack_of_it_is_told(one):
    run = one(each(lambda metrics: metrics["output_sequence_length"].update(value=99)))
    assert {trace.output_tokens for trace in run.traces} == {16}
    run = one(each(lambda metrics: metrics.pop("usage_completion_tokens")))
    assert {trace.output_tokens for trace in run.traces} == {16}
    assert any("--use-server-token-count" in note for note in run.notes)


def test_warm_up_is_left_out_failures_are_named_and_cancelled_requests_told(one):
    def change(lines):
        lines[0]["metadata"]["benchmark_phase"] = "warmup"
        lines[1]["error"] = {"code": 503, "type": "Service Unavailable", "message": "overloaded"}
        lines[2]["error"] = {"code": None, "type": "TimeoutError", "message": "no answer"}
        lines[3]["metadata"]["was_cancelled"] = True
        lines[3]["error"] = {"code": 499, "type": "RequestCancellationError", "message": "cancelled"}
        for line in lines[1:4]:
            line["metrics"] = {}

    run = one(change)
    assert len(run.traces) == 8
    assert [failure.outcome for failure in run.failures] == [Outcome.SERVER_ERROR, Outcome.TIMED_OUT]
    assert run.notes == ("1 request cancelled by AIPerf: neither answered nor failed",)


def test_a_rate_counts_from_when_a_request_was_due(one):
    def change(lines):
        for line in lines:
            line["metadata"]["credit_issued_ns"] = line["metadata"]["request_start_ns"] - 20_000_000

    def rate(summary):
        summary["input_config"]["phases"] = [{"name": "profiling", "type": "constant", "rate": 8.0, "concurrency": 64}]

    run = one(change, rate)
    assert (run.load.rate, run.load.constant, run.label) == (8.0, True, "rate 8")
    assert {round(trace.lag, 6) for trace in run.traces} == {0.02}
    assert run.traces[0].ttft == pytest.approx(one().traces[0].ttft + 0.02)


def test_phases_are_runs_of_their_own(tmp_path):
    def change(lines):
        for line in lines[6:]:
            line["metadata"]["phase_name"] = "peak"

    def phases(summary):
        [phase] = summary["input_config"]["phases"]
        summary["input_config"]["phases"] = [phase, {**phase, "name": "peak", "concurrency": 64}]

    runs = read(aiperf(tmp_path / "run", change, phases))
    assert [(run.label, run.load.concurrency, len(run.traces)) for run in runs] == [
        ("profiling", 4, 6),
        ("peak", 64, 6),
    ]


def test_the_load_is_that_of_the_phase_that_counts(one):
    def phases(summary):
        [phase] = summary["input_config"]["phases"]
        summary["input_config"]["phases"] = [{**phase, "name": "warmup", "concurrency": 1}, phase]

    assert one(lambda lines: None, phases).load.concurrency == 4


def test_records_without_their_summary_say_what_is_not_known(tmp_path):
    path = aiperf(tmp_path / "run")
    path.with_name("profile_export_aiperf.json").unlink()
    (run,) = read(path)
    assert (run.tool, run.model, run.url, run.load.concurrency) == ("AIPerf", "", "", None)
    assert any("profile_export_aiperf.json is not beside the file" in note for note in run.notes)


def test_a_summary_by_the_prefix_of_the_records_is_found(tmp_path):
    path = aiperf(tmp_path / "run")
    path.with_name("profile_export_aiperf.json").rename(path.with_name("mine.json"))
    path = path.rename(path.with_name("mine.jsonl"))
    (run,) = read(path)
    assert run.model == "paced"


def test_a_run_that_is_not_complete_is_refused(one):
    with pytest.raises(ForeignError, match="the run is not complete: records stalled"):
        one(lambda lines: None, lambda summary: summary.update(is_complete=False, incomplete_reason="records stalled"))


def test_the_summary_alone_and_raw_records_are_refused_with_the_file_to_take(tmp_path):
    with pytest.raises(ForeignError, match=r"holds totals: import profile_export\.jsonl beside it"):
        read(AIPERF.with_name("profile_export_aiperf.json"))
    raw = tmp_path / "profile_export_raw.jsonl"
    raw.write_text(json.dumps({"metadata": {}, "start_perf_ns": 1, "responses": []}))
    with pytest.raises(ForeignError, match=r"holds raw responses: import profile_export\.jsonl beside it"):
        read(raw)


def test_requests_of_the_warm_up_alone_are_refused(one):
    with pytest.raises(ForeignError, match="requests of the warm-up alone"):
        one(lambda lines: [line["metadata"].update(benchmark_phase="warmup") for line in lines])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metrics: metrics.pop("request_latency"), "record 0.metrics.request_latency: is missing"),
        (
            lambda metrics: metrics.update(request_latency=5),
            "record 0.metrics.request_latency: expected an object, not 5",
        ),
        (
            lambda metrics: metrics["time_to_first_token"].update(value=float("nan")),
            "record 0.metrics.time_to_first_token.value: expected a number of at least 0, not NaN",
        ),
        (
            lambda metrics: metrics["inter_chunk_latency"]["value"].__setitem__(3, -1.0),
            "record 0.metrics.inter_chunk_latency.value.3: expected a number of at least 0, not -1.0",
        ),
        (
            lambda metrics: metrics["usage_prompt_tokens"].update(value=0),
            "record 0.metrics.usage_prompt_tokens.value: expected a whole number of at least 1, not 0",
        ),
    ],
)
def test_a_value_that_is_none_is_told_with_its_place(one, change, message):
    with pytest.raises(ForeignError) as raised:
        one(each(change))
    assert message in str(raised.value)
