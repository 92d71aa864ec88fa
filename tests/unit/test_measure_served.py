"""Measuring what is asked over a network, by a fake that is not."""

from __future__ import annotations

import itertools

from pytest_llmperf.gate import Evidence
from pytest_llmperf.judge import judge
from pytest_llmperf.limits import parse
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Environment, Failure, Limit, Outcome, Unknown, Workload
from pytest_llmperf.results import Verdict
from pytest_llmperf.settings import Settings
from pytest_llmperf.targets import Served
from tests.fakes import FakeClock, FakeServer, FakeTarget

LOAD = Workload(8, 4, concurrency=2)
SERVED = Environment(device="served:somewhere")
FAILED = Failure(Outcome.SERVER_ERROR, "HTTP 500")


def measured(*limits: Limit, **fields):
    target = FakeServer(FakeClock(), **fields)
    return measure(
        target, LOAD, Effort(rounds=3), 2.0, clock=target.clock, environment=SERVED, objectives=limits, price_per_hour=1
    )


def judged(measurement, *limits: str):
    return judge(Evidence("t.py::t", measurement, Settings(tuple(map(parse, limits)))), None)


def test_the_fake_is_a_served_target() -> None:
    assert isinstance(FakeServer(FakeClock()), Served)
    assert not isinstance(FakeTarget(FakeClock()), Served)


def test_a_round_is_all_requests_of_the_load() -> None:
    seen = measured()
    assert [len(taken.traces) for taken in seen.rounds] == [2, 2, 2]
    assert len(seen.ttft_ms.samples) == 6
    assert seen.failed_share == 0
    assert seen.cost_per_million_tokens is not None


def test_its_insides_are_out_of_sight_and_its_memory_is_that_of_its_processes() -> None:
    seen = measured()
    assert seen.peak_rss_mib == 3
    assert "out of sight" in seen.unknown["ops_per_token"]
    assert isinstance(seen.memory.weights, Unknown)


def test_a_server_that_was_running_has_no_load_and_no_cold_request() -> None:
    seen = measured()
    assert seen.load_s is None
    assert seen.cold_ttft_ms is None
    assert "was running before" in seen.unknown["load_s"]


def test_goodput_is_by_the_limits_that_it_is_told() -> None:
    assert measured(parse("ttft_ms < 1000")).goodput_per_s > 0
    assert measured(parse("ttft_ms < 1")).goodput_per_s == 0


def test_what_was_asked_otherwise_is_noted() -> None:
    assert measured().notes == ("asked without seed: the server refuses it",)


def test_a_client_that_cannot_keep_up_is_noted() -> None:
    assert "the client, not the server, may be the bottleneck" in measured(client_lag=0.0042).notes[1]
    assert "4.20 ms" in measured(client_lag=0.0042).notes[1]
    assert len(measured(client_lag=0.0009).notes) == 1


def test_requests_that_were_sent_late_are_noted() -> None:
    assert "sent 6 requests later than due, by up to 25 ms" in measured(sent_late=0.025).notes[1]


def test_notes_reach_the_report() -> None:
    assert judged(measured()).notes == measured().notes


# Failures


def failing(*rounds: int):
    """After its warm-up, so many requests fail in each round."""
    return itertools.chain([()] * 2, ((FAILED,) * count for count in rounds))


def test_one_failed_request_fails_the_test_and_says_of_what() -> None:
    result = judged(measured(failures=failing(0, 1, 0)))
    (row,) = [row for row in result.rows if row.metric == "failed_share"]
    assert (row.verdict, row.limit) == (Verdict.BROKEN, "<= 0")
    assert row.value == 1 / 7
    assert row.note.endswith("1 × server error (HTTP 500)")


def test_a_limit_says_how_many_may_fail() -> None:
    result = judged(measured(failures=failing(0, 1, 0)), "failed_share < 0.2")
    assert result.verdict is Verdict.OK
    (row,) = [row for row in result.rows if row.metric == "failed_share"]
    assert row.note == "1 × server error (HTTP 500)"


def test_where_nothing_fails_nothing_is_judged_of_it() -> None:
    (row,) = [row for row in judged(measured()).rows if row.metric == "failed_share"]
    assert (row.verdict, row.note) == (None, "")
