"""Memory that grows from round to round is told, and what only looks like it is not."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence

import pytest

from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.measure.leaks import LEAST_GROWTH, LEAST_ROUNDS, leak_note
from pytest_llmperf.model import Round, Trace, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from tests.fakes import TINY, FakeClock, FakeDevice, FakeTarget

MIB = 2**20
TRACE = Trace(0.0, (0.1, 0.2), 8)


def noted(held: Sequence[int | Unknown], *, name: str = "cuda:0", then: int | None = None) -> str:
    """Of rounds after which so much was held, and `then` once garbage is collected: as much, unless it is given."""
    device = FakeDevice()
    device.name = name
    device.held = itertools.repeat(held[-1] if then is None else then)
    return leak_note([Round((TRACE,), held=value) for value in held], device)


def grown(rounds: int, by: Callable[[int], float]) -> list[int]:
    return [100 * MIB + int(by(number)) for number in range(rounds)]


def test_a_leak_of_every_round_is_told_to_the_byte() -> None:
    leaking = grown(60, lambda number: 1.5 * MIB * number)
    assert noted(leaking) == "live memory on cuda:0 grows by 1.5 MiB per round (1.5 MiB to 1.5 MiB, 40 rounds)"
    assert noted(leaking, name="cuda:0,1").startswith("live memory on cuda:0,1 grows")
    assert noted(leaking, name="cpu").startswith("the resident set grows by 1.5 MiB per round")


def test_the_interval_says_how_uncertain_the_slope_is() -> None:
    numbers = random.Random(1)
    uneven = grown(60, lambda number: 10 * MIB * (number + numbers.uniform(-3, 3)))
    slope, low, high = (float(value) for value in re.findall(r"([\d.]+) MiB", noted(uneven)))
    assert low < slope < high
    assert low < 10 < high


@pytest.mark.parametrize(
    "held",
    [
        grown(60, lambda number: 0),
        grown(60, lambda number: 50 * MIB * min(number, 15)),
        grown(60, lambda number: 50 * MIB * (number > 30)),
        grown(60, lambda number: 50 * MIB * ((number > 30) + (number > 50))),
        grown(60, lambda number: 50 * MIB * (number % 7)),
        grown(60, lambda number: 50 * MIB * (number == 59)),
        grown(60, lambda number: -MIB * number),
        grown(60, lambda number: 512 * number),
    ],
    ids=["constant", "filling", "a step", "two steps", "a saw", "the last", "shrinking", "tiny"],
)
def test_what_is_no_leak_is_not_told(held: list[int]) -> None:
    assert noted(held) == ""


@pytest.mark.parametrize("jitter", [0.5, 8, 15])
def test_noise_is_no_leak(jitter: float) -> None:
    """As large as a resident set was seen to have: 8 MiB."""
    numbers = random.Random(7)
    for _ in range(200):
        held = grown(30, lambda number: numbers.uniform(-jitter, jitter) * MIB)
        assert noted(held, name="cpu") == noted(held) == ""


def test_a_leak_too_small_for_a_resident_set_is_told_of_live_memory() -> None:
    held = grown(60, lambda number: LEAST_GROWTH["cpu"] / 60 * number)
    assert noted(held)
    assert noted(held, name="cpu") == ""


def test_what_goes_with_the_garbage_is_no_leak() -> None:
    held = grown(60, lambda number: MIB * number)
    assert noted(held, then=held[0]) == ""
    assert noted(held, then=held[-1] - 5 * MIB)


@pytest.mark.parametrize(
    ("rounds", "told"), [(LEAST_ROUNDS * 3 // 2, True), (LEAST_ROUNDS * 3 // 2 - 2, False), (1, False)]
)
def test_a_few_rounds_tell_nothing(rounds: int, told: bool) -> None:
    assert bool(noted(grown(rounds, lambda number: 10 * MIB * number))) is told


def test_where_nobody_looked_nothing_is_told() -> None:
    assert noted([Unknown("nobody looked")] * 60) == ""
    assert noted([*grown(59, lambda number: MIB * number), Unknown("it is out of sight")], then=0) == ""


def test_thousands_of_rounds_take_no_time_by_the_square() -> None:
    note = noted(grown(10_000, lambda number: 4096 * number))
    assert note == "live memory on cuda:0 grows by 4.0 KiB per round (4.0 KiB to 4.0 KiB, 6667 rounds)"


def test_memory_is_looked_at_after_each_round_and_told_among_the_notes() -> None:
    clock = FakeClock()
    target = FakeTarget(clock)
    target.device.held = itertools.count(100 * MIB, MIB)
    seen = measure(target, Workload(8, 4), Effort(rounds=30, max_time=1.0), clock=clock)
    assert [later.held - one.held for one, later in itertools.pairwise(seen.rounds)] == [MIB] * 29
    assert any(note.startswith("live memory on fake grows by 1.0 MiB per round") for note in seen.notes)


@pytest.mark.parametrize("leaks", [True, False])
def test_a_real_model_beside_which_memory_leaks(leaks: bool) -> None:
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    generate, kept = target.model.generate, []

    def serve(**arguments):
        kept.append(b"\1" * (8 * MIB if leaks else 1))
        return generate(**arguments)

    target.model.generate = serve
    seen = measure(target, Workload(8, 2), Effort(rounds=40, max_time=0.02))
    told = [note for note in seen.notes if "resident set grows" in note]
    assert bool(told) is leaks


@pytest.mark.gpu
@pytest.mark.parametrize("leaks", [True, False])
def test_a_real_gpu_on_which_memory_leaks(leaks: bool) -> None:
    import torch

    target = resolve(TINY).load(LoadOptions(device="cuda"))
    generate, kept = target.model.generate, []

    def serve(**arguments):
        kept.append(torch.zeros(MIB if leaks else 0, device=target.device.name))
        return generate(**arguments)

    target.model.generate = serve
    seen = measure(target, Workload(8, 2), Effort(rounds=30, max_time=0.02))
    told = [note for note in seen.notes if note.startswith(f"live memory on {target.device.name} grows by 4.0 MiB")]
    assert bool(told) is leaks
