"""A process that takes turns when told to: what it is told and says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_llmperf.duet import worker
from pytest_llmperf.duet.channel import FAULT, FaultError
from pytest_llmperf.duet.script import Pace, Script, Side
from pytest_llmperf.duet.sides import Conductor
from pytest_llmperf.duet.worker import Job, Worker, pair
from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.measure import Effort
from pytest_llmperf.model import Environment, Workload, plain
from pytest_llmperf.targets import LoadOptions, resolve, stream
from tests.fakes import TINY

WORKLOAD = Workload(prompt_tokens=8, output_tokens=3)
JOB = Job(resolve(TINY), LoadOptions("cpu"), WORKLOAD, Effort(max_time=0.01))
WHOLE = Script(("base", "head", "head", "base"), blocks=(2,))


def job(target: Any = TINY, threads: int = 1, **load: Any) -> Job:
    return Job(resolve(target), LoadOptions("cpu", None, load), WORKLOAD, Effort(threads=threads, max_time=0.01))


@pytest.mark.parametrize(
    "sent",
    [
        JOB,
        Job(resolve("gpt2"), LoadOptions("cuda:1", "bfloat16", {"revision": "main", "n": [1]}), Workload(prompt="hi")),
        Job(resolve("./folder"), LoadOptions(), Workload(batch_size=4), Effort(5, 2.5, None, smoke=True)),
    ],
    ids=lambda sent: sent.reference.id,
)
def test_a_job_travels_as_json_and_arrives_as_it_was(sent: Job) -> None:
    assert Job.from_plain(json.loads(json.dumps(sent.to_plain()))) == sent


def engine(prompt: Any, tokens: int) -> Any:
    yield from range(tokens)


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (job(stream(engine)), r"^stream:engine cannot be loaded in another process"),
        (job(quantization_config=object()), r"load=\{'quantization_config'.*cannot go to another process"),
    ],
)
def test_what_another_process_cannot_load_is_refused_before_one_is_started(refused: Job, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Worker(refused, "base")
    assert not psutil.Process().children()


class FakeWorker:
    """Notes what becomes of it, in the order in which it does."""

    told: list[str]
    failing: str | None = None

    def __init__(self, job: Job, side: str) -> None:
        self.side = side
        if self.failing == side:
            raise TargetError("none to be had")
        self.told.append(f"{side} ready")

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self.told.append(f"{self.side} closed")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(FakeWorker, "told", [], raising=False)
    monkeypatch.setattr(worker, "Worker", FakeWorker)
    return FakeWorker.told


@pytest.mark.parametrize(("first", "second"), [("base", "head"), ("head", "base")])
def test_the_second_process_is_started_when_the_first_is_warm(told: list[str], first: Side, second: Side) -> None:
    with pair(JOB, first) as workers:
        assert told == [f"{first} ready", f"{second} ready"]
        assert {side: each.side for side, each in workers.items()} == {"base": "base", "head": "head"}  # type: ignore[attr-defined]
    assert sorted(told[2:]) == ["base closed", "head closed"]


def test_a_pair_of_which_one_cannot_start_leaves_no_process(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorker, "failing", "head")
    with pytest.raises(TargetError, match="none to be had"), pair(JOB):
        pass
    assert told == ["base ready", "base closed"]


def test_an_interrupt_within_a_pair_leaves_no_process(told: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), pair(JOB):
        raise KeyboardInterrupt
    assert sorted(told[2:]) == ["base closed", "head closed"]


def test_two_real_processes_take_turns_within_a_generation_and_within_prefills() -> None:
    with pair(job()) as workers:
        ready = {side: each.ready for side, each in workers.items()}
        assert {each.target for each in ready.values()} == {resolve(TINY).id}
        conductor = Conductor(workers, {side: each.pace for side, each in ready.items()}, WORKLOAD)
        for script in (WHOLE, Script(("head", "base"), prefills=3, warm=True, decodes=False)):
            taken = conductor.round(script)
            for side in (taken.base, taken.head):
                assert ("tpot_ms" in side) == script.decodes
                assert side["ttft_ms"] > 0


def test_a_worker_says_what_it_is_with_the_threads_of_the_job() -> None:
    with Worker(job(threads=2), "head") as running:
        said = running.ready
        assert (said.target, said.workload, said.pace.rests) == (resolve(TINY).id, WORKLOAD, True)
        environment = said.environment
        assert (environment.device, environment.dtype, environment.threads) == ("cpu", "float32", 2)
        assert "torch" in environment.versions
    assert not psutil.pid_exists(running.pid)


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [("./missing", FaultError, r"^model='./missing': this path"), ("random:gpt2?n_layr=2", UsageError, "n_layr")],
)
def test_an_error_of_loading_comes_back_in_its_own_words_and_leaves_no_process(
    target: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Worker(job(target), "base")
    assert not psutil.Process().children()


class Scripted:
    """A line on which all has been said beforehand."""

    def __init__(self, *says: dict[str, Any]) -> None:
        self.says = list(says)
        self.told: list[dict[str, Any]] = []

    def tell(self, say: str, **content: Any) -> None:
        self.told.append({"say": say, **content})

    def hear(self, *expected: str, patience: float | None = None) -> dict[str, Any]:
        said = self.says.pop(0)
        assert said["say"] in expected
        return said


def record_of(side: Side) -> dict[str, Any]:
    return {"say": "job", "side": side, **JOB.to_plain()}


def test_the_side_of_a_worker_is_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    script = {"say": "round", "script": plain(Script(("head", "base")))}
    first = Scripted(record_of("head"), script, {"say": "report"}, {"say": "end"})
    worker.serve(first)
    assert [message["say"] for message in first.told] == ["ready", "set", "go", "values"]
    second = Scripted(record_of("base"), script, {"say": "go"}, {"say": "report"}, {"say": "end"})
    worker.serve(second)
    assert [message["say"] for message in second.told] == ["ready", "set", "values"]
    said = first.told[0]
    assert (said["target"], Workload(**said["workload"])) == (resolve(TINY).id, WORKLOAD)
    assert Environment(**said["environment"]).threads == 1
    assert Pace(**said["pace"]).gap > 0


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UsageError("n_layr: no such"), {"why": "n_layr: no such", "misuse": True}),
        (TargetError("does not fit"), {"why": "does not fit", "misuse": False}),
        (ZeroDivisionError("division by zero"), {"why": "ZeroDivisionError: division by zero"}),
    ],
)
def test_whatever_a_worker_meets_is_told_to_the_other_end(
    monkeypatch: pytest.MonkeyPatch, error: Exception, fault: dict[str, Any]
) -> None:
    def fail(line: object) -> None:
        raise error

    line = Scripted()
    monkeypatch.setattr(worker, "own_channel", lambda: line)
    monkeypatch.setattr(worker, "serve", fail)
    assert worker.main() == 0
    assert line.told == [{"say": FAULT, **fault}]


posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@posix
def test_ctrl_c_of_the_terminal_is_not_the_workers_to_answer_and_its_death_is_told_by_name() -> None:
    with Worker(job(), "head") as running:
        assert os.getpgid(running.pid) != os.getpgid(0)
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(MeasurementError, match=r"the head process ended by SIGKILL \(memory may have run out\)"):
            running.hear("set")


ASKING = """
from tests.unit.test_duet_worker import job, pair
import time
with pair(job()) as workers:
    print(*(each.pid for each in workers.values()), flush=True)
    time.sleep(600)
"""


@posix
def test_both_workers_end_with_the_process_that_started_them() -> None:
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert asking.stdout is not None
    with asking, asking.stdout:
        started = [psutil.Process(int(pid)) for pid in asking.stdout.readline().split()]
        asking.send_signal(signal.SIGKILL)
    assert len(started) == 2
    assert not psutil.wait_procs(started, timeout=20)[1]
