"""Under torchrun all ranks measure one model together; rank 0 judges and writes, and the slowest rank counts."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Workload
from pytest_llmperf.targets import LoadOptions, resolve
from tests.plugin.suites import HEAD

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
"""What waits for longer hangs."""

TESTS = """
import os
import time
from pathlib import Path

RANK = int(os.environ["RANK"])
SIZES = dict(prompt_tokens=8, output_tokens=4)


@llm_perf(model={model!r}, load={{"tp_plan": "auto"}}, **SIZES)
def test_model(llm):
    Path(f"rank-{{RANK}}.json").write_text(llm.measure().to_json())


def behind(prompt_ids, output_tokens):
    for token in range(output_tokens):
        time.sleep(0.01 * RANK)
        yield token


@llm_perf(tpot_ms < 5, model=stream(behind), **SIZES)
def test_behind(llm):
    assert llm.measure().tpot_ms > 9


def failing(prompt_ids, output_tokens):
    if RANK:
        raise ValueError("no luck")
    yield from range(output_tokens)


@llm_perf(model=stream(failing), **SIZES)
def test_failing(llm):
    llm.measure()


@llm_perf(model=FAST, **SIZES)
def test_left(llm):
    assert not RANK, "gone"
    llm.measure()


@llm_perf(model=FAST, **SIZES)
def test_last(llm):
    llm.measure()
"""


@pytest.fixture
def torchrun(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with which two ranks begin; what rank 1 prints lands in a file."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("COLUMNS", "150")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*command, "--log-dir=logs", "--redirects=1:3", "-m", "pytest", "-p", "no:hypothesispytest"]


def test_two_ranks_measure_as_one(suite: pytest.Pytester, torchrun: list[str], saved_model: Path) -> None:
    suite.makepyfile(test_chat=HEAD + TESTS.format(model=str(saved_model)))
    written = ["--llmperf-update", "--llmperf-json=report.json", "--junitxml=junit.xml", "-p", "no:benchmark"]
    result = suite.run(*torchrun, *written, timeout=PATIENCE_S)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "BROKEN tpot_ms * ms (limit < 5)",
            "rank 1: ValueError: no luck",
            "rank 1 has left the test: AssertionError: gone*",
            "3 measured: 1 broken, 2 new",
            "*3 failed, 2 passed*",
        ]
    )
    [printed] = (suite.path / "logs").rglob("1/stdout.log")
    assert "3 failed, 2 passed" in printed.read_text()
    assert "measured:" not in printed.read_text()

    seen, other = (json.loads((suite.path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert seen == other
    assert seen["environment"]["hardware"] == f"{hardware('cpu')}-x2"
    alone = measure(
        resolve(saved_model).load(LoadOptions(device="cpu")), Workload(8, 4), Effort(rounds=1, max_time=0.05)
    )
    same = ("flops_per_token", "prefill_flops", "kv_cache_mib", "kv_bytes_per_token")
    assert {name: seen["metrics"][name]["median"] for name in same} == {
        name: float(alone.samples[name]) for name in same
    }
    assert seen["metrics"]["weights_mib"]["median"] > alone.weights_mib, "what is not split lies in each rank"

    report = json.loads((suite.path / "report.json").read_text())
    measured = [result["key"].partition("::")[2] for result in report["results"]]
    assert measured == ["test_model", "test_behind", "test_last"]
    stored = json.loads((suite.path / "baselines" / f"{hardware('cpu')}-x2" / "test_chat.json").read_text())
    assert {name: len(entry["sessions"]) for name, entry in stored["tests"].items()} == {
        "test_model": 1,
        "test_last": 1,
    }
    cases = ElementTree.parse(suite.path / "junit.xml").getroot().iter("testcase")
    assert {case.attrib["name"]: len(case.findall("failure")) for case in cases} == {
        "test_model": 0,
        "test_behind": 1,
        "test_failing": 1,
        "test_left": 1,
        "test_last": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--llmperf-against=main"], "--llmperf-against=main under torchrun"),
        (["--llmperf-update", "--llmperf-sessions=2"], "--llmperf-sessions=2 under torchrun"),
        (["-n2"], "-n under torchrun"),
    ],
)
def test_what_starts_processes_of_its_own_is_refused(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    if "-n2" in arguments:
        pytest.importorskip("xdist")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    result = suite.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()
