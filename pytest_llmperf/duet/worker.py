"""A process of its own that holds one target, and serves a round whenever it is told to.

Both ends speak pickles over the worker's standard input and output: a `Job`, answered by `Ready`, then ROUND
as often as wanted, each answered by a `Round`. In place of any answer may come the error it ended in.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.errors import LlmperfError, MeasurementError, UsageError
from pytest_llmperf.measure import Effort, requests, server, torch_threads
from pytest_llmperf.measure.rounds import warm_up
from pytest_llmperf.model import Environment, Round, Workload
from pytest_llmperf.targets import LoadOptions, Reference
from pytest_llmperf.targets.cache import TargetCache

ROUND = "round"
_LINES_SHOWN = 3


@dataclass(frozen=True)
class Job:
    """What a worker loads, warms up and serves.

    Args:
        reference: of a target that another process can load: what it names must be importable there.
        effort: for warming up, and the threads throughout.
    """

    reference: Reference
    options: LoadOptions
    workload: Workload
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class Ready:
    """What a worker says of itself once its target is warm."""

    target: str
    workload: Workload
    environment: Environment


class Worker:
    """The end that asks. A worker ends when this end is closed, and when the process that asks dies.

    Args:
        name: what errors call it.
    """

    ready: Ready

    def __init__(self, job: Job, name: str = "worker") -> None:
        self._name = name
        try:
            self._job = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(f"{job.reference.id} cannot be loaded in another process: {error}") from None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process runs
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> Ready:
        """Load the target and warm it up.

        Raises:
            LlmperfError: of the worker, or because it ended.
        """
        self.ready = self._ask(self._job)
        return self.ready

    def round(self) -> Round:
        """One round, served while this process waits.

        Raises:
            LlmperfError: of the worker, or because it ended.
        """
        served: Round = self._ask(_ROUND)
        return served

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            try:
                stream.close()  # type: ignore[union-attr]  # both are pipes
            except OSError:  # what it was not told any more
                continue

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, question: bytes) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise MeasurementError(self._end()) from None
        if isinstance(answer, LlmperfError):
            raise answer
        return answer

    def _end(self) -> str:
        """How the process ended, which it has or is about to."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"the {self._name} process answered what nobody can read"
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        hint = " (memory may have run out)" if -status == getattr(signal, "SIGKILL", None) else ""
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        last = "".join(f": {' / '.join(lines[-_LINES_SHOWN:])}" if lines else "")
        return f"the {self._name} process ended {how}{hint}{last}"


_ROUND = pickle.dumps(ROUND)


def main() -> None:
    """The worker's own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other end's, which then ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    questions: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    try:
        _serve(questions, answers)
    except Exception as error:
        known = error if isinstance(error, LlmperfError) else MeasurementError(f"{type(error).__name__}: {error}")
        _answer(answers, known)


def _listen(stream: IO[bytes], questions: SimpleQueue[Any]) -> None:
    """Asleep in the kernel while a round is served, so that it does not disturb it; the end of input is the end."""
    while True:
        try:
            questions.put(pickle.load(stream))
        except EOFError:
            os._exit(0)
        except Exception as error:  # a job that names what is not here
            questions.put(error)


def _serve(questions: SimpleQueue[Any], answers: IO[bytes]) -> None:
    job = questions.get()
    if isinstance(job, Exception):
        raise job
    target, _ = TargetCache().load(job.reference, job.options)
    target.begin()
    with torch_threads(job.effort.threads):
        serve = server(target, requests(target, job.workload), time.perf_counter)
        warm_up(serve, job.effort, time.perf_counter)
        _answer(answers, Ready(target.id, job.workload, environment_of(target, job.effort.threads)))
        while questions.get() == ROUND:
            _answer(answers, serve())


def _answer(answers: IO[bytes], answer: object) -> None:
    pickle.dump(answer, answers)
    answers.flush()
