"""Baselines for tests, recorded through a store as a run would."""

from __future__ import annotations

from pathlib import Path

from pytest_llmperf.baselines.schema import Calibration, Pairs, Reading, Recording, Session
from pytest_llmperf.baselines.store import Store

CPU = "cpu-amd-epyc-2c"
KEY = "tests/test_chat.py::test_turn"


def day(number: int) -> str:
    return f"2026-11-{number:02}T10:00:00+00:00"


def session(recorded: str = day(1), tpot: float = 8.0, **given: object) -> Session:
    """What one process measured, by its time per output token."""
    peak, weights = given.pop("peak", 100.0), given.pop("weights", 50.0)
    medians = {"ttft_ms": 3 * tpot, "tpot_ms": tpot, "peak_memory_mib": peak, "weights_mib": weights}
    known = {
        "commit": "abcdef0123456789",
        "target": "gpt2",
        "options": {"dtype": "float32", "threads": 1},
        "versions": {"python": "3.12.1", "torch": "2.12.0", "transformers": "5.1.0"},
        "metrics": {name: Reading(median=median) for name, median in medians.items()},
        **given,
    }
    return Session(recorded=recorded, **known)


def recording(key: str = KEY, *sessions: Session, hardware: str = CPU, output_tokens: int = 32) -> Recording:
    workload = {"prompt_tokens": 128, "output_tokens": output_tokens, "batch_size": 1, "concurrency": 1}
    kind = hardware.partition("-")[0]
    return Recording(
        key=key, hardware=hardware, device_type=kind, workload=workload, sessions=list(sessions) or [session()]
    )


def record(folder: Path, *recordings: Recording, append: bool = True) -> Path:
    Store(folder).record(list(recordings) or [recording()], append=append)
    return folder


def calibration(recorded: str = day(1), scale: float = 0.01) -> Calibration:
    pairs = Pairs(
        differences=[scale, -0.7 * scale, 0.1 * scale, -0.4 * scale],
        errors=[scale / 10] * 4,
        levels=[2.0, 2.0 + scale, 2.0, 2.0 - scale],
        rounds=scale,
    )
    return Calibration(recorded=recorded, target="gpt2", threads=1, metrics={"ttft_ms": pairs, "tpot_ms": pairs})
