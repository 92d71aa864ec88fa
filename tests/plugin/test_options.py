"""Every option, from every source: mark > command line > ini > default; and what it says to a bad value."""

from __future__ import annotations

import re

import pytest

from tests.plugin.suites import HEAD

QUICK = "llmperf_rounds = 1\nllmperf_max_time = 0.05\n"


def run(suite: pytest.Pytester, text: str, *arguments: str, ini: str = "") -> pytest.RunResult:
    suite.makeini(f"[pytest]\naddopts = -p no:cacheprovider\n{ini}")
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def told(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


ROUNDS = """
@llm_perf(model=FAST, {mark})
def test_chat(llm):
    assert len(llm.measure({body}).rounds) == {expected}
"""


@pytest.mark.parametrize(
    ("body", "mark", "line", "ini", "expected"),
    [
        ("rounds=7", "rounds=6", ["--llmperf-rounds=5"], "llmperf_rounds = 4", 7),
        ("", "rounds=6", ["--llmperf-rounds=5"], "llmperf_rounds = 4", 6),
        ("", "", ["--llmperf-rounds=5"], "llmperf_rounds = 4", 5),
        ("", "", ["--llmperf-rounds", "5"], "", 5),
        ("", "", [], "llmperf_rounds = 4", 4),
    ],
    ids=["body", "mark", "command line", "command line with a space", "ini"],
)
def test_rounds_come_from_the_nearest_source(
    suite: pytest.Pytester, body: str, mark: str, line: list[str], ini: str, expected: int
) -> None:
    run(suite, ROUNDS.format(body=body, mark=mark, expected=expected), *line, ini=ini).assert_outcomes(passed=1)


def test_without_rounds_at_least_three_are_taken(suite: pytest.Pytester) -> None:
    text = "@llm_perf(model=FAST)\ndef test_chat(llm):\n    assert len(llm.measure().rounds) >= 3\n"
    run(suite, text, ini="llmperf_max_time = 0.001").assert_outcomes(passed=1)


# Its times never settle, so only time ends its rounds; the request after the eleventh ends them in any case.
RESTLESS = """
import time

CALLS = []

def restless(prompt_ids, output_tokens):
    CALLS.append(1)
    if len(CALLS) > 11:
        raise LookupError("asked once more")
    for token in range(output_tokens):
        time.sleep(0.002 * (len(CALLS) % 2))
        yield token

@llm_perf(model=stream(restless), output_tokens=1)
def test_little_time(llm):
    assert len(llm.measure().rounds) == 3

@llm_perf(model=stream(restless), output_tokens=1)
def test_much_time(llm):
    with pytest.raises(LookupError):
        llm.measure()
    pytest.skip("as expected")
"""


@pytest.mark.parametrize(
    ("line", "ini", "test"),
    [
        (["--llmperf-max-time=0.000001"], "llmperf_max_time = 60", "test_little_time"),
        (["--llmperf-max-time=60"], "llmperf_max_time = 0.000001", "test_much_time"),
        ([], "llmperf_max_time = 0.000001", "test_little_time"),
        ([], "", "test_much_time"),
    ],
    ids=["command line, little", "command line, much", "ini", "default"],
)
def test_the_time_for_rounds_comes_from_the_nearest_source(
    suite: pytest.Pytester, line: list[str], ini: str, test: str
) -> None:
    result = run(suite, RESTLESS, f"test_chat.py::{test}", *line, ini=ini)
    result.assert_outcomes(**{"passed" if test == "test_little_time" else "skipped": 1})


THREADS = """
def engine(prompt_ids, output_tokens):
    import torch
    assert torch.get_num_threads() == {expected}
    yield from range(output_tokens)

@llm_perf(model=stream(engine), {mark})
def test_chat(llm):
    assert llm.measure({body}).environment.threads == {expected}
"""


@pytest.mark.parametrize(
    ("body", "mark", "line", "ini", "expected"),
    [
        ("threads=6", "threads=5", ["--llmperf-threads=4"], "llmperf_threads = 3", 6),
        ("", "threads=5", ["--llmperf-threads=4"], "llmperf_threads = 3", 5),
        ("", "", ["--llmperf-threads=4"], "llmperf_threads = 3", 4),
        ("", "", [], "llmperf_threads = 3", 3),
        ("", "", [], "", 1),
        ("", "", ["--llmperf-threads=all"], "llmperf_threads = 3", 2),
        ("", "", [], "llmperf_threads = all", 2),
        ("", "threads='all'", ["--llmperf-threads=4"], "", 2),
    ],
    ids=["body", "mark", "command line", "ini", "default", "all by command line", "all by ini", "all by mark"],
)
def test_threads_come_from_the_nearest_source(
    suite: pytest.Pytester, body: str, mark: str, line: list[str], ini: str, expected: int
) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        text = THREADS.format(body=body, mark=mark, expected=expected)
        run(suite, text, *line, ini=QUICK + ini).assert_outcomes(passed=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("line", "ini", "shown"),
    [
        (["--llmperf-threads=4"], "llmperf_threads = 3", "4 threads"),
        ([], "llmperf_threads = 3", "3 threads"),
        ([], "llmperf_threads = all", "all threads"),
        ([], "", "1 thread"),
    ],
)
def test_the_header_shows_the_threads(suite: pytest.Pytester, line: list[str], ini: str, shown: str) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n", *line, ini=QUICK + ini)
    header = next(line for line in result.stdout.lines if line.startswith("llmperf: "))
    assert header.endswith(f", {shown}")


DTYPE = """
@llm_perf(model=TINY, device="cpu", prompt_tokens=4, output_tokens=2, {mark})
def test_chat(llm):
    assert str(llm.model.dtype) == "torch.{expected}"
    assert llm.measure().environment.dtype == "{expected}"
"""


@pytest.mark.parametrize(
    ("mark", "line", "ini", "expected"),
    [
        ("dtype='float64'", ["--llmperf-dtype=bf16"], "llmperf_dtype = float16", "float64"),
        ("", ["--llmperf-dtype=bf16"], "llmperf_dtype = float16", "bfloat16"),
        ("", [], "llmperf_dtype = bfloat16", "bfloat16"),
        ("", [], "", "float32"),
    ],
    ids=["mark", "command line", "ini", "default"],
)
def test_dtype_comes_from_the_nearest_source(
    suite: pytest.Pytester, mark: str, line: list[str], ini: str, expected: str
) -> None:
    run(suite, DTYPE.format(mark=mark, expected=expected), *line, ini=QUICK + ini).assert_outcomes(passed=1)


DEVICE = """
@llm_perf(model=TINY, prompt_tokens=4, output_tokens=2, {mark})
def test_chat(llm):
    assert llm.measure().environment.device == "cpu"
"""
MISSING = "cuda:99"


@pytest.mark.parametrize(
    ("mark", "line", "ini"),
    [
        ("device='cpu'", [f"--llmperf-device={MISSING}"], f"llmperf_device = {MISSING}"),
        ("", ["--llmperf-device=cpu"], f"llmperf_device = {MISSING}"),
        ("", [], "llmperf_device = cpu"),
    ],
    ids=["mark", "command line", "ini"],
)
def test_device_comes_from_the_nearest_source(suite: pytest.Pytester, mark: str, line: list[str], ini: str) -> None:
    run(suite, DEVICE.format(mark=mark), *line, ini=QUICK + ini).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "line", "ini"),
    [
        (f"device='{MISSING}'", ["--llmperf-device=cpu"], ""),
        ("", [f"--llmperf-device={MISSING}"], "llmperf_device = cpu"),
        ("", [], f"llmperf_device = {MISSING}"),
    ],
    ids=["mark", "command line", "ini"],
)
def test_a_device_is_really_taken_from_that_source(
    suite: pytest.Pytester, mark: str, line: list[str], ini: str
) -> None:
    result = run(suite, DEVICE.format(mark=mark), *line, ini=QUICK + ini)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"device='{MISSING}': *"])


def test_by_default_the_device_is_the_best_one_there_is(suite: pytest.Pytester) -> None:
    import torch

    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    text = DEVICE.format(mark="").replace('device == "cpu"', f'device.startswith("{expected}")')
    run(suite, text, ini=QUICK).assert_outcomes(passed=1)


MODE = """
@llm_perf(ttft_ms < 1e-9, model=FAST)
def test_marked(llm):
    llm.measure()

def test_by_fixture(llm):
    llm.load(FAST)
    llm.measure(limits="ttft_ms < 1e-9")

def test_ordinary():
    pass
"""


@pytest.mark.parametrize(
    ("line", "ini", "outcomes"),
    [
        (["--llmperf=smoke"], "llmperf_mode = off", {"passed": 3}),
        (["--llmperf=off"], "llmperf_mode = smoke", {"passed": 1, "skipped": 2}),
        (["--llmperf=on"], "llmperf_mode = off", {"passed": 1, "failed": 2}),
        ([], "llmperf_mode = smoke", {"passed": 3}),
        ([], "llmperf_mode = off", {"passed": 1, "skipped": 2}),
        ([], "", {"passed": 1, "failed": 2}),
    ],
    ids=["smoke", "off", "on", "ini smoke", "ini off", "default"],
)
def test_the_mode_comes_from_the_nearest_source(
    suite: pytest.Pytester, line: list[str], ini: str, outcomes: dict[str, int]
) -> None:
    run(suite, MODE, *line, ini=QUICK + ini).assert_outcomes(**outcomes)


def test_off_names_itself_as_the_reason_and_loads_nothing(suite: pytest.Pytester) -> None:
    result = run(
        suite, "@llm_perf(model='./no-such-folder')\ndef test_chat(llm):\n    llm.measure()\n", "--llmperf=off", "-rs"
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*--llmperf=off"])
    assert "llmperf: " not in result.stdout.str()


@pytest.mark.parametrize(
    ("line", "ini", "outcomes"),
    [
        ([], "", {"errors": 1}),
        ([], "llmperf_missing_device = error", {"errors": 1}),
        ([], "llmperf_missing_device = skip", {"skipped": 1}),
    ],
    ids=["default", "error", "skip"],
)
def test_a_missing_device_does_what_the_ini_file_says(
    suite: pytest.Pytester, line: list[str], ini: str, outcomes: dict[str, int]
) -> None:
    run(suite, DEVICE.format(mark=f"device='{MISSING}'"), *line, ini=QUICK + ini).assert_outcomes(**outcomes)


BAD = [
    ("--llmperf", "llmperf_mode", "smok", "did you mean 'smoke'?"),
    ("--llmperf", "llmperf_mode", "yes", "expected on, smoke or off"),
    ("--llmperf-rounds", "llmperf_rounds", "0", "a whole number of at least 1"),
    ("--llmperf-rounds", "llmperf_rounds", "-3", "a whole number of at least 1"),
    ("--llmperf-rounds", "llmperf_rounds", "2.5", "a whole number of at least 1"),
    ("--llmperf-rounds", "llmperf_rounds", "many", "a whole number of at least 1"),
    ("--llmperf-max-time", "llmperf_max_time", "0", "a number above 0"),
    ("--llmperf-max-time", "llmperf_max_time", "-1", "a number above 0"),
    ("--llmperf-max-time", "llmperf_max_time", "nan", "a number above 0"),
    ("--llmperf-max-time", "llmperf_max_time", "inf", "a number above 0"),
    ("--llmperf-max-time", "llmperf_max_time", "10s", "a number above 0"),
    ("--llmperf-threads", "llmperf_threads", "0", "a whole number from 1 to 4096"),
    ("--llmperf-threads", "llmperf_threads", "al", "all"),
    ("--llmperf-device", "llmperf_device", "gpu", "cuda"),
    ("--llmperf-device", "llmperf_device", "cdua", "did you mean 'cuda'?"),
    ("--llmperf-dtype", "llmperf_dtype", "flaot16", "did you mean 'float16'?"),
    ("--llmperf-dtype", "llmperf_dtype", "int4", "float32"),
    ("--llmperf-baselines", "llmperf_baselines", " ", "a folder"),
    ("--llmperf-sessions", "llmperf_sessions", "some", "a whole number of at least 1"),
    ("--llmperf-tolerance", "llmperf_tolerance", "5", "write '5%'"),
    ("--llmperf-strict", "llmperf_strict", "newer", "did you mean 'new'?"),
]
SWITCHES = ["--llmperf-update", "--llmperf-append", "--llmperf-force", "--llmperf-prune"]


@pytest.mark.parametrize(("flag", "ini", "value", "expected"), BAD)
def test_a_bad_value_on_the_command_line_is_misuse(
    suite: pytest.Pytester, flag: str, ini: str, value: str, expected: str
) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", f"{flag}={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    error = next(line for line in result.stderr.lines if line.startswith("ERROR: "))
    assert f"{flag}={value}" in error
    assert expected in error
    assert "Traceback" not in told(result)


@pytest.mark.parametrize(
    ("ini", "value", "expected"),
    [
        *(row[1:] for row in BAD if row[2].strip()),
        ("llmperf_missing_device", "skipp", "did you mean 'skip'?"),
        ("llmperf_force", "yes", "true or false"),
        ("llmperf_gate", "latency", "did you mean 'latency_ms'?"),
        ("llmperf_gate", "load_s", "reported, never compared; set a limit instead"),
    ],
)
def test_a_bad_value_in_the_ini_file_is_misuse(suite: pytest.Pytester, ini: str, value: str, expected: str) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", ini=f"{ini} = {value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    error = next(line for line in result.stderr.lines if line.startswith("ERROR: "))
    assert f"ini {ini}={value}" in error
    assert expected in error
    assert "Traceback" not in told(result)


FLAGS = sorted({row[0] for row in BAD})


@pytest.mark.parametrize("flag", FLAGS)
def test_an_option_does_not_swallow_the_path_after_it(suite: pytest.Pytester, flag: str) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", flag, "test_chat.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{flag}=test_chat.py" in result.stderr.str()


@pytest.mark.parametrize("flag", FLAGS)
def test_an_option_without_its_value_is_misuse(suite: pytest.Pytester, flag: str) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", "test_chat.py", flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"argument {flag}: expected one argument" in result.stderr.str()


@pytest.mark.parametrize("flag", SWITCHES)
def test_a_switch_takes_no_value(suite: pytest.Pytester, flag: str) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", f"{flag}=yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"argument {flag}: ignored explicit argument 'yes'" in result.stderr.str()


@pytest.mark.parametrize("name", ["update", "append", "prune"])
def test_what_changes_baselines_cannot_stand_in_the_ini_file(suite: pytest.Pytester, name: str) -> None:
    text = "def test_ordinary():\n    pass\n"
    result = run(suite, text, "--strict-config", ini=f"llmperf_{name} = true")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"Unknown config option: llmperf_{name}" in told(result)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--llmperf-update", "--llmperf-append"], "one replaces the baseline, the other extends it"),
        (["--llmperf-sessions=2"], "--llmperf-sessions goes with --llmperf-update or --llmperf-append"),
        (["--llmperf-force"], "--llmperf-force goes with --llmperf-update or --llmperf-append"),
        (["--llmperf-update", "--llmperf=smoke"], "--llmperf-update with --llmperf=smoke: nothing is measured"),
        (["--llmperf-append", "--llmperf=off"], "--llmperf-append with --llmperf=off: nothing is measured"),
        (["--llmperf-prune", "-k", "ordinary"], "--llmperf-prune with -k: "),
        (["--llmperf-prune", "test_chat.py"], "--llmperf-prune with a choice of paths: "),
        (["--llmperf-prune", "-x"], "--llmperf-prune with -x or --maxfail: "),
    ],
)
def test_options_that_contradict_each_other_are_misuse(suite: pytest.Pytester, given: list[str], expected: str) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", *given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert expected in next(line for line in result.stderr.lines if line.startswith("ERROR: "))


@pytest.mark.parametrize("flag", ["--llmperf-update", "--llmperf-append", "--llmperf-prune"])
def test_what_changes_baselines_cannot_stand_in_addopts(suite: pytest.Pytester, flag: str) -> None:
    suite.makeini(f"[pytest]\naddopts = {flag}\n")
    suite.makepyfile("def test_ordinary():\n    pass\n")
    result = suite.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{flag} stands in addopts, and would change the baselines on every run" in result.stderr.str()


def test_help_shows_each_option_with_what_it_takes(suite: pytest.Pytester) -> None:
    text = suite.runpytest("--help").stdout.str()
    assert "\nspeed and memory of language models:\n" in text
    for flag in FLAGS:
        assert re.search(rf"^  {flag}=\S+\s", text, re.MULTILINE), flag
    for flag in SWITCHES:
        assert re.search(rf"^  {flag}\s", text, re.MULTILINE), flag
    assert "(default: 5%)" in " ".join(text.split())
    for ini in {*(row[1] for row in BAD), "llmperf_missing_device", "llmperf_force", "llmperf_gate"}:
        assert re.search(rf"^  {ini} \(string\):", text, re.MULTILINE), ini


def test_a_misspelt_option_is_misuse(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", "--llmperf-round=3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments: --llmperf-round=3" in result.stderr.str()


def test_a_misspelt_ini_option_is_an_error_under_strict_config(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_ordinary():\n    pass\n", "--strict-config", ini="llmperf_round = 3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Unknown config option: llmperf_round" in told(result)


def test_the_ini_options_can_be_given_with_o(suite: pytest.Pytester) -> None:
    text = ROUNDS.format(body="", mark="", expected=2)
    run(suite, text, "-o", "llmperf_rounds=2", ini="llmperf_rounds = 4").assert_outcomes(passed=1)


def test_the_ini_options_can_stand_in_pyproject_toml(suite: pytest.Pytester) -> None:
    suite.path.joinpath("tox.ini").unlink()
    suite.makepyprojecttoml('[tool.pytest.ini_options]\nllmperf_rounds = "4"\naddopts = ["-p", "no:cacheprovider"]\n')
    suite.makepyfile(test_chat=HEAD + ROUNDS.format(body="", mark="", expected=4))
    suite.runpytest().assert_outcomes(passed=1)
