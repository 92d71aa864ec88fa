"""What came back for one request, exactly as it came: it is read when nobody waits for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.model import Failure, Outcome

_WIDTH = 200
"""Characters of a server's own words that a message quotes."""
_SHORTEST_SECRET = 4
"""What is shorter keeps no secret, and hiding it would take its letters out of every message."""


@dataclass
class Reply:
    """The body of an answer in pieces, with the clock's time of each.

    Args:
        sent: when the request was handed to its connection, which was open by then.
        pieces: as the network delivered them: events may be split across them, and several may be in one.
            The body of a refusal is here too.
        failure: why it is not a whole answer, where the connection, the status or the time said so.
        secrets: what no message may show, even if the server repeats it.
    """

    sent: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list, repr=False)
    failure: Failure | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def body(self) -> bytes:
        """All of its pieces."""
        return b"".join(piece for _, piece in self.pieces)

    def failed(self, outcome: Outcome, detail: str) -> Failure:
        """The failure that it is, told in a line and without its secrets."""
        return Failure(outcome, in_a_line(detail, self.secrets))


def in_a_line(words: str, secrets: Iterable[str] = ()) -> str:
    """A server's words as a message can quote them: without secrets and control characters, in one line, and cut."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
                words = words.replace(form, "***")
    line = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", words).strip()
    line = line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


def complaint(body: str) -> str:
    """What a server says is wrong: the message of an error in JSON, in the shapes that are usual, or the bare text."""
    record = parsed(body)
    if record is None:
        return re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>", " ", body)
    try:
        return _complaint(record) or body
    except RecursionError:
        return body


def parsed(text: str | bytes) -> Any:
    """JSON as plain data; None where it is none, or is nested deeper than anyone means it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _complaint(said: Any) -> str:
    if isinstance(said, str):
        return said
    if isinstance(said, list):  # of fields that were refused, one by one
        return "; ".join(filter(None, map(_complaint, said)))
    if not isinstance(said, dict):
        return ""
    if "msg" in said:
        parts = said.get("loc")
        place = ".".join(str(part) for part in parts if part != "body") if isinstance(parts, list) else ""
        return f"{place}: {said['msg']}" if place else str(said["msg"])
    return next((words for name in ("error", "message", "detail") if (words := _complaint(said.get(name)))), "")
