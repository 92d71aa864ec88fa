"""A suspect is measured again in a real fresh process, which is the same run in all but what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.plugin import fresh
from tests.plugin.stored import TURN, Stored
from tests.plugin.test_verdicts import FAILED, FASTER, OK, counted, text

LOGGED = """
import pathlib
import sys

LOG = pathlib.Path(__file__).with_name("log")

def paced(prompt_ids, output_tokens):
    if not getattr(sys, "logged", False):
        sys.logged = True
        with LOG.open("a") as file:
            print(os.getpid(), os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0], file=file)
    for token in range(output_tokens):
        clock.now += 0.001
        yield token

PACED = stream(paced)
"""
"""A target that leaves a line for each process that measures it."""


def recorded(stored: Stored, body: str, *arguments: str, name: str = "test_chat") -> None:
    stored.write(LOGGED + body, name)
    result = stored.alone("--llmperf-update", *arguments)
    assert result.ret == OK, text(result)
    stored.change(**FASTER)
    for log in stored.pytester.path.rglob("log"):
        log.unlink()


def log(stored: Stored) -> list[list[str]]:
    [path] = stored.pytester.path.rglob("log")
    return [line.split(" ", 1) for line in path.read_text().splitlines()]


def assert_measured_twice(stored: Stored, result: pytest.RunResult, test: str) -> None:
    assert result.ret == FAILED, text(result)
    result.stdout.fnmatch_lines(["*REGRESSED tpot_ms *2 processes*"])
    pids, tests = zip(*log(stored), strict=True)
    assert tests == (test, test)
    assert len(set(pids)) == 2


def test_it_runs_the_one_test_and_no_other(stored: Stored) -> None:
    recorded(stored, TURN + TURN.replace("test_turn", "test_other"))
    result = stored.alone("-k", "test_turn")
    assert_measured_twice(stored, result, "test_chat.py::test_turn")


def test_a_parameter_may_have_any_name(stored: Stored) -> None:
    names = ["x::y", "[é]", "a/b.py", "$HOME 'q' \"d\""]
    recorded(stored, f"@pytest.mark.parametrize('n', {names!r})" + TURN.replace("(llm)", "(llm, n)"))
    result = stored.alone()
    result.assert_outcomes(failed=len(names))
    assert len(log(stored)) == 1 + len(names)


def test_a_method_of_a_class_with_fixtures_and_options_of_a_conftest(stored: Stored) -> None:
    conftest = stored.pytester.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + """
def pytest_addoption(parser):
    parser.addoption("--size", type=int)

@pytest.fixture(scope="session")
def size(request):
    return request.config.getoption("--size") + 0
"""
    )
    body = """
@llm_perf(model=PACED, output_tokens=4)
class TestChat:
    def test_turn(self, llm, size):
        llm.measure(prompt_tokens=size)
"""
    recorded(stored, body, "--size=8")
    result = stored.alone("--size=8")
    assert_measured_twice(stored, result, "test_chat.py::TestChat::test_turn")


def test_rootdir_and_ini_given_by_name_and_a_call_from_elsewhere(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = stored.pytester.path
    other = suite / "ci" / "other.ini"
    other.parent.mkdir()
    other.write_text("[pytest]\nllmperf_rounds = 3\nllmperf_max_time = 0.05\nllmperf_tolerance = 7%\n")
    (suite / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(suite / "deep" / "er")
    # The folder of the ini would cut off the conftest, and with it the clock.
    options = ("-c", "../../ci/other.ini", "--rootdir=../..", "--confcutdir=../..")
    recorded(stored, TURN, *options, "../..", name="test_chat")
    result = stored.alone(*options, "../..")
    assert "tolerance 7 %; 2 processes" in text(result)
    assert [test for _, test in log(stored)] == ["test_chat.py::test_turn"] * 2


@pytest.mark.parametrize("module", [True, False])
def test_pytest_and_python_m_pytest(stored: Stored, module: bool) -> None:
    """The second has the current folder on its path, the first has not."""
    suite = stored.pytester.path
    (suite / "queue.py").write_text("" if module else "raise Exception('a file of the user')")
    (suite / "mine.py").write_text("")
    if module:
        (suite / "queue.py").unlink()
    stored.write(("import mine\n" if module else "") + LOGGED + TURN)
    (suite / "tests").mkdir()
    for name in ("conftest.py", "test_chat.py"):
        (suite / name).rename(suite / "tests" / name)
    start = [sys.executable, "-m", "pytest"] if module else [str(Path(sys.executable).with_name("pytest"))]
    subprocess.run([*start, "--llmperf-update"], check=True, stdout=subprocess.DEVNULL)
    stored.change(**FASTER)
    (suite / "tests" / "log").unlink()
    result = subprocess.run(start, capture_output=True, text=True)
    assert "2 processes" in result.stdout
    assert [test for _, test in log(stored)] == ["tests/test_chat.py::test_turn"] * 2


def test_options_of_the_environment_and_plugins_count(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--llmperf-tolerance=9% -p mine --mine -k turn -x --junitxml=junit.xml")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stored.pytester.path), *sys.path]))
    (stored.pytester.path / "mine.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--mine', action='store_true')\n"
    )
    body = TURN.replace("(llm)", "(llm, request)").replace(
        "    llm", "    assert request.config.getoption('mine')\n    llm"
    )
    recorded(stored, body)
    result = stored.alone()
    assert_measured_twice(stored, result, "test_chat.py::test_turn")
    assert "tolerance 9 %" in text(result)


def test_it_leaves_nothing_behind(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    temp = stored.pytester.mkdir("temp")
    monkeypatch.setenv("TMPDIR", str(temp))
    stored.pytester.makeini("[pytest]\nllmperf_rounds = 3\nllmperf_max_time = 0.05\nlog_file = log.txt\n")
    body = TURN.replace("(llm)", "(llm, tmp_path, request)").replace(
        "    llm",
        "    import logging\n    logging.getLogger().warning('from %s', os.getpid())\n"
        "    request.config.cache.set('mine/pid', os.getpid())\n    llm",
    )
    recorded(stored, body + "def test_bad():\n    assert os.environ.get('GOOD')\n", "-k", "turn", "-p", "cacheprovider")
    arguments = ("-p", "cacheprovider", "--junitxml=junit.xml", "--basetemp=mine", "--lf", "-x")
    result = stored.alone(*arguments)
    assert result.ret == FAILED
    assert "2 processes" in text(result)
    [first, _] = [pid for pid, _ in log(stored)]
    suite = stored.pytester.path
    assert (suite / ".pytest_cache/v/mine/pid").read_text() == first
    assert "test_turn" in (suite / ".pytest_cache/v/cache/lastfailed").read_text()
    assert first in (suite / "log.txt").read_text()
    assert "REGRESSED" in (suite / "junit.xml").read_text()
    assert [path.name for path in (suite / "mine").iterdir() if path.is_dir() and not path.is_symlink()] == [
        "test_turn0"
    ]
    assert not [path for path in temp.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("option", ["-s", "--capture=tee-sys"])
def test_its_output_does_not_mix_with_the_runs(stored: Stored, option: str) -> None:
    recorded(stored, TURN + "    print('said by', os.getpid())\n")
    result = stored.alone(option)
    assert_measured_twice(stored, result, "test_chat.py::test_turn")
    pids = [pid for pid, _ in log(stored)]
    assert f"said by {pids[0]}" in text(result)
    assert f"said by {pids[1]}" not in text(result)
    assert text(result).count("test session starts") == 1


def test_reruns_are_the_runs_own_affair(stored: Stored) -> None:
    pytest.importorskip("pytest_rerunfailures")
    recorded(stored, TURN.replace("sys.logged", ""))
    result = stored.alone("--reruns=1")
    assert result.ret == FAILED
    assert counted(result) == "1 regressed"
    assert len(log(stored)) == 3, "this process logs once, and a fresh one for each try"


BAD_THERE = TURN + "\nif 'FIRST' not in os.environ:\n    {fault}\nos.environ.pop('FIRST')\n"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise ValueError('no luck')", "ERROR test_chat.py - ValueError: no luck"),
        ("pytest.skip('no luck', allow_module_level=True)", "SKIPPED *: no luck"),
        ("os._exit(31)", "it ended with status 31"),
    ],
)
def test_where_it_fails_the_suspect_is_inconclusive_and_says_why(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setenv("FIRST", "1")
    recorded(stored, BAD_THERE.format(fault=fault))
    result = stored.alone()
    assert result.ret == OK
    result.stdout.fnmatch_lines(
        [
            "*test_turn: tpot_ms *not measured again)",
            f"not measured again: the fresh process measured nothing: {reason}",
        ]
    )


def test_it_is_not_waited_for_without_end(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
    with pytest.raises(MeasurementError, match="the fresh process did not end within 1 s"):
        fresh._run(sleeping, str(tmp_path), tmp_path / "output", 1.0)


def test_what_it_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    server = [sys.executable, "-c", f"import time; time.sleep(5); open({str(ended)!r}, 'w')"]
    leaving = [sys.executable, "-c", f"import subprocess; subprocess.Popen({server!r}); print('done')"]
    assert fresh._run(leaving, str(tmp_path), tmp_path / "output", 60.0) == "done\n"
    assert not ended.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_it_ends_with_the_run_at_ctrl_c(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    temp = stored.pytester.mkdir("temp")
    monkeypatch.setenv("TMPDIR", str(temp))
    monkeypatch.setenv("FIRST", "1")
    waiting = "open('begun', 'w').write(str(os.getpid()))\n    import time\n    time.sleep(600)"
    recorded(stored, BAD_THERE.format(fault=waiting))
    begun = stored.pytester.path / "begun"
    command = [sys.executable, "-m", "pytest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        while not (begun.exists() and begun.read_text()) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    assert not [path for path in temp.iterdir() if path.suffix != ".lock"]


# Spread over workers


def test_workers_find_a_regression_as_one_process_does(stored: Stored) -> None:
    pytest.importorskip("xdist")
    body = TURN + TURN.replace("test_turn", "test_other") + "def test_plain():\n    pass\n"
    recorded(stored, body, "--llmperf-tolerance=7%")
    result = stored.alone("-n2", "--llmperf-tolerance=7%", "-p", "no:cacheprovider")
    assert result.ret == FAILED
    result.assert_outcomes(failed=2, passed=1)
    assert text(result).count("tolerance 7 %; 2 processes") >= 4
    assert counted(result) == "2 regressed"


def test_workers_record_what_one_process_does(stored: Stored) -> None:
    pytest.importorskip("xdist")
    stored.write(TURN + TURN.replace("test_turn", "test_other"))
    stored.alone("--llmperf-update", "--llmperf-sessions=2")
    alone = stored.files()
    moments = {session["recorded"] for test in stored.names() for session in stored.sessions(test)}
    assert len(moments) == 1
    for path in stored.folder.rglob("*.json"):
        path.unlink()
    result = stored.alone("-n2", "--llmperf-update", "--llmperf-sessions=2")
    result.stdout.fnmatch_lines(["baselines: 0 updated, 2 new, 0 unchanged"])
    [(_, then)], [(_, now)] = alone.items(), stored.files().items()
    [moment] = {session["recorded"] for test in stored.names() for session in stored.sessions(test)}
    assert now.replace(moment, moments.pop()) == then


@pytest.mark.parametrize("chosen", ["-k test_turn", "--deselect=test_chat.py::test_other", ""])
def test_workers_tell_what_is_stale_as_one_process_does(stored: Stored, chosen: str) -> None:
    pytest.importorskip("xdist")
    both = TURN + TURN.replace("test_turn", "test_other")
    stored.record(both + TURN.replace("test_turn", "test_gone"))
    stored.write(both)
    result = stored.alone("-n2", *chosen.split())
    result.stdout.fnmatch_lines(["1 stale: test_chat.py::test_gone: *"])
