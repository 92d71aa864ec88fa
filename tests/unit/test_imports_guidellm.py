"""GuideLLM's benchmarks, as runs: a real file, and what else may stand in one."""

from __future__ import annotations

import copy
import json
import statistics

import pytest

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports import read
from pytest_llmperf.model import Outcome
from tests.foreign import GUIDELLM, guidellm

METRICS = json.loads(GUIDELLM.read_text())["benchmarks"][0]["metrics"]


@pytest.fixture
def one(tmp_path):
    """The single run of the file, its benchmark changed so."""

    def read_one(change=lambda benchmark: None):
        (run,) = read(guidellm(tmp_path / "benchmarks.json", lambda report: change(report["benchmarks"][0])))
        return run

    return read_one


def each(change):
    """A change of every answered request."""
    return lambda benchmark: [change(request) for request in benchmark["requests"]["successful"]]


def mean(name):
    return pytest.approx(METRICS[name]["successful"]["mean"], abs=0.001)  # its clock has a quarter of a microsecond


def test_the_figures_of_a_real_file_are_guidellms_own_but_for_its_tpot(one):
    run = one()
    assert (run.tool, run.model, run.url) == ("GuideLLM 0.8.1", "paced", "http://127.0.0.1:8766")
    assert (run.load.concurrency, run.label) == (4, "concurrent@4")
    assert (run.notes, run.failures, run.starts) == ((), (), None)
    traces = run.traces
    assert {(trace.prompt_tokens, trace.output_tokens) for trace in traces} == {(32, 16)}
    tpot = 1e3 * statistics.fmean(trace.decode / 15 for trace in traces)
    assert 1e3 * statistics.fmean(trace.ttft for trace in traces) == mean("time_to_first_token_ms")
    assert tpot == mean("inter_token_latency_ms")
    assert tpot != mean("time_per_output_token_ms")


def test_single_gaps_are_not_known(one):
    run = one()
    assert run.gaps is not None
    assert "keeps no single gaps" in run.gaps.reason
    assert {len(trace.arrivals) for trace in run.traces} == {2}


def test_latency_ends_at_the_last_token_and_not_with_the_request(one):
    trace = one().traces[0]
    request = min(
        json.loads(GUIDELLM.read_text())["benchmarks"][0]["requests"]["successful"],
        key=lambda request: request["info"]["timings"]["request_start"],
    )
    timings = request["info"]["timings"]
    assert trace.ended == timings["last_token_iteration"] < timings["request_end"]


@pytest.mark.parametrize(
    ("strategy", "label", "load"),
    [
        ({"type_": "synchronous"}, "synchronous", (1, None, False)),
        ({"type_": "concurrent", "streams": 8}, "concurrent@8", (8, None, False)),
        ({"type_": "throughput", "max_concurrency": 64}, "throughput@64", (64, None, False)),
        ({"type_": "throughput", "max_concurrency": None}, "throughput", (None, None, False)),
        ({"type_": "constant", "rate": 2.5}, "constant@2.5", (None, 2.5, True)),
        ({"type_": "poisson", "rate": 4.0}, "poisson@4", (None, 4.0, False)),
        ({"type_": "trace"}, "trace", (None, None, False)),
    ],
)
def test_each_strategy_is_a_load(one, strategy, label, load):
    run = one(lambda benchmark: benchmark["config"].update(strategy=strategy))
    assert run.label == label
    assert (run.load.concurrency, run.load.rate, run.load.constant) == load


@pytest.mark.parametrize(("kind", "late"), [("constant", 0.02), ("poisson", 0.02), ("concurrent", 0.0)])
def test_a_rate_counts_from_when_a_request_was_due(one, kind, late):
    def change(benchmark):
        benchmark["config"]["strategy"] = {"type_": kind, "rate": 8.0, "streams": 4}
        for request in benchmark["requests"]["successful"]:
            timings = request["info"]["timings"]
            timings["targeted_start"] = timings["request_start"] - 0.02

    traces = one(change).traces
    assert [trace.lag for trace in traces] == pytest.approx([late] * 12, abs=1e-6)
    assert traces[0].ttft == pytest.approx(one().traces[0].ttft + late, abs=1e-6)


def test_several_benchmarks_are_runs_of_their_own(tmp_path):
    def change(report):
        second = copy.deepcopy(report["benchmarks"][0])
        second["config"]["strategy"]["streams"] = 8
        report["benchmarks"].append(second)

    runs = read(guidellm(tmp_path / "benchmarks.json", change))
    assert [run.label for run in runs] == ["concurrent@4", "concurrent@8"]


def test_failures_are_named_and_what_was_cut_off_is_told(one):
    def change(benchmark):
        answered = benchmark["requests"]["successful"]
        broken = [copy.deepcopy(answered[0]) for _ in range(2)]
        broken[0]["info"]["error"] = "Client error '429 Too Many Requests' for url 'http://me:secret@llm:8000/v1'"
        broken[1]["info"]["error"] = "ReadTimeout"
        benchmark["requests"].update(errored=broken, incomplete=[answered.pop(), answered.pop()])
        benchmark["metrics"]["request_totals"]["successful"] = 10

    run = one(change)
    assert [failure.outcome for failure in run.failures] == [Outcome.RATE_LIMITED, Outcome.TIMED_OUT]
    assert "secret" not in run.failures[0].detail
    assert run.notes == ("2 requests cut off when GuideLLM's time was up: neither answered nor failed",)
    assert run.starts is None


def test_what_was_in_flight_in_the_warm_up_alone_is_left_out(one):
    def change(benchmark):
        ends = sorted(request["request_end_time"] for request in benchmark["requests"]["successful"])
        benchmark["start_time"] = ends[3]

    assert len(one(change).traces) == 9


def test_a_sample_of_the_requests_leaves_the_rates_of_all_unknown(one):
    run = one(lambda benchmark: benchmark["metrics"]["request_totals"].update(successful=1000))
    assert run.starts is not None
    assert run.starts.reason == "GuideLLM kept 12 of 1000 requests (sample_size)"


def test_tokens_that_no_usage_counted_are_told(one):
    run = one(each(lambda request: request["output_metrics"].update(total_tokens=None)))
    assert run.notes == ("the server sent no usage: GuideLLM took every piece of text for one token",)


def test_an_answer_that_was_not_streamed_is_refused(one):
    with pytest.raises(ForeignError, match="first_token_iteration: is missing: the answer was not streamed"):
        one(each(lambda request: request["info"]["timings"].update(first_token_iteration=None)))


def test_times_out_of_order_are_refused(one):
    with pytest.raises(ForeignError, match=r"successful\.0\.info\.timings\.first_token_iteration: -\d"):
        one(each(lambda request: request["info"]["timings"].update(first_token_iteration=1.0)))


def test_one_piece_of_text_is_one_arrival(one):
    def change(request):
        timings = request["info"]["timings"]
        timings["last_token_iteration"] = timings["first_token_iteration"]

    assert {(len(trace.arrivals), trace.output_tokens) for trace in one(each(change)).traces} == {(1, 16)}


def test_the_report_before_this_one_is_read_too(tmp_path):
    (run,) = read(guidellm(tmp_path / "benchmarks.json", lambda report: report["metadata"].update(version=1)))
    assert len(run.traces) == 12


@pytest.mark.parametrize("version", [0, 3, None, "2"])
def test_another_version_of_the_report_is_refused(tmp_path, version):
    path = guidellm(tmp_path / "benchmarks.json", lambda report: report["metadata"].update(version=version))
    with pytest.raises(ForeignError, match=r"metadata\.version: expected 1 or 2, not "):
        read(path)


def test_a_report_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(ForeignError, match="holds no benchmarks"):
        read(guidellm(tmp_path / "benchmarks.json", lambda report: report.update(benchmarks=[])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            each(lambda request: request.update(output_tokens=None)),
            "benchmarks.0.requests.successful.0.output_tokens: is missing",
        ),
        (
            each(lambda request: request["info"]["timings"].update(request_start=float("nan"))),
            "successful.0.info.timings.request_start: expected a number of at least 0, not NaN",
        ),
        (lambda benchmark: benchmark.pop("start_time"), "benchmarks.0.start_time: is missing"),
        (lambda benchmark: benchmark["requests"].pop("successful"), "benchmarks.0.requests.successful: is missing"),
        (lambda benchmark: benchmark.update(requests=[]), "benchmarks.0.requests: expected an object, not a list of 0"),
        (
            lambda benchmark: benchmark["requests"].update(successful=[1]),
            "benchmarks.0.requests.successful.0: expected an object, not 1",
        ),
    ],
)
def test_a_value_that_is_none_is_told_with_its_place(one, change, message):
    with pytest.raises(ForeignError) as raised:
        one(change)
    assert message in str(raised.value)
