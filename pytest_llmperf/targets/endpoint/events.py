"""Server-sent events, read out of the pieces of a body after the last of them has come.

A stream is lines, ended by CR, LF or both. A line that begins with a colon is a comment, `data:` adds a line to the
event's text, `event:` names it, and a blank line ends it. Other fields say nothing of tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n|\Z)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event.

    Args:
        time: of the piece in which it became whole.
        name: what `event:` said.
    """

    time: float
    data: str
    name: str = ""


def events(pieces: Sequence[tuple[float, bytes]]) -> list[Event]:
    """All events of a body. What stands after its last blank line counts as one, as some servers end without."""
    return list(_events(pieces))


def _events(pieces: Sequence[tuple[float, bytes]]) -> Iterator[Event]:
    body = b"".join(piece for _, piece in pieces)
    ends = list(accumulate(len(piece) for _, piece in pieces))
    data: list[bytes] = []
    name = b""
    for line in _LINE.finditer(body, len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0):
        text = line[1]
        if text:
            field, _, value = text.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
        else:  # also where the body ends
            if data:
                whole = min(line.end(1), len(body) - 1)
                time = pieces[bisect_right(ends, whole)][0]
                yield Event(time, b"\n".join(data).decode(errors="replace"), name.decode(errors="replace"))
            data, name = [], b""
