"""Whether anything answers at a URL."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from pytest_llmperf.units import short_duration

PATIENCE_S = 5.0
_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


def what_is_amiss(url: str, patience: float = PATIENCE_S) -> str:
    """Why GET does not answer 200 within so many seconds; empty where it does.

    No proxy is asked, which does not reach this machine, and no redirection is followed.
    """
    parts = urlsplit(url)
    late = time.monotonic() + patience
    connection = _CONNECTIONS[parts.scheme](parts.hostname or "", parts.port, timeout=patience)
    hanging_up = threading.Timer(patience, _hang_up, [connection])  # of a server that says a byte now and then
    hanging_up.daemon = True
    hanging_up.start()
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}")
        with connection.getresponse() as answer:
            status, reason = answer.status, answer.reason
    except http.client.HTTPException as error:
        return f"gives no answer that HTTP knows ({type(error).__name__}: {error})"
    except (OSError, ValueError) as error:
        return f"gives no answer ({error})"
    finally:
        hanging_up.cancel()
        hanging_up.join()
        connection.close()
    if time.monotonic() >= late:
        return f"gives no whole answer within {short_duration(patience)}"
    return "" if status == http.HTTPStatus.OK else f"answers {status} ({reason})"


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_S):
            return True
    except OSError:
        return False


def _hang_up(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with suppress(OSError):  # it is closed by now
            connection.sock.shutdown(socket.SHUT_RDWR)
