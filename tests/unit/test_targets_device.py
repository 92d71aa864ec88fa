"""Devices: time by stamps, memory by what each device can tell, and names that are on this machine or not."""

from __future__ import annotations

import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
import torch

from pytest_llmperf.errors import DeviceMissingError, UsageError
from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import Cpu, Cuda, Mps, Room, device_of, devices_of_model
from tests.fakes import FakeClock

MIB = 2**20


class FakeCuda:
    """Stands for `torch.cuda`: records calls in order; figures per GPU are set by the test."""

    def __init__(self, count: int = 2) -> None:
        self.count, self.current = count, 0
        self.requested: float | None = None
        self.backend = "native"
        self.calls: list[tuple[str, str]] = []
        self.now_ms = {f"cuda:{index}": 0.0 for index in range(count)}
        self.allocated = dict.fromkeys(self.now_ms, 0)
        self.peak = dict.fromkeys(self.now_ms, 0)
        self.reserved = dict.fromkeys(self.now_ms, 0)
        self.free = dict.fromkeys(self.now_ms, 0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Event:
            def __init__(self, *, enable_timing: bool = False) -> None:
                assert enable_timing, "an event without timing has no elapsed_time"

            def record(self, stream: str) -> None:
                self.name = stream.removeprefix("stream of ")
                self.at = cuda.now_ms[self.name]
                cuda.calls.append(("record", self.name))

            def synchronize(self) -> None:
                cuda.calls.append(("wait for event", self.name))

            def elapsed_time(self, later: Event) -> float:
                assert later.name == self.name, "events of two GPUs have no common clock"
                return later.at - self.at

        def recorded(call: str, result):
            def function(name: str = "") -> object:
                cuda.calls.append((call, name))
                return result(name)

            return function

        replaced = {
            "Event": Event,
            "current_stream": lambda name: f"stream of {name}",
            "synchronize": recorded("synchronize", lambda name: None),
            "memory_allocated": recorded("memory_allocated", lambda name: self.allocated[name]),
            "memory_stats": recorded("memory_stats", self._stats),
            "reset_peak_memory_stats": recorded("reset_peak_memory_stats", self._reset),
            "max_memory_allocated": lambda name: self.peak[name],
            "max_memory_reserved": lambda name: self.reserved[name] + 5,
            "get_allocator_backend": lambda: self.backend,
            "get_device_properties": lambda name: SimpleNamespace(uuid=f"{name[-1]}a2b"),
            "memory_reserved": lambda name: self.reserved[name],
            "mem_get_info": lambda name: (self.free[name], 80 * 2**30),
            "empty_cache": recorded("empty_cache", lambda name: None),
            "device_count": lambda: self.count,
            "is_available": lambda: self.count > 0,
            "current_device": lambda: self.current,
        }
        for name, replacement in replaced.items():
            monkeypatch.setattr(torch.cuda, name, replacement)

    def _stats(self, name: str) -> dict[str, int]:
        blocks = {"current": self.allocated[name], "peak": self.peak[name]}
        stats = {f"allocated_bytes.all.{moment}": size for moment, size in blocks.items()}
        if self.requested is None:  # as cudaMallocAsync
            return stats
        return stats | {f"requested_bytes.all.{moment}": int(size * self.requested) for moment, size in blocks.items()}

    def _reset(self, name: str) -> None:
        self.peak[name] = self.allocated[name]

    def allocate(self, name: str, count: int) -> None:
        self.allocated[name] += count
        self.peak[name] = max(self.peak[name], self.allocated[name])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(count=0).install(monkeypatch)


def no_clock() -> float:
    raise AssertionError("a device with a clock of its own has no use for the host's")


def test_a_stamp_records_one_event_per_gpu_and_waits_for_none(cuda: FakeCuda) -> None:
    Cuda(["cuda:0", "cuda:1"]).stamp(no_clock)
    assert cuda.calls == [("record", "cuda:0"), ("record", "cuda:1")]


def test_seconds_between_stamps_are_those_of_the_gpu_that_ends_last(cuda: FakeCuda) -> None:
    device = Cuda(["cuda:0", "cuda:1"])
    start = device.stamp(no_clock)
    cuda.now_ms.update({"cuda:0": 30.0, "cuda:1": 42.5})
    end = device.stamp(no_clock)
    cuda.calls.clear()
    assert device.seconds(start, end) == pytest.approx(0.0425, abs=1e-12)
    assert cuda.calls == [("wait for event", "cuda:0"), ("wait for event", "cuda:1")]


def test_synchronize_waits_for_every_gpu(cuda: FakeCuda) -> None:
    Cuda(["cuda:0", "cuda:1"]).synchronize()
    assert cuda.calls == [("synchronize", "cuda:0"), ("synchronize", "cuda:1")]


def test_tracked_memory_is_the_peak_less_what_was_alive_before_over_all_gpus(cuda: FakeCuda) -> None:
    cuda.allocate("cuda:0", 100 * MIB)
    cuda.allocate("cuda:1", 50 * MIB)
    cuda.peak["cuda:0"] = 900 * MIB  # of something long gone
    with Cuda(["cuda:0", "cuda:1"]).track_memory() as track:
        cuda.allocate("cuda:0", 7 * MIB)
        cuda.allocate("cuda:0", -6 * MIB)
        cuda.allocate("cuda:1", 2 * MIB)
        assert isinstance(track.peak, Unknown), "not known before the stretch ends"
    assert track.peak == 9 * MIB
    assert track.end == 3 * MIB


def test_memory_is_read_only_when_the_device_is_idle(cuda: FakeCuda) -> None:
    with Cuda(["cuda:0"]).track_memory():
        cuda.calls.append(("work", "cuda:0"))
    names = [call for call, _ in cuda.calls]
    before, after = names[: names.index("work")], names[names.index("work") + 1 :]
    assert before[0] == "synchronize"
    assert "reset_peak_memory_stats" in before
    assert after[0] == "synchronize"
    assert "memory_stats" in after


def test_bytes_asked_for_count_and_not_the_blocks_they_lie_in(cuda: FakeCuda) -> None:
    cuda.requested = 0.5
    with Cuda(["cuda:0"]).track_memory() as track:
        cuda.allocate("cuda:0", 8 * MIB)
    assert track.peak == 4 * MIB


def test_reserved_and_available_bytes_are_summed_over_gpus(cuda: FakeCuda) -> None:
    cuda.reserved.update({"cuda:0": 100, "cuda:1": 200})
    cuda.allocated.update({"cuda:0": 60, "cuda:1": 110})
    cuda.free.update({"cuda:0": 1000, "cuda:1": 3000})
    device = Cuda(["cuda:0", "cuda:1"])
    assert device.max_memory() == {0: 1000 + 40, 1: 3000 + 90}
    with device.track_memory() as track:
        cuda.allocate("cuda:1", 30)
        cuda.allocate("cuda:1", -30)
    assert track.reserved == 310
    assert track.allocated == 60 + 140
    assert device.held_bytes() == 170
    assert device.available_bytes() == 4000 + (300 - 170), "reserved and unused memory can be taken too"


def test_an_allocator_without_blocks_of_its_own_tells_what_it_reserved_and_no_more(cuda: FakeCuda) -> None:
    cuda.backend = "cudaMallocAsync"
    with Cuda(["cuda:0"]).track_memory() as track:
        cuda.allocate("cuda:0", 8 * MIB)
    assert track.peak == 8 * MIB
    assert track.reserved == 5
    assert isinstance(track.allocated, Unknown)
    assert "cudaMallocAsync" in track.allocated.reason


def test_each_gpu_has_room_of_its_own(cuda: FakeCuda) -> None:
    cuda.reserved.update({"cuda:0": 100, "cuda:1": 200})
    cuda.allocated["cuda:1"] = 110
    cuda.free["cuda:1"] = 3000
    device = Cuda(["cuda:0", "cuda:1"])
    first, second = device.rooms()
    assert (first.name, first.free, first.own) == ("cuda:0", 0, {"reserved": 100, "live": 0})
    assert second == Room("cuda:1", 80 * 2**30, 3000, {"reserved": 200, "live": 110})


def test_what_is_held_is_read_without_waiting(cuda: FakeCuda) -> None:
    Cuda(["cuda:0"]).held_bytes()
    assert cuda.calls == [("memory_allocated", "cuda:0")]


def test_release_hands_the_allocators_cache_back(cuda: FakeCuda) -> None:
    Cuda(["cuda:0"]).release()
    assert cuda.calls == [("empty_cache", "")]


@pytest.mark.parametrize(("names", "shown"), [(["cuda:1"], "cuda:1"), (["cuda:0", "cuda:1"], "cuda:0,1")])
def test_a_cuda_device_is_named_after_its_gpus(names: list[str], shown: str) -> None:
    assert Cuda(names).name == shown


@pytest.mark.parametrize(
    ("asked", "current", "name"),
    [("cuda", 0, "cuda:0"), ("cuda", 1, "cuda:1"), ("cuda:0", 1, "cuda:0"), ("cuda:1", 0, "cuda:1")],
)
def test_cuda_without_a_number_is_the_current_one(cuda: FakeCuda, asked: str, current: int, name: str) -> None:
    cuda.current = current
    device = device_of(asked)
    assert isinstance(device, Cuda)
    assert device.names == (name,)


@pytest.mark.parametrize(("asked", "name"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0")])
def test_each_rank_has_a_gpu_of_its_own(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, asked: str, name: str) -> None:
    for variable, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    assert device_of(asked).name == name
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceMissingError, match="sees 2 CUDA devices"):
        device_of("auto")


def test_auto_takes_cuda_where_it_is(cuda: FakeCuda) -> None:
    assert device_of("auto").name == "cuda:0"


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert isinstance(device_of("auto"), Cpu)


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_an_apple_gpu_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert isinstance(device_of("auto"), Mps)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_on_a_machine_without_it_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(DeviceMissingError, match=f"device='{name}': .*sees 0 CUDA devices.*; 'auto' takes what is"):
        device_of(name)


@pytest.mark.parametrize(("count", "shown"), [(1, "sees 1 CUDA device on"), (2, "sees 2 CUDA devices on")])
def test_a_gpu_beyond_those_there_are_is_an_error_that_counts_them(
    monkeypatch: pytest.MonkeyPatch, count: int, shown: str
) -> None:
    FakeCuda(count).install(monkeypatch)
    with pytest.raises(DeviceMissingError, match=f"device='cuda:7'.*{shown}"):
        device_of("cuda:7")


@pytest.mark.parametrize(
    ("asked", "gpus", "current", "names"),
    [
        ("auto", 2, 0, ("cuda:0", "cuda:1")),
        ("cuda", 1, 2, ("cuda:2",)),
        ("cuda", 2, 2, ("cuda:0", "cuda:2")),
        ("cuda:1", 1, 0, ("cuda:1",)),
        ("cuda:2", 2, 0, ("cuda:0", "cuda:2")),
        ("cuda", 3, 0, ("cuda:0", "cuda:1", "cuda:2")),
    ],
)
def test_of_several_gpus_the_own_one_is_the_first_taken(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, current: int, names: tuple[str, ...]
) -> None:
    fake = FakeCuda(3)
    fake.install(monkeypatch)
    fake.current = current
    device = device_of(asked, gpus)
    assert device.names == names


@pytest.mark.parametrize(("count", "seen"), [(0, "sees 0 CUDA devices on this"), (1, "sees 1 CUDA device on this")])
@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_more_gpus_than_there_are_is_an_error_that_names_both_counts(
    monkeypatch: pytest.MonkeyPatch, count: int, seen: str, device: str
) -> None:
    FakeCuda(count).install(monkeypatch)
    with pytest.raises(DeviceMissingError, match=f"^gpus=2: torch .* {seen} machine$"):
        device_of(device, 2)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_gpus_of_what_is_none_are_an_error(cuda: FakeCuda, device: str) -> None:
    with pytest.raises(UsageError, match=f"^gpus=2: device='{device}' is no CUDA device; leave out gpus= or say "):
        device_of(device, 2)


def test_an_apple_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceMissingError, match=r"device='mps'.*no Apple GPU"):
        device_of("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "mps:1", "cuda:", "cuda:x", "cuda:-1", "CUDA", 0, None])
def test_what_is_no_device_name_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match=f"device={name!r} is no device"):
        device_of(name)


@pytest.mark.parametrize("name", ["xpu", "xpu:0", "npu:1", "xla"])
def test_other_accelerators_are_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match=rf"device='{name}': .* are measured in process; for others .* endpoint"):
        device_of(name)


@pytest.mark.parametrize(("wrong", "near"), [("cude", "cuda"), ("cuda:x", "cuda"), ("cpuu", "cpu"), ("mpss", "mps")])
def test_a_device_name_nearly_right_is_answered_with_the_right_one(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}"):
        device_of(wrong)


def model_on(*places: str) -> object:
    return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=place) for place in places]))


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["cuda:1", "cuda:0", "cuda:1"], ("cuda:0", "cuda:1")),
        (["cuda:0", "cpu"], ("cuda:0",)),
        (["cuda:1", "meta"], ("cuda:1",)),
        (["cuda:10", "cuda:2"], ("cuda:2", "cuda:10")),
        (["cuda"], ("cuda:0",)),
    ],
)
def test_a_spread_model_is_on_all_gpus_that_hold_a_part(places: list[str], names: tuple[str, ...]) -> None:
    device = devices_of_model(model_on(*places), Cpu())
    assert isinstance(device, Cuda)
    assert device.names == names


def test_an_apple_gpu_has_no_number_whatever_torch_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices_of_model(model_on("mps:0", "mps:0"), Cpu()).name == "mps"


def test_a_model_elsewhere_than_asked_is_measured_where_it_is(cuda: FakeCuda) -> None:
    assert isinstance(devices_of_model(model_on("cpu"), Cuda(["cuda:0"])), Cpu)


def test_a_model_on_all_gpus_asked_for_is_on_what_was_asked_for(cuda: FakeCuda) -> None:
    asked = Cuda(["cuda:0", "cuda:1"])
    assert devices_of_model(model_on("cuda:1", "cuda:0"), asked) is asked
    assert devices_of_model(model_on("cuda:1"), asked).names == ("cuda:1",)


@pytest.mark.parametrize("places", [[], ["meta"], ["cpu"]])
def test_a_model_without_weights_of_its_own_is_on_the_device_asked_for(places: list[str]) -> None:
    asked = Cpu()
    assert devices_of_model(model_on(*places), asked) is asked


def test_cpu_time_is_the_hosts() -> None:
    clock, device = FakeClock(), Cpu()
    start = device.stamp(clock)
    clock.advance(0.25)
    assert device.seconds(start, device.stamp(clock)) == pytest.approx(0.25, abs=1e-9)


def test_cpu_memory_is_exact_to_the_byte() -> None:
    kept = []
    with Cpu().track_memory() as track:
        first = torch.zeros(MIB // 4)
        second = torch.zeros(2 * MIB // 4)
        del first
        kept.append(torch.zeros(MIB // 4))
        del second
    assert track.peak == 3 * MIB
    assert track.end == MIB


def test_freeing_what_an_earlier_stretch_left_lowers_the_end_and_not_the_peak() -> None:
    kept = []
    with Cpu().track_memory():
        kept.append(torch.zeros(4 * MIB // 4))
    with Cpu().track_memory() as track:
        kept.clear()
        torch.zeros(MIB // 4)
    assert track.peak == 0
    assert track.end == -4 * MIB


def test_a_torch_that_shows_no_allocation_events_leaves_memory_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Profile:
        def __init__(self, **arguments: object) -> None:
            self.profiler = SimpleNamespace()  # no kineto_results

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    with Cpu().track_memory() as track:
        pass
    assert isinstance(track.peak, Unknown)
    assert "allocation events" in track.peak.reason
    assert isinstance(track.end, Unknown)


def test_a_profiler_of_the_users_own_keeps_what_it_sees_and_leaves_memory_unknown() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        torch.zeros(2).exp()
        with Cpu().track_memory() as track:
            torch.zeros(2)
    assert track.peak == track.end == Unknown("a profiler of torch is running already", by_chance=True)
    assert "aten::exp" in {event.name for event in own.events()}


def test_tracking_memory_on_cpu_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Cpu().track_memory():
        torch.zeros(10)
    assert capfd.readouterr() == ("", "")


def test_available_cpu_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "available total")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(12345, 67890))
    assert Cpu().available_bytes() == 12345
    (room,) = Cpu().rooms()
    assert (room.name, room.total, room.free) == ("cpu", 67890, 12345)
    assert room.own["resident"] > MIB


def test_an_apple_gpu_waits_for_each_stamp_and_knows_no_peak_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waits.append("synchronize"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: waits.append("empty_cache"))
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 7 * MIB)
    clock, device = FakeClock(), Mps()
    start = device.stamp(clock)
    clock.advance(0.5)
    assert device.seconds(start, device.stamp(clock)) == pytest.approx(0.5, abs=1e-9)
    device.release()
    assert waits == ["synchronize", "synchronize", "empty_cache"]
    with device.track_memory() as track:
        pass
    for value in (*vars(track).values(), device.available_bytes()):
        assert isinstance(value, Unknown)
        assert "mps" in value.reason
    assert device.held_bytes() == 7 * MIB
    assert device.rooms() == ()


def test_the_device_module_imports_no_torch_by_itself() -> None:
    import subprocess

    code = "import sys, pytest_llmperf.targets.device; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.gpu
def test_a_real_gpu_times_its_own_work_and_counts_its_bytes() -> None:
    device = device_of("cuda")
    with device.track_memory() as track:
        start = device.stamp(time.perf_counter)
        one = torch.ones(1024, 1024, device=device.name)
        two = one @ one
        end = device.stamp(time.perf_counter)
        del one
    assert device.seconds(start, end) > 0
    assert track.peak >= 8 * MIB
    assert track.end >= two.untyped_storage().nbytes()
    assert device.available_bytes() > 0
    assert track.reserved >= track.allocated >= 8 * MIB
    assert device.held_bytes() >= two.untyped_storage().nbytes()
    assert device.rooms()[0].own["live"] == device.held_bytes()
