"""What is REGRESSED comes with its explanation, unless nobody is to be told."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf import mbu, metrics, ttft_ms, weights_mib
from pytest_llmperf.baselines.schema import Recording
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.gate import Evidence, Gate, recording
from pytest_llmperf.judge import judge
from pytest_llmperf.model import (
    Ceilings,
    Conditions,
    Counts,
    Environment,
    Gpu,
    Measurement,
    Memory,
    Operator,
    Phase,
    Round,
    Trace,
    Work,
    Workload,
)
from pytest_llmperf.profiling.explain import NOT_KEPT
from pytest_llmperf.results import Explanation, Grown, Result, Verdict
from pytest_llmperf.settings import Settings

KEY = "test_chat.py::test_turn"
ENVIRONMENT = Environment(device="cpu", hardware="cpu-amd-epyc-2c", versions={"torch": "2.13.0"})


def measured(syncs: int, waits: bool = True, **environment: str) -> Measurement:
    read = Operator("aten::_local_scalar_dense", syncs, 0.001 * syncs)
    phase = Phase(ops=9, syncs=syncs, seconds=0.01, operators=(read,) if waits else ())
    rounds = (Round((Trace(1.0, (1.1, 1.2, 1.3), 8),)),) * 3
    where = dataclasses.replace(ENVIRONMENT, **environment)
    counts = Counts(phase, phase, compiles=0)
    return metrics.summarize(
        Measurement("gpt2", Workload(8, 3), rounds, Memory(weights=2**20), counts, environment=where)
    )


def judged(folder: Path, before: Measurement, now: Measurement, **gate: Any) -> Result:
    recorder = Gate(Store(folder))
    session = recorder.session(before, Settings(), recorder.rules(Settings(), before.environment, "gpt2").gates)
    Store(folder).record([Recording(**recording(KEY, before, [session]))], append=False)
    evidence = Evidence(KEY, now, Settings(), unconfirmed="there is one process")
    return judge(evidence, Gate(Store(folder), **gate))


def test_what_is_regressed_is_explained(tmp_path: Path) -> None:
    told = judged(tmp_path, measured(1), measured(2)).explanation
    assert told is not None
    assert told.grown["decode"] == (Grown("aten::_local_scalar_dense", (1, 2), (1.0, 2.0)),)
    assert [hint[:27] for hint in told.hints] == ["1 more wait of the host per"]


@pytest.mark.parametrize("now", [1, 0])
def test_what_is_not_regressed_is_not(tmp_path: Path, now: int) -> None:
    assert judged(tmp_path, measured(1), measured(now)).explanation is None


@pytest.mark.parametrize("option", ["recording", "explain"])
def test_nothing_is_explained_to_nobody(tmp_path: Path, option: str) -> None:
    assert judged(tmp_path, measured(1), measured(2), **{option: option == "recording"}).explanation is None


def test_other_hardware_tells_calls_alone(tmp_path: Path) -> None:
    told = judged(tmp_path, measured(1), measured(2, hardware="cpu-intel-xeon-2c")).explanation
    assert told is not None
    assert told.grown["decode"] == (Grown("aten::_local_scalar_dense", (1, 2)),)


def test_a_baseline_without_operators_is_told(tmp_path: Path) -> None:
    told = judged(tmp_path, measured(1, waits=False), measured(2)).explanation
    assert told is not None
    assert (told.grown, told.missing) == (Explanation().grown, NOT_KEPT)


def test_an_explanation_that_fails_is_told_and_the_verdict_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(change: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("pytest_llmperf.judge.explain", fail)
    result = judged(tmp_path, measured(1), measured(2))
    assert result.fails
    assert result.explanation == Explanation(missing="it could not be explained: OverflowError: too large")


def test_a_broken_limit_on_a_share_says_of_what() -> None:
    known = measured(1)
    counts = dataclasses.replace(
        known.counts, decode_work=Work(1e6, 1e6), prefill_work=Work(1e7, 1e6), cache_growth=10.0
    )
    ceilings, memory = Ceilings(1e9, 1e9), dataclasses.replace(known.memory, kv_cache=2**10)
    slow = metrics.summarize(dataclasses.replace(known, counts=counts, ceilings=ceilings, memory=memory))
    limits = (mbu > 0.9, mbu > 0.0001)
    evidence = Evidence(KEY, slow, dataclasses.replace(Settings(), limits=limits))
    broken, held = (row for row in judge(evidence, None).rows if row.metric == "mbu")
    assert re.match(r"decode reads weights and cache at .* of this machine's bandwidth", broken.note)
    assert held.note == ""


def test_a_broken_limit_on_a_time_says_what_disturbed_the_machine() -> None:
    hot = Conditions(gpus=(Gpu("cuda:0", slowed=("its temperature",)),))
    slow = dataclasses.replace(measured(1), conditions=hot)
    limits = (ttft_ms < 1, ttft_ms < 10_000, weights_mib < 0.5)
    evidence = Evidence(KEY, slow, dataclasses.replace(Settings(), limits=limits))
    rows = [row for row in judge(evidence, None).rows if row.limit]
    assert {f"{row.metric} {row.limit}": (row.verdict, row.note) for row in rows} == {
        "ttft_ms < 1": (Verdict.BROKEN, "meanwhile cuda:0 was slowed down by its temperature"),
        "ttft_ms < 10000": (Verdict.OK, ""),
        "weights_mib < 0.5": (Verdict.BROKEN, ""),
    }


def test_a_test_of_which_counts_alone_are_stored_says_that_they_were_compared(tmp_path: Path) -> None:
    elsewhere = judged(tmp_path, measured(1), measured(1, hardware="cpu-other-4c"))
    others = "no baseline for cpu-other-4c; there is one for cpu-amd-epyc-2c"
    assert elsewhere.new == f"{others}; counts alone were compared"
    for file in tmp_path.glob("exact-cpu/**/*.json"):
        file.unlink()
    without = judge(Evidence(KEY, measured(1, hardware="cpu-other-4c"), Settings()), Gate(Store(tmp_path)))
    assert without.new == others
