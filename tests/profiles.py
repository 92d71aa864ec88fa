"""Phases and missions with figures that a test can do in its head."""

from __future__ import annotations

from typing import Any

from pytest_llmperf.measure.mission import Flight, Mission
from pytest_llmperf.model import Counts, Environment, Measurement, Operator, Phase, Unknown, Work, Workload
from pytest_llmperf.profiling.room import MemoryPicture, memory_picture
from pytest_llmperf.targets import LoadOptions, Target, resolve
from tests.fakes import TINY, FakeDevice

UNSEEN = Phase(*4 * [Unknown("the target does not show its steps")])


def phase(seconds: float = 0.010, **ms: float) -> Phase:
    """By operator of `aten`, milliseconds on the host, called twice each."""
    rows = tuple(Operator(f"aten::{name}", calls=2.0, host=taken / 1e3) for name, taken in ms.items())
    return Phase(ops=10.0, syncs=1.0, kernels=Unknown("no kernels"), seconds=seconds, operators=rows)


def mission(
    prompt_tokens: int = 32,
    *,
    cold: float = 0.02,
    warm: float = 0.02,
    per_token: float | None = 0.005,
    prefill: Phase = UNSEEN,
    decode: Phase = UNSEEN,
    picture: MemoryPicture | None = None,
    **counts: Any,
) -> Mission:
    """Four tokens, the first after `cold` or `warm` seconds."""
    counted = Counts(prefill=prefill, decode=decode, **counts)
    measurement = Measurement(
        "fake",
        Workload(prompt_tokens, 4),
        (),
        counts=counted,
        environment=Environment("cpu", "a processor", dtype="float32", threads=1),
    )

    def flight(ttft: float) -> Flight:
        return Flight(0.0005, ttft, 0.015, 4, 4 / (ttft + 0.015), per_token, 300 * 2**20, None)

    return Mission(
        prompt_tokens, flight(cold), flight(warm), measurement, picture or memory_picture(measurement, FakeDevice())
    )


def loaded(target: str = TINY, **load: Any) -> Target:
    return resolve(target).load(LoadOptions(device="cpu", load=load))


def work(flops: float) -> Work:
    return Work(flops, 0.0)
