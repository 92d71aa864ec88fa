"""`llm_server`: one server for a whole session, told plainly when it fails, and gone however the session ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.programs import PATIENCE_S, command_in, left_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")

HEAD = """
import json, os, time
from pathlib import Path
import pytest
from tests.programs import READY, ask, processes_of

COMMAND = {command!r}


@pytest.fixture(scope="session")
def server(llm_server):
    server = llm_server(COMMAND, ready=READY, env=dict(OF_THE_TEST="1"))
    Path("pids").write_text(json.dumps([process.pid for process in processes_of(server)]))
    return server


"""


def suite_of(suite: pytest.Pytester, body: str) -> None:
    suite.makepyfile(test_served=HEAD.format(command=command_in(suite.path)) + body)


def started(suite: pytest.Pytester) -> list[psutil.Process]:
    """Processes of the server that still run."""
    found = []
    for pid in json.loads((suite.path / "pids").read_text()):
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_folder_that_cannot_be_one_is_named(suite: pytest.Pytester) -> None:
    suite_of(
        suite,
        """
import pytest

@pytest.mark.parametrize("folder", [3, b"x", "a\\0b"])
def test_there(llm_server, folder):
    llm_server(COMMAND, ready=READY, cwd=folder)
""",
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["llm_server: cwd=3: expected the path of a folder"])
    assert len([line for line in result.outlines if line.startswith("llm_server: cwd=")]) == 3


def test_the_same_arguments_name_the_same_server(suite: pytest.Pytester) -> None:
    suite_of(
        suite,
        """
def test_first(server, llm_server):
    assert server.alive
    assert llm_server(COMMAND, ready=READY, env=dict(OF_THE_TEST="1"), timeout=7) is server

def test_second(server, llm_server, request):
    assert ask(server.url + "/folder") == str(request.config.rootpath)
    assert server.log.is_file()
    other = llm_server(COMMAND, ready=READY, name="other", cwd="..", env=dict(OF_THE_TEST="1"))
    assert other.port != server.port
    assert ask(other.url + "/folder") == str(request.config.rootpath.parent)

def test_memory(server):
    server.begin()
    assert server.memory().peak_rss > 2**20
""",
    )
    suite.runpytest().assert_outcomes(passed=3)
    assert not started(suite)


def test_an_endpoint_of_a_server_has_its_url(suite: pytest.Pytester) -> None:
    suite_of(
        suite,
        """
def test_endpoint(server):
    from pytest_llmperf.targets.endpoint import endpoint
    assert server.endpoint(model="gpt2", api="chat") == endpoint(server.url + "/v1", model="gpt2", api="chat")
    assert server.endpoint(model="gpt2", path="") == endpoint(server.url, model="gpt2")
""",
    )
    suite.runpytest().assert_outcomes(passed=1)


def test_a_server_that_fails_is_told_without_a_traceback_and_not_tried_again(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
import pytest

FAILING = ["bash", "-c", "echo once >> times; echo no room on port {port}; exit 3"]

@pytest.fixture
def server(llm_server):
    return llm_server(FAILING, ready="http://127.0.0.1:{port}/health", name="engine")

def test_first(server): pass
def test_second(server): pass
def test_misuse(llm_server): llm_server("serve", ready="/health")
"""
    )
    result = suite.runpytest()
    result.assert_outcomes(errors=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "llm_server: engine (pid *) has ended with status 3; the last it printed (*/bash-1.log):",
            "  no room on port *",
            "llm_server: ready='/health': expected a whole URL with http:// and a host, such as *",
        ]
    )
    assert "pytest_llmperf/" not in result.stdout.str()
    assert (suite.path / "times").read_text() == "once\n"


def test_a_server_that_dies_between_tests_is_told_by_the_next_that_asks(suite: pytest.Pytester) -> None:
    suite_of(
        suite,
        """
def test_fatal(server):
    with pytest.raises(Exception, match="closed"):
        ask(server.url + "/end")
    while server.alive:
        pass

def test_next(llm_server):
    llm_server(COMMAND, ready=READY, env=dict(OF_THE_TEST="1"))
""",
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["llm_server: * has ended with status 3; the last it printed *", "  the engine has died"]
    )
    assert not started(suite), "nor what it left behind"


def test_a_server_ends_with_a_session_that_fails(suite: pytest.Pytester) -> None:
    suite_of(suite, "def test_fails(server): assert False\ndef test_exits(server): pytest.exit('enough')")
    result = suite.runpytest_inprocess(no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not started(suite)


@pytest.mark.parametrize("arguments", [["--llmperf=off"], ["--collect-only"]])
def test_nothing_is_started_where_nothing_is_measured(suite: pytest.Pytester, arguments: list[str]) -> None:
    suite_of(suite, "def test_served(server): pass")
    assert suite.runpytest(*arguments).ret == pytest.ExitCode.OK
    assert not (suite.path / "pids").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_ends_with_pytest_whatever_ends_it(suite: pytest.Pytester, number: signal.Signals) -> None:
    suite_of(suite, "def test_long(server):\n    Path('begun').touch()\n    time.sleep(600)")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])}
    command = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-p", "no:hypothesispytest"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ, start_new_session=True) as process:
        until = time.monotonic() + PATIENCE_S
        while not (suite.path / "begun").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        processes = started(suite)
        assert len(processes) == 4
        os.killpg(process.pid, number)
    assert not left_of(processes)


def test_each_worker_of_xdist_starts_its_own(suite: pytest.Pytester) -> None:
    suite_of(
        suite,
        """
@pytest.mark.parametrize("number", range(2))
def test_served(server, number, worker_id):
    Path(f"{worker_id}.port").write_text(str(server.port))
    until = time.monotonic() + 30
    while len(list(Path().glob("*.port"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
""",
    )
    suite.runpytest("-n2", "--dist=load").assert_outcomes(passed=2)
    ports = {path.name: path.read_text() for path in suite.path.glob("*.port")}
    assert len(ports) == 2
    assert len(set(ports.values())) == 2
