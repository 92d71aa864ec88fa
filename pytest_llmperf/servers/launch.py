"""What is to be started, checked before anything is."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from pytest_llmperf.errors import UsageError

PORT = "{port}"
"""Stands for a free port."""
_OF_A_SHELL = re.compile(r"[|&;<>]+|\d?>{1,2}(&\d)?|.*\$[\w({].*|.*`.*|.*[^;];")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)")
_NAME_SHOWN = 60
_SHOWN = 200
"""Characters of what is wrong."""
_MOST_PASSED = 100_000
"""Linux takes 128 KiB in one argument, and the keeper is told all of them in one."""


@dataclass(frozen=True)
class Launch:
    """A command that serves, as a test names it.

    Args:
        command: a program and its arguments.
        ready: a URL that answers 200 once the server is ready.
        env: on top of this process's environment.
        folder: the command runs there.
        name: by which messages call it.
    """

    command: tuple[str, ...]
    ready: str
    env: tuple[tuple[str, str], ...]
    folder: Path
    name: str

    @classmethod
    def of(
        cls,
        command: str | Sequence[str | os.PathLike[str]],
        ready: str,
        *,
        env: Mapping[str, str] | None = None,
        folder: Path,
        name: str | None = None,
    ) -> Launch:
        """From what a user wrote.

        Raises:
            UsageError: what it says cannot be started, or could never become ready.
        """
        words = _words(command)
        _check_env({} if env is None else env)
        if name is not None and not isinstance(name, str):
            raise UsageError(f"name={name!r}: expected text")
        if not folder.is_dir():
            raise UsageError(f"cwd={str(folder)!r}: there is no such folder")
        _check_ready(ready)
        launch = cls(words, ready, tuple(sorted((env or {}).items())), folder, name or _short(words))
        launch._check_port()
        return launch

    @property
    def wants_port(self) -> bool:
        return PORT in self.ready

    def at(self, port: int) -> Launch:
        """The same with its port."""

        def put(text: str) -> str:
            return text.replace(PORT, str(port))

        env = tuple((name, put(value)) for name, value in self.env)
        command = tuple(map(put, self.command))
        return dataclasses.replace(self, command=command, ready=put(self.ready), env=env, name=put(self.name))

    @property
    def environ(self) -> dict[str, str]:
        """Programs of the virtual environment that runs the tests are found first, as if it had been activated."""
        inherited = dict(os.environ)
        if sys.prefix != sys.base_prefix:
            programs = str(Path(sys.executable).parent)
            inherited["PATH"] = os.pathsep.join([programs, inherited.get("PATH", os.defpath)])
        return {**inherited, **dict(self.env)}

    def _check_port(self) -> None:
        told = any(PORT in text for text in (*self.command, *dict(self.env).values()))
        if told and not self.wants_port:
            raise UsageError(f"ready={self.ready!r} asks one port, and the command is told another: write {PORT} in it")
        if self.wants_port and not told:
            raise UsageError(f"ready={self.ready!r} asks a port that {self.name!r} is not told: write {PORT} in it too")


def free_port() -> int:
    """Of the loopback interface, free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _words(command: str | Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    if not isinstance(command, (str, list, tuple)):
        raise UsageError(f"command {command!r}: expected text, or a list of words")
    words = _split(command) if isinstance(command, str) else tuple(command)
    shown = _brief(command)
    for word in words:
        if not isinstance(word, (str, os.PathLike)):
            raise UsageError(f"command {shown}: expected text, not {word!r}")
    if not words:
        raise UsageError(f"command {shown} is empty: expected a program and its arguments")
    texts = tuple(os.fspath(word) for word in words)
    _check_passable(f"command {shown}", texts)
    return texts


def _split(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"command {command!r} cannot be split into words: {error}") from None
    _check_no_shell(command, words)
    return words


def _check_no_shell(command: str, words: tuple[str, ...]) -> None:
    if words and (assigned := _ASSIGNMENT.fullmatch(words[0])):
        env = {assigned[1]: assigned[2]}
        raise UsageError(f"command {command!r}: {words[0]!r} is for a shell, and there is none; pass {env=}")
    if meant := next((word for word in words if _OF_A_SHELL.fullmatch(word)), ""):
        raise UsageError(
            f"command {command!r}: {meant!r} is for a shell, and there is none; pass ['bash', '-c', '…'], "
            f"or a list of words if it is not meant so"
        )


def _check_ready(ready: str) -> None:
    example = f"such as http://127.0.0.1:{PORT}/health"
    try:
        parts = urlsplit(ready.replace(PORT, "80"))
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except (ValueError, AttributeError):
        raise UsageError(f"ready={ready!r}: expected a URL, {example}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"ready={ready!r}: expected a whole URL with http:// and a host, {example}")
    if re.search(r"[^!-~]", parts.path + parts.query):
        encoded = quote(ready, safe="%{}:/?#[]@!$&'()*+,;=")
        raise UsageError(f"ready={ready!r}: a URL holds neither blanks nor letters beyond ASCII; write {encoded}")


def _check_env(env: Mapping[str, str]) -> None:
    if not isinstance(env, Mapping):
        raise UsageError(f"env={_brief(env)}: expected names and values, such as {{'GPU': '0'}}")
    for name, value in env.items():
        shown = f"env={_brief({name: value})}"
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"{shown}: expected text")
        if not name or "=" in name:
            raise UsageError(f"{shown}: {_brief(name)} is no name of a variable: expected text without '='")
        _check_passable(shown, (name, value))


def _check_passable(place: str, texts: Sequence[str]) -> None:
    """That a program can be given these."""
    for text in texts:
        try:
            if "\0" in text:
                raise UsageError(f"{place}: {_brief(text)} holds a null character, which no program can be given")
            os.fsencode(text)
        except (TypeError, UnicodeError):
            raise UsageError(f"{place}: {_brief(text)} is no text that a program can be given") from None
    if (size := len(json.dumps(texts))) > _MOST_PASSED:
        raise UsageError(f"{place}: {size:,} characters are too many; write them to a file (at most {_MOST_PASSED:,})")


def _brief(value: object) -> str:
    whole = repr(value)
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}…"


def _short(words: tuple[str, ...]) -> str:
    whole = shlex.join([Path(words[0]).name, *words[1:]]).replace(f"'{PORT}'", PORT)
    return whole if len(whole) <= _NAME_SHOWN else f"{whole[: _NAME_SHOWN - 1]}…"
