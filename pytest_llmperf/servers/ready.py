"""Whether anything answers at a URL."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request

_PATIENCE_S = 5.0


def what_is_amiss(url: str) -> str:
    """Why GET does not answer 200; empty where it does."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not reach this machine
    try:
        with direct.open(url, timeout=_PATIENCE_S) as answer:
            status, reason = answer.status, answer.reason
    except urllib.error.HTTPError as error:
        with error:
            status, reason = error.code, error.reason
    except urllib.error.URLError as error:
        return f"gives no answer ({error.reason})"
    except (OSError, http.client.HTTPException) as error:
        return f"gives no answer that HTTP knows ({type(error).__name__}: {error})"
    return "" if status == http.HTTPStatus.OK else f"answers {status} ({reason})"


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S):
            return True
    except OSError:
        return False
