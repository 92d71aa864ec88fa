"""Options: one order of precedence, every source tested, errors that name the source."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.options import OPTIONS, choose

EXAMPLES = {
    "mode": ("on", "smoke", "off"),
    "rounds": (7, "5", "9"),
    "max_time": (1.5, "2.5", "30"),
    "device": ("cuda:1", "cpu", "mps"),
    "dtype": ("bfloat16", "float16", "float32"),
    "threads": ("all", "2", "4"),
    "baselines": ("here", "there", "elsewhere"),
    "update": (True, "", None),
    "append": (True, "", None),
    "sessions": (3, "5", "9"),
    "force": (False, "", "true"),
    "prune": (True, "", None),
    "against": ("main", "origin/main", None),
    "base_tests": ("base", "head", "base"),
    "confirm": ("auto", "never", "auto"),
    "budget": (60.0, "2.5", "30"),
    "base_setup": ("uv sync", None, "make deps"),
    "base_python": ("python", None, ".venv/bin/python"),
    "tolerance": (0.2, "3%", "0.1"),
    "strict": (frozenset({"new"}), "inconclusive,versions", "all"),
    "profile": ("never", "always", "on-failure"),
    "traces": ("here", "there", "elsewhere"),
    "json": ("here.json", "there.json", "elsewhere.json"),
    "markdown": ("here.md", "there.md", "elsewhere.md"),
    "custom_json": ("here.json", "there.json", "elsewhere.json"),
    "html": ("here.html", "there.html", "elsewhere.html"),
    "history": ("here", "there", "elsewhere.jsonl"),
    "gate": (("load_s",), None, "itl_ms, latency_ms"),
    "price_per_hour": (1.5, None, "2.5"),
    "missing_device": ("error", None, "skip"),
}
"""For each option a value in the mark, a text on the command line (where it has a flag) and one in the ini file (where
it may stand there)."""
PARSED = {
    "5": 5,
    "9": 9,
    "2.5": 2.5,
    "30": 30.0,
    "2": 2,
    "4": 4,
    "": True,
    "true": True,
    "3%": 0.03,
    "0.1": 0.1,
    "inconclusive,versions": {"inconclusive", "versions"},
    "all": {"new", "inconclusive", "conditions", "versions"},
    "itl_ms, latency_ms": ["itl_ms", "latency_ms"],
}
SWITCHES = {"update", "append", "force", "prune"}
COMMAND_LINE_ONLY = {"update", "append", "prune", "against"}
DEFAULTS = {
    "mode": "on",
    "rounds": None,
    "max_time": 10.0,
    "device": "auto",
    "dtype": None,
    "threads": 1,
    "baselines": "baselines",
    "update": False,
    "append": False,
    "sessions": 1,
    "force": False,
    "prune": False,
    "against": None,
    "base_tests": "base",
    "confirm": "auto",
    "budget": None,
    "base_setup": "",
    "base_python": "",
    "tolerance": 0.05,
    "strict": frozenset(),
    "profile": "on-failure",
    "traces": None,
    "json": None,
    "markdown": None,
    "custom_json": None,
    "html": None,
    "history": None,
    "gate": (),
    "price_per_hour": None,
    "missing_device": "error",
}


def test_every_option_has_an_example_and_a_default_here() -> None:
    assert set(EXAMPLES) == set(DEFAULTS) == set(OPTIONS)


def test_switches_take_no_value_and_what_changes_baselines_stands_on_the_command_line_alone() -> None:
    assert {name for name, option in OPTIONS.items() if option.switch} == SWITCHES
    assert {name for name, option in OPTIONS.items() if not option.in_ini} == COMMAND_LINE_ONLY


@pytest.mark.parametrize("name", OPTIONS)
def test_the_mark_wins_over_everything(name: str) -> None:
    mark, command_line, ini = EXAMPLES[name]
    assert choose(name, mark=mark, command_line=command_line, ini=ini) == mark


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.flag])
def test_the_command_line_wins_over_the_ini_file(name: str) -> None:
    _, command_line, ini = EXAMPLES[name]
    assert choose(name, command_line=command_line, ini=ini) == PARSED.get(command_line, command_line)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.in_ini])
def test_the_ini_file_wins_over_the_default(name: str) -> None:
    ini = EXAMPLES[name][2]
    assert choose(name, ini=ini) == PARSED.get(ini, ini)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("ini", [None, ""])
def test_the_default_holds_where_nobody_speaks(name: str, ini: str | None) -> None:
    assert choose(name, ini=ini) == DEFAULTS[name]


def test_a_value_is_of_the_type_of_its_option() -> None:
    assert type(choose("rounds", command_line="5")) is int
    assert type(choose("max_time", command_line="5")) is float
    assert type(choose("threads", command_line="5")) is int


def test_a_bad_value_of_a_weaker_source_is_not_even_read() -> None:
    assert choose("rounds", command_line="5", ini="many") == 5


REFUSED = [
    ("mode", "smok", "expected on, smoke or off; did you mean 'smoke'?"),
    ("mode", "yes", "expected on, smoke or off"),
    ("rounds", "0", "expected a whole number of at least 1"),
    ("rounds", "-3", "expected a whole number of at least 1"),
    ("rounds", "2.5", "expected a whole number of at least 1"),
    ("rounds", "many", "expected a whole number of at least 1"),
    ("max_time", "0", "expected seconds, a number above 0"),
    ("max_time", "-1", "expected seconds, a number above 0"),
    ("max_time", "nan", "expected seconds, a number above 0"),
    ("max_time", "inf", "expected seconds, a number above 0"),
    ("max_time", "10s", "expected seconds, a number above 0"),
    ("threads", "0", "expected a whole number from 1 to 4096, or all"),
    ("threads", "99999999999", "expected a whole number from 1 to 4096, or all"),
    ("threads", "ALL", "expected a whole number from 1 to 4096, or all"),
    ("threads", "-1", "expected a whole number from 1 to 4096, or all"),
    ("baselines", " ", "expected a folder"),
    ("sessions", "0", "expected a whole number of at least 1"),
    ("tolerance", "5", "5.0 is not between 0 and 1: write '5%' or 0.05 for five percent"),
    ("tolerance", "nan", "nan is not between 0 and 1: write '5%' or 0.05"),
    ("tolerance", "-5%", "'-5%' is not a percentage: write '5%', or 0.05"),
    ("tolerance", "some", "'some' is not a percentage: write '5%', or 0.05"),
    ("strict", "inconclusiv", "expected some of new, inconclusive, conditions, versions, or all; did you mean 'incon"),
    ("strict", "new,alll", "expected some of new, inconclusive, conditions, versions, or all; did you mean 'all'"),
    ("strict", ",", "expected some of new, inconclusive, conditions, versions, or all"),
]


@pytest.mark.parametrize(("name", "text", "expected"), REFUSED)
def test_a_bad_value_on_the_command_line_is_refused_with_its_flag(name: str, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        choose(name, command_line=text)
    assert str(error.value).startswith(f"{OPTIONS[name].flag}={text}: {expected}")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        *REFUSED,
        ("profile", "on_failure", "expected always, on-failure or never; did you mean 'on-failure'"),
        ("missing_device", "skipp", "expected error or skip; did you mean 'skip'"),
        ("price_per_hour", "cheap", "expected a price per hour"),
        ("price_per_hour", "0", "expected a price per hour"),
        ("price_per_hour", "inf", "expected a price per hour"),
        ("force", "yes", "expected true or false"),
    ],
)
def test_a_bad_value_in_the_ini_file_is_refused_with_its_ini_name(name: str, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        choose(name, ini=text)
    assert str(error.value).startswith(f"ini llmperf_{name}={text}: {expected}")


@pytest.mark.parametrize(("name", "text"), [("dtype", "float23"), ("device", "cudda")])
def test_a_misspelt_dtype_or_device_is_refused_with_its_flag(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^--llmperf-{name}={text}: .*did you mean"):
        choose(name, command_line=text)


@pytest.mark.parametrize(
    ("text", "expected"), [("bf16", "bfloat16"), ("torch.float16", "float16"), ("half", "float16")]
)
def test_a_dtype_on_the_command_line_has_the_short_names_that_marks_know(text: str, expected: str) -> None:
    assert choose("dtype", command_line=text) == expected


def test_flags_and_ini_names_follow_from_the_name() -> None:
    assert {name: (option.flag, option.ini) for name, option in OPTIONS.items()} == {
        "mode": ("--llmperf", "llmperf_mode"),
        "rounds": ("--llmperf-rounds", "llmperf_rounds"),
        "max_time": ("--llmperf-max-time", "llmperf_max_time"),
        "device": ("--llmperf-device", "llmperf_device"),
        "dtype": ("--llmperf-dtype", "llmperf_dtype"),
        "threads": ("--llmperf-threads", "llmperf_threads"),
        "baselines": ("--llmperf-baselines", "llmperf_baselines"),
        "update": ("--llmperf-update", "llmperf_update"),
        "append": ("--llmperf-append", "llmperf_append"),
        "sessions": ("--llmperf-sessions", "llmperf_sessions"),
        "force": ("--llmperf-force", "llmperf_force"),
        "prune": ("--llmperf-prune", "llmperf_prune"),
        "against": ("--llmperf-against", "llmperf_against"),
        "base_tests": ("--llmperf-base-tests", "llmperf_base_tests"),
        "confirm": ("--llmperf-confirm", "llmperf_confirm"),
        "budget": ("--llmperf-budget", "llmperf_budget"),
        "base_setup": (None, "llmperf_base_setup"),
        "base_python": (None, "llmperf_base_python"),
        "tolerance": ("--llmperf-tolerance", "llmperf_tolerance"),
        "strict": ("--llmperf-strict", "llmperf_strict"),
        "profile": ("--llmperf-profile", "llmperf_profile"),
        "traces": ("--llmperf-traces", "llmperf_traces"),
        "json": ("--llmperf-json", "llmperf_json"),
        "markdown": ("--llmperf-markdown", "llmperf_markdown"),
        "custom_json": ("--llmperf-custom-json", "llmperf_custom_json"),
        "html": ("--llmperf-html", "llmperf_html"),
        "history": ("--llmperf-history", "llmperf_history"),
        "gate": (None, "llmperf_gate"),
        "price_per_hour": (None, "llmperf_price_per_hour"),
        "missing_device": (None, "llmperf_missing_device"),
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    assert OPTIONS[name].help
    assert bool(OPTIONS[name].metavar) is (name not in SWITCHES), "a switch takes nothing"


def test_an_option_that_does_not_exist_cannot_be_asked_for() -> None:
    with pytest.raises(KeyError):
        choose("speed")


def test_the_mark_wins_over_what_the_run_began_with() -> None:
    assert choose("threads", mark=2, run=4) == 2
    assert choose("threads", mark="all", run=4) == "all"


def test_what_the_run_began_with_wins_over_the_default() -> None:
    assert choose("threads", run=4) == 4
    assert choose("rounds", run=None) is None
