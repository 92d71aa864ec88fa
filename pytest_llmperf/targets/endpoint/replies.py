"""What came back for one request, exactly as it came: it is read when nobody waits for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_llmperf.model import Failure


@dataclass
class Reply:
    """The body of an answer in pieces, with the clock's time of each.

    Args:
        sent: when the request was handed to the connection.
        pieces: as the network delivered them: events may be split across them, and several may be in one.
        failure: why it is not a whole answer, where the connection, the status or the time said so.
    """

    sent: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    failure: Failure | None = None
