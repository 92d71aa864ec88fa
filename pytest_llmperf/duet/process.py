"""A fresh process that holds one target, and serves a round whenever it is told to."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.errors import LlmperfError, MeasurementError
from pytest_llmperf.measure import Effort, rounds_of, torch_threads
from pytest_llmperf.measure.rounds import warm_up
from pytest_llmperf.model import Environment, Round, Workload
from pytest_llmperf.targets import LoadOptions, Reference

_GRACE_S = 5.0
"""How long a process may take to end by itself."""


@dataclass(frozen=True)
class Job:
    """What a process is to serve. Of references only those that can be loaded anew: a name, random weights."""

    reference: Reference
    options: LoadOptions = LoadOptions()
    workload: Workload = Workload()
    threads: int | None = 1
    warm_up_time: float = 10.0
    """Seconds that warming up may take, twice over."""


class Serving:
    """The process, seen from the one that started it.

    Raises:
        LlmperfError: whatever went wrong there, as its own message; or that it ended without one.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen when it dies

    def environment(self) -> Environment:
        """Waits until the target is loaded and warmed up."""
        environment: Environment = self._answer()
        return environment

    def round(self) -> Round:
        """One more round, while nothing else happens there."""
        try:
            self._connection.send("round")
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None
        taken: Round = self._answer()
        return taken

    def close(self) -> None:
        """End the process; it is asked first."""
        self._connection.close()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if isinstance(answer, LlmperfError):
            raise answer
        return answer

    def _ended(self) -> MeasurementError:
        self._process.join(_GRACE_S)
        return MeasurementError(f"a measuring process ended by itself, with exit code {self._process.exitcode}")


@contextlib.contextmanager
def serving(job: Job) -> Iterator[Serving]:
    """A process for one stretch of work; it does not outlive it."""
    process = Serving(job)
    try:
        yield process
    finally:
        process.close()


def _serve(job: Job, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started this process ends it
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            _serve_rounds(job, connection)
        except LlmperfError as error:
            connection.send(error)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # anything else would be a traceback in the middle of another process's output
            connection.send(MeasurementError(f"{job.reference.id}: {type(error).__name__}: {error}"))


def _serve_rounds(job: Job, connection: Connection) -> None:
    target = job.reference.load(job.options)
    serve = rounds_of(target, job.workload, time.perf_counter)
    with torch_threads(job.threads):
        warm_up(serve, Effort(max_time=2 * job.warm_up_time), time.perf_counter)
        connection.send(environment_of(target, job.threads))
        while connection.recv() == "round":
            connection.send(serve())
