"""Server-sent events out of pieces that are cut anywhere."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.targets.endpoint.events import Event, events

STREAM = (
    '\ufeff: keep-alive\r\n\r\ndata: {"text": "größer"}\r\n\r\n'
    "event: ping\ndata\n\ndata:one\ndata: two\n\nid: 7\nretry: 10\n\n\n"
    'event: error\rdata: {"error": "no 💾"}\r\rdata: [DONE]'
).encode()
READ = ['{"text": "größer"}', "", "one\ntwo", '{"error": "no 💾"}', "[DONE]"]


def read(*pieces: bytes) -> list[Event]:
    return events(list(enumerate(pieces)))


def test_comments_and_other_fields_are_no_events() -> None:
    assert [event.data for event in read(STREAM)] == READ
    assert [event.name for event in read(STREAM)] == ["", "ping", "", "error", ""]


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_events_are_the_same_wherever_the_network_cuts(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    found = read(*(STREAM[start:end] for start, end in pairwise(places)))
    byte_by_byte = read(*(STREAM[place : place + 1] for place in range(len(STREAM))))
    assert [event.data for event in found] == READ
    assert [event.time for event in found] == [bisect_right(places, event.time) - 1 for event in byte_by_byte]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_has_the_time_of_the_piece_that_ends_it(end: bytes) -> None:
    blank = end * 2
    assert read(b"data: a", end, end, b"data: b" + blank + b"data: c" + blank, b"da", b"ta: d" + blank) == [
        Event(2, "a"),
        Event(3, "b"),
        Event(3, "c"),
        Event(5, "d"),
    ]


def test_a_blank_line_is_whole_when_its_first_character_is() -> None:
    assert read(b"data: a\r\n\r", b"\n", b"data: b\r\n\r\n") == [Event(0, "a"), Event(2, "b")]


def test_the_last_event_needs_no_blank_line() -> None:
    assert read(b"data: a\n\n", b"data: b") == [Event(0, "a"), Event(1, "b")]
    assert read(b"data: a\n\n", b"data: b", b"\n") == [Event(0, "a"), Event(2, "b")]


def test_a_byte_order_mark_is_no_part_of_a_field() -> None:
    assert read(b"\xef\xbb", b"\xbfdata: a\n\n") == [Event(1, "a")]


def test_nothing_and_other_text_hold_no_events() -> None:
    assert read() == []
    assert read(b"\n\n") == []
    assert read(b"<html>\n<p>data: of another kind</p>\n\n</html>") == []
    assert read(b'{\n  "error": "text"\n}\n') == []
