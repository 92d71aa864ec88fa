"""What is asked of a server, and what its events are read as: tokens are counted, events are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_llmperf.model import Failure, Outcome, Trace, Unknown
from pytest_llmperf.targets.endpoint.dialects import DIALECTS, answer, body, read
from pytest_llmperf.targets.endpoint.replies import Reply
from tests.servers import DONE, delta, event, text, usage

COMPLETIONS, CHAT, TRITON = (DIALECTS[name] for name in ("completions", "chat", "triton"))
ALL = [wish.name for wish in COMPLETIONS.wishes]


def reply(*pieces: bytes, failure: Failure | None = None) -> Reply:
    """Sent at 10; its pieces come at 11, 12, …"""
    return Reply(10.0, [(11.0 + index, piece) for index, piece in enumerate(pieces)], failure)


def traced(had: Trace | Failure) -> Trace:
    assert isinstance(had, Trace), had
    return had


def with_usage(words: str, used: int, **more: Any) -> bytes:
    return event({"choices": [{"text": words, **more}], "usage": {"prompt_tokens": 4, "completion_tokens": used}})


def test_completions_takes_text_or_ids() -> None:
    assert body(COMPLETIONS, "gpt2", "on", 8) == {"model": "gpt2", "prompt": "on", "max_tokens": 8, "stream": True}
    assert body(COMPLETIONS, "gpt2", (5, 6), 8)["prompt"] == [5, 6]


def test_chat_is_one_message_of_a_user() -> None:
    assert body(CHAT, "gpt2", "on", 8) == {
        "model": "gpt2",
        "messages": [{"role": "user", "content": "on"}],
        "max_tokens": 8,
        "stream": True,
    }


def test_triton_has_its_model_in_the_path() -> None:
    assert TRITON.path("ensemble") == "v2/models/ensemble/generate_stream"
    assert body(TRITON, "ensemble", "on", 8, ALL) == {
        "text_input": "on",
        "max_tokens": 8,
        "stream": True,
        "ignore_eos": True,
        "min_tokens": 8,
        "temperature": 0,
    }


def test_a_body_has_the_wishes_that_were_granted() -> None:
    plain = body(COMPLETIONS, "gpt2", "on", 8)
    asked = body(COMPLETIONS, "gpt2", "on", 8, ALL)
    assert {name: value for name, value in asked.items() if name not in plain} == {
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        "ignore_eos": True,
        "min_tokens": 8,
        "generation_config": '{"do_sample": false, "eos_token_id": -1, "max_new_tokens": 8}',
        "temperature": 0,
    }
    assert body(COMPLETIONS, "gpt2", "on", 8, ["usage"])["stream_options"] == {"include_usage": True}


def test_every_wish_is_named_by_the_words_of_a_refusal() -> None:
    for dialect in DIALECTS.values():
        for wish in dialect.wishes:
            asked = json.dumps(body(dialect, "gpt2", "on", 8, ["usage", wish.name]))
            assert any(f'"{word}"' in asked for word in wish.words), wish.name


def test_one_token_an_event_is_one_arrival_each() -> None:
    had = traced(read(COMPLETIONS, reply(text("a"), text("b"), text("c", finish_reason="length"), usage(4, 3)), 4, 3))
    assert had.sent == 10
    assert had.arrivals == (11, 12, 13)
    assert (had.counts, had.tokens, had.output_tokens, had.prompt_tokens) == ((), None, 3, 4)
    assert isinstance(had.prefill, Unknown)


def test_role_empty_and_usage_events_are_no_tokens() -> None:
    pieces = [
        delta(role="assistant", content=""),
        delta(content="a"),
        delta(content=None),
        delta(content="b"),
        event({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": 2}}),
        event("[DONE]"),
    ]
    had = traced(read(CHAT, reply(*pieces), 4, 2))
    assert had.arrivals == (12, 14)
    assert had.ended == 14  # and not when it was said to be the end


@pytest.mark.parametrize("part", ["reasoning_content", "reasoning", "refusal"])
def test_what_a_model_thinks_is_made_of_tokens_too(part: str) -> None:
    had = traced(read(CHAT, reply(delta(**{part: "hm"}), delta(content="a"), usage(4, 2)), 4, 2))
    assert had.arrivals == (11, 12)


def test_the_call_of_a_tool_is_made_of_tokens_too() -> None:
    call = [{"index": 0, "function": {"name": "look", "arguments": "{}"}}]
    had = traced(read(CHAT, reply(delta(tool_calls=call), delta(content="a"), usage(4, 6)), 4, 6))
    assert (had.arrivals, had.tokens) == ((11, 12), 6)


def test_tokens_of_a_chunk_are_counted_by_their_ids() -> None:
    pieces = [text("a", token_ids=[1]), text("bcd", token_ids=[2, 3, 4]), text("e", token_ids=[5]), usage(4, 5)]
    had = traced(read(COMPLETIONS, reply(*pieces), 4, 5))
    assert (had.arrivals, had.counts, had.tokens) == ((11, 12, 13), (1, 3, 1), None)
    assert had.output_tokens == 5


def test_ids_need_no_usage() -> None:
    had = traced(read(COMPLETIONS, reply(text("a", token_ids=[1]), text("bc", token_ids=[2, 3]), DONE), 4, 3))
    assert had.counts == (1, 2)


def test_a_token_without_text_is_a_token_by_its_id() -> None:
    pieces = [text("", token_ids=[0]), text("a", token_ids=[1]), text("", token_ids=[]), usage(4, 2)]
    assert traced(read(COMPLETIONS, reply(*pieces), 4, 2)).arrivals == (11, 12)


def test_tokens_of_a_chunk_are_counted_by_usage_that_grows() -> None:
    pieces = [with_usage("", 0), with_usage("a", 1), with_usage("bcd", 4), with_usage("", 5), usage(4, 5), DONE]
    had = traced(read(COMPLETIONS, reply(*pieces), 4, 5))
    assert (had.arrivals, had.counts) == ((12, 13, 14), (1, 3, 1))


def test_counts_that_contradict_the_total_are_not_believed() -> None:
    """Usage of zero in every event, or ids of some tokens only."""
    zeros = [with_usage("a", 0), with_usage("b", 0), usage(4, 3)]
    had = traced(read(COMPLETIONS, reply(*zeros), 4, 3))
    assert (had.arrivals, had.counts, had.tokens) == ((11, 12), (), 3)
    some = [text("a", token_ids=[1]), text("bc", token_ids=[2]), usage(4, 3)]
    had = traced(read(COMPLETIONS, reply(*some), 4, 3))
    assert (had.arrivals, had.counts, had.tokens) == ((11, 12), (), 3)


def test_text_that_brings_no_token_was_counted_elsewhere() -> None:
    """It is part of the answer, which ends with it."""
    by_ids = [text("a", token_ids=[1, 2]), text("b", token_ids=[]), usage(4, 2), DONE]
    by_usage = [with_usage("a", 2), with_usage("b", 2), DONE]
    for pieces in (by_ids, by_usage):
        assert traced(read(COMPLETIONS, reply(*pieces), 4, 2)).arrivals == (11, 12)


def test_ids_of_some_events_do_not_count_the_others() -> None:
    for last in (usage(4, 2), DONE):
        had = traced(read(COMPLETIONS, reply(text("a", token_ids=[1]), text("b"), last), 4, 2))
        assert had.arrivals == (11, 12)


def test_where_only_the_total_is_known_it_stays_a_total() -> None:
    had = traced(read(COMPLETIONS, reply(text("a"), text("bcd"), usage(4, 4)), 4, 4))
    assert (had.arrivals, had.counts, had.tokens, had.output_tokens) == ((11, 12), (), 4, 4)


@pytest.mark.parametrize(
    "pieces",
    [
        [text("a"), text("b"), text("c"), text("d"), usage(4, 3)],
        [text("a"), text("b"), text("c"), usage(4, 3), text("d")],
        [text("a", token_ids=[1, 2, 3]), *(text("b", token_ids=[]) for _ in range(3)), usage(4, 3)],
        [with_usage("a", 1), with_usage("b", 2), with_usage("c", 3), with_usage("d", 3)],
    ],
)
def test_more_events_than_tokens_are_not_counted(pieces: list[bytes]) -> None:
    """Their gaps are not those of tokens, whatever the total."""
    assert read(COMPLETIONS, reply(*pieces, DONE), 4, 3) == Failure(
        Outcome.UNCOUNTED, "4 events with text, 3 tokens by the server"
    )


def test_a_prompt_of_unknown_length_is_what_the_server_says() -> None:
    assert traced(read(COMPLETIONS, reply(text("a"), usage(7, 1)), None, 1)).prompt_tokens == 7
    assert read(COMPLETIONS, reply(text("a"), DONE), None, 1) == Failure(
        Outcome.UNCOUNTED, "the server sends no usage that would tell the length of the prompt"
    )


@pytest.mark.parametrize(
    ("pieces", "outcome", "detail"),
    [
        (
            [text("a"), text("b", finish_reason="stop"), usage(4, 2)],
            Outcome.STOPPED_EARLY,
            "2 of 3 tokens, finish_reason 'stop'",
        ),
        (
            [text("a"), text("", finish_reason="stop"), DONE],
            Outcome.STOPPED_EARLY,
            "1 of 3 tokens, finish_reason 'stop'",
        ),
        ([text("a"), usage(4, 1)], Outcome.STOPPED_EARLY, "1 of 3 tokens"),
        ([DONE], Outcome.UNCOUNTED, "events with text: 0, tokens asked for: 3; no usage and no token ids to count by"),
        ([text("abcd"), usage(4, 4)], Outcome.TOO_LONG, "4 tokens, 3 asked for"),
        (
            [text("a"), text("b"), DONE],
            Outcome.UNCOUNTED,
            "events with text: 2, tokens asked for: 3; no usage and no token ids to count by",
        ),
        ([text(""), usage(4, 3)], Outcome.UNCOUNTED, "the server counts 3 tokens and shows none of them"),
        ([text("abc"), usage(9, 3)], Outcome.OTHER_PROMPT, "9 tokens by the server, 4 asked for"),
        ([text("a"), text("b")], Outcome.CLOSED, "the stream ended after 2 of 3 tokens"),
        ([with_usage("a", 1), with_usage("b", 2)], Outcome.CLOSED, "the stream ended after 2 of 3 tokens"),
        ([text("a"), text("b")[:-5]], Outcome.CLOSED, "in the middle of an event"),
        ([b": on\n\n"], Outcome.MALFORMED, "no stream of events: : on"),
        ([b" \n"], Outcome.CLOSED, "an empty answer"),
        ([text("a"), event("{"), DONE], Outcome.MALFORMED, "{"),
        ([text("a"), event("[1]"), DONE], Outcome.MALFORMED, "[1]"),
        ([text("a"), event({"error": {"message": "out of memory"}})], Outcome.STREAM_ERROR, "out of memory"),
        ([text("a"), event({"object": "error", "message": "out"})], Outcome.STREAM_ERROR, "out"),
        ([text("a"), b"event: error\n" + event({"message": "out"})], Outcome.STREAM_ERROR, "out"),
        ([text("a"), event('{"error": "not "JSON""}')], Outcome.STREAM_ERROR, '{"error": "not "JSON""}'),
        ([b'{"error": "no"}'], Outcome.STREAM_ERROR, "no"),
        (
            [b'{"choices": [{"text": "a"}]}'],
            Outcome.MALFORMED,
            'the answer is whole and no stream: {"choices": [{"text": "a"}]}',
        ),
        ([b"<html>\n<h1>Hello</h1></html>"], Outcome.MALFORMED, "no stream of events: Hello"),
    ],
)
def test_what_was_not_asked_for_is_a_failure(pieces: list[bytes], outcome: Outcome, detail: str) -> None:
    assert read(COMPLETIONS, reply(*pieces), 4, 3) == Failure(outcome, detail)


@pytest.mark.parametrize("depth", [600, 100_000])
def test_what_is_nested_without_end_is_malformed(depth: int) -> None:
    """Whether it is too deep to be read, or only to be told."""
    deep = "[" * depth + "]" * depth
    for pieces in ([text("a"), event(deep), DONE], [deep.encode()]):
        had = read(COMPLETIONS, reply(*pieces), 4, 3)
        assert isinstance(had, Failure)
        assert had.outcome is Outcome.MALFORMED
    had = read(COMPLETIONS, reply(text("a"), event(f'{{"error": {deep}}}')), 4, 3)
    assert isinstance(had, Failure)


def test_a_reason_to_finish_is_quoted_as_all_words_of_a_server() -> None:
    key = 'sk-"SECRET\\quoted'
    pieces = [text("a", finish_reason=f"stop\n {key} {json.dumps(key)} {'x' * 300}"), usage(4, 1)]
    had = read(COMPLETIONS, Reply(10.0, [(11.0, piece) for piece in pieces], secrets=(key,)), 4, 3)
    assert isinstance(had, Failure)
    assert had.detail.startswith('1 of 3 tokens, finish_reason \'stop *** "***" xxx')
    assert len(had.detail) < 250


@pytest.mark.parametrize("odd", [True, -1, 1.0, 10**30, "3", None])
def test_what_can_be_no_count_is_none(odd: object) -> None:
    said = event({"choices": [], "usage": {"prompt_tokens": odd, "completion_tokens": odd}})
    had = answer(COMPLETIONS, reply(text("a"), said, DONE))
    assert not isinstance(had, Failure)
    assert (had.tokens, had.prompt_tokens) == (None, None)


def test_a_failure_of_the_connection_says_how_far_it_came() -> None:
    gone = Failure(Outcome.TIMED_OUT, "no end within 5 s")
    assert read(COMPLETIONS, reply(text("a"), text(""), text("b")[:9], failure=gone), 4, 3) == Failure(
        Outcome.TIMED_OUT, "no end within 5 s, in the middle of an event"
    )
    assert read(COMPLETIONS, reply(text("a"), failure=gone), 4, 3) == Failure(
        Outcome.TIMED_OUT, "no end within 5 s, events with text so far: 1"
    )


def test_a_refusal_stays_what_it_was() -> None:
    refused = Failure(Outcome.NOT_FOUND, "HTTP 404: no such model")
    assert read(COMPLETIONS, reply(b'{"error": "no such model"}', failure=refused), 4, 3) is refused


def test_an_error_says_more_than_the_connection_that_it_ended() -> None:
    gone = Failure(Outcome.CLOSED, "in mid-answer")
    had = read(COMPLETIONS, reply(text("a"), event({"error": "out of memory"}), failure=gone), 4, 3)
    assert had == Failure(Outcome.STREAM_ERROR, "out of memory")


def test_triton_says_no_more_than_text() -> None:
    part = event({"model_name": "ensemble", "model_version": "1", "text_output": "a"})
    last = event({"model_name": "ensemble", "text_output": ""})
    had = traced(read(TRITON, reply(part, part, last), 4, 2))
    assert (had.arrivals, had.counts, had.prompt_tokens) == ((11, 12), (), 4)
    assert read(TRITON, reply(part, last), 4, 2) == Failure(
        Outcome.UNCOUNTED, "events with text: 1, tokens asked for: 2; no usage and no token ids to count by"
    )
    assert read(TRITON, reply(part, event({"error": "no such tensor"})), 4, 2) == Failure(
        Outcome.STREAM_ERROR, "no such tensor"
    )


def test_an_answer_tells_what_a_server_shows() -> None:
    had = answer(COMPLETIONS, reply(text("ab", token_ids=[1, 2], finish_reason="stop"), usage(7, 2), DONE))
    assert not isinstance(had, Failure)
    assert (had.counts, had.tokens, had.prompt_tokens, had.finish, had.ended) == ((2,), 2, 7, "stop", True)
    silent = answer(COMPLETIONS, reply(text("ab")))
    assert not isinstance(silent, Failure)
    assert (silent.counts, silent.tokens, silent.prompt_tokens, silent.finish, silent.ended) == (
        (),
        None,
        None,
        "",
        False,
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": "a"},
        {"choices": [7]},
        {"choices": [{"delta": "a"}]},
        {"choices": [], "usage": "none"},
        {"choices": [], "usage": {"completion_tokens": "3"}},
        {"choices": [{"token_ids": 5}]},
        {"choices": [{"finish_reason": ["stop"]}]},
        {"type": "ping"},
        "",
    ],
)
def test_events_of_odd_shape_are_no_tokens(odd: dict[str, Any] | str) -> None:
    for dialect, part in ((COMPLETIONS, text("a")), (CHAT, delta(content="a"))):
        assert traced(read(dialect, reply(part, usage(4, 1), event(odd)), 4, 1)).arrivals == (11,)
