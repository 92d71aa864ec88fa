"""How a request failed, out of what another tool kept of it."""

from __future__ import annotations

import pytest

from pytest_llmperf.imports.failures import failure
from pytest_llmperf.model import Outcome

TRACEBACK = """Traceback (most recent call last):
  File "client.py", line 10, in send
aiohttp.client_exceptions.{}
"""


@pytest.mark.parametrize(
    ("said", "status", "outcome"),
    [
        ("Unauthorized", None, Outcome.UNAUTHORIZED),
        ("Forbidden", None, Outcome.UNAUTHORIZED),
        ("Not Found", None, Outcome.NOT_FOUND),
        ("Too Many Requests", None, Outcome.RATE_LIMITED),
        ("Bad Request", None, Outcome.BAD_REQUEST),
        ("Internal Server Error", None, Outcome.SERVER_ERROR),
        ("Service Unavailable", None, Outcome.SERVER_ERROR),
        ("Server error '502 Bad Gateway' for url 'http://llm/v1'", None, Outcome.SERVER_ERROR),
        ("anything", 429, Outcome.RATE_LIMITED),
        ("anything", 422, Outcome.BAD_REQUEST),
        ("anything", 599, Outcome.SERVER_ERROR),
        ("ConnectTimeout", None, Outcome.TIMED_OUT),
        ("the request timed out", None, Outcome.TIMED_OUT),
        ("TimeoutError", 0, Outcome.TIMED_OUT),
        (TRACEBACK.format("ClientConnectorError: Cannot connect to host llm:8000"), None, Outcome.UNREACHABLE),
        (TRACEBACK.format("ServerDisconnectedError: Server disconnected"), None, Outcome.CLOSED),
        (TRACEBACK.format("ClientPayloadError: Response payload is not completed"), None, Outcome.CLOSED),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", None, Outcome.CLOSED),
        ("Never received a valid chunk to calculate TTFT.", None, Outcome.MALFORMED),
        ("", None, Outcome.MALFORMED),
    ],
)
def test_words_and_statuses_are_outcomes(said, status, outcome):
    assert failure(said, status).outcome is outcome


def test_the_last_line_is_the_detail_and_is_not_long():
    assert (
        failure(TRACEBACK.format("ClientPayloadError: cut")).detail
        == "aiohttp.client_exceptions.ClientPayloadError: cut"
    )
    assert len(failure("x" * 1000).detail) == 200


def test_a_name_and_password_in_a_url_are_left_out():
    assert (
        failure("cannot reach https://me:secret@llm.example.org/v1").detail == "cannot reach https://llm.example.org/v1"
    )
