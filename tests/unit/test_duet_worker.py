"""A process that serves rounds when told to: what it answers, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_llmperf.duet.worker import Job, Worker
from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.measure import Effort
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets import Clock, LoadOptions, Request, resolve, stream
from pytest_llmperf.targets.protocol import Rest, no_rest
from tests.fakes import TINY, FakeClock, FakeTarget

WORKLOAD = Workload(prompt_tokens=8, output_tokens=3)


@dataclasses.dataclass
class Telling(FakeTarget):
    """A fake target of other processes, which does `then` when it has served three rounds."""

    then: str = ""

    def __post_init__(self) -> None:
        self.device.name = "cpu"

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        trace = super().run(request, self.clock, rest)
        if self.runs > 3:
            print("a word on standard output")
            exec(self.then)
        return trace


@dataclasses.dataclass(frozen=True)
class Fake:
    """Names a target that can be loaded anywhere."""

    then: str = ""
    fails: bool = False
    id = "fake"
    cacheable = False
    in_process = True

    def weights_estimate(self, options: LoadOptions) -> int | Unknown:
        return 0

    def load(self, options: LoadOptions) -> Any:
        if self.fails:
            raise TargetError("fake: cannot be had here; try another")
        return Telling(FakeClock(), then=self.then)


def job(reference: Any = None, workload: Workload = WORKLOAD) -> Job:
    return Job(reference or Fake(), LoadOptions("cpu"), workload, Effort(max_time=0.01))


def serve_all(worker: Worker) -> None:
    """More rounds than a fake serves before it does what it was to do."""
    for _ in range(5):
        worker.round()


def gone(pid: int) -> bool:
    """Whether a process has ended, or does so in a moment."""
    try:
        psutil.Process(pid).wait(timeout=20)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_worker_warms_up_and_serves_a_round_whenever_it_is_asked() -> None:
    with Worker(job()) as worker:
        ready = worker.start()
        assert (ready.target, ready.workload) == ("fake", WORKLOAD)
        assert ready.environment.threads == 1
        rounds = [worker.round() for _ in range(3)]
    sent = [served.traces[0].sent for served in rounds]
    assert sent[0] > FakeClock().now, "it was warmed up"
    assert sent == sorted(set(sent))
    assert {len(served.traces[0].arrivals) for served in rounds} == {3}


def test_a_real_model_is_served_with_the_threads_of_the_job() -> None:
    with Worker(dataclasses.replace(job(resolve(TINY)), effort=Effort(threads=2, max_time=0.01))) as worker:
        environment = worker.start().environment
        assert (environment.device, environment.dtype, environment.threads) == ("cpu", "float32", 2)
        assert worker.round().wall > 0


def test_what_a_worker_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(job(Fake())) as worker:
        worker.start()
        for _ in range(4):
            assert worker.round().traces
    assert capfd.readouterr() == ("", "")


def test_an_error_of_loading_comes_back_as_it_was_raised() -> None:
    with Worker(job(Fake(fails=True))) as worker, pytest.raises(TargetError, match=r"^fake: cannot be had here"):
        worker.start()


def test_any_other_error_of_a_worker_comes_back_as_one_of_ours() -> None:
    with Worker(job(Fake(then="1 / 0"))) as worker:
        worker.start()
        with pytest.raises(MeasurementError, match=r"^ZeroDivisionError: division by zero$"):
            serve_all(worker)


def test_a_worker_that_dies_is_named_with_how_it_ended_and_its_last_words() -> None:
    died = "import sys; sys.stderr.write('out of paper\\n'); sys.stderr.flush(); os._exit(3)"
    with Worker(job(Fake(then=f"import os; {died}")), "head") as worker:
        worker.start()
        with pytest.raises(MeasurementError, match=r"the head process ended with status 3: .*out of paper$"):
            serve_all(worker)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_worker_that_is_killed_says_that_memory_may_have_run_out() -> None:
    with Worker(job(), "base") as worker:
        worker.start()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(MeasurementError, match=r"the base process ended by SIGKILL \(memory may have run out\)"):
            worker.round()


def test_a_target_of_this_process_alone_is_refused_by_name() -> None:
    def engine(prompt: Any, tokens: int) -> Any:
        yield from range(tokens)

    with pytest.raises(UsageError, match=r"engine.* cannot be loaded in another process"):
        Worker(job(stream(engine)))


def test_closing_ends_a_worker_in_the_middle_of_its_work_and_leaves_no_zombie() -> None:
    worker = Worker(job(Fake(then="import time; time.sleep(600)")))
    worker.start()
    worker.close()
    assert not psutil.pid_exists(worker.pid)


ASKING = """
import sys, threading, time
from tests.unit.test_duet_worker import Fake, job
from pytest_llmperf.duet.worker import Worker
worker = Worker(job(Fake(then="import time; time.sleep(600)")))
worker.start()
print(worker.pid, flush=True)
while True:
    worker.round()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_at_work_ends_with_the_process_that_asked(signalled: signal.Signals) -> None:
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert asking.stdout is not None
    with asking, asking.stdout:
        pid = int(asking.stdout.readline())
        time.sleep(0.2)  # most likely it is within a round by now; the test holds if it is not
        asking.send_signal(signalled)
    assert gone(pid)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_of_the_terminal_is_not_the_workers_to_answer() -> None:
    with Worker(job()) as worker:
        worker.start()
        os.kill(worker.pid, signal.SIGINT)
        assert worker.round().traces
