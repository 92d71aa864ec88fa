"""Where pytest's command line and ini file meet `options.choose`, and what they may not ask for together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.options import OPTIONS, choose

REPORTS = ("json", "markdown", "custom_json", "history", "html")
"""Options that name the file of a report, in the order of writing: the page shows the history."""
WIDTH = "llmperf_width"
"""Where a worker of xdist finds in its `workerinput` how wide the terminal is."""


def add_options(parser: pytest.Parser) -> None:
    """Each option on the command line and, where it may stand there, in the ini file."""
    group = parser.getgroup("llmperf", "speed and memory of language models")
    for known in OPTIONS.values():
        told = known.help.replace("%", "%%")  # argparse formats it
        if known.flag and known.switch:
            group.addoption(known.flag, dest=known.ini, action="store_true", default=None, help=told)
        elif known.flag:
            group.addoption(known.flag, dest=known.ini, action="store", default=None, metavar=known.metavar, help=told)
        if known.in_ini:
            parser.addini(known.ini, known.help, type="string", default=None)


def option(config: pytest.Config, name: str) -> Any:
    """The value of an option where no mark speaks.

    Raises:
        UsageError: a value that the option cannot have.
    """
    known = OPTIONS[name]
    ini = config.getini(known.ini) if known.in_ini else None
    return choose(name, command_line=config.getoption(known.ini, None), ini=ini)


def is_recording(config: pytest.Config) -> bool:
    """Whether the run changes baselines."""
    return bool(option(config, "update") or option(config, "append"))


def baselines_folder(config: pytest.Config) -> Path:
    """Where baselines lie."""
    return _path(config, "baselines")


def traces_folder(config: pytest.Config) -> Path | None:
    """Where traces go; None where none are written."""
    return _path(config, "traces") if option(config, "traces") else None


def report_file(config: pytest.Config, name: str) -> Path | None:
    """Where a report goes; None where none is written."""
    return _path(config, name) if option(config, name) else None


def _path(config: pytest.Config, name: str) -> Path:
    """Relative to where pytest was called if the command line names it, else to rootdir."""
    given = config.getoption(OPTIONS[name].ini, None) is not None
    start = config.invocation_params.dir if given else config.rootpath
    return Path(start, option(config, name)).absolute()


def width(config: pytest.Config) -> int:
    """Of the terminal, 80 columns where there is none; a worker of xdist is told its controller's."""
    told = getattr(config, "workerinput", {}).get(WIDTH)
    if told or not config.pluginmanager.has_plugin("terminalreporter"):
        return int(told or shutil.get_terminal_size().columns)
    return config.get_terminal_writer().fullwidth


def check_options(config: pytest.Config) -> None:
    """Every value, and what the options ask for together.

    Raises:
        UsageError: naming the options and the fix.
    """
    for name in OPTIONS:
        option(config, name)
    if baselines_folder(config).is_file():  # also a test file that stood where a value was missing
        raise UsageError(f"--llmperf-baselines={option(config, 'baselines')}: this is a file, expected a folder")
    if (traces := traces_folder(config)) is not None:
        from pytest_llmperf.profiling.traces import check_traces

        check_traces(traces, f"--llmperf-traces={option(config, 'traces')}")
    _check_reports(config)
    if option(config, "html"):
        from pytest_llmperf.reports.extra import check_html

        check_html(f"--llmperf-html={option(config, 'html')}")
    _check_recording(config)
    _check_duet(config)
    if ranks.world() > 1:
        _check_ranks(config)
    if option(config, "prune"):
        _check_full_run(config)
    if names := option(config, "gate"):
        _check_metrics(names)


def _check_reports(config: pytest.Config) -> None:
    asked = {name: file for name in REPORTS if (file := report_file(config, name)) is not None}
    if not asked:
        return
    from pytest_llmperf.reports.writers import all_files, option_of

    known: dict[str, str] = {}
    for name, file in all_files(asked).items():
        flag = option_of(name)
        told = f"--llmperf-{flag}={option(config, flag.replace('-', '_'))}"
        try:
            is_folder = file.is_dir()
        except OSError as error:  # its name is too long
            raise UsageError(f"{told}: {error.strerror or error}") from None
        if is_folder and name != "history":
            raise UsageError(f"{told}: this is a folder, expected a file")
        real = os.path.realpath(file)
        if real in known and not _is_special(Path(real)):
            raise UsageError(f"{known[real]} and {told}: one would replace the other; name another file")
        known[real] = told


def _is_special(file: Path) -> bool:
    """Whether it is a device or a pipe: neither a file nor a folder, nor about to become one."""
    return file.exists() and not file.is_file() and not file.is_dir()


def _check_recording(config: pytest.Config) -> None:
    asked = [f"--llmperf-{name}" for name in ("update", "append", "prune") if option(config, name)]
    written = [flag for flag in asked if flag in config.getini("addopts")]
    if written:
        raise UsageError(
            f"{written[0]} stands in addopts, and would change the baselines on every run: remove it there"
        )
    if {"--llmperf-update", "--llmperf-append"} <= set(asked):
        raise UsageError("--llmperf-update and --llmperf-append: one replaces the baseline, the other extends it")
    mode = option(config, "mode")
    if asked and mode != "on":
        raise UsageError(f"{asked[0]} with --llmperf={mode}: nothing is measured that could be recorded")
    for name in ("sessions", "force"):
        if config.getoption(OPTIONS[name].ini, None) and not is_recording(config):
            raise UsageError(f"--llmperf-{name} goes with --llmperf-update or --llmperf-append")


def _check_duet(config: pytest.Config) -> None:
    against = option(config, "against")
    if against is None:
        return
    flag = f"--llmperf-against={against}"
    if any(written.startswith("--llmperf-against") for written in config.getini("addopts")):
        raise UsageError(f"{flag} stands in addopts, and would compare every run with it: write it where it is meant")
    if asked := next((name for name in ("update", "append", "prune") if option(config, name)), ""):
        raise UsageError(f"{flag} with --llmperf-{asked}: a duet consults no baselines; record them in another run")
    if option(config, "mode") != "on":
        raise UsageError(f"{flag} with --llmperf={option(config, 'mode')}: nothing is measured that could be compared")
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        raise UsageError(f"{flag} with -n: base and head take turns, which other workers would disturb; add -n0")


def _check_ranks(config: pytest.Config) -> None:
    """Whatever starts processes of its own would have to start them in all ranks."""
    if against := option(config, "against"):
        raise UsageError(f"--llmperf-against={against} under torchrun: base would need ranks of its own; leave it out")
    if (sessions := option(config, "sessions")) > 1:
        raise UsageError(
            f"--llmperf-sessions={sessions} under torchrun: record one, and call it again with --llmperf-append"
        )
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        raise UsageError("-n under torchrun: the ranks serve one model together, and take the same test; add -n0")


_FILTERS = {
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "lf": "--lf",
    "stepwise": "--stepwise",
    "maxfail": "-x or --maxfail",
    "numprocesses": "-n",
}


def _check_full_run(config: pytest.Config) -> None:
    filtered = [flag for name, flag in _FILTERS.items() if config.getoption(name, None)]
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        filtered.append("a choice of paths")
    elif (
        config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR
        and config.invocation_params.dir != config.rootpath
    ):
        filtered.append("a call in a folder below rootdir")
    if filtered:
        raise UsageError(f"--llmperf-prune with {filtered[0]}: what such a run lacks may still exist; run all tests")


def _check_metrics(names: list[str]) -> None:
    from pytest_llmperf.metrics import CATALOGUE, Kind

    for name in names:
        if name not in CATALOGUE:
            raise UsageError(f"ini llmperf_gate={name}: no such metric{did_you_mean(name, CATALOGUE)}")
        if CATALOGUE[name].kind is Kind.REPORT:
            raise UsageError(f"ini llmperf_gate={name}: it is reported, never compared; set a limit instead")
