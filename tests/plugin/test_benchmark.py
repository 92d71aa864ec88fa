"""pytest-benchmark's own flags work on timed metrics, and beside it and its like nothing of ours is lost."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.reports.benchmark import is_duration
from tests.plugin.suites import HEAD

ONE = """
@llm_perf(ttft_ms < 60_000, model=FAST, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    llm.measure()
"""
SIZES = """
@pytest.mark.parametrize("size", [2, 4])
@llm_perf(model=FAST, prompt_tokens=8)
class TestSizes:
    def test_chat(self, llm, size):
        llm.measure(output_tokens=size)
        llm.measure("again", output_tokens=size)
"""
BOTH = """
@llm_perf(model=FAST, prompt_tokens=8, output_tokens=4)
def test_both(llm, benchmark):
    assert benchmark(sum, [1, 2]) == 3
    llm.measure()
"""
TIMES = {"ttft_ms", "tpot_ms", "itl_ms", "latency_ms"}
"""What is known of a stream."""
SAVE = ("--benchmark-save=b", "--benchmark-save-data")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Not saving anything", "ignore:(?s).*Benchmarks are automatically disabled because xdist"
)


@pytest.fixture(autouse=True)
def not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-benchmark takes an inner run for a worker's where the tests are spread themselves."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest("--benchmark-max-time=0.01", "--benchmark-min-rounds=1", *arguments)


def document(suite: pytest.Pytester) -> dict[str, Any]:
    [file] = suite.path.glob(".benchmarks/*/*_b.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def saved(suite: pytest.Pytester) -> dict[str, dict[str, Any]]:
    return {record["fullname"]: record for record in document(suite)["benchmarks"]}


def without_plugin(name: str) -> pytest.MarkDecorator:
    known = {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    return pytest.mark.skipif(name not in known, reason=f"no pytest-{name}")


VERSION = tuple(map(int, importlib.metadata.version("pytest-benchmark").split(".")[:2]))
needs_fixture = pytest.mark.skipif(
    VERSION < (5, 3) and pytest.version_tuple >= (9, 1), reason="this pytest-benchmark's fixture fails on this pytest"
)


def test_each_time_of_a_test_is_a_benchmark_in_seconds(suite: pytest.Pytester) -> None:
    run(suite, ONE, *SAVE, "--llmperf-json=r.json").assert_outcomes(passed=1)
    benchmarks = saved(suite)
    assert benchmarks.keys() == {f"test_chat.py::test_chat.{metric}" for metric in TIMES}
    record = benchmarks["test_chat.py::test_chat.ttft_ms"]
    assert (record["name"], record["group"], record["param"], record["params"]) == (
        "test_chat.ttft_ms",
        "ttft_ms",
        None,
        {},
    )
    assert record["extra_info"].pop("device").startswith("cpu ")
    assert record["extra_info"] == {
        "metric": "ttft_ms",
        "unit": "s",
        "target": "stream:fast",
        "workload": {"prompt_tokens": 8, "output_tokens": 4, "batch_size": 1, "concurrency": 1},
        "verdict": "OK",
    }
    [result] = json.loads((suite.path / "r.json").read_text())["results"]
    values = {row["metric"]: row["values"] for row in result["rows"]}
    for metric in TIMES:
        data = benchmarks[f"test_chat.py::test_chat.{metric}"]["stats"]["data"]
        assert data == pytest.approx([value / 1000 for value in values[metric]])


@pytest.mark.skipif(VERSION < (5, 3), reason="this pytest-benchmark opens the file again and again, and closes it once")
def test_its_json_has_them(suite: pytest.Pytester) -> None:
    run(suite, ONE, "--benchmark-json=b.json").assert_outcomes(passed=1)
    content = json.loads((suite.path / "b.json").read_text())
    assert {record["group"] for record in content["benchmarks"]} == TIMES


def test_parameters_and_labels_are_named_so_that_they_group(suite: pytest.Pytester) -> None:
    result = run(suite, SIZES, *SAVE, "--benchmark-group-by=func")
    benchmarks = {name: record for name, record in saved(suite).items() if "tpot_ms" in name}
    assert {record["name"]: (record["param"], record["params"]) for record in benchmarks.values()} == {
        "test_chat.tpot_ms[2]": ("2", {"size": 2}),
        "test_chat.tpot_ms[4]": ("4", {"size": 4}),
        "test_chat::again.tpot_ms[2]": ("2", {"size": 2}),
        "test_chat::again.tpot_ms[4]": ("4", {"size": 4}),
    }
    assert "test_chat.py::TestSizes::test_chat::again.tpot_ms[2]" in benchmarks
    result.stdout.fnmatch_lines(["* benchmark 'test_chat.tpot_ms': 2 tests *"])


def test_grouping_by_a_parameter_that_only_some_tests_have_ends_no_run(suite: pytest.Pytester) -> None:
    result = run(suite, SIZES + ONE, *SAVE, "--benchmark-group-by=param:size")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["* benchmark 'size=2': 8 tests *", "* benchmark 'size=None': 4 tests *"])


def test_parameters_that_json_cannot_hold_are_named(suite: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize(
    ("target", "workload", "made", "what", "share"),
    [(FAST, Workload(8, 4), fast, object(), 0.5)],
)
def test_chat(llm, target, workload, made, what, share):
    llm.load(target)
    llm.measure(workload=workload)
"""
    run(suite, text, *SAVE).assert_outcomes(passed=1)
    record = next(iter(saved(suite).values()))
    expected = {"target": "stream:fast", "workload": "8-4", "made": "fast", "what": "what0", "share": 0.5}
    assert record["params"] == expected


def test_a_time_is_not_published_unless_a_flag_asks_for_it(suite: pytest.Pytester) -> None:
    output = run(suite, ONE, "--benchmark-columns=min").stdout.str()
    assert "benchmark 'ttft_ms'" not in output


def test_a_smoke_run_publishes_nothing(suite: pytest.Pytester) -> None:
    run(suite, ONE, *SAVE, "--llmperf=smoke").assert_outcomes(passed=1)
    assert not list(suite.path.glob(".benchmarks/*/*.json"))


def test_saved_runs_are_compared_and_fail_the_next(suite: pytest.Pytester) -> None:
    assert run(suite, ONE, "--benchmark-autosave").ret == 0
    [before] = suite.path.glob(".benchmarks/*/*.json")
    content = json.loads(before.read_text())
    for record in content["benchmarks"]:
        factor = 1e-3 if record["group"] == "ttft_ms" else 1e3
        record["stats"]["median"] *= factor
    before.write_text(json.dumps(content))
    result = run(suite, ONE, "--benchmark-compare", "--benchmark-compare-fail=median:50%")
    assert result.ret != 0
    text = result.stdout.str() + result.stderr.str()
    assert "test_chat.ttft_ms (0001_" in text
    assert "Performance has regressed" in text
    assert "tpot_ms (0001_unversioned) - Field" not in text


def test_a_histogram_is_drawn_of_each_metric(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    module: Any = ModuleType("pytest_benchmark.histogram")  # the real one needs pygal
    module.make_histogram = lambda *given: drawn.append(given[:2])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    run(suite, ONE, "--benchmark-histogram=drawn").assert_outcomes(passed=1)
    assert sorted(drawn) == sorted(("drawn", metric) for metric in TIMES)


def test_a_rerun_is_published_once(suite: pytest.Pytester) -> None:
    text = "tries = []\n" + ONE + "    tries.append(1)\n    assert len(tries) > 1\n"
    run(suite, text, *SAVE, "--reruns=1").stdout.fnmatch_lines(["*1 passed, 1 rerun*"])
    assert len(document(suite)["benchmarks"]) == len(TIMES)


@needs_fixture
def test_a_test_with_both_fixtures_has_both(suite: pytest.Pytester) -> None:
    run(suite, BOTH, *SAVE).assert_outcomes(passed=1)
    names = {f"test_chat.py::test_both.{metric}" for metric in TIMES}
    assert saved(suite).keys() == {"test_chat.py::test_both", *names}


def test_benchmark_only_skips_what_does_not_use_its_fixture_and_that_is_said(suite: pytest.Pytester) -> None:
    result = run(suite, ONE, "--benchmark-only")
    result.assert_outcomes(skipped=1)
    said = "llmperf: --benchmark-only leaves out tests that measure without the fixture benchmark"
    result.stdout.fnmatch_lines([said])
    assert said not in run(suite, "def test_ordinary():\n    pass\n", "--benchmark-only").stdout.str()


@needs_fixture
def test_benchmark_only_runs_what_uses_both(suite: pytest.Pytester) -> None:
    result = run(suite, BOTH, "--benchmark-only")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 measured: 1 new"])
    assert "leaves out" not in result.stdout.str()


@needs_fixture
@pytest.mark.parametrize(("flag", "passed"), [("--benchmark-disable", 2), ("--benchmark-skip", 1)])
def test_what_disables_benchmarks_disables_nothing_of_ours(suite: pytest.Pytester, flag: str, passed: int) -> None:
    result = run(suite, ONE + BOTH, flag, *SAVE)
    result.assert_outcomes(passed=passed, skipped=2 - passed)
    result.stdout.fnmatch_lines([f"{passed} measured: {passed} new"])
    assert {f"test_chat.py::test_chat.{metric}" for metric in TIMES} <= saved(suite).keys()


def test_without_the_plugin_everything_works(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + ONE)
    result = suite.runpytest("-p", "no:benchmark", "--llmperf-custom-json=c.json")
    result.assert_outcomes(passed=1)
    assert (suite.path / "c.json").exists()


def test_workers_of_xdist_measure_and_the_controller_publishes(suite: pytest.Pytester) -> None:
    result = run(suite, SIZES, "-n1", *SAVE)
    result.assert_outcomes(passed=2)
    params = {name: record["params"] for name, record in saved(suite).items()}
    assert len(params) == 4 * len(TIMES)
    assert params["test_chat.py::TestSizes::test_chat.ttft_ms[4]"] == {"size": 4}


@without_plugin("codspeed")
def test_codspeed_deselects_what_does_not_use_its_fixture_and_that_is_said(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_chat=HEAD + ONE + BOTH)
    result = suite.runpytest("--codspeed", *SAVE, "--codspeed-max-time=0.01")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "llmperf: --codspeed leaves out tests that measure without the fixture benchmark",
            "llmperf: --benchmark-save: no metric was handed to pytest-benchmark *: it is disabled",
            "1 measured: 1 new",
        ]
    )


CODSPEED = """
import pytest

class CodSpeed:
    is_codspeed_enabled = True

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.pluginmanager.set_blocked("pytest-benchmark")
    config.pluginmanager.register(CodSpeed(), "codspeed_plugin")

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    kept = [item for item in items if "benchmark" in item.fixturenames]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
"""
"""What pytest-codspeed 5 does to a run."""


def test_what_codspeed_deselects_is_said(suite: pytest.Pytester) -> None:
    suite.makeconftest(CODSPEED)
    result = run(suite, ONE)
    result.assert_outcomes(deselected=1)
    result.stdout.fnmatch_lines(["llmperf: --codspeed leaves out tests that measure without the fixture benchmark"])


def test_a_plugin_that_is_disabled_is_told(suite: pytest.Pytester) -> None:
    suite.makeconftest(CODSPEED.replace("items[:] = kept", ""))
    result = run(suite, ONE, *SAVE)
    result.assert_outcomes(passed=1)
    told = "llmperf: --benchmark-save: no metric was handed to pytest-benchmark *: it is disabled"
    result.stdout.fnmatch_lines([told])


class _OtherArguments:
    def __init__(self, fixture: object) -> None: ...


class _OtherFigures:
    def __init__(self, fixture: object, iterations: int, options: object) -> None: ...

    def update(self, duration: float) -> None: ...

    def as_dict(self) -> None:
        raise KeyError("q1")


@pytest.mark.parametrize(
    ("other", "error"), [(_OtherArguments, "TypeError: *iterations*"), (_OtherFigures, "KeyError: 'q1'")]
)
def test_an_inside_that_is_another_is_told_and_costs_nothing_else(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, other: type, error: str
) -> None:
    monkeypatch.setattr("pytest_benchmark.stats.Metadata", other)
    result = run(suite, ONE, *SAVE, "--llmperf-json=r.json")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"llmperf: --benchmark-save: no metric was handed to pytest-benchmark *: {error}"])
    assert (suite.path / "r.json").exists()


def test_gpus_are_facts_of_the_machine(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llmperf.baselines.environment.nvidia_gpus", lambda: ["NVIDIA H200"])
    run(suite, ONE, *SAVE, "--llmperf-device=cpu").assert_outcomes(passed=1)
    assert document(suite)["machine_info"]["gpus"] == ["NVIDIA H200"]


MODEL = """
@llm_perf(ttft_ms < 60_000, peak_memory_mib < 1_000, model=TINY, device="cpu", prompt_tokens=8, output_tokens=4)
def test_model(llm):
    llm.measure()
"""


def test_every_metric_that_is_known_is_in_one_place_by_its_direction(suite: pytest.Pytester) -> None:
    run(suite, MODEL, *(*SAVE, "--llmperf-custom-json=c.json", "--llmperf-json=r.json"))
    [result] = json.loads((suite.path / "r.json").read_text())["results"]
    known = {row["metric"]: row["value"] for row in result["rows"]}

    def records(name: str) -> dict[str, dict[str, Any]]:
        return {each["name"].rpartition(".")[2]: each for each in json.loads((suite.path / name).read_text())}

    smaller, bigger = records("c.json"), records("c.bigger.json")
    times = {record["group"] for record in saved(suite).values()}
    assert times == {name for name in known if is_duration(CATALOGUE[name])}
    assert bigger.keys() == {name for name in known if CATALOGUE[name].better == "higher"}
    assert smaller.keys() == known.keys() - times - bigger.keys()
    assert {"peak_memory_mib", "weights_mib", "ops_per_token", "load_s"} <= smaller.keys()
    assert {name: record["value"] for name, record in {**smaller, **bigger}.items()} == {
        name: value for name, value in known.items() if name not in times
    }
    peak = smaller["peak_memory_mib"]
    assert peak["name"] == "test_chat.py::test_model.peak_memory_mib"
    assert peak["unit"] == "MiB"
    assert "range" not in peak
    assert peak["extra"].endswith(" · 3 rounds · limit < 1000 · OK")
    assert bigger["output_tokens_per_s"]["range"].startswith("± ")


def test_a_folder_that_is_missing_is_made_for_both_files(suite: pytest.Pytester) -> None:
    result = run(suite, ONE, "--llmperf-custom-json=new/c.json")
    assert {file.name for file in Path("new").iterdir()} == {"c.json", "c.bigger.json"}
    result.stdout.fnmatch_lines(["llmperf: wrote *c.json, *c.bigger.json"])
