"""Two processes that talk over pipes: what arrives, what is refused, and how an end is told."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from pytest_llmperf.duet.channel import FAULT, Channel, ClosedError, FaultError, Process, python
from pytest_llmperf.errors import MeasurementError, UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="signals and groups of POSIX")


class Ends:
    """A channel, and the bare pipes at its other end."""

    def __init__(self) -> None:
        incoming, self.into = os.pipe()
        self.out, outgoing = os.pipe()
        self.over: SimpleQueue[bool] = SimpleQueue()
        self.channel = Channel(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"), lambda: self.over.put(True))

    def say(self, line: bytes) -> None:
        os.write(self.into, line)

    def hang_up(self) -> None:
        os.close(self.into)
        self.into = -1


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    if made.into >= 0:
        made.hang_up()
    made.over.get(timeout=20)  # its thread has ended, so that nobody else gets its descriptors
    made.channel.close()
    os.close(made.out)


def test_a_message_is_one_line_of_json_that_says_what_it_is(ends: Ends) -> None:
    ends.channel.tell("round", script={"order": ("base", "head")}, name="größer\n")
    assert (
        os.read(ends.out, 1000)
        == b'{"say":"round","script":{"order":["base","head"]},"name":"gr\\u00f6\\u00dfer\\n"}\n'
    )
    ends.say(b'{"say":"values","values":{"tpot_ms":1.5}}\n')
    assert ends.channel.hear("set", "values") == {"say": "values", "values": {"tpot_ms": 1.5}}


def test_messages_are_heard_one_by_one_in_the_order_in_which_they_were_said(ends: Ends) -> None:
    ends.say(b'{"say":"set"}\n{"say":"go"}\n{"say":')
    ends.say(b'"values"}\n')
    assert [ends.channel.hear(said)["say"] for said in ("set", "go", "values")] == ["set", "go", "values"]


@pytest.mark.parametrize(
    "line",
    [b"cbuiltins\neval\n", b"\x80\x04N.\n", b"\n", b"7\n", b'["say"]\n', b'{"tell":"set"}\n', b'"say"\n', b"\xff\n"],
)
def test_what_is_no_message_ends_the_conversation(ends: Ends, line: bytes) -> None:
    ends.say(line)
    with pytest.raises(ClosedError, match="said what nobody can read: b"):
        ends.channel.hear("set")


def test_another_message_than_is_due_is_named_with_what_was_due(ends: Ends) -> None:
    ends.say(b'{"say":"done"}\n')
    with pytest.raises(ClosedError, match=r"^said 'done' where set or values was expected$"):
        ends.channel.hear("set", "values")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"say":"fault","why":"no memory"}\n', FaultError),
        (b'{"say":"fault","why":"no memory","misuse":true}\n', UsageError),
    ],
)
def test_a_fault_comes_in_place_of_any_answer(ends: Ends, line: bytes, kind: type[Exception]) -> None:
    assert f'"{FAULT}"'.encode() in line
    ends.say(line)
    with pytest.raises(kind, match=r"^no memory$"):
        ends.channel.hear("set")


def test_silence_is_borne_for_as_long_as_was_said_and_is_no_end(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ends.channel.hear("set", patience=0.01)
    ends.say(b'{"say":"set"}\n')
    assert ends.channel.hear("set", patience=20)


def test_an_end_is_heard_after_all_that_was_said_and_by_everybody_who_asks_later(ends: Ends) -> None:
    ends.say(b'{"say":"set"}\n')
    ends.hang_up()
    assert ends.channel.hear("set")
    for _ in range(3):
        with pytest.raises(ClosedError, match=r"^has closed$"):
            ends.channel.hear("set", patience=20)


def test_who_wants_to_know_of_an_end_is_called(ends: Ends) -> None:
    ends.hang_up()
    assert ends.over.get(timeout=20)
    ends.over.put(True)  # for the fixture


def test_nobody_can_be_told_anything_any_more_once_a_channel_is_closed() -> None:
    channel = Channel(io.BytesIO(), io.BytesIO())
    channel.close()
    with pytest.raises(ClosedError, match="cannot be told anything"):
        channel.tell("go")


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process of the given code, which has `channel`."""
    started: list[Process] = []

    def start(code: str, name: str = "head", **how: Any) -> Process:
        body = "".join(f"    {line}\n" for line in code.splitlines())
        begin = "import os, subprocess, sys, time\nfrom pytest_llmperf.duet.channel import own_channel\n"
        (tmp_path / "child.py").write_text(f"{begin}def main():\n    channel = own_channel()\n{body}")
        started.append(Process(python("child", path=[str(tmp_path), *sys.path]), name, **how))
        return started[-1]

    yield start
    for process in started:
        process.close()


def ended(*pids: int) -> bool:
    """Whether they have all ended, or do so in a moment."""
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return all(each.status() == psutil.STATUS_ZOMBIE for each in psutil.wait_procs(alive, timeout=20)[1])


ECHO = "while True:\n    channel.tell('echo', **{'heard': channel.hear('words')['words']})"


def test_two_processes_say_to_each_other_what_json_can_hold(start: Start) -> None:
    process = start(ECHO)
    for words in ({"a": [1, 2.5, None, True]}, "ä" * 200_000):
        process.tell("words", words=words)
        assert process.hear("echo", patience=60)["heard"] == words


def test_what_a_process_prints_or_reads_is_no_message(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    process = start(
        'print(\'{"say":"echo"}\', flush=True)\n'
        "os.write(1, b'by descriptor\\n')\n"
        "subprocess.run([sys.executable, '-c', 'print(1234, input())'], stdin=None)\n"
        "channel.tell('echo', read=sys.stdin.read())\n"
        "channel.tell('echo', heard=channel.hear('words')['words'])\n"
    )
    process.tell("words", words="not for input()")
    assert process.hear("echo", patience=60)["read"] == ""
    assert process.hear("echo", patience=60)["heard"] == "not for input()"
    output = process.output()
    assert '{"say":"echo"}\nby descriptor\n' in output
    assert "EOFError" in output, "what the process starts has no input either"
    assert capfd.readouterr() == ("", "")


def test_a_process_that_ends_is_named_with_its_status_and_its_last_lines(start: Start) -> None:
    process = start("print('one\\ntwo\\n\\n  three', flush=True)\nos.write(2, b'out of paper\\n')\nraise SystemExit(3)")
    with pytest.raises(MeasurementError, match=r"^the head process ended with status 3: two / three / out of paper$"):
        process.hear("set", patience=60)


def test_a_process_that_returns_while_it_listens_ends_in_peace(start: Start) -> None:
    process = start("channel.tell('echo')\nreturn 0")
    assert process.hear("echo", patience=60)
    with pytest.raises(MeasurementError, match=r"^the head process ended with status 0$"):
        process.hear("set", patience=60)


@posix
def test_a_process_that_is_killed_is_named_with_the_signal_and_what_it_may_mean(start: Start) -> None:
    process = start(ECHO, "base a1b2c3d4e")
    os.kill(process.pid, signal.SIGKILL)
    expected = r"^the base a1b2c3d4e process ended by SIGKILL \(memory may have run out\)$"
    with pytest.raises(MeasurementError, match=expected):
        process.hear("set", patience=60)
    with pytest.raises(MeasurementError, match=expected):
        process.tell("words", words="anybody?")


def test_a_process_that_says_nothing_is_given_up_with_what_it_last_printed(start: Start) -> None:
    process = start("print('thinking', flush=True)\nchannel.tell('echo')\ntime.sleep(600)")
    process.hear("echo", patience=60)
    with pytest.raises(MeasurementError, match=r"^the head process said nothing for 0 s: thinking$"):
        process.hear("set", patience=0.01)


def test_a_process_that_met_an_error_says_so_itself(start: Start) -> None:
    process = start("channel.tell('fault', why='would not run')\nchannel.hear('words')")
    with pytest.raises(FaultError, match=r"^would not run$"):
        process.hear("set", patience=60)


def test_a_process_runs_where_and_with_the_environment_that_it_is_given(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    environ = {**os.environ, "SAID": "here"}
    process = start("channel.tell('echo', at=os.getcwd(), said=os.environ['SAID'])", folder=folder, environ=environ)
    assert process.hear("echo", patience=60) == {"say": "echo", "at": str(folder), "said": "here"}


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(MeasurementError, match=r"^the base process cannot be started: ./no-python: No such file"):
        Process(["./no-python"], "base")


GROUP = (
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "channel.tell('echo', pid=child.pid)\n"
    "time.sleep(600)"
)


@posix
def test_closing_ends_a_process_at_work_and_all_that_it_started(start: Start) -> None:
    process = start(GROUP)
    grandchild = process.hear("echo", patience=60)["pid"]
    process.close()
    assert not psutil.pid_exists(process.pid), "it is waited for"
    assert ended(grandchild)


def test_leaving_its_block_closes_a_process_and_it_may_be_closed_again(start: Start) -> None:
    with pytest.raises(KeyboardInterrupt), start(ECHO) as process:
        raise KeyboardInterrupt
    assert not psutil.pid_exists(process.pid)
    process.close()


@posix
def test_ctrl_c_of_the_terminal_does_not_reach_a_process_which_yet_has_no_share_of_its_own(start: Start) -> None:
    process = start(ECHO)
    assert os.getpgid(process.pid) == process.pid
    assert os.getsid(process.pid) == os.getsid(0), "Linux would give another session more of a busy machine"


STARTING = """
import sys
from pytest_llmperf.duet.channel import Process, python
process = Process(python("child", path=[{folder!r}, *sys.path]), "head")
print(process.pid, process.hear("echo", patience=60)["pid"], flush=True)
process.hear("set")
"""


@posix
@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGINT])
def test_a_process_and_all_that_it_started_end_with_the_one_that_started_it(
    start: Start, tmp_path: Path, signalled: signal.Signals
) -> None:
    start(GROUP).close()  # for its file
    starting = subprocess.Popen(
        [sys.executable, "-c", STARTING.format(folder=str(tmp_path))],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert starting.stdout is not None
    with starting, starting.stdout:
        pids = [int(pid) for pid in starting.stdout.readline().split()]
        starting.send_signal(signalled)
    assert len(pids) == 2
    assert ended(*pids)


def test_a_module_of_the_users_own_is_not_taken_for_one_of_pythons(start: Start, tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('a module of the user')")
    command = python("pytest_llmperf.duet.channel")
    assert command[0] == sys.executable
    looked = f"{command[2].partition('from ')[0]}import queue; print(queue.__file__)"
    found = subprocess.run([sys.executable, "-c", looked], cwd=tmp_path, capture_output=True, text=True)
    assert "a module of the user" not in found.stderr
    assert Path(found.stdout.strip()).parent != tmp_path


def test_another_interpreter_has_a_path_of_its_own() -> None:
    command = python("child", interpreter="/elsewhere/python")
    assert command == ["/elsewhere/python", "-c", "from child import main; raise SystemExit(main())"]
