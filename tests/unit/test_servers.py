"""Servers: started, watched with all their processes, and gone with all of them however their owner ends."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from pytest_llmperf import resident
from pytest_llmperf.errors import TargetError, UsageError
from pytest_llmperf.model import Unknown
from pytest_llmperf.servers import Launch, Server, keeper, kept, server, serving, tree
from pytest_llmperf.servers import log as logs
from pytest_llmperf.servers.ready import what_is_amiss
from tests.programs import READY, ask, command_in, left_of, processes_of

MIB = 2**20

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")


def launch(folder: Path, *arguments: str, **named) -> Launch:
    return Launch.of(command_in(folder, *arguments), **{"ready": READY, "folder": folder, **named})


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def start(*arguments: str, tell=lambda stage: None, timeout: float = 60.0, **named) -> Server:
        launched = launch(tmp_path, *arguments, **named)
        started.append(Server(launched, tmp_path / "server.log", timeout=timeout, tell=tell))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def keepers() -> list[psutil.Process]:
    """Of servers of this process."""
    return [child for child in psutil.Process().children() if keeper.__file__ in child.cmdline()]


# What is to be started


def words(command) -> tuple[str, ...]:
    return Launch.of(command, "http://127.0.0.1:8000/health", folder=Path()).command


def test_a_command_is_words_or_a_text_of_words() -> None:
    expected = ("serve", "my model", "--port", "1")
    assert words("serve 'my model' --port 1") == expected
    assert words(["serve", Path("my model"), "--port", "1"]) == expected


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "command '' is empty"),
        ([], r"command \[\] is empty"),
        ("serve 'gpt2", "cannot be split into words: No closing quotation"),
        (["serve", 8000], "expected text, not 8000"),
        ("cd x && serve", "'&&' is for a shell"),
        ("serve > log", "'>' is for a shell"),
        ("serve 2>&1", "'2>&1' is for a shell"),
        ("serve | tee log", r"'\|' is for a shell"),
        ("prepare; serve", "'prepare;' is for a shell"),
        ("serve $MODEL", r"'\$MODEL' is for a shell"),
        ("serve `which model`", "is for a shell"),
        ("GPU=0 serve", r"'GPU=0' is for a shell.*pass env=\{'GPU': '0'\}"),
    ],
)
def test_a_command_that_nobody_could_start_is_refused(command, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        words(command)


def test_in_a_list_nothing_is_for_a_shell() -> None:
    assert words(["bash", "-c", "exec serve $MODEL"]) == ("bash", "-c", "exec serve $MODEL")


@pytest.mark.parametrize(
    ("ready", "said"),
    [
        ("/health", r"ready='/health': expected a whole URL with http:// and a host, such as http://127"),
        ("http:///health", "expected a whole URL"),
        ("127.0.0.1:8000/health", "expected a whole URL"),
        ("ftp://127.0.0.1/health", "expected a whole URL"),
        ("http://127.0.0.1:port/health", "expected a URL"),
        ("http://[::1/health", "expected a URL"),
        ("http://a..b/", r"ready='http://a..b/': expected a URL, such as"),
        ("http://127.0.0.1:9/é", "neither blanks nor letters beyond ASCII; write http://127.0.0.1:9/%C3%A9"),
        ("http://127.0.0.1:9/a b", "write http://127.0.0.1:9/a%20b"),
        (8000, "ready=8000: expected a URL"),
    ],
)
def test_a_url_that_nobody_could_ask_is_refused(ready, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Launch.of("serve", ready, folder=Path())


def test_a_free_port_has_to_be_told_to_the_command_and_asked() -> None:
    with pytest.raises(UsageError, match=r"asks a port that 'serve' is not told"):
        Launch.of("serve", READY, folder=Path())
    with pytest.raises(UsageError, match=r"asks one port, and the command is told another"):
        Launch.of("serve {port}", "http://127.0.0.1:8000/", folder=Path())
    launched = Launch.of("serve {port} '{\"n\": 1}'", READY, env={"PORT": "{port}"}, folder=Path()).at(81)
    assert launched.command == ("serve", "81", '{"n": 1}')
    assert launched.ready == "http://127.0.0.1:81/health"
    assert launched.env == (("PORT", "81"),)
    assert launched.name == "serve 81 '{\"n\": 1}'"


def test_other_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"env=\{'GPU': 0\}: expected text"):
        Launch.of("serve", "http://localhost", env={"GPU": 0}, folder=Path())
    with pytest.raises(UsageError, match=r"cwd='.*absent': there is no such folder"):
        Launch.of("serve", "http://localhost", folder=tmp_path / "absent")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (None, "command None: expected text, or a list of words"),
        (b"serve", "expected text, or a list of words"),
        (["serve", "a\0b"], r"'a\\x00b' holds a null character"),
        (["serve", "\ud800"], "is no text that a program can be given"),
        (["serve", "x" * 300_000], "300,0.. characters are too many; write them to a file"),
    ],
)
def test_what_no_program_can_be_given_is_refused(command, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        words(command)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"env": {"A=B": "c"}}, r"env=\{'A=B': 'c'\}: 'A=B' is no name of a variable"),
        ({"env": {"": "c"}}, "'' is no name of a variable"),
        ({"env": {"A": "c\0"}}, "holds a null character"),
        ({"env": {"A": "c" * 200_000}}, "characters are too many"),
        ({"env": ["A=B"]}, r"env=\['A=B'\]: expected names and values"),
        ({"name": 3}, "name=3: expected text"),
    ],
)
def test_what_a_server_cannot_have_beside_its_command_is_refused(named: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Launch.of("serve", "http://localhost", folder=Path(), **named)


def test_a_long_command_is_called_by_its_beginning() -> None:
    assert Launch.of(["/bin/serve", "x" * 100], "http://localhost", folder=Path()).name == f"serve {'x' * 53}…"
    assert Launch.of(["/bin/serve"], "http://localhost", folder=Path(), name="base").name == "base"


def test_programs_of_the_tests_environment_are_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/programs")
    monkeypatch.setattr(sys, "executable", "/project/.venv/bin/python")
    monkeypatch.setattr(sys, "prefix", "/project/.venv")
    launched = Launch.of("serve", "http://localhost", folder=Path())
    assert launched.environ["PATH"] == "/project/.venv/bin:/programs"
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert launched.environ["PATH"] == "/programs"


# Starting


def test_a_server_is_ready_once_it_answers_200(start: Start, tmp_path: Path) -> None:
    stages: list[str] = []
    server = start("--not-yet", "2", tell=stages.append)
    assert server.alive
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert processes_of(server)[0].pid == server.pid
    assert server.log.read_text() == f"serving on {server.port}\n"
    pattern = rf"waiting for {re.escape(server.name)}, \d+ s( · serving on {server.port})?"
    assert len(stages) >= 2
    assert all(re.fullmatch(pattern, stage) for stage in stages)


def test_a_server_has_the_folder_and_the_environment_that_it_was_given(start: Start, tmp_path: Path) -> None:
    server = start(env={"OF_THE_TEST": "port {port}"})
    assert ask(f"{server.url}/folder") == str(tmp_path)
    assert ask(f"{server.url}/variable") == f"port {server.port}"


def never_ready(tmp_path: Path, command: object, ready: str = READY, timeout: float = 60.0) -> str:
    """Why not; nothing of it may be left."""
    launched = Launch.of(command, ready, folder=tmp_path)
    with pytest.raises(TargetError) as error:
        Server(launched, tmp_path / "server.log", timeout=timeout)
    assert keepers() == []
    return str(error.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert never_ready(tmp_path, "srve {port}").startswith("there is no program 'srve' on PATH")
    (tmp_path / "text").write_text("no program")
    assert never_ready(tmp_path, "./text {port}") == "'./text' cannot be started: Permission denied"


def test_a_server_that_ends_at_once_is_told_with_the_last_it_printed(tmp_path: Path) -> None:
    code = "import sys; print('loading'); sys.exit('CUDA is not there, {port}')"
    said = never_ready(tmp_path, [sys.executable, "-S", "-c", code])
    told = (
        f"has ended with status 1; the last it printed ({tmp_path / 'server.log'}):\n  loading\n  CUDA is not there, "
    )
    assert told in said


def test_a_server_that_leaves_the_foreground_is_told_not_to(tmp_path: Path) -> None:
    said = never_ready(tmp_path, [sys.executable, "-S", "-c", "{port}"])
    assert "has ended with status 0 (it has to stay in the foreground); it printed nothing (" in said


def test_a_server_that_is_not_ready_in_time_is_told_with_what_it_answers(tmp_path: Path) -> None:
    silent = never_ready(tmp_path, [sys.executable, "-S", "-c", "import time; time.sleep(600) # {port}"], timeout=0.1)
    assert re.search(r"is not ready after 1 s: GET http://127.0.0.1:\d+/health gives no answer \(.*refused\)", silent)
    never = command_in(tmp_path, "--not-yet", "1000000")
    refusing = never_ready(tmp_path, never, timeout=2)
    assert "/health answers 503 (Service Unavailable); timeout= gives it longer; the last it printed" in refusing


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = never_ready(tmp_path, "true", f"http://localhost:{port}/health")
    assert f": at http://localhost:{port} another process answers already; end it, or write {{port}}" in said
    assert not (tmp_path / "server.log").exists()


def test_what_is_no_http_is_not_ready(tmp_path: Path) -> None:
    code = """if True:
        import socket
        with socket.create_server(("127.0.0.1", {port})) as server:
            while True:
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"+OK\\r\\n")
                connection.close()
    """
    said = never_ready(tmp_path, [sys.executable, "-S", "-c", code], timeout=1)
    assert "gives no answer that HTTP knows (BadStatusLine: +OK" in said


@contextmanager
def answering(answer: bytes, drip: bytes = b"") -> Iterator[str]:
    """The URL of a server that says so to the first who comes, and then a byte now and then."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(1000)
            connection.sendall(answer)
            while drip and not over.wait(0.02):
                connection.sendall(drip)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        over.set()
        thread.join()


def test_headers_without_end_are_not_waited_for() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n", drip=b"X") as url:
        assert what_is_amiss(url, 1) == "gives no whole answer within 1 s"


def test_no_look_takes_longer_than_there_is_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(server, "what_is_amiss", lambda url, patience: asked.append(patience) or "")
    start(timeout=2)
    assert 0.5 <= asked[0] <= 2


@pytest.mark.parametrize("place", [b"http://[::1", b"http://a..b/", b"/", b"file:///etc/hosts"])
def test_a_redirection_is_not_ready(place: bytes) -> None:
    with answering(b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n") as url:
        assert what_is_amiss(url) == "answers 302 (Found)"


def test_a_proxy_is_not_asked_for_what_runs_here(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert start().alive


# The log


def test_the_last_lines_are_those_that_a_terminal_would_show(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n\n\x1b[32mloading\x1b[0m  1 %\rloading 99 %\r\n\xff\n" + b"\n" * 5)
    assert logs.last_lines(log) == ["first", "loading  1 %", "loading 99 %", "\ufffd"]
    assert logs.last_lines(log, 1) == ["\ufffd"]
    log.write_text("x\n" * 100_000)
    assert logs.last_lines(log) == ["x"] * 12


# Its end


def test_stop_ends_every_process_also_one_that_slipped_away(start: Start) -> None:
    server = start()
    processes = processes_of(server)
    assert len(processes) == 4
    server.stop()
    assert not [process for process in processes if process.is_running()], "gone when stop() returns"
    assert not server.alive
    server.stop()


def test_processes_that_ignore_being_asked_are_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_GRACE_S", 0.1)
    server = start("--deaf")
    processes = processes_of(server)
    server.stop()
    assert not [process for process in processes if process.is_running()]


def test_what_a_shell_started_ends_with_it(tmp_path: Path) -> None:
    serve = shlex.join(command_in(tmp_path))
    launched = Launch.of(["bash", "-c", f"{serve} & wait"], READY, folder=tmp_path)
    with Server(launched, tmp_path / "server.log", timeout=60) as server:
        processes = processes_of(server)
    assert not [process for process in processes if process.is_running()]


def test_a_server_that_dies_is_told_with_the_last_it_printed(start: Start) -> None:
    server = start(name="engine")
    with pytest.raises(http.client.HTTPException):
        ask(f"{server.url}/end")
    while server.alive:
        pass
    with pytest.raises(
        TargetError, match=rf"^engine \(pid {server.pid}\) has ended with status 3; the last it printed"
    ):
        server.check()
    with pytest.raises(TargetError, match=r"\n  the engine has died$"):
        server.begin()


def test_an_end_is_heard_also_where_it_is_told_in_one_breath_with_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "keeper.py"
    program.write_text('import os\nos.write(1, b\'{"pid": 7}\\n{"status": 3}\\n\')\nos.read(0, 1)\n')
    monkeypatch.setattr(keeper, "__file__", str(program))
    held = kept.Kept(Launch.of("true", "http://localhost", folder=tmp_path), tmp_path / "log")
    assert held.pid == 7
    assert held.status == 3
    held.close()


def test_a_server_that_is_killed_is_told_so(start: Start) -> None:
    server = start()
    os.kill(server.pid, signal.SIGKILL)
    while server.alive:
        pass
    with pytest.raises(TargetError, match=r"has ended by SIGKILL \(memory may have run out\); the last it"):
        server.check()


OWNER = """
import sys, time
from pathlib import Path
from pytest_llmperf.servers import Launch, Server
from tests.programs import READY, command_in, processes_of
folder = Path(sys.argv[1])
server = Server(Launch.of(command_in(folder), READY, folder=folder), folder / "server.log", timeout=60)
if "fork" in sys.argv:
    import os
    if os.fork() == 0:
        time.sleep(600)
print(*(process.pid for process in processes_of(server)), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("also", ["", "fork"])
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, also: str) -> None:
    """Also where a process forked from that one has inherited its pipes."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), also],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) == 4
        owner.kill()
        left = left_of(processes)
        if also:
            os.killpg(owner.pid, signal.SIGKILL)
    assert not left


def test_ctrl_c_while_waiting_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Server(launch(tmp_path, "--not-yet", "1000000"), tmp_path / "log", timeout=60, tell=interrupt)
    assert keepers() == []


def test_ctrl_c_of_the_terminal_is_not_the_servers_to_answer(start: Start) -> None:
    server = start()
    groups = {os.getpgid(server.pid), os.getpgid(server._kept.root)}
    assert len(groups) == 2
    assert os.getpgid(0) not in groups


# Found by its URL


def test_a_server_is_found_by_its_url_as_long_as_it_was_not_stopped(start: Start) -> None:
    server = start()
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert serving(f"http://{host}:{server.port}/v1") is server
    assert serving(f"http://llm.example.org:{server.port}/v1") is None
    assert serving("http://localhost/v1") is None
    assert serving("http://localhost:no/v1") is None
    server.stop()
    assert serving(server.url) is None


# Its memory


@pytest.fixture(params=["kernel", "sampled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of watching resident sets."""
    if request.param == "sampled":
        monkeypatch.setattr(resident, "_PROC", Path("/nonexistent"))
    elif not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this kernel resets no high-water mark")
    way: str = request.param
    return way


def test_memory_is_the_peak_of_all_processes_together(start: Start, way: str) -> None:
    server = start()
    server.begin()
    before = server.memory().peak_rss
    *all_, _ = processes_of(server)
    together = sum(process.memory_info().rss for process in all_)
    assert len(all_) == 3
    assert isinstance(before, int)
    assert 0.8 * together < before < 1.5 * together
    ask(f"{server.url}/grow/64")
    assert 60 * MIB < server.memory().peak_rss - before < 80 * MIB
    ask(f"{server.url}/grow/0")
    assert 60 * MIB < server.memory().peak_rss - before < 80 * MIB, "a peak stays"
    server.begin()
    assert server.memory().peak_rss - before < 20 * MIB, "until it is watched anew"


def test_no_sampler_outlives_its_server(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_PROC", Path("/nonexistent"))
    server = start()
    for _ in range(2):
        server.begin()
        assert [thread.name for thread in threading.enumerate()].count("llmperf-rss") == 1
    server.stop()
    assert "llmperf-rss" not in [thread.name for thread in threading.enumerate()]


def test_what_is_not_seen_of_a_server_is_unknown_with_its_reason(start: Start) -> None:
    server = start()
    assert server.memory().peak_rss == Unknown("nobody watched the server's memory")
    server.begin()
    memory = server.memory()
    for name in ("weights", "kv_cache", "peak_growth", "leaked_per_call", "reserved"):
        assert getattr(memory, name) == Unknown("a server's model is out of sight")
    os.kill(server.pid, signal.SIGKILL)
    while server.alive:
        pass
    assert isinstance(server.memory().peak_rss, Unknown)


def test_processes_of_a_container_are_not_in_sight(tmp_path: Path) -> None:
    """The command's own process only waits: the port is another's, who is none of its children."""
    with Server(launch(tmp_path), tmp_path / "server.log", timeout=60) as server:
        server._tree = tree.Tree(os.getpid() + 10**7, server.port)
        reason = f"no process that the command started listens on port {server.port} (a container's do not)"
        assert server.memory() == tree.none_of(reason)


def test_gpu_memory_is_that_of_all_its_processes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    *all_, keeping = processes_of(server)
    listed = [SimpleNamespace(pid=pid, usedGpuMemory=5 * MIB) for pid in (all_[0].pid, all_[2].pid, keeping.pid, 1)]
    for name, replacement in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: listed,
    }.items():
        monkeypatch.setattr(pynvml, name, replacement)
    server.begin()
    assert server.memory().process_gpu == 10 * MIB
    listed.clear()
    expected = "NVML does not list the server (in a container it shows the host's process ids)"
    assert server.memory().process_gpu == Unknown(expected)
