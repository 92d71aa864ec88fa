"""pytest, called as this one was, in a process of its own: for the same test once more, or on base's code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet.sides import Line
from pytest_llmperf.options import OPTIONS
from pytest_llmperf.plugin.config import REPORTS
from pytest_llmperf.targets import Reference

CHILD = pytest.StashKey["Child"]()
"""Set in a process that another one started: who started it judges."""

WRITING: dict[str, Any] = {
    "log_file": os.devnull,
    "xmlpath": None,
    "htmlpath": None,
    "report_log": None,
    "pastebin": None,
    "json_report": False,
    "benchmark_json": None,
    "benchmark_save": None,
    "benchmark_autosave": None,
}
"""Options that write files, so that they do not."""

_SILENT: dict[str, Any] = {
    **WRITING,
    "keyword": "",
    "markexpr": "",
    "deselect": None,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "stepwise_reset": False,
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "collectonly": False,
    "numprocesses": None,
    "dist": "no",
    "tx": [],
    "looponfail": False,
    "cacheclear": False,
    "reportchars": "fEs",
    "no_summary": False,
    "benchmark_compare": None,
    "benchmark_compare_fail": None,
    "benchmark_histogram": None,
    "llmperf_update": None,
    "llmperf_append": None,
    "llmperf_prune": None,
    "llmperf_sessions": None,
    "llmperf_force": None,
    "llmperf_against": None,
}
"""Options that choose among tests, spread them, write files, or hide why a test failed, so that they do not."""


def silence(config: pytest.Config, options: Mapping[str, Any]) -> None:
    """Set those of them that there are."""
    for name, value in options.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)


class Child:
    """The plugin that makes a run one of another's processes.

    Args:
        request: what the other wants: `tests` to run, a `basetemp`, and `options` as the other resolved them.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        self.line: Line | None = None
        """To who says what is done, where that is another process."""
        self.no_room = False
        """Whether a target of the last test did not fit into memory."""

    def locate(self, reference: Reference) -> Reference:
        """Where a target lies that a test names."""
        return reference

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        config.stash[CHILD] = self
        config.args[:] = self.request["tests"]
        silence(config, {**_SILENT, "basetemp": self.request["basetemp"]})
        for name, text in self.request.get("options", {}).items():
            setattr(config.option, name, text)


def run_as(plugin: Callable[[dict[str, Any]], Child]) -> int:
    """Run pytest as the child that the request asks for, which the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return int(pytest.main(request["arguments"], plugins=[plugin(request)]))


def own_cache(config: pytest.Config, folder: Path) -> list[str]:
    """Arguments that give a child a cache of its own, where there is one at all."""
    return ["-o", f"cache_dir={folder / 'cache'}"] if config.pluginmanager.hasplugin("cacheprovider") else []


def as_argument(root: Path, nodeid: str) -> str:
    """A test as the command line names it; what follows its module is no path, though a parameter may look like one."""
    module, separator, rest = nodeid.partition("::")
    return f"{root / module}{separator}{rest}"


def resolved_options(config: pytest.Config) -> dict[str, str]:
    """What this run's command line and ini file say, as text: base's ini file may say otherwise."""
    said = {
        known.ini: config.getoption(known.ini, None) or config.getini(known.ini)
        for known in OPTIONS.values()
        if known.in_ini and not known.switch and known.name not in REPORTS
    }
    return {name: text for name, text in said.items() if text}
