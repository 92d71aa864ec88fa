"""`endpoint(url)`: a server that is asked over HTTP, and answers token by token.

Its text form is the url with the options in its query: `http://host:8000/v1?model=gpt2&api=chat`. Headers have
none, since they may hold a secret.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from pytest_llmperf.errors import TargetError, UsageError, did_you_mean
from pytest_llmperf.names import host_name, served_name
from pytest_llmperf.targets.plain import frozen
from pytest_llmperf.targets.protocol import LoadOptions

if TYPE_CHECKING:
    from pytest_llmperf.targets.endpoint.target import EndpointTarget

APIS = ("completions", "chat", "triton")
_PATHS = ("/chat/completions", "/completions", "/generate_stream")
"""What is added to a url, and so must not stand in it."""
_DECIDED = {
    *("model", "prompt", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"),
    *("text_input",),
}
"""Fields of a request that the workload decides."""
_TEXT_OPTIONS = ("model", "api", "api_key_env", "body", "tokenizer", "timeout", "hardware", "base")


@dataclass(frozen=True)
class Endpoint:
    """Names a server; see `endpoint`."""

    url: str
    model: str | None = None
    api: str = "completions"
    api_key_env: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: tuple[tuple[str, Any], ...] = ()
    tokenizer: str | None = None
    timeout: float = 600.0
    hardware: str | None = None
    base: str | None = None
    cacheable = True
    in_process = False

    @property
    def id(self) -> str:
        return self.named(self.model)

    def named(self, model: str | None) -> str:
        """Its id with the model that the server was found to have; a folder goes by its last name."""
        name = served_name(self.host, urlsplit(self.url).port, model)
        return name if self.api == "completions" else f"{name}?api={self.api}"

    def of_base(self) -> Endpoint:
        """The server with the older code, where there is one."""
        return self if self.base is None else dataclasses.replace(self, url=self.base, base=None)

    @property
    def host(self) -> str:
        """Its name; `localhost` for every name of this machine."""
        return host_name(urlsplit(self.url).hostname or "")

    def weights_estimate(self, options: LoadOptions) -> int:
        return 0  # the server has loaded them

    def load(self, options: LoadOptions) -> EndpointTarget:
        if options.load:
            raise UsageError(
                f"load={dict(options.load)!r}: {self.id} is loaded already; fields of its requests are given as "
                f"endpoint(…, body={{…}})"
            )
        try:
            from pytest_llmperf.targets.endpoint.target import load
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise TargetError(
                f"{self.id}: asking a server needs aiohttp; pip install 'pytest-llmperf[endpoint]'"
            ) from error
        return load(self)


def endpoint(
    url: str,
    *,
    model: str | None = None,
    api: str = "completions",
    api_key_env: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    hardware: str | None = None,
    base: str | None = None,
) -> Endpoint:
    """A server that streams tokens over HTTP: vLLM, TensorRT-LLM, NIM, SGLang, llama.cpp, `transformers serve`.

    It is asked for exactly the tokens of the workload; what it refuses to be asked is found when it is first
    used, and said.

    Args:
        url: up to the version: `http://localhost:8000/v1`; of Triton, without a path.
        model: as the server names it; None takes the only one that it has.
        api: `completions`, `chat` or `triton` (its `generate_stream`).
        api_key_env: the environment variable that holds the key; the key itself is neither shown nor stored.
        headers: sent with every request, and never shown.
        body: further fields of every request: `{"top_k": 1}`.
        tokenizer: a Hub id or a folder, by which prompts get their length where the server takes text only;
            without one the server is asked how it counts.
        timeout: seconds for a whole request.
        hardware: what the server runs on, as the key of its baselines; otherwise the name of its host, or this
            machine.
        base: the url of a server with the older code, for a duet.
    """
    if api not in APIS:
        raise UsageError(f"api={api!r}: no such api{did_you_mean(str(api), APIS)} (known: {', '.join(APIS)})")
    for name, value in {"model": model, "hardware": hardware}.items():
        if value is not None and not (isinstance(value, str) and value.strip() and value.isprintable()):
            raise UsageError(f"endpoint(…, {name}={value!r}): expected a name, in one line")
    if not _is_number(timeout) or not 0 < timeout < math.inf:
        raise UsageError(f"endpoint(…, timeout={timeout!r}): expected seconds, more than 0")
    if tokenizer is not None and (not isinstance(tokenizer, (str, os.PathLike)) or not os.fspath(tokenizer)):
        raise UsageError(f"endpoint(…, tokenizer={tokenizer!r}): expected a Hub id or a local folder")
    _check_key_name(api_key_env)
    return Endpoint(
        _checked_url(url),
        model,
        api,
        api_key_env,
        _checked_headers({} if headers is None else headers, api_key_env),
        _checked_body({} if body is None else body),
        None if tokenizer is None else os.fspath(tokenizer),
        float(timeout),
        hardware,
        None if base is None else _checked_url(base, "base"),
    )


def from_text(text: str) -> Endpoint:
    """What the text form names.

    Raises:
        UsageError: naming the option that is none.
    """
    url, _, query = text.partition("?")
    _checked_url(url)
    options: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if name == "headers":
            raise UsageError(f"{url}?headers=…: headers may hold a secret; write endpoint({url!r}, headers={{…}})")
        if name in _TEXT_OPTIONS and not equals:
            raise UsageError(f"{url}: {name!r} has no value; write {url}?{name}=…")
        if name not in _TEXT_OPTIONS:
            known = did_you_mean(name, _TEXT_OPTIONS) or f" (known: {', '.join(_TEXT_OPTIONS)})"
            raise UsageError(f"{url}: {name!r} is no option; write {url}?model=gpt2&api=chat{known}")
        if name in options:
            raise UsageError(f"{url}: {name} is given twice")
        options[name] = _option(name, unquote_plus(value))
    return endpoint(url, **options)


def _option(name: str, text: str) -> Any:
    """Of the options, `timeout` is a number and `body` an object; a text that is neither is refused as it stands."""
    try:
        return json.loads(text) if name in ("timeout", "body") else text
    except json.JSONDecodeError:
        return text


def _checked_url(url: object, name: str = "url") -> str:
    if not isinstance(url, str):
        raise UsageError(f"endpoint({name}={url!r}): expected text, like 'http://localhost:8000/v1'")
    if "@" in url:
        raise UsageError(
            f"endpoint({name}=…@…): a url is shown and stored, so it must not hold a user or password; name the "
            f"variable that holds the key as api_key_env="
        )
    shown = re.split("[?#]", url)[0]  # what follows may be a key
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"endpoint({name}={shown!r}): {error}; write it like 'http://localhost:8000/v1'") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url):
        raise UsageError(f"endpoint({name}={shown!r}): expected a url like 'http://localhost:8000/v1'")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise UsageError(
            f"endpoint({name}={shown!r}): {parts.hostname} is no name of a host: between its dots are 1 to 63 letters"
        ) from None
    if parts.query or parts.fragment:
        raise UsageError(f"endpoint({name}={shown!r}): write options as keywords, not into the url")
    plain = url.rstrip("/?#")
    for path in _PATHS:
        if plain.endswith(path):
            raise UsageError(f"endpoint({name}={shown!r}): leave out {path}, which api= adds")
    return plain


def _checked_headers(headers: object, api_key_env: str | None) -> tuple[tuple[str, str], ...]:
    if not isinstance(headers, Mapping):
        raise UsageError("endpoint(…, headers=…): expected a dictionary of names and values")
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise UsageError(f"endpoint(…, headers={{{name!r}: …}}): this is no name of a header")
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise UsageError(f"endpoint(…, headers={{{name!r}: …}}): expected text without line breaks as its value")
        if name.lower() == "authorization" and api_key_env is not None:
            raise UsageError(f"endpoint(…, headers={{{name!r}: …}}): api_key_env={api_key_env!r} sets it too; name one")
    return tuple(sorted(headers.items()))


def _checked_body(body: object) -> tuple[tuple[str, Any], ...]:
    if not isinstance(body, Mapping) or not all(isinstance(name, str) for name in body):
        raise UsageError(f"endpoint(…, body={body!r}): expected a dictionary of fields")
    for name, value in body.items():
        if name in _DECIDED:
            raise UsageError(f"endpoint(…, body={{{name!r}: …}}): the workload and endpoint(…) decide it")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UsageError(f"endpoint(…, body={{{name!r}: {value!r}}}): expected plain data") from None
    return tuple((name, frozen(value)) for name, value in sorted(body.items()))


def _check_key_name(name: object) -> None:
    """Keys have small letters and dashes, names of variables hardly ever: a key that strayed here is not shown."""
    if name is None or (isinstance(name, str) and re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)):
        return
    if isinstance(name, str) and name in os.environ:
        return
    raise UsageError(
        "endpoint(…, api_key_env=…): expected the name of an environment variable, like 'OPENAI_API_KEY', and not "
        "the key itself"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
