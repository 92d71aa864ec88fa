"""Energy per round, from a counter that is seldom brought up to date."""

from __future__ import annotations

import pytest

from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.measure.energy import LEAST_S, evened, metered
from pytest_llmperf.model import Round, Trace, Unknown, Workload
from tests.fakes import FakeClock, FakeTarget

REFUSED = Unknown("NVML: Not Supported")


def lasting(seconds: float, energy: float | Unknown = 0.0) -> Round:
    return Round((Trace(0.0, (seconds,), prompt_tokens=1),), energy=energy)


def test_a_round_has_what_the_meter_moved_by() -> None:
    readings = iter([100.0, 130.0])
    assert metered(lambda: lasting(1.0), lambda: next(readings))().energy == 30.0


def test_the_meter_is_read_right_before_and_right_after_a_round() -> None:
    order: list[str] = []

    def serve() -> Round:
        order.append("round")
        return lasting(1.0)

    def meter() -> float:
        order.append("meter")
        return 0.0

    metered(serve, meter)()
    assert order == ["meter", "round", "meter"]


@pytest.mark.parametrize("readings", [[REFUSED], [5.0, REFUSED]])
def test_a_meter_that_refuses_leaves_it_unknown(readings: list[float | Unknown]) -> None:
    told = iter(readings)
    assert metered(lambda: lasting(1.0), lambda: next(told))().energy == REFUSED


def test_a_counter_that_begins_anew_leaves_it_unknown() -> None:
    readings = iter([500.0, 3.0])
    energy = metered(lambda: lasting(1.0), lambda: next(readings))().energy
    assert energy == Unknown("the GPU's energy counter began anew meanwhile", by_chance=True)


def test_long_rounds_keep_their_own() -> None:
    rounds = [lasting(2.0, 10.0), lasting(1.0, 30.0)]
    assert evened(rounds) == rounds


def test_short_rounds_share_what_the_counter_gave_to_some_of_them() -> None:
    rounds = [lasting(0.25, 0.0), lasting(0.5, 90.0), lasting(0.25, 0.0), lasting(1.0, 70.0)]
    assert [each.energy for each in evened(rounds)] == [22.5, 45.0, 22.5, 70.0]


def test_what_is_left_over_at_the_end_goes_with_those_before() -> None:
    rounds = [lasting(1.0, 100.0), lasting(1.0, 60.0), lasting(0.5, 0.0)]
    assert [each.energy for each in evened(rounds)] == pytest.approx([100.0, 40.0, 20.0])


def test_rounds_too_short_together_tell_nothing() -> None:
    assert all(isinstance(each.energy, Unknown) for each in evened([lasting(LEAST_S / 3, 5.0)] * 2))


def test_one_refused_reading_leaves_its_group_unknown() -> None:
    rounds = [lasting(0.5, 1.0), lasting(0.5, REFUSED), lasting(1.0, 3.0)]
    assert [each.energy for each in evened(rounds)] == [REFUSED, REFUSED, 3.0]


def test_no_rounds_take_none() -> None:
    assert evened([]) == []


class Metered(Unwatched):
    """A device that takes 100 W, whatever it does."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def energy(self) -> float:
        return 100.0 * self.clock()


def test_energy_per_token_is_the_rounds_over_the_tokens_of_all_its_sequences() -> None:
    target = FakeTarget(FakeClock(), ttft=1.0, gap=0.1)
    workload = Workload(prompt_tokens=16, output_tokens=11, batch_size=4)
    seen = measure(target, workload, Effort(rounds=3), clock=target.clock, watch=Metered(target.clock))
    assert seen.energy_j_per_token.samples == pytest.approx([200.0 / 44] * 3)


def test_without_a_counter_it_is_unknown_with_the_reason() -> None:
    target = FakeTarget(FakeClock())
    seen = measure(target, Workload(16, 11), Effort(rounds=3), clock=target.clock)
    assert seen.energy_j_per_token is None
    assert "energy counter" in seen.unknown["energy_j_per_token"]
