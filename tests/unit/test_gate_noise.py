"""Which noise a comparison is judged by: that of this target, these threads and this dtype."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pytest_llmperf.baselines.schema import Calibration, Pairs
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.gate import Gate
from pytest_llmperf.model import Environment, Measurement, Workload
from pytest_llmperf.settings import Settings
from pytest_llmperf.verdict.comparison import PRIORS

HERE = Environment(device="cpu", hardware="cpu-x", dtype="float32", threads=1)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    store = Store(tmp_path)
    for threads, spread in ((1, 0.01), (2, 0.04)):
        pairs = Pairs(differences=[spread, -spread] * 5, errors=[0.0] * 10, levels=[1.0] * 20, rounds=0.05)
        store.add_noise(
            "cpu-x",
            Calibration(
                recorded="2026-01-01T00:00:00+00:00",
                target="a",
                dtype="float32",
                threads=threads,
                metrics={"tpot_ms": pairs},
            ),
        )
    return Gate(store)


def test_each_measurement_of_a_run_is_judged_by_the_noise_of_its_own_threads(gate: Gate) -> None:
    found = []
    for threads in (1, 2, 1, 3):
        measurement = Measurement("a", Workload(), (), environment=dataclasses.replace(HERE, threads=threads))
        noise = gate.rules(Settings(), measurement.environment, "a").noise_of("tpot_ms")
        found.append((noise.calibrated, noise.process * 2**0.5))
    assert found == [
        (True, pytest.approx(0.01)),
        (True, pytest.approx(0.04)),
        (True, pytest.approx(0.01)),
        (False, pytest.approx(PRIORS["cpu"].process * 2**0.5)),
    ]
