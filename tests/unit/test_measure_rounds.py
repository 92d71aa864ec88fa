"""When warming up ends, and when enough rounds have been taken: exact, on a clock that only moves when told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.measure.rounds import MIN_ROUNDS, MOST_WARM_UPS, PATIENCE_FOR_TAILS_S, Effort, Need, take, warm_up
from pytest_llmperf.model import Round, Trace
from tests.fakes import FakeClock


class Serving:
    """Rounds that take the given seconds; the last holds for all after it."""

    def __init__(self, *seconds: float) -> None:
        self.clock = FakeClock()
        self.seconds = seconds
        self.served = 0

    def __call__(self) -> Round:
        sent = self.clock()
        self.clock.advance(self.seconds[min(self.served, len(self.seconds) - 1)])
        self.served += 1
        return Round((Trace(sent, (self.clock(),), prompt_tokens=1),))


class Looks:
    """Answers looks in turn, the last for all after it; notes how many rounds each saw."""

    def __init__(self, *needs: Need) -> None:
        self.needs = needs
        self.at: list[int] = []

    def __call__(self, rounds) -> Need:
        self.at.append(len(rounds))
        return self.needs[min(len(self.at) - 1, len(self.needs) - 1)]


def taken(serving, looks, **effort):
    return len(take(serving, Effort(**effort), looks, serving.clock, Unwatched()))


def warmed(serving, **effort):
    return len(warm_up(serving, Effort(**effort), serving.clock))


# Rounds


@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
@pytest.mark.parametrize("seconds", [0.001, 100.0])
def test_a_fixed_number_of_rounds_is_taken_whatever_the_time(rounds, seconds):
    looks = Looks(Need.PRECISION)
    assert taken(Serving(seconds), looks, rounds=rounds, max_time=1.0) == rounds
    assert looks.at == [], "nobody asks whether they suffice"


def test_three_rounds_are_taken_where_nothing_more_is_needed():
    looks = Looks(Need.NOTHING)
    assert taken(Serving(0.1), looks) == MIN_ROUNDS == 3
    assert looks.at == [3]


def test_at_least_three_rounds_are_taken_though_each_takes_too_long():
    looks = Looks(Need.PRECISION)
    assert taken(Serving(100.0), looks, max_time=1.0) == 3
    assert looks.at == [3]


def test_looks_come_after_half_as_many_rounds_again():
    looks = Looks(Need.PRECISION)
    taken(Serving(0.1), looks, max_time=10.05)
    assert looks.at == [3, 5, 8, 12, 18, 27, 41, 62, 93, 101]


def test_rounds_end_at_the_first_look_that_needs_nothing():
    looks = Looks(Need.PRECISION, Need.SAMPLES, Need.PRECISION, Need.NOTHING)
    assert taken(Serving(0.001), looks) == 12


def test_precision_is_sought_until_time_is_up():
    assert taken(Serving(0.5), Looks(Need.PRECISION), max_time=10.0) == 20


def test_time_that_is_up_between_two_looks_ends_the_rounds_at_once():
    looks = Looks(Need.PRECISION)
    assert taken(Serving(1.0), looks, max_time=6.5) == 7
    assert looks.at == [3, 5, 7]


def test_samples_for_a_percentile_are_waited_for_up_to_a_minute():
    assert taken(Serving(2.0), Looks(Need.SAMPLES), max_time=10.0) == PATIENCE_FOR_TAILS_S / 2.0


def test_samples_that_come_late_end_the_rounds():
    looks = Looks(*[Need.SAMPLES] * 4, Need.NOTHING)
    assert taken(Serving(5.0), looks, max_time=10.0) == 7
    assert looks.at == [3, 4, 5, 6, 7], "once time is up each round may be the last"


def test_precision_is_not_sought_beyond_the_time_that_samples_had():
    looks = Looks(*[Need.SAMPLES] * 3, Need.PRECISION)
    assert taken(Serving(5.0), looks, max_time=10.0) == 6


def test_more_than_a_minute_is_allowed_where_the_user_allows_it():
    assert taken(Serving(10.0), Looks(Need.SAMPLES), max_time=100.0) == 10


@given(
    seconds=st.floats(0.01, 30),
    max_time=st.floats(0.1, 100),
    needs=st.lists(st.sampled_from(Need), min_size=1, max_size=6),
)
def test_rounds_are_at_least_three_and_never_far_beyond_their_time(seconds, max_time, needs):
    serving = Serving(seconds)
    start = serving.clock()
    rounds = take(serving, Effort(max_time=max_time), Looks(*needs), serving.clock, Unwatched())
    elapsed = serving.clock() - start
    assert len(rounds) >= 3
    assert elapsed <= max(3 * seconds, max(max_time, PATIENCE_FOR_TAILS_S) + seconds) + 1e-6
    if Need.SAMPLES not in needs:
        assert elapsed <= max(3 * seconds, max_time + seconds) + 1e-6


# Disturbed rounds


class Disturbed(Unwatched):
    """Answers looks in turn, nothing being wrong after them; notes what was forgotten."""

    def __init__(self, *found: str | None) -> None:
        self.found = iter(found)
        self.forgotten: list[int] = []

    def look(self, *, ended: bool = False) -> str | None:
        return next(self.found, "")

    def forget(self, rounds: int = 0) -> None:
        self.forgotten.append(rounds)


def rounds_kept(serving, watch, looks=None, **effort):
    """Which rounds count, by their number."""
    needs = looks or Looks(Need.NOTHING)
    kept = take(serving, Effort(**effort), needs, serving.clock, watch)
    return [round((each.traces[0].sent - 1000.0) / serving.seconds[0]) for each in kept]


def test_a_disturbed_round_is_taken_again():
    watch = Disturbed("", "heat", "")
    assert rounds_kept(Serving(0.5), watch) == [0, 2, 3]
    assert watch.forgotten == [1]


def test_a_fixed_number_of_rounds_is_one_of_rounds_that_count():
    watch = Disturbed("", "heat", "heat", "")
    assert rounds_kept(Serving(0.5), watch, rounds=2) == [0, 3]


def test_rounds_too_short_to_tell_are_judged_together_when_it_can_be_told():
    watch = Disturbed(None, "", None, None, "heat", "")
    assert rounds_kept(Serving(0.1), watch, Looks(Need.PRECISION, Need.NOTHING)) == [0, 1, 5, 6, 7]
    assert watch.forgotten == [3]


def test_half_the_time_at_most_goes_into_rounds_that_do_not_count():
    watch = Disturbed(*["heat"] * 100)
    assert rounds_kept(Serving(1.0), watch, max_time=10.0, looks=Looks(Need.PRECISION)) == [5, 6, 7, 8, 9]
    assert watch.forgotten == [1, 1, 1, 1, 1]


def test_late_disturbances_are_made_good_like_early_ones():
    watch = Disturbed(*[""] * 8, "heat", "", "heat")
    assert rounds_kept(Serving(1.0), watch, rounds=10) == [0, 1, 2, 3, 4, 5, 6, 7, 9, 11]


def test_a_machine_that_is_disturbed_all_the_time_is_measured_all_the_same():
    watch = Disturbed(*["heat"] * 100)
    assert len(rounds_kept(Serving(30.0), watch, max_time=10.0)) == 3
    assert watch.forgotten == []


# Warming up


def test_warming_up_ends_when_a_round_is_no_faster():
    assert warmed(Serving(1.0, 0.5, 0.25, 0.25, 0.1), max_time=100) == 4


def test_two_equal_rounds_are_warm():
    assert warmed(Serving(0.1)) == 2


@pytest.mark.parametrize(("last", "rounds"), [(0.96, 2), (0.95, 2), (0.94, 3), (1.5, 2)])
def test_a_round_within_a_twentieth_of_the_fastest_is_warm(last, rounds):
    assert warmed(Serving(1.0, last, 1.0), max_time=100) == rounds


def test_a_slow_round_between_fast_ones_ends_warming_up():
    assert warmed(Serving(5.0, 0.1, 0.3, 0.05), max_time=100) == 3


def test_warming_up_ends_after_ten_rounds_that_get_ever_faster():
    assert warmed(Serving(*[0.9**k for k in range(30)]), max_time=1000) == MOST_WARM_UPS == 10


@pytest.mark.parametrize(("seconds", "rounds"), [(6.0, 1), (5.0, 1), (3.0, 2)])
def test_warming_up_takes_at_most_half_the_time_and_one_round(seconds, rounds):
    faster = [seconds * 0.9**k for k in range(20)]
    assert warmed(Serving(*faster), max_time=10.0) == rounds


def test_warm_up_rounds_are_given_in_order():
    serving = Serving(1.0, 0.5, 0.5)
    walls = [taken.wall for taken in warm_up(serving, Effort(max_time=100), serving.clock)]
    assert walls == pytest.approx([1.0, 0.5, 0.5], abs=1e-9)
