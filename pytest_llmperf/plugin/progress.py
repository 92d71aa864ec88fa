"""What is going on, behind the current line of a terminal; nothing in a file."""

from __future__ import annotations

import os
import time

import pytest

_SAVE, _RESTORE, _DIM, _PLAIN, _CLEAR = "\x1b7", "\x1b8", "\x1b[2m", "\x1b[0m", "\x1b[K"
_EVERY_S = 0.1
"""Rounds can be shorter than anyone reads, and each line shown suspends pytest's capture for a moment."""


class Progress:
    """Shows a stage after the cursor and leaves the cursor where it was; an empty stage wipes it away."""

    def __init__(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._reporter = reporter if reporter is not None and _is_terminal(reporter) else None
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._shown = ""
        self._next = 0.0

    def __call__(self, stage: str) -> None:
        if self._reporter is None or stage == self._shown:
            return
        counts_on = stage.partition(" ")[0] == self._shown.partition(" ")[0]
        if counts_on and time.monotonic() < self._next:
            return
        self._shown, self._next = stage, time.monotonic() + _EVERY_S
        if self._capture is None:
            self._write(stage)
        else:
            with self._capture.global_and_fixture_disabled():
                self._write(stage)

    def _write(self, stage: str) -> None:
        assert self._reporter is not None
        writer = self._reporter._tw
        room = writer.fullwidth - writer.width_of_current_line - 2
        text = f" {_DIM}{stage[:room]}{_PLAIN}" if stage and room >= 10 else ""
        # Past the writer's own bookkeeping of columns, since nothing of this stays on the line.
        writer._file.write(f"{_SAVE}{_CLEAR}{text}{_RESTORE}")
        writer._file.flush()


def _is_terminal(reporter: object) -> bool:
    file = getattr(getattr(reporter, "_tw", None), "_file", None)
    return file is not None and file.isatty() and os.environ.get("TERM") != "dumb"
