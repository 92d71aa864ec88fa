"""Which tests there are, and so which of those that are stored are no more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_llmperf.baselines.store import Store
    from pytest_llmperf.results import Result

COLLECTED = "llmperf_collected"
"""Where a worker of xdist leaves in its `workeroutput` what it collected."""


class Collected:
    """What this run collected, or its workers did."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._existing: set[str] = set()
        """Node ids, also of tests that were not chosen."""
        self._unsure: set[str] = set()
        """Modules of which tests may exist that were not collected."""
        self._complete = False
        """Whether collection came to its end."""

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._existing.add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._unsure.add(module_of(report.nodeid))

    def pytest_collection_finish(self) -> None:
        self._complete = not self._config.getoption("lf", False)  # which leaves tests out before they are collected

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker of xdist collected; the controller collects nothing."""
        if seen := getattr(node, "workeroutput", {}).get(COLLECTED):
            existing, unsure, self._complete = seen
            self._existing.update(existing)
            self._unsure.update(unsure)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workerinput"):
            output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined]  # xdist's
            output[COLLECTED] = (sorted(self._existing), sorted(self._unsure), self._complete)

    def stale(self, store: Store, results: Sequence[Result], *, prune: bool) -> dict[str, dict[str, list[str]]]:
        """By hardware and module, the stored tests that are surely no more.

        Either their whole module was collected without them, or it was to be and there is no such file.
        """
        exists = _Existing(self._existing, results)
        chosen = [module_of(argument) for argument in self._config.args if "::" in argument]
        partly = {module for module in exists.modules if any(argument.endswith(module) for argument in chosen)}
        whole = exists.modules - self._unsure - partly if self._complete else set()
        full = self._config.args_source is not pytest.Config.ArgsSource.ARGS
        found: dict[str, dict[str, list[str]]] = {}
        for folder in _folders(results):
            for module, names in store.names(folder, all_readable=prune).items():
                gone = full and not (self._config.rootpath / module).exists()
                stale = [name for name in names if gone or (module in whole and f"{module}::{name}" not in exists)]
                if stale:
                    found.setdefault(folder, {})[module] = stale
        return found


_NO_PARAMETERS = "[NOTSET]"
"""pytest's id of a test whose list of parameters is empty today."""


class _Existing:
    """Which keys belong to tests that were collected, or to labels that such a test may still measure."""

    def __init__(self, collected: Collection[str], results: Sequence[Result]) -> None:
        self._collected = set(collected)
        self._measured = {result.key for result in results}
        sure = {self._test(result.key) for result in results}
        self._complete = sure - {self._test(result.key) for result in results if result.unfit}
        self.modules = {module_of(nodeid) for nodeid in collected}

    def __contains__(self, key: str) -> bool:
        test = self._test(key)
        if test is None:
            return f"{key.partition('[')[0]}{_NO_PARAMETERS}" in self._collected
        return key in self._measured or test not in self._complete

    def _test(self, key: str) -> str | None:
        """The node id in a key, which may end in a label."""
        return next((nodeid for nodeid in (key, key.rpartition("::")[0]) if nodeid in self._collected), None)


def _folders(results: Sequence[Result]) -> list[str]:
    """Where baselines of these results lie."""
    from pytest_llmperf.baselines.exact import exact_folder

    recordings = [result.recording for result in results if result.recording]
    named = [name for each in recordings for name in (each["hardware"], exact_folder(each["device_type"]))]
    return list(dict.fromkeys(named))


def module_of(nodeid: str) -> str:
    """The file of a test, from rootdir on."""
    return nodeid.partition("::")[0]
