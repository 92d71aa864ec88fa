"""`measure()` in several ranks: they take the same rounds, see the same figures, and fail together."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.measure import Effort, Need, alone, conditions, measure
from pytest_llmperf.measure.conditions import Unwatched, Watch
from pytest_llmperf.model import Conditions, Counts, Gpu, Measurement, Workload
from tests.fakes import FakeClock, FakeDevice, FakeServer, FakeTarget
from tests.ranks import acting

WORKLOAD = Workload(prompt_tokens=16, output_tokens=11)
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one profiler, and these ranks are threads."""
    monkeypatch.setattr("pytest_llmperf.measure.count", lambda *args, **kwargs: Counts())


def measured(monkeypatch: pytest.MonkeyPatch, effort: Effort, *targets: FakeTarget, watches: Any = ()) -> list[Any]:
    """What each rank comes to, by a clock of its own."""

    def work(rank: int) -> Measurement:
        own = {"watch": watches[rank]} if watches else {}
        taken = alone(lambda rounds: Need.PRECISION)  # until time is up
        return measure(targets[rank], WORKLOAD, effort, taken=taken, clock=targets[rank].clock, **own)

    return acting(monkeypatch, len(targets), work)


def paced(gap: float, **fields: Any) -> FakeTarget:
    return FakeTarget(FakeClock(1000 / gap), ttft=10 * gap, gap=gap, **fields)


def test_the_slowest_rank_counts_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = paced(0.01), paced(0.02)
    slow.ttft = 0.05
    for targets in ([fast, slow], [slow, fast]):
        seen = measured(monkeypatch, Effort(rounds=3, threads=None), *targets)
        assert [rank.rounds for rank in seen] == [seen[0].rounds] * 2
        assert (float(seen[0].ttft_ms), float(seen[0].latency_ms)) == pytest.approx((100, 250))


def test_time_is_up_by_the_clock_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own, the slower rank would have taken fewer rounds, and left the other one waiting."""
    for targets in ([paced(0.01), paced(0.1)], [paced(0.1), paced(0.01)]):
        seen = measured(monkeypatch, Effort(max_time=1.0, threads=None), *targets)
        assert len(seen[0].rounds) == len(seen[1].rounds)
        assert [target.runs for target in targets] == [targets[0].runs] * 2


def test_memory_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    one = paced(0.01, weights=100 * MIB, kv_cache=2 * MIB, device=FakeDevice(peak=5 * MIB))
    other = paced(0.01, weights=90 * MIB, kv_cache=1 * MIB, device=FakeDevice(peak=3 * MIB))
    for seen in measured(monkeypatch, Effort(rounds=3, threads=None), one, other):
        assert (float(seen.weights_mib), float(seen.kv_cache_mib)) == (190, 3)
        assert (float(seen.peak_memory_mib), float(seen.peak_reserved_mib)) == (198, 6)


def test_what_disturbs_one_rank_disturbs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a look that is too early for rank 0 is so for all of them."""
    clocks = [FakeClock(), FakeClock()]
    stolen = [0.0, 0.5]

    def account() -> Any:
        clock = clocks[ranks.rank()]
        seen = Conditions(0.0, stolen[ranks.rank()], 2, 0.0)
        return SimpleNamespace(wall=clock.now, processors=2, until=lambda end: seen)

    monkeypatch.setattr(conditions, "_Account", SimpleNamespace(now=account))
    monkeypatch.setattr(conditions.time, "monotonic", lambda: clocks[ranks.rank()].now)

    def look_twice(rank: int) -> list[str | None]:
        watch = Watch()
        clocks[rank].advance(0.1 + 0.2 * rank)
        early = watch.look()
        clocks[rank].advance(0.15)
        return [early, watch.look()]

    assert acting(monkeypatch, 2, look_twice) == [[None, "the hypervisor took 0.5 cores away"]] * 2


def test_energy_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: list[Any] = [SimpleNamespace(energy=lambda: 30.0), SimpleNamespace(energy=lambda: 12.0)]
    assert acting(monkeypatch, 2, lambda rank: Watch([gpus[rank]]).energy()) == [42.0, 42.0]


class Watching(Unwatched):
    """Sees one GPU."""

    def __init__(self, gpu: str) -> None:
        self._gpu = gpu

    @property
    def seen(self) -> Conditions:
        return Conditions(gpus=(Gpu(self._gpu),))


def test_the_gpus_of_all_ranks_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    watches = [Watching("cuda:0"), Watching("cuda:1")]
    for seen in measured(monkeypatch, Effort(rounds=3, threads=None), paced(0.01), paced(0.01), watches=watches):
        assert [gpu.name for gpu in seen.conditions.gpus] == ["cuda:0", "cuda:1"]


def test_a_round_that_fails_in_one_rank_fails_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(FakeTarget):
        def run(self, request: Any, clock: Any, rest: Any = None) -> Any:
            if self.runs == 4:
                raise MeasurementError("fake generated 3 tokens")
            return super().run(request, clock)

    good, bad = paced(0.01), Failing(FakeClock())
    seen = measured(monkeypatch, Effort(rounds=9, threads=None), good, bad)
    assert [str(error) for error in seen] == ["rank 1: fake generated 3 tokens", "fake generated 3 tokens"]


def test_a_server_is_not_asked_by_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measured(monkeypatch, Effort(), FakeServer(FakeClock()), FakeServer(FakeClock()))
    assert all(isinstance(error, UsageError) and "under torchrun" in str(error) for error in seen)
