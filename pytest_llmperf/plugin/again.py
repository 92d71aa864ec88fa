"""A test once more: in a fresh process of head, or in a fresh pair of base and head."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from pytest_llmperf import ranks
from pytest_llmperf.baselines import schema
from pytest_llmperf.duet.compare import PairTaken, one_after_the_other
from pytest_llmperf.duet.repository import Base, commit_here
from pytest_llmperf.duet.script import Side
from pytest_llmperf.errors import LlmperfError, MeasurementError
from pytest_llmperf.plugin import fresh
from pytest_llmperf.plugin.child import run_as
from pytest_llmperf.plugin.config import option
from pytest_llmperf.plugin.opposite import OPPOSITE, Calls, Code, Opposite, checked_out


class FreshProcesses:
    """Measures tests again, in processes of their own.

    Args:
        opposite: what this run's measurements are against; None where that is the stored baseline.
        tell: what is being done, for people who wait.
        clock: a monotonic one, in seconds.
    """

    def __init__(
        self,
        config: pytest.Config,
        opposite: Opposite | None,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._opposite = opposite
        self._tell = tell
        self._confirming: dict[str, Code] = {}
        self._current: Code | None = None
        self._clock = clock
        self._begun = self._test_begun = clock()
        self._longest = 0.0
        self._confirmed_for = 0.0
        """Seconds of duets in a run that is itself none."""

    def begin(self) -> None:
        """Another test begins."""
        self._longest = max(self._longest, self._clock() - self._test_begun)
        self._test_begun = self._clock()

    def again(self, test: str) -> dict[str, schema.Session]:
        return _sessions(fresh.measured_again(self._config, test, self._patience()))

    def pair(self, test: str, first: Side, *, turns: bool) -> dict[str, PairTaken]:
        code = self._opposite.code if self._opposite is not None else self._current
        assert code is not None
        began = self._clock()
        try:
            if not turns:
                return self._one_after_the_other(test, first, code)
            told = {"test": test, "first": first, "base": code.to_plain()}
            results = fresh.measured_again(self._config, test, 2 * self._patience(), __name__, **told)
        finally:
            self._confirmed_for += self._clock() - began
        missing = [result["new"] for result in results if not result["pairs"]]
        if len(missing) == len(results):
            raise MeasurementError(f"the fresh pair measured nothing in turns: {missing[0]}")
        return {each["key"]: PairTaken.from_plain(each["pairs"][0]) for each in results if each["pairs"]}

    def base(self, commit: str) -> str:
        """Let pairs be with this commit.

        Raises:
            LlmperfError: it is not here, or cannot be made ready.
        """
        if commit not in self._confirming:
            found = commit_here(self._config.rootpath, commit)
            if found is None:
                raise LlmperfError(f"commit {commit[:9]}, which recorded the baseline, is not in this repository")
            base = Base(found, "which recorded the baseline")
            self._confirming[commit] = checked_out(self._config, base, "base", [], self._tell)
        self._current = self._confirming[commit]
        return self._current.said

    def refused(self) -> str:
        return "under torchrun that takes fresh processes of all ranks" if ranks.world() > 1 else ""

    def spent(self) -> str:
        budget = option(self._config, "budget")
        used = self._confirmed_for if self._opposite is None else self._clock() - self._begun
        return f"the {budget:g} s of --llmperf-budget are spent" if budget and used >= budget else ""

    def close(self) -> None:
        for code in self._confirming.values():
            code.remove()

    def _one_after_the_other(self, test: str, first: Side, code: Code) -> dict[str, PairTaken]:
        on_base = Calls(self._config, code, [])
        taken: dict[Side, dict[str, schema.Session]] = {}
        order: tuple[Side, Side] = ("base", "head") if first == "base" else ("head", "base")
        for side in order:
            taken[side] = self.again(test) if side == "head" else _sessions(on_base.measured(test, self._patience()))
        both = taken["base"].keys() & taken["head"].keys()
        return {key: one_after_the_other(taken["base"][key], taken["head"][key]) for key in sorted(both)}

    def _patience(self) -> float:
        """A process of its own also sets up what earlier tests of this one have left ready."""
        self._longest = max(self._longest, self._clock() - self._test_begun)
        return fresh.PATIENCE_S + 2 * self._longest


class FreshHead(fresh.Fresh):
    """The plugin that makes a pytest run head's part of a fresh pair; base's process is its own."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        super().pytest_cmdline_main(config)
        code = Code.from_plain(self.request["base"])
        self._opposite = Opposite(config, code.said, [lambda: code], [self.request["test"]])
        self._opposite.launch()  # base imports while this process does
        config.add_cleanup(self._opposite.close)
        config.stash[OPPOSITE] = self._opposite

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Which of them loads first, and so lies first in memory, changes from pair to pair."""
        if self.request["first"] == "base":
            self._opposite.begin(self.request["test"])


def main() -> int:
    """Run as head of a fresh pair."""
    return run_as(FreshHead)


def _sessions(results: list[dict[str, Any]]) -> dict[str, schema.Session]:
    try:
        recorded = [schema.Recording(**result["recording"]) for result in results if result["recording"]]
    except ValidationError as error:  # of base, in an environment of its own
        raise MeasurementError(f"a fresh process said what nobody can read: {error.errors()[0]['msg']}") from None
    return {recording.key: recording.sessions[0] for recording in recorded}
