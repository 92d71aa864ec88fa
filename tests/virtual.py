"""An event loop whose time passes only by being waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
TURN_S = 1e-6
"""A turn of the loop in which nothing is waited for."""


class _Hurried(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen again"
        self.loop.now += timeout or TURN_S
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, now: float = 100.0) -> None:
        selector = _Hurried()
        super().__init__(selector)
        selector.loop = self
        self.now = now

    def time(self) -> float:
        return self.now

    def finish(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run it to its end, and close."""
        try:
            return self.run_until_complete(coroutine)
        finally:
            self.close()
