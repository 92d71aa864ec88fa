"""How a request failed, out of what another tool kept of it: a status, the words of a status, or an exception."""

from __future__ import annotations

import re
from http import HTTPStatus

from pytest_llmperf.model import Failure, Outcome

_STATUSES = {
    401: Outcome.UNAUTHORIZED,
    403: Outcome.UNAUTHORIZED,
    404: Outcome.NOT_FOUND,
    429: Outcome.RATE_LIMITED,
}
_PHRASES = {status.phrase.lower(): status.value for status in HTTPStatus}
_WORDS = (
    (r"time[d ]*out", Outcome.TIMED_OUT),
    (r"disconnect|reset by peer|broken pipe|incomplete|payload ?error|remoteprotocol|closed", Outcome.CLOSED),
    (r"refused|connect|resolve|unreachable", Outcome.UNREACHABLE),
)
"""Asked in this order: `ConnectTimeout` is a timeout, `ServerDisconnectedError` no failure to connect."""
_LONGEST = 200


def failure(said: str, status: int | None = None) -> Failure:
    """The failure that a tool's words mean.

    Args:
        said: a line, or a traceback, of which the last line tells.
        status: of HTTP, where it is known apart.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    detail = re.sub(r"//[^/@\s]*@", "//", lines[-1])[:_LONGEST] if lines else ""  # no name and password of a url
    return Failure(_outcome(detail, status if status is not None else _status(detail)), detail)


def _status(detail: str) -> int | None:
    named = re.search(r"\b([45]\d\d)\b", detail)
    return int(named[1]) if named else _PHRASES.get(detail.lower())


def _outcome(detail: str, status: int | None) -> Outcome:
    if status is not None and status in _STATUSES:
        return _STATUSES[status]
    if status is not None and 400 <= status < 600:
        return Outcome.BAD_REQUEST if status < 500 else Outcome.SERVER_ERROR
    words = detail.lower()
    return next((outcome for pattern, outcome in _WORDS if re.search(pattern, words)), Outcome.MALFORMED)
