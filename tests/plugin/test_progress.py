"""Stages are shown behind the current line of a terminal, and leave no trace in a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

SUITE = """
from pytest_llmperf import llm_perf, stream

def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)

@llm_perf(model=stream(fast))
def test_chat(llm):
    llm.measure()
"""
STAGES = ("loading stream:fast", "warming up", "round 1 of 3", "measuring memory")
SAVE, RESTORE, CLEAR = "\x1b7", "\x1b8", "\x1b[K"

pty = pytest.importorskip("pty", reason="no pseudo-terminals here")


def on_terminal(suite: pytest.Pytester, *arguments: str, columns: int = 80, **environment: str) -> str:
    """What pytest writes to a terminal, byte for byte."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PY_COLORS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:benchmark", *arguments],
        cwd=suite.path,
        env={**kept, "TERM": "xterm", **environment},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side has closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    return seen.decode()


def stages(seen: str) -> list[str]:
    """What was shown after the cursor, piece by piece."""
    return [piece.partition(RESTORE)[0] for piece in seen.split(SAVE)[1:]]


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
def test_a_terminal_shows_each_stage_and_wipes_it_away(suite: pytest.Pytester, capture: str) -> None:
    suite.makepyfile(test_chat=SUITE)
    seen = on_terminal(suite, f"--capture={capture}")
    for stage in STAGES:
        assert any(stage in piece for piece in stages(seen)), seen
    assert seen.count(SAVE) == seen.count(RESTORE), "the cursor returns"
    assert all(piece.startswith(CLEAR) for piece in stages(seen))
    assert stages(seen)[-1] == CLEAR, "the last one wipes"


def test_stages_on_a_terminal_are_no_part_of_what_a_test_printed(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_chat=SUITE
        + """
@llm_perf(model=stream(fast))
def test_captured(llm, capfd):
    print("said by the test")
    llm.measure()
    assert capfd.readouterr().out == "said by the test\\n"
"""
    )
    seen = on_terminal(suite, "-rP")
    assert "Captured stdout" not in seen


def test_a_stage_never_reaches_beyond_the_line(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=SUITE.replace("test_chat", "test_" + "x" * 25))
    seen = on_terminal(suite, "-v", "-s", columns=60)
    assert stages(seen)
    for part in seen.split(SAVE)[1:]:
        before = seen[: seen.index(part)]
        while SAVE in before:
            start = before.index(SAVE)
            end = before.find(RESTORE, start)
            before = before[:start] + (before[end + len(RESTORE) :] if end >= 0 else "")
        line = plain(before.replace("\r", "\n").rpartition("\n")[2])
        assert len(line) + len(plain(part.partition(RESTORE)[0])) <= 60


def plain(text: str) -> str:
    return re.sub(r"\x1b(\[[\d;?]*[A-Za-z]|[78])", "", text)


def test_a_terminal_that_cannot_move_its_cursor_is_left_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=SUITE)
    seen = on_terminal(suite, "-s", TERM="dumb")
    assert SAVE not in seen
    assert "warming up" not in seen
    assert "1 measured" in seen


def test_a_file_shows_no_stages(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=SUITE)
    result = suite.runpytest("-s")
    result.assert_outcomes(passed=1)
    text = result.stdout.str() + result.stderr.str()
    assert "\x1b" not in text
    assert not [stage for stage in STAGES if stage in text]
