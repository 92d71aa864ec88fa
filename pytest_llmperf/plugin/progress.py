"""What is going on, behind the current line of a terminal; nothing in a file."""

from __future__ import annotations

import os

import pytest

_SAVE, _RESTORE, _DIM, _PLAIN, _CLEAR = "\x1b7", "\x1b8", "\x1b[2m", "\x1b[0m", "\x1b[K"


class Progress:
    """Shows a stage after the cursor and leaves the cursor where it was; an empty stage wipes it away."""

    def __init__(self, config: pytest.Config) -> None:
        self._shown = False
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._reporter = reporter if reporter is not None and _is_terminal(reporter) else None

    def __call__(self, stage: str) -> None:
        if self._reporter is None or (not stage and not self._shown):
            return
        writer = self._reporter._tw
        room = writer.fullwidth - writer.width_of_current_line - 2
        if room < 10:
            return
        text = f" {_DIM}{stage[: room - 1]}{_PLAIN}" if stage else ""
        # Past the writer's own bookkeeping of columns, since nothing of this stays on the line.
        writer._file.write(f"{_SAVE}{_CLEAR}{text}{_RESTORE}")
        writer._file.flush()
        self._shown = bool(stage)


def _is_terminal(reporter: object) -> bool:
    file = getattr(getattr(reporter, "_tw", None), "_file", None)
    return file is not None and file.isatty() and os.environ.get("TERM") != "dumb"
