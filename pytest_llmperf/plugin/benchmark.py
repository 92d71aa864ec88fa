"""Timed metrics among the benchmarks of pytest-benchmark, where one of its own flags asks for a file or a comparison.

Its inside, into which this reaches, is documented nowhere: what is other than expected costs these entries, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.plugin.config import option
from pytest_llmperf.plugin.items import measures

if TYPE_CHECKING:
    from pytest_llmperf.reports.benchmark import Entry
    from pytest_llmperf.results import Result

_FLAGS = ("json", "save", "autosave", "compare", "compare_fail", "histogram")


def publishing_flags(config: pytest.Config) -> list[str]:
    """The flags of pytest-benchmark that ask for more than its table; none where this process is not to answer."""
    asked = [name for name in _FLAGS if config.getoption(f"benchmark_{name}", None)]
    if not asked or hasattr(config, "workerinput") or option(config, "mode") != "on":
        return []
    from pytest_llmperf.plugin.child import CHILD

    return [] if CHILD in config.stash else [f"--benchmark-{name.replace('_', '-')}" for name in asked]


class Publishing:
    """Adds what was measured to pytest-benchmark's own, before it saves and compares them.

    Args:
        flags: that ask for it.
        measured: all results, once the tests have run.
    """

    def __init__(self, config: pytest.Config, flags: Sequence[str], measured: Callable[[], list[Result]]) -> None:
        self._config = config
        self._flags = flags
        self._measured = measured
        self._fault = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        if results := self._measured():
            try:
                self._publish(results)
            except Exception as error:  # of an inside that may be another in every version
                self._fault = f"{type(error).__name__}: {error}"
        return (yield)

    def _publish(self, results: Sequence[Result]) -> None:
        from pytest_benchmark.stats import Metadata

        from pytest_llmperf.reports.benchmark import entries

        session = self._config.pluginmanager.get_plugin("pytest-benchmark")
        if session is None:
            self._fault = "it is disabled"
            return
        published = [_as_benchmark(Metadata, entry) for entry in entries(results)]
        session.benchmarks.extend(published)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        from pytest_llmperf.baselines.environment import nvidia_gpus

        if gpus := nvidia_gpus():
            machine_info["gpus"] = gpus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._fault:
            from importlib.metadata import version

            known = f"pytest-benchmark {version('pytest-benchmark')}"
            text = f"llmperf: {', '.join(self._flags)}: no metric was handed to {known}: {self._fault}"
            terminalreporter.write_line(text, yellow=True)


def _as_benchmark(metadata: Callable[..., Any], entry: Entry) -> object:
    """What its fixture makes of a function's durations, known to be whole."""
    told = {
        "disable_gc": False,
        "timer": "perf_counter",
        "min_rounds": 0,
        "max_time": 0.0,
        "min_time": 0.0,
        "warmup": 0,
    }
    made = metadata(entry, iterations=1, options=told)
    for taken in entry.seconds:
        made.update(taken)
    made.as_dict()
    return made


def only_benchmarks(config: pytest.Config) -> str:
    """The flag by which another plugin has none but its own benchmarks run, where one was given."""
    codspeed = config.pluginmanager.get_plugin("codspeed_plugin")
    if getattr(codspeed, "is_codspeed_enabled", False):
        return "--codspeed"
    return "--benchmark-only" if config.getoption("benchmark_only", False) else ""


class LeftOut:
    """Says that tests that measure do not run, which is not what a gate is for.

    Args:
        flag: that skips or deselects what does not use the fixture `benchmark`.
    """

    def __init__(self, flag: str) -> None:
        self._flag = flag
        self._lost = False

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._lost = self._lost or any(map(_is_left_out, items))

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str | list[str]:
        if not self._lost and not any(map(_is_left_out, items)):
            return []
        return f"llmperf: {self._flag} leaves out tests that measure without the fixture benchmark"


def _is_left_out(item: pytest.Item) -> bool:
    return measures(item) and "benchmark" not in getattr(item, "fixturenames", ())
