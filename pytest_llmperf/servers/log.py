"""What a server has printed."""

from __future__ import annotations

import re
from pathlib import Path

_LINES = 12
_BYTES = 2**14
_CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def last_lines(log: Path, count: int = _LINES) -> list[str]:
    """Those that are not empty, as a terminal would show them without its colours."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _BYTES))
        text = file.read().decode(errors="replace")
    lines = [_CONTROL.sub("", line).rstrip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line][-count:]


def told(log: Path) -> str:
    """The last lines, as the end of an error."""
    lines = last_lines(log)
    if not lines:
        return f"; it printed nothing ({log})"
    return "\n".join([f"; the last it printed ({log}):", *(f"  {line}" for line in lines)])
