"""A run spread over workers gives the figures, verdicts and rows of one that is not."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf.plugin.xdist import FOLDER, Room, Worker
from tests.plugin.test_native import HEAD, TWO, properties, rows

pytest.importorskip("xdist")

PATIENCE_S = 60
"""What waits for longer hangs."""


@pytest.fixture
def temp(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temp dir of the inner runs."""
    folder = suite.mkdir("temp")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def spread(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-n2", *arguments, timeout=PATIENCE_S)


XDIST = """
@llm_perf(ALWAYS, model=FAST)
@pytest.mark.parametrize("n", [8, 16, 32])
def test_good(llm, n):
    llm.measure(prompt_tokens=n)

@llm_perf(NEVER, model=FAST)
def test_bad(llm):
    llm.measure("first")
    llm.measure("second", limits=[ALWAYS])

def test_ordinary():
    pass
"""


def test_the_rows_and_verdicts_are_the_same(suite: pytest.Pytester, temp: Path) -> None:
    suite.makepyfile(test_chat=HEAD + XDIST, test_more=HEAD + TWO)
    alone = suite.runpytest()
    result = spread(suite, "--junitxml=spread.xml")
    for one in (alone, result):
        one.assert_outcomes(passed=5, failed=2)
        one.stdout.fnmatch_lines(["7 measured: 2 broken, 5 new"])
    assert sorted(rows(result)) == sorted(rows(alone))
    assert len(rows(alone)) == 7
    cases = ElementTree.parse(suite.path / "spread.xml").getroot().iter("testcase")
    verdicts = {f"{case.attrib['classname']}.{case.attrib['name']}": properties(case) for case in cases}
    assert verdicts["test_chat.test_good[16]"]["verdict"] == "NEW"
    assert verdicts["test_chat.test_bad"]["first.verdict"] == "BROKEN"
    assert verdicts["test_more.test_bad"]["verdict"] == "BROKEN"
    assert verdicts["test_chat.test_ordinary"] == {}


@pytest.mark.parametrize("columns", [80, 130])
def test_a_failure_is_as_wide_as_the_controllers_terminal(
    suite: pytest.Pytester, temp: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of a run that these tests are spread over
    label = "a_label_" * 12
    suite.makepyfile(test_chat=HEAD + f"@llm_perf(NEVER, model=FAST)\ndef test_bad(llm):\n    llm.measure('{label}')\n")
    (suite.path / "conftest.py").write_text(
        "import os\nif 'PYTEST_XDIST_WORKER' in os.environ:\n    os.environ.pop('COLUMNS', None)\n"
    )
    told = spread(suite).stdout.str()
    assert (label in told.partition("= llmperf =")[0]) is (columns == 130)


def test_collection_errors_are_the_same(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + "@llm_perf(rouds=3)\ndef test_chat(llm):\n    llm.measure()\n")
    result = spread(suite)
    result.stdout.fnmatch_lines(["test_chat.py:*rouds=3: no such keyword; did you mean 'rounds'?"])
    result.assert_outcomes(errors=1)
    assert "INTERNALERROR" not in result.stdout.str()


RECORDING = """
import os
import pathlib
import time
import pytest
from pytest_llmperf import llm_perf, stream

TIMES = pathlib.Path("times").resolve()

def record(what, start):
    with TIMES.joinpath(f"{os.environ['PYTEST_XDIST_WORKER']}.txt").open("a") as file:
        file.write(f"{what} {start} {time.monotonic()}\\n")

def serve(prompt_ids, output_tokens):
    for token in range(output_tokens):
        time.sleep(0.003)
        yield token

def one(prompt_ids, output_tokens):
    start = time.monotonic()
    yield from serve(prompt_ids, output_tokens)
    record("one", start)

def other(prompt_ids, output_tokens):
    start = time.monotonic()
    yield from serve(prompt_ids, output_tokens)
    record("other", start)

@pytest.fixture(autouse=True)
def neighbour(request):
    start = time.monotonic()
    yield
    if "llm" not in request.fixturenames:
        record("ordinary", start)

@pytest.mark.parametrize("n", range(6))
def test_ordinary(n):
    time.sleep(0.03)

@llm_perf(model=stream(one), prompt_tokens=8, output_tokens=4)
@pytest.mark.parametrize("n", range(3))
def test_one(llm, n):
    llm.measure()

@pytest.mark.parametrize("n", range(12))
def test_more(n):
    time.sleep(0.03)

@llm_perf(model=stream(other), prompt_tokens=8, output_tokens=4)
@pytest.mark.parametrize("n", range(3))
def test_other(llm, n):
    llm.measure()
"""


def test_nothing_runs_beside_a_measurement_and_a_target_stays_with_its_worker(
    suite: pytest.Pytester, temp: Path
) -> None:
    times = suite.mkdir("times")
    suite.makepyfile(RECORDING)
    spread(suite).assert_outcomes(passed=24)
    workers = [recorded(file) for file in times.iterdir()]
    assert len(workers) == 2
    for what, start, end in workers[0]:
        for beside, begun, ended in workers[1]:
            assert what == beside == "ordinary" or end < begun or ended < start
    done = [what for worker in workers for what in {what for what, _, _ in worker}]
    assert sorted(done) == ["one", "ordinary", "ordinary", "other"]
    assert list(temp.glob("llmperf-*")) == []


def recorded(file: Path) -> list[tuple[str, float, float]]:
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(what, float(start), float(end)) for what, start, end in lines]


def test_a_worker_killed_while_it_measures_holds_nobody_up(suite: pytest.Pytester, temp: Path) -> None:
    suite.makepyfile(
        test_chat=HEAD
        + """
import os

def deadly(prompt_ids, output_tokens):
    yield 1
    os.kill(os.getpid(), 9)

@llm_perf(model=stream(deadly), prompt_tokens=8, output_tokens=4)
def test_deadly(llm):
    llm.measure()

@llm_perf(ALWAYS, model=FAST, prompt_tokens=8, output_tokens=4)
@pytest.mark.parametrize("n", range(4))
def test_good(llm, n):
    llm.measure()

def test_ordinary():
    pass
"""
    )
    result = spread(suite)
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["worker 'gw?' crashed while running 'test_chat.py::test_deadly'", "4 measured: 4 new"])
    assert list(temp.glob("llmperf-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_ctrl_c_leaves_nothing_behind(suite: pytest.Pytester, temp: Path) -> None:
    suite.makepyfile(
        """
import pathlib
import time
from pytest_llmperf import llm_perf, stream

def endless(prompt_ids, output_tokens):
    pathlib.Path("begun").touch()
    time.sleep(600)
    yield 1

@llm_perf(model=stream(endless))
def test_one(llm):
    llm.measure()

def test_beside():
    time.sleep(0.1)

@llm_perf(model=stream(lambda ids, n: iter(range(n))))
def test_waiting(llm):
    llm.measure()
"""
    )
    command = [sys.executable, "-m", "pytest", "-n2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        begun = suite.path / "begun"
        while not begun.exists() and process.poll() is None:
            time.sleep(0.05)
        assert list(temp.glob("llmperf-*"))
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert b"INTERNALERROR" not in output
    assert list(temp.glob("llmperf-*")) == []


def test_x_stops_at_the_first_broken_limit_and_leaves_nothing_behind(suite: pytest.Pytester, temp: Path) -> None:
    suite.makepyfile(test_chat=HEAD + TWO)
    result = spread(suite, "-x")
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert ("test_bad", "8→4", "BROKEN") in rows(result)
    assert list(temp.glob("llmperf-*")) == []


GROUPED = """
@pytest.mark.xdist_group("both")
@llm_perf(NEVER, model=FAST, prompt_tokens=8, output_tokens=4)
@pytest.mark.parametrize("mail", ["a@b"])
def test_bad(llm, mail):
    llm.measure("long")

@pytest.mark.xdist_group("both")
@llm_perf(ALWAYS, model=FAST, prompt_tokens=8, output_tokens=4)
class TestChat:
    def test_good(self, llm):
        llm.measure()
"""


@pytest.mark.parametrize("dist", ["each", "loadfile", "loadgroup", "worksteal"])
def test_every_other_way_to_distribute_works(suite: pytest.Pytester, temp: Path, dist: str) -> None:
    suite.makepyfile(test_chat=HEAD + GROUPED)
    result = spread(suite, f"--dist={dist}")
    times = 2 if dist == "each" else 1
    result.assert_outcomes(failed=times, passed=times)
    assert sorted(rows(result)) == [("TestChat::test_good", "8→4", "NEW"), ("test_bad[a@b]::long", "8→4", "BROKEN")]
    assert list(temp.glob("llmperf-*")) == []


def test_n0_is_a_run_without_workers(suite: pytest.Pytester, temp: Path) -> None:
    suite.makepyfile(test_chat=HEAD + TWO)
    result = suite.runpytest("-n0")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["2 measured: 1 broken, 1 new"])


def test_a_run_that_measures_nothing_pays_nothing(suite: pytest.Pytester, temp: Path) -> None:
    suite.makeconftest(
        """
import pathlib
import sys
import tempfile

def pytest_sessionfinish(session):
    loaded = [name for name in ("filelock", "sqlite3") if name in sys.modules]
    ours = [name for name in ("llmperf-worker",) if session.config.pluginmanager.hasplugin(name)]
    folders = list(pathlib.Path(tempfile.gettempdir()).glob("llmperf-*"))
    name = getattr(session.config, "workerinput", {}).get("workerid", "controller")
    pathlib.Path(f"{name}.seen").write_text(" ".join(map(str, loaded + ours + folders)))
"""
    )
    suite.makepyfile("def test_one():\n    pass\ndef test_two():\n    pass\n")
    spread(suite, "-p", "no:benchmark", "-p", "no:hypothesispytest").assert_outcomes(passed=2)
    assert {file.name: file.read_text() for file in suite.path.glob("*.seen")} == dict.fromkeys(
        ("gw0.seen", "gw1.seen", "controller.seen"), ""
    )


def test_a_schedule_of_the_users_own_goes_before(suite: pytest.Pytester, temp: Path) -> None:
    suite.makeconftest(
        """
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling
    return LoadFileScheduling(config, log)
"""
    )
    suite.makepyfile(test_chat=HEAD + TWO)
    result = spread(suite, "-v")
    result.stdout.fnmatch_lines(["scheduling tests via LoadFileScheduling"])


def worker(folder: Path, name: str) -> Worker:
    config: Any = SimpleNamespace(workerinput={FOLDER: str(folder / "run"), "workerid": name})
    return Worker(config, [])


def test_measurements_on_different_gpus_run_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def measure(name: str, device: str) -> None:
        with worker(tmp_path, name).exclusive(device):
            both.wait()

    threads = [threading.Thread(target=measure, args=pair) for pair in (("gw0", "cuda:0"), ("gw1", "cuda:1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


@pytest.mark.parametrize(("held", "wanted"), [("cuda:0", "cuda:0"), ("cuda:1", "cuda:0,1"), ("cuda:0,1", "cuda:0")])
def test_measurements_on_one_gpu_take_turns(tmp_path: Path, held: str, wanted: str) -> None:
    order: list[str] = []

    def measure() -> None:
        with worker(tmp_path, "gw1").exclusive(wanted):
            order.append("second")

    thread = threading.Thread(target=measure)
    with worker(tmp_path, "gw0").exclusive(held):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(PATIENCE_S)
    assert order == ["first", "second"]


ON_GPUS = """
import os
import time
from pathlib import Path

from conftest import SEEN_FIRST
from pytest_llmperf import llm_perf
from pytest_llmperf.targets.endpoint.remote import Remote
from pytest_llmperf.targets.stream import Stream, StreamTarget

EVENTS = Path("events.txt").resolve()
PATIENCE_S = 30


class OfAnEngine(Stream):
    def load(self, options):
        target = StreamTarget(self)
        target.device = Remote("an engine")  # which has no memory to track: nobody waits for torch
        return target


def note(what):
    with EVENTS.open("a") as file:
        file.write(f"{what} {os.environ['PYTEST_XDIST_WORKER']}\\n")


def met_another(what, patience):
    began = time.monotonic()
    while time.monotonic() - began < patience:
        if len({line for line in EVENTS.read_text().splitlines() if line.startswith(what)}) == 2:
            return
        time.sleep(0.01)


def serve(prompt_ids, output_tokens):
    note("measures")
    met_another("measures", 0.2 if os.environ["GPUS"] == "1" else PATIENCE_S)
    yield from range(output_tokens)
    note("measures")


def one(prompt_ids, output_tokens):
    yield from serve(prompt_ids, output_tokens)


def other(prompt_ids, output_tokens):
    yield from serve(prompt_ids, output_tokens)


def measured(llm):
    note(f"sees {SEEN_FIRST}")
    note("comes")
    met_another("comes", PATIENCE_S)
    llm.measure()


@llm_perf(model=OfAnEngine(one), prompt_tokens=8, output_tokens=4, rounds=1)
def test_one(llm):
    measured(llm)


@llm_perf(model=OfAnEngine(other), prompt_tokens=8, output_tokens=4, rounds=1)
def test_other(llm):
    measured(llm)
"""
GPUS_OF_A_CONFTEST = """
import os

import pynvml
from pathlib import Path
from pytest_llmperf.plugin import gpus
from pytest_llmperf.plugin.xdist import Worker

SEEN_FIRST = os.environ.get("CUDA_VISIBLE_DEVICES")

gpus._DRIVER = (Path(__file__),)
exclusive = Worker.exclusive
Worker.exclusive = lambda worker, device: exclusive(worker, "cuda:0")

pynvml.nvmlInit = pynvml.nvmlShutdown = lambda: None
pynvml.nvmlDeviceGetCount = lambda: int(os.environ["GPUS"])
pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
pynvml.nvmlDeviceGetMigMode = lambda handle: [0, 0]
pynvml.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
"""


@pytest.fixture
def on_gpus(suite: pytest.Pytester, temp: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A run of two workers on so many GPUs: what happened, in its order."""
    suite.makeconftest(GPUS_OF_A_CONFTEST)
    suite.makepyfile(ON_GPUS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(gpus: int, *arguments: str) -> list[str]:
        monkeypatch.setenv("GPUS", str(gpus))
        (suite.path / "events.txt").touch()
        spread(suite, *arguments).assert_outcomes(passed=2)
        return (suite.path / "events.txt").read_text().splitlines()

    return run


def test_tests_of_two_gpus_measure_at_the_same_time(on_gpus: Callable[..., list[str]]) -> None:
    events = on_gpus(2)
    assert {event for event in events if event.startswith("sees")} == {"sees GPU-0,GPU-1 gw0", "sees GPU-1,GPU-0 gw1"}
    first_two = [event for event in events if event.startswith("measures")][:2]
    assert sorted(first_two) == ["measures gw0", "measures gw1"]


def test_tests_of_one_gpu_take_turns(on_gpus: Callable[..., list[str]]) -> None:
    events = on_gpus(1)
    assert {event for event in events if event.startswith("sees")} == {"sees None gw0", "sees None gw1"}
    turns = [worker for worker, _ in itertools.groupby(event for event in events if event.startswith("measures"))]
    assert sorted(turns) == ["measures gw0", "measures gw1"]


@pytest.fixture
def rooms(tmp_path: Path) -> tuple[Room, Room]:
    return Room(tmp_path, "gw0"), Room(tmp_path, "gw1")


def inside(room: Room) -> bool:
    return bool(room._own.is_locked)


def test_a_measurement_that_fails_is_inside_again(rooms: tuple[Room, Room]) -> None:
    room, other = rooms

    def fail() -> None:
        with room.alone():
            assert not inside(room)
            raise RuntimeError

    with room.inside():
        with pytest.raises(RuntimeError):
            fail()
        assert inside(room)
        with other.inside():
            pass
    assert not inside(room)


def test_who_is_interrupted_while_waiting_to_be_alone_is_inside_again(
    rooms: tuple[Room, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, other = rooms

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "_wait_for_the_others", interrupted)
    with room.inside(), other.inside():
        with pytest.raises(KeyboardInterrupt), room.alone():
            pytest.fail("is not alone")
        assert inside(room)
    with other.alone():
        pass


def test_a_test_that_begins_while_another_waits_to_measure_lets_it_go_first(rooms: tuple[Room, Room]) -> None:
    """Or a run with enough short tests would never measure."""
    room, other = rooms
    order: list[str] = []
    hung_out = threading.Event()

    def measure() -> None:
        with room.inside(), room.alone():
            order.append("measured")

    thread = threading.Thread(target=measure)
    with other.inside():
        thread.start()
        while not room._sign.exists():
            hung_out.wait(0.01)
    with other.inside():
        order.append("next test")
    thread.join(PATIENCE_S)
    assert order == ["measured", "next test"]


def test_a_sign_that_a_killed_worker_left_stops_nobody(rooms: tuple[Room, Room]) -> None:
    room, other = rooms
    room._sign.touch()
    with room.inside(), other.inside():
        pass
    with room.inside(), room.alone():
        pass
    assert not room._sign.exists()
