"""Plain data between a process and one that it started, over the pipes between them.

Nobody else can get at these pipes, so neither end has to ask who the other is. A message is one line of JSON, an
object whose `say` names what it is: nothing is ever unpickled. Every wait has its limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from pytest_llmperf.errors import LlmperfError, MeasurementError, UsageError
from pytest_llmperf.units import how_ended

if TYPE_CHECKING:
    from typing_extensions import Self

Message = Mapping[str, Any]
FAULT = "fault"
"""Said in place of an answer: the other end met an error, `why`, and whether it is `misuse`."""
_LINES_SHOWN = 3
_GROUP_OF_ITS_OWN: dict[str, Any] = {}
if sys.platform != "win32":
    _GROUP_OF_ITS_OWN = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
"""Ctrl-C is this process's, which then ends the other with all it started.

No session of its own, which would do the same: Linux shares a busy machine's time among sessions (sched(7), "The
autogroup feature"), so that the other would be given more of it than this one, whose session holds much else.
"""


class ClosedError(LlmperfError):
    """The other end is gone, or says what nobody can read."""


class FaultError(LlmperfError):
    """The other end met an error that no other attempt would mend."""


class Channel:
    """One end of a pair of pipes.

    Args:
        over: called, in a thread of its own, when the other end has closed.
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes], over: Callable[[], None] = lambda: None) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._over = over
        self._heard: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, say: str, **content: Any) -> None:
        """Say something, in plain data.

        Raises:
            ClosedError: nobody listens any more.
        """
        try:
            self._outgoing.write(json.dumps({"say": say, **content}, separators=(",", ":")).encode() + b"\n")
            self._outgoing.flush()
        except (OSError, ValueError) as error:
            raise ClosedError(f"cannot be told anything ({error})") from None

    def hear(self, *expected: str, patience: float | None = None) -> Message:
        """What the other end says next.

        Args:
            expected: what it may be; anything else is a fault of the other end.
            patience: seconds to wait for it; None waits as long as the other end lives.

        Raises:
            TimeoutError: it said nothing in that time.
            ClosedError: it has closed, or said something else.
            FaultError: the other end met an error.
            UsageError: that error is what this end asked for.
        """
        try:
            line = self._heard.get(timeout=patience)
        except Empty:
            raise TimeoutError from None
        if not line:
            self._heard.put(line)  # for whoever asks next
            raise ClosedError("has closed")
        try:
            message = json.loads(line)
            said = message["say"]
        except (ValueError, TypeError, KeyError):
            raise ClosedError(f"said what nobody can read: {line[:80]!r}") from None
        if said == FAULT:
            raise (UsageError if message.get("misuse") else FaultError)(str(message.get("why")))
        if said not in expected:
            raise ClosedError(f"said {said!r} where {' or '.join(expected)} was expected")
        return dict(message)

    def close(self) -> None:
        """Let go of both pipes; the other end hears of it."""
        for stream in (self._outgoing, self._incoming):
            try:
                stream.close()
            except OSError:  # what it was not told any more
                continue

    def _listen(self) -> None:
        """Asleep in the kernel while this process works, so that it does not disturb it."""
        try:
            for line in self._incoming:
                self._heard.put(line)
        except (OSError, ValueError):  # closed on this end
            pass
        self._heard.put(b"")
        self._over()


class Process:
    """A process started from here, which ends with this one, whatever becomes of either.

    Args:
        command: it speaks through `own_channel()`.
        name: what errors call it.

    Raises:
        MeasurementError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        *,
        folder: Path | str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process runs
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                **_GROUP_OF_ITS_OWN,
            )
        except OSError as error:
            self._said.close()
            raise MeasurementError(f"the {name} process cannot be started: {command[0]}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, say: str, **content: Any) -> None:
        """As `Channel.tell`, but an end is told as how the process ended."""
        try:
            self._channel.tell(say, **content)
        except ClosedError as error:
            raise MeasurementError(self._end(str(error))) from None

    def hear(self, *expected: str, patience: float | None = None) -> Message:
        """As `Channel.hear`, but an end is told as how the process ended.

        Raises:
            MeasurementError: the process ended, or said nothing for too long.
            FaultError: it met an error.
        """
        try:
            return self._channel.hear(*expected, patience=patience)
        except TimeoutError:
            silent = f"the {self._name} process said nothing for {patience:.0f} s"
            raise MeasurementError(f"{silent}{self._last()}") from None
        except ClosedError as error:
            raise MeasurementError(self._end(str(error))) from None

    def close(self) -> None:
        """End the process and all that it started, whatever they are doing."""
        kill_group = getattr(os, "killpg", None)
        try:
            if kill_group is not None:
                kill_group(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all of them have ended
            pass
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def output(self) -> str:
        """All that it printed so far."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def _end(self, otherwise: str) -> str:
        """How the process ended, which it has or is about to."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"the {self._name} process {otherwise}{self._last()}"
        return f"the {self._name} process ended {how_ended(status)}{self._last()}"

    def _last(self) -> str:
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return f": {' / '.join(lines[-_LINES_SHOWN:])}" if lines else ""


def own_channel() -> Channel:
    """The end of a process that was started as a `Process`, which has its standard streams for nothing else.

    What libraries print is no message, and what they read is none either. The end of the other process is this one's.
    """
    outgoing = os.fdopen(os.dup(1), "wb")
    incoming = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return Channel(incoming, outgoing, over=_end_at_once)


def _end_at_once() -> None:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def python(module: str, interpreter: str | None = None, path: Sequence[str] | None = None) -> list[str]:
    """The command that calls `main()` of a module.

    The path is set before anything is looked up: in the folder of a call may lie a user's own `queue.py`.

    Args:
        interpreter: another one than this process's, which then has a path of its own.
        path: `sys.path` of the new process, this one's unless given.
    """
    package = __name__.partition(".")[0]
    own = str(Path(__file__).parents[2])  # the tool stays this one, also where it is the project itself
    places = list(sys.path if path is None else path)
    found = f"import sys; sys.path.insert(0, {own!r}); import {package}; sys.path[:] = {places!r}; "
    setting = "" if interpreter else found
    return [interpreter or sys.executable, "-c", f"{setting}from {module} import main; raise SystemExit(main())"]
