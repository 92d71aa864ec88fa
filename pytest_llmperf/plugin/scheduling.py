"""Tests of a target on one worker. The only module that imports xdist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScheduling


class ByTarget(LoadScheduling):  # type: ignore[misc]  # xdist ships no types
    """`--dist=load`, but whoever is sent the first test of a target is sent all of them.

    Without targets that several tests share it is `--dist=load` and nothing else. (xdist's scheduling by scope would
    hand out ordinary tests one by one, at a cost that grows with the square of their number.)

    Args:
        groups: the file in which workers say which tests share a target; missing where none do.
    """

    def __init__(self, config: pytest.Config, log: Any, groups: Path) -> None:
        super().__init__(config, log)
        self._file = groups
        self._groups: dict[str, int] = {}

    def schedule(self) -> None:
        if self.collection is None and self._file.exists():
            self._groups = json.loads(self._file.read_text(encoding="utf-8"))
        super().schedule()

    def _send_tests(self, node: Any, num: int) -> None:
        """Put what goes to the node first in line: at most one target, whole, and ordinary tests to fill up."""
        if self._groups:
            first = self._first_in_line(num)
            taken = set(first)
            self.pending[:] = first + [index for index in self.pending if index not in taken]
            num = len(first)
        super()._send_tests(node, num)

    def _first_in_line(self, num: int) -> list[int]:
        """One target for each worker in turn: two in one chunk would leave the others without."""
        group_of = {index: self._groups.get(self.collection[index]) for index in self.pending}
        chosen = next((group for group in list(group_of.values())[:num] if group is not None), None)
        together = [index for index in self.pending if chosen is not None and group_of[index] == chosen]
        ordinary = [index for index in self.pending if group_of[index] is None]
        first = sorted(together + ordinary[: max(num - len(together), 0)])
        # A worker starts a test only when it knows the next. Just one is left of a target after a crash.
        return first if len(first) >= min(num, 2) else self.pending[:num]
