"""What is imported, and when: nothing heavy before a test measures, and nothing of torch without a model."""

from __future__ import annotations

import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "rich",
    "psutil",
    "pynvml",
    "tokenizers",
    "huggingface_hub",
    "scipy",
    "pydantic",
    "aiohttp",
)
CONFTEST = f"""
import pathlib
import sys

HEAVY = {HEAVY!r}

def pytest_unconfigure():
    pathlib.Path("imported.txt").write_text(" ".join(name for name in HEAVY if name in sys.modules))
    ours = sorted(name for name in sys.modules if name.split(".")[0] == "pytest_llmperf")
    pathlib.Path("ours.txt").write_text(" ".join(ours))
"""


def imported(suite: pytest.Pytester) -> set[str]:
    return set(suite.path.joinpath("imported.txt").read_text().split())


def test_a_run_without_marks_prints_nothing_of_ours_and_imports_nothing_heavy(suite: pytest.Pytester) -> None:
    suite.makeconftest(CONFTEST)
    suite.makepyfile("def test_ordinary():\n    pass\n")
    result = suite.runpytest_subprocess("-v", "-p", "no:benchmark")
    result.assert_outcomes(passed=1)
    assert imported(suite) == set()
    assert not [line for line in result.stdout.lines if "llmperf" in line and not line.startswith("plugins:")]
    ours = set(suite.path.joinpath("ours.txt").read_text().split())
    working = {"session", "measure", "targets", "reports", "metrics", "model", "meeting", "nvml"}
    assert not {name for name in ours if working & set(name.split(".")[1:2])}


def test_the_plugin_does_not_import_pytest_benchmark(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import sys

def pytest_report_header():
    return f"benchmark imported: {'pytest_benchmark' in sys.modules}"
"""
    )
    suite.makepyfile("def test_ordinary():\n    pass\n")
    result = suite.runpytest_subprocess("-p", "no:benchmark")
    result.stdout.fnmatch_lines(["benchmark imported: False"])


def test_a_marked_test_that_is_skipped_imports_no_model_library(suite: pytest.Pytester) -> None:
    suite.makeconftest(CONFTEST)
    suite.makepyfile(
        """
import pytest
from pytest_llmperf import llm_perf, ttft_ms

@llm_perf(ttft_ms < 50, model="gpt2")
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest_subprocess("--llmperf=off", "-p", "no:benchmark")
    result.assert_outcomes(skipped=1)
    assert imported(suite) == set()


def test_a_stream_is_measured_without_torch(suite: pytest.Pytester) -> None:
    suite.makeconftest(CONFTEST)
    suite.makepyfile(
        """
import sys
from pytest_llmperf import llm_perf, stream, ttft_ms

def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)

@llm_perf(ttft_ms < 60_000, model=stream(fast))
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest_subprocess("-p", "no:benchmark")
    result.assert_outcomes(passed=1)
    assert not imported(suite) & {"torch", "transformers"}


def test_importing_every_public_name_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    script = f"""
import sys
import pytest_llmperf
from pytest_llmperf import *
for name in pytest_llmperf.__all__:
    getattr(pytest_llmperf, name)
llm_perf(ttft_ms < 50, "tpot_ms < 9", model=random_weights("gpt2", n_layer=2))
print("HEAVY", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    result = pytester.run(sys.executable, "-c", script)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["HEAVY"])


def test_a_run_without_marks_registers_no_working_part(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "def test_ordinary(pytestconfig):\n    assert not pytestconfig.pluginmanager.hasplugin('llmperf-running')\n"
    )
    suite.runpytest().assert_outcomes(passed=1)


def test_two_runs_in_one_process_share_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
from pytest_llmperf import llm_perf, stream

def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)

@llm_perf(model=stream(fast))
def test_chat(llm):
    llm.measure()
"""
    )
    for _ in range(2):
        result = suite.runpytest()
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["1 measured: 1 new"])


def test_a_measurement_leaves_the_garbage_collector_as_it_was(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
import gc
import pytest
from pytest_llmperf import llm_perf, stream

SEEN = []

def fast(prompt_ids, output_tokens):
    SEEN.append(gc.isenabled())
    yield from range(output_tokens)

@llm_perf(model=stream(fast))
@pytest.mark.parametrize("enabled", [True, False])
def test_chat(llm, enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        llm.measure()
        assert gc.isenabled() is enabled
        assert not any(SEEN)
    finally:
        gc.enable()
"""
    )
    suite.runpytest().assert_outcomes(passed=2)
