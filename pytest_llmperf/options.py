"""Options, each once: on the command line `--llmperf-NAME`, in the ini file `llmperf_NAME`.

Precedence: mark > command line > ini > default, in `choose()` and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.names import device_name, dtype_name
from pytest_llmperf.units import fraction

STRICT = ("new", "inconclusive", "conditions", "versions")
"""What may be made to fail beside BROKEN and REGRESSED."""


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {', '.join(choices[:-1])} or {choices[-1]}{did_you_mean(text, choices)}")
        return text

    return parse


def whole(text: str) -> int:
    """A whole number of at least 1, else a ValueError that says so."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("expected a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ValueError("expected seconds, a number above 0")
    return seconds


MOST_THREADS = 4096
"""More than machines have cores; torch fails to start far more of them."""


def _threads(text: str) -> int | str:
    if text == "all":
        return text
    try:
        number = whole(text)
    except ValueError:
        number = 0
    if not 1 <= number <= MOST_THREADS:
        raise ValueError(f"expected a whole number from 1 to {MOST_THREADS}, or all")
    return number


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _strict(text: str) -> frozenset[str]:
    words = _words(text)
    for word in words:
        if word not in (*STRICT, "all"):
            raise ValueError(f"expected some of {', '.join(STRICT)}, or all{did_you_mean(word, (*STRICT, 'all'))}")
    if not words:
        raise ValueError(f"expected some of {', '.join(STRICT)}, or all")
    return frozenset(STRICT if "all" in words else words)


def _tolerance(text: str) -> float:
    try:
        number: object = float(text)
    except ValueError:
        number = text
    return fraction(number)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 < price < math.inf:
        raise ValueError("expected a price per hour, in whatever currency, such as 2.49")
    return price


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"


def _text(text: str) -> str:
    return text.strip()


def _path(what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text.strip():
            raise ValueError(f"expected {what}")
        return text

    return parse


_folder, _file = _path("a folder"), _path("a file")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        parse: text → value; raises ValueError saying what it expected.
        flag: its name on the command line, where it has one.
        switch: it takes no value on the command line.
        in_ini: whether the ini file may set it.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    metavar: str
    help: str
    flag: str | None = None
    switch: bool = False
    in_ini: bool = True

    @property
    def ini(self) -> str:
        return f"llmperf_{self.name}"


def _option(name: str, parse: Callable[[str], Any], default: Any, metavar: str, text: str) -> Option:
    return Option(name, parse, default, metavar, text, f"--llmperf-{name.replace('_', '-')}")


def _switch(name: str, text: str, *, in_ini: bool = False) -> Option:
    return Option(name, _truth, False, "", text, f"--llmperf-{name}", switch=True, in_ini=in_ini)


_OPTIONS = (
    Option(
        "mode",
        _one_of("on", "smoke", "off"),
        "on",
        "on|smoke|off",
        "smoke: one round each, nothing judged; off: skip tests that measure (default: on)",
        "--llmperf",
    ),
    _option("rounds", whole, None, "N", "exactly N timed rounds (default: as many as precision needs, at least 3)"),
    _option("max_time", _seconds, 10.0, "S", "seconds for the timed rounds of one measurement (default: 10)"),
    _option("device", device_name, "auto", "DEVICE", "auto, cpu, cuda, cuda:1 or mps"),
    _option(
        "dtype",
        dtype_name,
        None,
        "DTYPE",
        "float32, bfloat16 or float16 (CPU: float32, else the checkpoint's)",
    ),
    _option("threads", _threads, 1, "N|all", "CPU threads of torch while measuring (default: 1, the steadiest)"),
    _option("baselines", _folder, "baselines", "DIR", "folder of the baselines (default: baselines, below rootdir)"),
    _switch("update", "record this run as the baseline"),
    _switch("append", "record this run as one more session of the baseline (at most 20 are kept)"),
    _option("sessions", whole, 1, "K", "with update or append: measure in K processes (default: 1)"),
    _switch("force", "record also what breaks a limit, and times that were disturbed", in_ini=True),
    _switch("prune", "drop baselines of tests that no longer exist (full runs only)"),
    Option(
        "against",
        str,
        None,
        "REF",
        "duet: compare with the merge base with REF, or with REF itself (REF!), in turns on this machine",
        "--llmperf-against",
        in_ini=False,
    ),
    _option(
        "base_tests",
        _one_of("base", "head"),
        "base",
        "base|head",
        "whose test files base runs (default: base; head's where base has none)",
    ),
    _option(
        "confirm",
        _one_of("auto", "never"),
        "auto",
        "auto|never",
        "auto: what is suspect against a baseline is settled by a duet with the commit that recorded it (default)",
    ),
    _option("budget", _seconds, None, "S", "seconds that the duets of the whole run may take (default: no limit)"),
    Option("base_setup", _text, "", "COMMAND", "run in base's worktree before its tests, like: uv sync"),
    Option("base_python", _text, "", "PATH", "Python of base, relative to its worktree, like: .venv/bin/python"),
    _option("tolerance", _tolerance, 0.05, "5%", "how much slower than its baseline a test may be (default: 5%)"),
    _option(
        "strict",
        _strict,
        frozenset(),
        "WHAT[,WHAT]",
        "what fails too: new, inconclusive, conditions, versions, or all (default: none)",
    ),
    _option(
        "profile",
        _one_of("always", "on-failure", "never"),
        "on-failure",
        "always|on-failure|never",
        "show the operators of every test, of those that break a limit (default), or of none",
    ),
    _option("traces", _folder, None, "DIR", "write a trace of each measurement, for Chrome and TensorBoard"),
    _option("json", _file, None, "FILE", "write a report for programs: everything, and what verdicts rest on"),
    _option("markdown", _file, None, "FILE", "write a short report; in GitHub Actions it is in the step summary, too"),
    _option(
        "custom_json", _file, None, "FILE", "write memory, counts and rates in the form of github-action-benchmark"
    ),
    _option("html", _file, None, "FILE", "write a page for people, with charts (pip install 'pytest-llmperf[html]')"),
    _option(
        "history",
        _file,
        None,
        "FILE|DIR",
        "add what was measured to a file, or in a folder to one per hardware; the page of --llmperf-html shows it",
    ),
    Option("gate", _words, (), "METRIC…", "metrics that are compared with baselines beside those that always are"),
    Option("price_per_hour", _price, None, "PRICE", "of the machine that serves, for cost_per_million_tokens"),
    Option(
        "missing_device",
        _one_of("error", "skip"),
        "error",
        "error|skip",
        "what a test does whose device is not on this machine (default: error)",
    ),
)

OPTIONS: Mapping[str, Option] = MappingProxyType({option.name: option for option in _OPTIONS})


def choose(name: str, *, mark: Any = None, run: Any = None, command_line: Any = None, ini: str | None = None) -> Any:
    """The value of an option from the first source that gives one: mark, command line, ini, default.

    Args:
        run: what was chosen from the command line, the ini file and the default when the run began.

    Raises:
        UsageError: naming the source, the value and what was expected.
    """
    option = OPTIONS[name]
    if mark is not None or run is not None:
        return run if mark is None else mark
    if command_line is not None and option.switch:
        return True
    for text, source in ((command_line, option.flag), (ini, f"ini {option.ini}")):
        if text is not None and (text or source == option.flag):  # an ini value that is not set is empty
            try:
                return option.parse(text)
            except (ValueError, UsageError) as error:
                raise UsageError(f"{source}={text}: {error}") from None
    return option.default
