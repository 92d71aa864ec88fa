"""What the machine did meanwhile, from its own account of processor time."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from contextlib import AbstractContextManager
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pynvml
import pytest
import torch

from pytest_llmperf import cgroup, nvml
from pytest_llmperf.measure import conditions
from pytest_llmperf.measure.conditions import Watch, watching
from pytest_llmperf.model import Conditions, Gpu, Unknown
from pytest_llmperf.targets.device import device_of
from tests.fakes import FakeClock
from tests.gpus import FakeGpu, FakeNvml

LINUX = ("user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


class Machine:
    """Processor time that passes only by `spend()`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processors: int | None = 2, fields: tuple[str, ...] = LINUX):
        self.clock = FakeClock()
        self.fields = fields
        self.spent = dict.fromkeys(fields, 100.0)
        self.own = {"user": 10.0, "system": 5.0}
        self.withheld = 7.0
        self.mhz: float | None = 2000.0
        monkeypatch.setattr(conditions.time, "monotonic", self.clock)
        monkeypatch.setattr(conditions.time, "time", self.clock)
        monkeypatch.setattr(cgroup, "withheld", lambda: self.withheld)
        monkeypatch.setattr(psutil, "cpu_freq", self.frequency, raising=False)
        monkeypatch.setattr(psutil, "cpu_count", lambda: processors)
        monkeypatch.setattr(psutil, "cpu_times", lambda: namedtuple("times", fields)(**self.spent))
        monkeypatch.setattr(os, "times", lambda: SimpleNamespace(**self.own))

    def spend(self, seconds: float, own: float = 0.0, **times: float) -> Conditions:
        """What is seen of a stretch of so many seconds, `own` being this process's share of user time."""
        watch = Watch()
        self.passes(seconds, own, **times)
        watch.look()
        return watch.seen

    def frequency(self) -> SimpleNamespace | None:
        return None if self.mhz is None else SimpleNamespace(current=self.mhz)

    def passes(self, seconds: float, own: float = 0.0, **times: float) -> None:
        self.clock.advance(seconds)
        self.own["user"] += own
        for name, spent in times.items():
            self.spent[name] += spent


def test_an_idle_machine_is_seen_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, idle=20)
    assert seen == Conditions(foreign=0.0, stolen=0.0, processors=2, withheld=0.0, mhz=(2000.0, 2000.0))


def test_this_process_is_not_foreign_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, own=10, user=10, idle=10)
    assert seen.foreign == 0.0


def test_other_processes_are_told_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, own=9, user=15, system=2, softirq=1, idle=2)
    assert seen.foreign == pytest.approx(0.9)
    assert seen.disturbance(2) == "other processes kept 0.9 of 2 cores busy"
    assert seen.disturbance(1) == ""


def test_time_of_this_process_in_the_kernel_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = Watch()
    machine.passes(10, system=4)
    machine.own["system"] += 4
    watch.look()
    assert watch.seen.foreign == 0.0


def test_waiting_for_a_disk_keeps_no_core_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(monkeypatch).spend(10, iowait=20).foreign == 0.0


def test_guests_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, user=6, guest=6, nice=4, guest_nice=4, idle=10)
    assert seen.foreign == pytest.approx(1.0)


def test_what_the_hypervisor_takes_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, own=5, user=5, steal=5, idle=10)
    assert (seen.foreign, seen.stolen) == (0.0, 0.5)
    assert seen.disturbance(1) == "the hypervisor took 0.5 cores away"


def test_a_share_is_never_below_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, own=10, user=9.5, steal=-0.5)
    assert (seen.foreign, seen.stolen) == (0.0, 0.0)


def test_too_short_a_stretch_is_unknown_and_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    seen = machine.spend(0.1, user=10, steal=10)
    assert seen.foreign == seen.stolen == Unknown("too short a time to tell")
    assert seen.disturbance(2) == ""
    assert machine.spend(0.3, user=0.3).foreign == pytest.approx(1.0)


def test_a_stretch_too_short_to_tell_is_left_to_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = Watch(threads=2)
    machine.passes(0.15, user=0.15)
    assert watch.look() is None
    machine.passes(0.15, user=0.15)
    assert watch.look() == "other processes kept 1.0 of 2 cores busy"
    machine.passes(0.3, idle=0.6)
    assert watch.look() == ""


def test_stretches_count_by_their_length_and_not_if_they_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = Watch(threads=2)
    for seconds, busy in ((1, 1), (9, 0), (10, 10)):
        machine.passes(seconds, user=busy)
        watch.look()
    watch.forget(rounds=3)
    assert watch.seen.foreign == pytest.approx(0.1)
    assert watch.seen.again == 3


def test_what_shares_the_machine_by_intention_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, why = Machine(monkeypatch), Unknown("a server works, too")
    watch = Watch(threads=2, shared=why)
    assert watch.seen.foreign == why
    machine.passes(10, user=20)
    assert watch.look() == ""
    assert watch.seen.foreign == why


def test_a_containers_quota_that_is_used_up_disturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = Watch()
    machine.passes(10, own=5, user=5)
    machine.withheld += 4.0
    assert watch.look() == "the container's quota withheld 0.4 cores"
    assert watch.seen.withheld == pytest.approx(0.4)


@pytest.mark.parametrize(("own", "told"), [(4.0, "the container's quota withheld 0.4 cores"), (4.9, "")])
def test_a_quota_that_this_process_uses_up_by_itself_does_not(
    monkeypatch: pytest.MonkeyPatch, own: float, told: str
) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr(cgroup, "quota", lambda: 0.5)
    watch = Watch()
    machine.passes(10, own=own, user=own)
    machine.withheld += 4.0
    assert watch.look() == told


def test_the_clock_of_the_processors_is_told_from_begin_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    watch = Watch()
    machine.passes(10)
    machine.mhz = 1500.0
    watch.look()
    assert watch.seen.mhz == (1500.0, 2000.0)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: pytest.fail("each processor is asked once more"))
    assert watch.unseen == ()


@pytest.mark.parametrize(
    "error", [OSError, ValueError("invalid literal: '<unknown>'"), IndexError, NotImplementedError]
)
def test_a_clock_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr(psutil, "cpu_freq", Mock(side_effect=error))
    assert machine.spend(10).mhz == Unknown("this system does not tell it")


@pytest.mark.parametrize("mhz", [None, 0.0])
def test_a_clock_that_the_system_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch, mhz: float | None) -> None:
    machine = Machine(monkeypatch)
    machine.mhz = mhz
    assert machine.spend(10).mhz == Unknown("this system does not tell it")


@pytest.mark.parametrize("fields", [("user", "nice", "system", "idle"), ("user", "system", "idle", "interrupt", "dpc")])
def test_systems_that_tell_less_are_watched_all_the_same(
    monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...]
) -> None:
    seen = Machine(monkeypatch, fields=fields).spend(10, own=2, user=7, idle=13)
    assert (seen.foreign, seen.stolen) == (0.5, 0.0)


@pytest.mark.parametrize(("processors", "told"), [(8, 8), (None, 1)])
def test_processors_are_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, processors: int | None, told: int
) -> None:
    assert Machine(monkeypatch, processors).spend(10).processors == told


def test_what_nobody_watched_is_unknown() -> None:
    assert isinstance(Conditions().foreign, Unknown)
    assert isinstance(Conditions().stolen, Unknown)


# GPUs


class Gpus:
    """A machine with GPUs, known to torch as NVML's uuids, and this process as number 77 there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, **refused: int) -> None:
        self.machine = Machine(monkeypatch)
        self.nvml = FakeNvml(list(gpus), refused).install(monkeypatch)
        uuids = [gpu.uuid.partition("-")[2] for gpu in gpus]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index]))
        monkeypatch.setattr(nvml, "_own", 77)
        for gpu in gpus:
            gpu.processes.setdefault(77, 2**30)

    def watch(self, count: int = 1, **given: object) -> AbstractContextManager[Watch]:
        return watching([f"cuda:{index}" for index in range(count)], 1, **given)  # type: ignore[arg-type]


def test_a_quiet_gpu_is_seen_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu())
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == ""
    clocks = {"sm_mhz": (1980.0, 1980.0), "memory_mhz": (3201.0, 3201.0), "celsius": (40.0, 40.0)}
    assert watch.seen.gpus == (Gpu("cuda:0", **clocks, slowed=(), capped=False, foreign=0.0, memory_errors=0),)
    assert gpus.nvml.open == 0


def test_clocks_and_heat_are_told_as_extremes_over_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, gpu := FakeGpu())
    with gpus.watch() as watch:
        for mhz, celsius in ((1980, 40), (1500, 60), (300, 90)):
            gpu.sm_mhz, gpu.celsius = mhz, celsius
            gpus.machine.passes(1)
            watch.look()
        watch.forget()
    assert watch.seen.gpus[0].sm_mhz == (1500.0, 1980.0)
    assert watch.seen.gpus[0].celsius == (40.0, 60.0)


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (0x0, ""),
        (0x1, ""),
        (0x2, ""),
        (0x4, ""),
        (0x8, ""),
        (0x20, "cuda:0 was slowed down by its temperature, as the driver found"),
        (0x48, "cuda:0 was slowed down by its temperature"),
        (0xC0, "cuda:0 was slowed down by its temperature and a power brake from outside"),
        (0x80, "cuda:0 was slowed down by a power brake from outside"),
        (0x100, ""),
    ],
)
def test_clocks_held_down_from_outside_disturb(monkeypatch: pytest.MonkeyPatch, reasons: int, told: str) -> None:
    gpus = Gpus(monkeypatch, FakeGpu(reasons=reasons))
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == told
    assert watch.seen.disturbance(1) == told
    assert watch.seen.gpus[0].capped is (reasons == 0x4)


def test_of_rounds_too_short_to_tell_anything_else_the_clocks_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu(reasons=0x40, processes={5: 1}))
    with gpus.watch() as watch:
        gpus.machine.passes(0.1)
        assert watch.look(ended=True) is None
        assert watch.seen.disturbance(1) == "cuda:0 was slowed down by its temperature"
    assert watch.seen.foreign == Unknown("too short a time to tell")
    assert watch.unseen == ()


def test_every_gpu_of_the_model_is_watched_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = FakeGpu("GPU-c", reasons=0x40)
    gpus = Gpus(monkeypatch, FakeGpu("GPU-a"), FakeGpu("GPU-b", reasons=0x80), hot)
    with gpus.watch(2) as watch:
        gpus.machine.passes(1)
        assert watch.look() == "cuda:1 was slowed down by a power brake from outside"
    assert [gpu.name for gpu in watch.seen.gpus] == ["cuda:0", "cuda:1"]


def test_the_gpu_that_torch_means_is_looked_at_wherever_nvml_lists_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu("GPU-a"), FakeGpu("GPU-b", celsius=66))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="b"))
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        watch.look()
    assert watch.seen.gpus[0].celsius == (66.0, 66.0)


@pytest.mark.parametrize(
    ("work", "foreign", "told"),
    [
        ([(77, 0.9, 100)], 0.0, ""),
        ([(77, 0.9, 60), (5, 0.9, 4)], 0.04, ""),
        ([(77, 0.9, 60), (5, 0.9, 34)], 0.34, "other processes kept cuda:0 busy for 34 % of the time"),
        ([(5, 0.9, 20), (6, 0.9, 20)], 0.4, "other processes kept cuda:0 busy for 40 % of the time"),
        ([(5, -0.5, 100)], 0.0, ""),
        ([(5, 0.9, 3_000_000)], 0.0, ""),
        ([], 0.0, ""),
    ],
    ids=["own work", "next to nothing", "another", "two others", "before it", "a zombie", "idle"],
)
def test_work_of_other_processes_disturbs_and_their_mere_presence_does_not(
    monkeypatch: pytest.MonkeyPatch, work: list[tuple[int, float, int]], foreign: float, told: str
) -> None:
    gpu = FakeGpu(processes={5: 2**30, 6: None})
    gpus = Gpus(monkeypatch, gpu)
    with gpus.watch() as watch:
        gpu.work = [(pid, gpus.machine.clock() + after, share) for pid, after, share in work]
        gpus.machine.passes(1)
        assert watch.look() == told
    assert watch.seen.gpus[0].foreign == pytest.approx(foreign)


def test_rounds_are_not_called_quiet_before_nvml_has_counted_whose_kernels_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(processes={5: 2**30})
    gpus = Gpus(monkeypatch, gpu)
    with gpus.watch() as watch:
        gpus.machine.passes(0.5)
        assert watch.look() is None
        gpu.work = [(pid, gpus.machine.clock() + 0.1, share) for pid, share in ((77, 60), (5, 34))]
        gpus.machine.passes(0.25)
        assert watch.look() == "other processes kept cuda:0 busy for 34 % of the time"
        watch.forget()
        gpus.machine.passes(0.5)
        assert watch.look() is None
        gpus.machine.passes(0.5)
        assert watch.look() == "", "a GPU that is idle has nothing to count"
        gpus.machine.passes(0.5)
        assert watch.look(ended=True) == ""
    assert watch.seen.gpus[0].foreign == 0.0


def test_who_works_cannot_be_told_where_this_process_is_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(processes={5: 2**30})
    gpus = Gpus(monkeypatch, gpu)
    who = Unknown("2 processes came to the GPUs while this one started CUDA: it is one of them")
    monkeypatch.setattr(nvml, "_own", who)
    with gpus.watch() as watch:
        gpu.work = [(5, gpus.machine.clock() + 0.5, 99)]
        gpus.machine.passes(1)
        assert watch.look() == ""
    assert watch.seen.gpus[0].foreign == who


def test_on_the_host_a_process_that_had_started_cuda_before_is_known_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(processes={5: 2**30, os.getpid(): 2**30})
    gpus = Gpus(monkeypatch, gpu)
    monkeypatch.setattr(nvml, "_own", nvml._UNSEEN)
    with gpus.watch() as watch:
        gpu.work = [(pid, gpus.machine.clock() + 0.5, share) for pid, share in ((os.getpid(), 60), (5, 4))]
        gpus.machine.passes(1)
        assert watch.look() == ""
    assert watch.seen.gpus[0].foreign == pytest.approx(0.04)


def test_memory_errors_count_from_when_the_watch_began(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(memory_errors=12)
    gpus = Gpus(monkeypatch, gpu)
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == ""
        gpu.memory_errors += 3
        gpus.machine.passes(1)
        assert watch.look() == "cuda:0 had 3 memory errors that could not be corrected"
        gpus.machine.passes(1)
        assert watch.look() == ""
    assert watch.seen.gpus[0].memory_errors == 3


def test_what_was_seen_once_stays_seen_where_nvml_then_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(reasons=0x40)
    gpus = Gpus(monkeypatch, gpu)
    with gpus.watch() as watch:
        gpu.memory_errors += 3
        gpus.machine.passes(1)
        watch.look()
        gpus.nvml.refused = dict.fromkeys(
            (
                "nvmlDeviceGetCurrentClocksEventReasons",
                "nvmlDeviceGetCurrentClocksThrottleReasons",
                "nvmlDeviceGetTotalEccErrors",
            ),
            pynvml.NVML_ERROR_GPU_IS_LOST,
        )
        gpus.machine.passes(1)
        watch.look()
    seen = watch.seen.gpus[0]
    assert (seen.slowed, seen.memory_errors) == (("its temperature",), 3)
    assert seen.capped == Unknown("NVML: GPU is lost")


def test_of_a_slice_the_clocks_are_those_of_its_gpu_and_the_processes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeGpu("GPU-a", sm_mhz=1111, reasons=0x40, processes={5: 1}, work=[(5, 1e9, 100)])
    gpus = Gpus(monkeypatch, FakeGpu("MIG-b", whole=whole))
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == "cuda:0 was slowed down by its temperature"
        assert "slice" in watch.energy().reason  # type: ignore[union-attr]
    seen = watch.seen.gpus[0]
    assert (seen.sm_mhz, seen.foreign) == ((1111.0, 1111.0), 0.0)


REFUSED = pynvml.NVML_ERROR_NOT_SUPPORTED
ALL = ["sm_mhz", "memory_mhz", "celsius", "slowed", "capped", "foreign", "memory_errors"]


@pytest.mark.parametrize(
    ("function", "number", "unseen"),
    [
        ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, ALL),
        ("nvmlDeviceGetHandleByUUID", pynvml.NVML_ERROR_NO_PERMISSION, ALL),
        ("nvmlDeviceGetClockInfo", REFUSED, ["sm_mhz", "memory_mhz"]),
        ("nvmlDeviceGetTemperature", REFUSED, ["celsius"]),
        ("nvmlDeviceGetCurrentClocksEventReasons", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, []),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, []),
        ("nvmlDeviceGetTotalEccErrors", REFUSED, ["memory_errors"]),
        ("nvmlDeviceGetProcessUtilization", pynvml.NVML_ERROR_NO_PERMISSION, ["foreign"]),
        ("nvmlDeviceGetComputeRunningProcesses", REFUSED, []),
        ("nvmlDeviceGetGraphicsRunningProcesses", REFUSED, []),
        ("nvmlDeviceIsMigDeviceHandle", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, []),
    ],
)
def test_what_nvml_refuses_is_unknown_with_its_reason_and_the_rest_is_seen(
    monkeypatch: pytest.MonkeyPatch, function: str, number: int, unseen: list[str]
) -> None:
    gpus = Gpus(monkeypatch, FakeGpu(processes={5: 1}), **{function: number})
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == ""
    decisive = {"slowed": "heat and power brakes", "foreign": "the work of other processes"}
    might = [decisive[name] for name in unseen if name in decisive]
    assert [told.partition(" could not be seen on cuda:0 (")[0] for told in watch.unseen] == [
        *filter(None, [" and ".join(might)])
    ]
    seen = watch.seen.gpus[0]
    assert [name for name in ALL if isinstance(getattr(seen, name), Unknown)] == unseen
    assert all(str(pynvml.NVMLError(number)) in getattr(seen, name).reason for name in unseen)
    assert gpus.nvml.open == 0


def test_clocks_whose_reasons_no_driver_tells_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"nvmlDeviceGetCurrentClocks{name}Reasons" for name in ("Event", "Throttle")]
    gpus = Gpus(monkeypatch, FakeGpu(), **dict.fromkeys(names, REFUSED))
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == ""
    assert watch.unseen == ("heat and power brakes could not be seen on cuda:0 (NVML: Not Supported)",)
    assert isinstance(watch.seen.gpus[0].capped, Unknown)


def test_a_neighbour_that_draws_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, gpu := FakeGpu(drawing=[5]))
    with gpus.watch() as watch:
        gpu.work = [(5, gpus.machine.clock() + 0.5, 30)]
        gpus.machine.passes(1)
        assert watch.look() == "other processes kept cuda:0 busy for 30 % of the time"


def test_an_older_torch_that_knows_no_ids_of_gpus_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace())
    with gpus.watch() as watch:
        gpus.machine.passes(1)
        assert watch.look() == ""
    assert "uuid" in watch.seen.gpus[0].sm_mhz.reason  # type: ignore[union-attr]


def test_in_a_duet_the_other_sides_work_is_not_foreign_and_heat_disturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(processes={5: 2**30})
    gpus, why = Gpus(monkeypatch, gpu), Unknown("base and head took turns")
    with gpus.watch(shared=why) as watch:
        gpu.work = [(5, gpus.machine.clock() + 0.5, 99)]
        gpus.machine.passes(1)
        assert watch.look() == ""
        gpu.reasons = 0x40
        gpus.machine.passes(1)
        assert watch.look() == "cuda:0 was slowed down by its temperature"
    assert watch.seen.gpus[0].foreign == why
    assert watch.unseen == (), "it is said elsewhere"


def test_without_a_gpu_nvml_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu())
    with watching(["cpu"], 1) as watch:
        gpus.machine.passes(1)
        watch.look()
        assert "only NVIDIA GPUs" in watch.energy().reason  # type: ignore[union-attr]
    assert watch.seen.gpus == ()
    assert gpus.nvml.calls == []


def test_the_energy_of_several_gpus_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu("GPU-a", millijoules=1500), FakeGpu("GPU-b", millijoules=2500))
    with gpus.watch(2) as watch:
        assert watch.energy() == 4.0


@pytest.mark.gpu
def test_a_real_gpu_is_seen_at_work() -> None:
    name = device_of("cuda").names[0]
    ones = torch.ones(4096, 4096, device=name)
    with watching([name], 1) as watch:
        before, until = watch.energy(), time.monotonic() + 1.5
        while time.monotonic() < until:
            ones.mm(ones)
            torch.cuda.synchronize(name)
        assert watch.look() is not None
        after = watch.energy()
    (gpu,) = watch.seen.gpus
    assert isinstance(gpu.sm_mhz, tuple)
    assert isinstance(gpu.slowed, tuple)
    assert isinstance(nvml.own_pid(), int), nvml.own_pid()
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert 10 < after - before < 10_000


def test_an_energy_counter_that_is_not_offered_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, FakeGpu(), nvmlDeviceGetTotalEnergyConsumption=REFUSED)
    with gpus.watch() as watch:
        assert watch.energy() == Unknown("NVML: Not Supported")
