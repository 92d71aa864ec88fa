"""One run as reports show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.reports.recorded import Recorded
from pytest_llmperf.results import Result


@dataclass(frozen=True)
class Run:
    """All that was measured, what it was judged by, and what else happened.

    Args:
        began: in UTC.
        tool: the version of this package.
        commit: of the code under test.
        dirty: whether tracked files differed from it.
        results: in the order in which tests ended.
        bases: key → what its verdicts rest on.
        places: test → `tests/test_chat.py:12`, where it is defined, as seen from the top of the repository.
        failures: test → why it failed, where that was no verdict.
        recorded: what became of the stored baselines.
        fault: why the run as a whole failed, where it did.
    """

    began: str
    tool: str = ""
    commit: str = ""
    dirty: bool = False
    results: tuple[Result, ...] = ()
    bases: Mapping[str, Basis] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    recorded: Recorded | None = None
    fault: str = ""

    @property
    def fails(self) -> bool:
        """Whether anything in it makes a build red."""
        return bool(self.failures or self.fault or self.failing)

    @property
    def failing(self) -> list[Result]:
        """What was judged and makes the build red, worst first."""
        return sorted((result for result in self.results if result.is_red), key=lambda result: result.rank)

    @property
    def against(self) -> list[str]:
        """The bases of its duets, each once."""
        return list(dict.fromkeys(result.against for result in self.results if result.against))

    @property
    def devices(self) -> list[str]:
        """On which it measured, each once."""
        return list(dict.fromkeys(result.device for result in self.results))
