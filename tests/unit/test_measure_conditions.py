"""What the machine did meanwhile, from its own account of processor time."""

from __future__ import annotations

import os
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from pytest_llmperf.measure import conditions
from pytest_llmperf.measure.conditions import watched
from pytest_llmperf.model import Conditions, Unknown
from tests.fakes import FakeClock

LINUX = ("user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


class Machine:
    """Processor time that passes only by `spend()`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processors: int | None = 2, fields: tuple[str, ...] = LINUX):
        self.clock = FakeClock()
        self.fields = fields
        self.spent = dict.fromkeys(fields, 100.0)
        self.own = {"user": 10.0, "system": 5.0}
        monkeypatch.setattr(conditions.time, "monotonic", self.clock)
        monkeypatch.setattr(psutil, "cpu_count", lambda: processors)
        monkeypatch.setattr(psutil, "cpu_times", lambda: namedtuple("times", fields)(**self.spent))
        monkeypatch.setattr(os, "times", lambda: SimpleNamespace(**self.own))

    def spend(self, seconds: float, own: float = 0.0, **times: float) -> Conditions:
        """What is seen of a stretch of so many seconds, `own` being this process's share of user time."""
        with watched() as watch:
            self.clock.advance(seconds)
            self.own["user"] += own
            for name, time in times.items():
                self.spent[name] += time
        return watch.seen


def test_an_idle_machine_is_seen_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Machine(monkeypatch).spend(10, idle=20)
    assert seen == Conditions(foreign=0.0, stolen=0.0, processors=2)


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
    with watched() as watch:
        machine.clock.advance(10)
        machine.own["system"] += 4
        machine.spent["system"] += 4
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


def test_a_watch_that_was_interrupted_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    with pytest.raises(KeyboardInterrupt), watched() as watch:
        raise KeyboardInterrupt
    assert watch.seen == Conditions()
