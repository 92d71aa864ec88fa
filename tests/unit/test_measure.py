"""`measure()`: warm up, take rounds, look at memory, with nothing left as it was not found."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import pytest
import torch

from pytest_llmperf.errors import MeasurementError, OutOfMemoryTargetError
from pytest_llmperf.measure import Effort, Need, alone, measure, with_room
from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.model import Environment, Memory, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.targets.protocol import no_rest
from tests.fakes import TINY, FakeClock, FakeDevice, FakeTarget

WORKLOAD = Workload(prompt_tokens=16, output_tokens=11)
MIB = 2**20


def fake(**fields):
    return FakeTarget(FakeClock(), **fields)


def measured(target, effort=None, **options):
    return measure(target, WORKLOAD, effort or Effort(rounds=3), clock=target.clock, **options)


@dataclass
class Watching(FakeTarget):
    """Notes what is so while it serves; fails at the round given."""

    collecting: list[bool] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def run(self, request, clock, rest=no_rest):
        self.collecting.append(gc.isenabled())
        self.threads.append(torch.get_num_threads())
        if self.runs == self.fails_at:
            raise MeasurementError("it stopped early")
        return super().run(request, clock, rest)


@pytest.fixture(autouse=True)
def _as_found():
    enabled, threads = gc.isenabled(), torch.get_num_threads()
    yield
    (gc.enable if enabled else gc.disable)()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


# Times


def test_times_are_those_of_the_target_to_the_nanosecond():
    seen = measured(fake(ttft=0.1, gap=0.01))
    assert seen.ttft_ms.samples == pytest.approx([100.0] * 3, abs=1e-6)
    assert seen.tpot_ms.samples == pytest.approx([10.0] * 3, abs=1e-6)
    assert seen.itl_ms.samples == pytest.approx([10.0] * 30, abs=1e-6)
    assert seen.latency_ms.samples == pytest.approx([200.0] * 3, abs=1e-6)
    assert seen.output_tokens_per_s == pytest.approx(55.0, abs=1e-6)
    assert seen.total_tokens_per_s == pytest.approx(135.0, abs=1e-6)


def test_warm_up_rounds_are_not_among_the_rounds():
    seen = measured(fake(scales=[9.0, 5.0, 5.0, 1.0, 2.0, 3.0]))
    assert seen.ttft_ms.samples == pytest.approx([100.0, 200.0, 300.0], abs=1e-6)


def test_the_workload_measured_is_the_one_that_was_served():
    target = fake()

    def longer(workload, seed):
        return FakeTarget.request(target, Workload(21, 11), seed)

    target.request = longer
    assert measured(target).workload == Workload(prompt_tokens=21, output_tokens=11)


def test_target_and_environment_are_recorded():
    environment = Environment(device="cpu", threads=3)
    seen = measured(fake(id="mine"), environment=environment)
    assert seen.target == "mine"
    assert seen.environment is environment


# Requests


def test_every_request_has_a_prompt_of_its_own():
    target = fake()
    measured(target, Effort(rounds=5))
    warm, rounds, memory, counting = 2, 5, 1, 1
    assert len(target.seeds) == len(set(target.seeds)) == warm + rounds + memory + counting


def test_every_session_sends_the_same_prompts():
    one, other = fake(), fake()
    measured(one)
    measured(other)
    assert one.seeds == other.seeds


def test_the_device_is_idle_before_each_request_and_not_waited_for_after():
    target = fake(scales=[1.0])
    measured(target, Effort(rounds=2))
    counting = ["synchronize"] * 2
    assert target.device.calls == ["synchronize", "held"] * 4 + ["release"] + ["track"] * 2 + counting


# Out of memory


def test_room_is_made_when_nothing_of_the_failed_round_is_held_any_more():
    held = []

    def serve():
        tensor = FakeClock()
        held.append(weakref.ref(tensor))
        if len(held) == 1:
            raise OutOfMemoryTargetError("gpt2 ran out of memory")
        return "served"

    def make_room():
        assert held[0]() is None
        return True

    assert with_room(serve, make_room)() == "served"


def test_a_round_fails_where_no_room_can_be_made():
    def serve():
        tries.append(1)
        raise OutOfMemoryTargetError("gpt2 ran out of memory")

    tries = []
    with pytest.raises(OutOfMemoryTargetError, match="gpt2"):
        with_room(serve, lambda: False)()
    assert len(tries) == 1


# How much


@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_the_rounds_asked_for_are_taken(rounds):
    assert len(measured(fake(), Effort(rounds=rounds)).rounds) == rounds


def test_a_smoke_run_is_one_round_and_nothing_else():
    target, told = fake(), []
    seen = measured(target, Effort(smoke=True, rounds=7), progress=told.append)
    assert target.runs == 1
    assert len(seen.rounds) == 1
    assert seen.memory == Memory()
    assert told == []
    assert seen.peak_memory_mib is None
    assert seen.ttft_ms.samples == pytest.approx([100.0], abs=1e-6)


def test_looks_decide_when_it_is_enough():
    seen_at = []

    def look(rounds):
        seen_at.append(len(rounds))
        return Need.NOTHING if len(rounds) >= 8 else Need.PRECISION

    assert len(measured(fake(), Effort(), taken=alone(look)).rounds) == 8
    assert seen_at == [3, 5, 8]


def test_without_a_look_three_rounds_are_enough():
    assert len(measured(fake(), Effort()).rounds) == 3


@pytest.mark.parametrize(("max_time", "calls"), [(0.41, 1), (0.39, 0)])
def test_memory_is_looked_at_twice_where_both_calls_fit_into_the_time(max_time, calls):
    target = fake()  # a round takes 0.2 s
    measured(target, Effort(rounds=3, max_time=max_time, threads=None))
    assert target.runs - _rounds(max_time) == calls


def _rounds(max_time):
    warm = 2 if max_time / 2 > 0.2 else 1
    return warm + 3


def test_progress_is_told_in_order():
    told = []
    measured(fake(), Effort(), progress=told.append)
    assert told == ["warming up", "round 1", "round 2", "round 3", "measuring memory", "counting"]


def test_progress_says_how_many_rounds_there_will_be_where_that_is_fixed():
    told = []
    measured(fake(), Effort(rounds=2), progress=told.append)
    assert told == ["warming up", "round 1 of 2", "round 2 of 2", "measuring memory", "counting"]


# The very first request


def test_the_first_request_after_a_load_is_cold():
    seen = measured(fake(scales=[5.0, 1.0]), load=2.5)
    assert seen.load_s == 2.5
    assert seen.cold_ttft_ms == pytest.approx(500.0, abs=1e-6)
    assert seen.ttft_ms.max == pytest.approx(100.0, abs=1e-6)


def test_without_a_load_no_request_is_cold():
    seen = measured(fake(scales=[5.0, 1.0]))
    assert seen.load_s is None
    assert seen.cold_ttft_ms is None
    assert seen.unknown["load_s"] == "the target was not loaded for this measurement"
    assert seen.unknown["cold_ttft_ms"] == "the target had served requests before"


def test_the_reason_why_there_was_no_load_is_kept():
    seen = measured(fake(), load=Unknown("the target was already loaded in this session"))
    assert seen.unknown["load_s"] == "the target was already loaded in this session"
    assert seen.cold_ttft_ms is None


def test_a_smoke_run_after_a_load_is_cold_itself():
    seen = measured(fake(scales=[5.0, 1.0]), Effort(smoke=True), load=2.5)
    assert seen.cold_ttft_ms == pytest.approx(500.0, abs=1e-6)


# Memory


def test_the_peak_is_the_weights_and_what_serving_adds():
    seen = measured(fake(device=FakeDevice(peak=7 * MIB)))
    assert seen.peak_memory_mib == 107.0
    assert seen.weights_mib == 100.0
    assert seen.kv_cache_mib == 2.0
    assert seen.activations_mib == 5.0


def test_a_leak_raises_the_peak():
    sound = measured(fake(device=FakeDevice(peak=7 * MIB)))
    leaking = measured(fake(device=FakeDevice(peak=7 * MIB, end=3 * MIB)))
    assert leaking.peak_memory_mib == sound.peak_memory_mib + 3
    assert leaking.leak_mib == 3.0


# What is put back


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails_at", [None, 0, 3])
def test_garbage_is_collected_in_no_round_and_the_collector_is_then_as_before(before, fails_at):
    target = Watching(FakeClock(), fails_at=fails_at)
    (gc.enable if before else gc.disable)()
    if fails_at is None:
        measured(target)
    else:
        with pytest.raises(MeasurementError):
            measured(target)
    assert gc.isenabled() is before
    assert set(target.collecting[:5]) == {False}, "two warm-up rounds and three others"


@pytest.mark.parametrize("fails_at", [None, 0, 3])
def test_threads_are_set_for_all_of_it_and_put_back(fails_at):
    torch.set_num_threads(2)
    target = Watching(FakeClock(), fails_at=fails_at)
    if fails_at is None:
        measured(target, Effort(rounds=3, threads=1))
    else:
        with pytest.raises(MeasurementError):
            measured(target, Effort(rounds=3, threads=1))
    assert set(target.threads) == {1}
    assert torch.get_num_threads() == 2


def test_threads_are_left_alone_where_none_are_asked_for():
    torch.set_num_threads(2)
    target = Watching(FakeClock())
    measured(target, Effort(rounds=1, threads=None))
    assert set(target.threads) == {2}


class Noted(Unwatched):
    """Notes in one list with the device's calls when it looks, and when it reads the meter."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def look(self, *, ended: bool = False) -> None:
        self.calls.append("look")

    def energy(self) -> float:
        self.calls.append("meter")
        return 0.0


def test_nothing_waits_for_a_device_or_looks_at_it_while_a_timed_round_runs():
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    target.device = device = FakeDevice(has_own_clock=True)
    tokens = 4
    measure(target, Workload(8, tokens), Effort(rounds=3), watch=Noted(device.calls))
    stamps = ["stamp"] * (2 + tokens)  # where prefill begins and ends, and each token
    read_after = ["seconds"] * (1 + tokens)
    of_a_round = ["meter", "synchronize", *stamps, *read_after, "held", "meter", "look"]
    begun = device.calls.index("look") + 1  # warming up ends with one
    assert device.calls[begun : begun + 3 * len(of_a_round)] == 3 * of_a_round


# The real thing


def test_a_real_model_has_every_metric_that_a_cpu_can_have():
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    seen = measure(target, Workload(8, 4), Effort(rounds=3), load=0.5)
    of_gpus = {"energy_j_per_token", "process_gpu_mib", "device_gpu_mib", "kernels_per_token"}
    without_device = {"peak_reserved_mib", "fragmentation_mib", *of_gpus}
    of_loads = {"goodput_per_s", "failed_share", "cost_per_million_tokens", "acceptance_rate"}
    assert set(seen.unknown) == {"tokenize_ms", "detokenize_ms", *without_device, *of_loads}
    assert seen.prefill_ms < seen.ttft_ms < seen.latency_ms
    assert seen.leak_mib == 0
    for taken in seen.traces:
        assert taken.output_tokens == 4


@pytest.mark.gpu
def test_a_real_gpu_has_every_metric_without_a_tokenizer():
    target = resolve(TINY).load(LoadOptions(device="cuda"))
    seen = measure(target, Workload(8, 4), Effort(rounds=3), load=0.5)
    by_nvml = {"process_gpu_mib", "device_gpu_mib", "energy_j_per_token"}
    assert set(seen.unknown) <= {"tokenize_ms", "detokenize_ms", *by_nvml}
    assert seen.leak_mib == 0


def test_a_static_cache_is_sized_by_its_own_workload_and_not_by_an_earlier_one() -> None:
    options = LoadOptions(device="cpu", load={"cache_implementation": "static"})
    target = resolve(TINY).load(options)
    short, long = Workload(prompt_tokens=8, output_tokens=4), Workload(prompt_tokens=100, output_tokens=4)
    effort = Effort(rounds=1, max_time=0.05)
    first = measure(target, short, effort).kv_cache_mib
    assert measure(target, long, effort).kv_cache_mib > first
    assert measure(target, short, effort).kv_cache_mib == first
