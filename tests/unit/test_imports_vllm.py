"""What `vllm bench serve` writes, as runs: what it calls a token's time, and what cannot be told from it."""

from __future__ import annotations

import math

import pytest

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports import read
from pytest_llmperf.model import Outcome
from tests.foreign import vllm


@pytest.fixture
def one(tmp_path):
    """The single run of a file with these columns."""

    def read_one(**columns):
        (run,) = read(vllm(tmp_path / "run.json", **columns))
        return run

    return read_one


def gaps(trace):
    return [round(gap, 6) for gap in trace.gaps]


def test_every_event_is_an_arrival_and_the_starts_are_kept(one):
    run = one(ttfts=[0.05] * 12, itls=[[0.01, 0.02, 0.03]] * 12)
    assert (run.tool, run.model, run.gaps, run.starts) == ("vllm bench serve", "gpt2", None, None)
    first, second = run.traces[:2]
    assert first.ttft == pytest.approx(0.05)
    assert gaps(first) == [0.01, 0.02, 0.03]
    assert (first.prompt_tokens, first.output_tokens, first.tokens) == (32, 4, None)
    assert second.sent - first.sent == pytest.approx(0.1)


def test_traces_are_in_the_order_in_which_they_were_sent(one):
    run = one(start_times=[float(100 - number) for number in range(12)])
    assert [trace.sent for trace in run.traces] == sorted(float(100 - number) for number in range(12))


def test_several_tokens_in_an_event_leave_gaps_between_events_and_the_count_of_tokens(one):
    run = one(itls=[[0.03]] * 12, output_lens=[4] * 12)
    assert gaps(run.traces[0]) == [0.03]
    assert run.traces[0].tokens == 4


def test_the_event_that_ends_a_completion_is_no_token(one):
    run = one(itls=[[0.01, 0.01, 0.01, 0.5]] * 12)
    assert gaps(run.traces[0]) == [0.01] * 3
    assert run.traces[0].ended - run.traces[0].sent == pytest.approx(0.08)


@pytest.mark.parametrize("ending", [[], [0.5]])
def test_the_role_of_a_chat_is_no_token_and_ttft_is_that_of_the_next_event(one, ending):
    run = one(endpoint_type="openai-chat", ttfts=[0.001] * 12, itls=[[0.049, 0.01, 0.01, 0.01, *ending]] * 12)
    assert run.traces[0].ttft == pytest.approx(0.05)
    assert gaps(run.traces[0]) == [0.01] * 3
    assert any("role" in note for note in run.notes)


def test_the_role_of_a_chat_whose_events_hold_several_tokens_is_no_token_either(one):
    run = one(endpoint_type="openai-chat", ttfts=[0.001] * 12, itls=[[0.049, 0.03]] * 12)
    assert run.traces[0].ttft == pytest.approx(0.05)
    assert gaps(run.traces[0]) == [0.03]
    assert run.traces[0].tokens == 4


def test_a_chat_of_one_event_per_token_is_taken_as_it_is(one):
    run = one(endpoint_type="openai-chat")
    assert run.traces[0].ttft == pytest.approx(0.05)
    assert run.notes == ()


def test_more_events_than_tokens_are_refused(one):
    with pytest.raises(ForeignError, match=r"request 0\.itls: 6 events for 4 tokens"):
        one(itls=[[0.01] * 5] * 12)


def test_failures_are_named_and_are_no_traces(one):
    errors = ["Too Many Requests", "Traceback (most recent call last):\n  …\nTimeoutError", ""] + [""] * 9
    run = one(
        errors=errors, output_lens=[0, 0, 0] + [4] * 9, ttfts=[0.0] * 3 + [0.05] * 9, itls=[[]] * 3 + [[0.01] * 3] * 9
    )
    assert [failure.outcome for failure in run.failures] == [
        Outcome.RATE_LIMITED,
        Outcome.TIMED_OUT,
        Outcome.MALFORMED,
    ]
    assert run.failures[1].detail == "TimeoutError"
    assert len(run.traces) == 9


def test_an_answer_that_was_not_streamed_is_refused(one):
    with pytest.raises(ForeignError, match=r"request 0\.ttfts: 0, for an answer of tokens: it was not streamed"):
        one(ttfts=[0.0] * 12)


def test_without_starts_only_what_is_of_a_single_request_is_known(one):
    run = one(start_times=None, queue_times=None)
    assert run.starts is not None
    assert "start_times" in run.starts.reason
    assert run.traces[0].ttft == pytest.approx(0.05)


def test_a_rate_counts_from_when_a_request_was_due(one):
    run = one(request_rate=8, max_concurrency=4, queue_times=[0.2] * 12)
    assert run.load.rate == 8
    assert run.traces[0].lag == pytest.approx(0.2)
    assert run.traces[0].ttft == pytest.approx(0.25)
    assert any("at most 4" in note for note in run.notes)


def test_waiting_for_a_place_at_a_concurrency_is_no_part_of_a_request(one):
    run = one(queue_times=[0.2] * 12)
    assert run.load.concurrency == 4
    assert (run.traces[0].ttft, run.traces[0].lag) == (pytest.approx(0.05), 0.0)


def test_all_at_once_is_the_concurrency_of_their_number(one):
    assert one(max_concurrency=None).load.concurrency == 12


def test_what_shapes_the_load_beside_its_rate_is_told(one):
    run = one(request_rate=8, max_concurrency=None, burstiness=4.0, ramp_up_strategy="linear")
    assert [note.split(" ")[-2:] for note in run.notes] == [["is", "Poisson's"], ["the", "way"]]


def test_results_appended_to_a_file_are_runs_of_their_own(tmp_path):
    files = [vllm(tmp_path / f"{most}.json", max_concurrency=most) for most in (1, 8)]
    together = tmp_path / "all.json"
    together.write_text("\n".join(path.read_text() for path in files))
    assert [run.label for run in read(together)] == ["concurrency 1", "concurrency 8"]


@pytest.mark.parametrize("column", ["ttfts", "itls", "input_lens", "output_lens", "errors"])
def test_totals_alone_are_refused_with_the_fix(one, column):
    with pytest.raises(ForeignError, match=rf"has no {column}: .* with --save-detailed"):
        one(**{column: None})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ttfts": [0.05] * 11}, "columns of different lengths (ttfts 11, itls 12"),
        ({"ttfts": [math.nan] * 12}, "request 0.ttfts: expected a number of at least 0, not NaN"),
        ({"ttfts": [-0.05] * 12}, "request 0.ttfts: expected a number of at least 0, not -0.05"),
        ({"ttfts": ["0.05"] * 12}, 'request 0.ttfts: expected a number of at least 0, not "0.05"'),
        ({"itls": [[0.01, math.inf]] * 12}, "request 0.itls.1: expected a number of at least 0, not Infinity"),
        ({"itls": [0.01] * 12}, "request 0.itls: expected a list, not 0.01"),
        ({"itls": [[None]] * 12}, "request 0.itls.0: expected a number of at least 0, not null"),
        ({"output_lens": [3.5] * 12}, "request 0.output_lens: expected a whole number of at least 0, not 3.5"),
        ({"output_lens": [True] * 12}, "request 0.output_lens: expected a whole number of at least 0, not true"),
        ({"input_lens": [0] * 12}, "request 0.input_lens: expected a whole number of at least 1, not 0"),
        ({"start_times": [10**400] * 12}, "request 0.start_times: expected a number of at least 0"),
        ({"errors": [["x"]] * 12}, "request 0.errors: expected a text, not a list of 1"),
        ({"ttfts": {}}, "run.json.ttfts: expected a list, not an object of 0"),
        ({"request_rate": 0}, "run.json.request_rate: expected a number above 0, not 0"),
        ({"request_rate": -1}, "run.json.request_rate: expected a number of at least 0, not -1"),
        ({"max_concurrency": 0}, "run.json.max_concurrency: expected a whole number of at least 1, not 0"),
    ],
)
def test_a_value_that_is_none_is_told_with_its_place(one, columns, message):
    with pytest.raises(ForeignError) as raised:
        one(**columns)
    assert message in str(raised.value)
