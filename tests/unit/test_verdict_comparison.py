"""The rule for timed metrics: mirrored, monotonic, never spending more error than it has, and able to decide at all."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm, t, ttest_1samp, wilcoxon
from statsmodels.stats.weightstats import ttost_paired

from pytest_llmperf.results import Verdict
from pytest_llmperf.verdict import comparison
from pytest_llmperf.verdict.comparison import (
    BETA,
    MOST_PAIRS,
    PAIRED_ROUNDS,
    PRIORS,
    Estimate,
    Level,
    Noise,
    Pair,
    Spread,
    alpha,
    decide,
    learn,
    pair_of,
    pairs_estimate,
    pairs_verdict,
    precise,
    stored_estimate,
    worth_more,
)

TOLERANCE = 0.05
CPU, CUDA = PRIORS["cpu"], PRIORS["cuda"]
QUIET = Noise(0.005, 0.015, df=10, session_df=10, calibrated=True)
TWO_KINDS = dataclasses.replace(QUIET, process=0.02, bimodal=True)
MILDEST_FIRST = [Verdict.IMPROVED, Verdict.OK, Verdict.INCONCLUSIVE, Verdict.REGRESSED]

changes = st.floats(-1, 1)
errors = st.floats(0, 0.2)
pairs_lists = st.lists(st.builds(Pair, changes, errors), min_size=1, max_size=8)
noises = st.builds(
    Noise,
    process=st.floats(0.002, 0.1),
    session=st.floats(0.002, 0.2),
    df=st.floats(1, 40),
    session_df=st.floats(1, 40),
    calibrated=st.booleans(),
    bimodal=st.booleans(),
)
level_lists = st.lists(st.builds(Level, st.floats(-5, 10), st.integers(1, 5), errors), min_size=1, max_size=8)
learnings = st.none() | st.builds(Spread, st.floats(0, 0.2), st.floats(1, 19))
tolerances = st.floats(0.01, 0.5)
alphas = st.integers(1, 1000).map(alpha)


def shifted(pairs: list[Pair], shift: float) -> list[Pair]:
    return [Pair(pair.difference + shift, pair.error) for pair in pairs]


def mirrored(pairs: list[Pair]) -> list[Pair]:
    return [Pair(-pair.difference, pair.error) for pair in pairs]


# One pair


def test_the_difference_is_the_median_of_all_averages_of_two() -> None:
    differences = [0.05, 0.01, 0.02, 0.9, -0.01, 0.03]
    averages = [(one + other) / 2 for one, other in itertools.combinations_with_replacement(differences, 2)]
    assert pair_of(differences).difference == pytest.approx(statistics.median(averages))


@pytest.mark.parametrize("n", PAIRED_ROUNDS)
def test_the_error_is_of_the_values_that_a_signed_rank_test_cannot_refuse(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.02, 0.05, n)
    first, second = np.triu_indices(n)
    walsh = np.sort((differences[first] + differences[second]) / 2)
    between = (walsh[1:] + walsh[:-1]) / 2
    kept = [wilcoxon(differences - value, method="asymptotic", correction=False).pvalue > 0.05 for value in between]
    low, high = walsh[kept.index(True)], walsh[len(kept) - kept[::-1].index(True)]
    assert pair_of(differences.tolist()).error == pytest.approx((high - low) / (2 * 1.96))


@pytest.mark.parametrize("n", PAIRED_ROUNDS)
def test_the_error_is_as_large_as_the_difference_is_wrong(n: int) -> None:
    """Where there are few rounds it is rather too large."""
    draw = np.random.default_rng(7)
    seen = [pair_of(draw.normal(0, 0.01, n).tolist()) for _ in range(1000)]
    claimed = np.mean([pair.error**2 for pair in seen])
    assert 0.9 < claimed / np.var([pair.difference for pair in seen]) < 1.4


@given(st.lists(changes, min_size=6, max_size=40), st.randoms())
def test_a_pair_with_its_arms_swapped_is_mirrored_exactly_whatever_the_order_of_rounds(differences, random) -> None:
    pair = pair_of(differences)
    swapped = [-difference for difference in differences]
    random.shuffle(swapped)
    assert pair_of(swapped) == Pair(-pair.difference, pair.error)


@given(st.lists(changes, min_size=6, max_size=40), changes)
def test_a_pair_moves_with_its_rounds(differences: list[float], shift: float) -> None:
    pair, moved = pair_of(differences), pair_of([difference + shift for difference in differences])
    assert moved.difference == pytest.approx(pair.difference + shift, abs=1e-12)
    assert moved.error == pytest.approx(pair.error, abs=1e-12)


def test_a_spike_hardly_moves_a_pair() -> None:
    differences = [0.001 * k for k in range(-6, 6)]
    spiked = pair_of([*differences[:-1], math.log(10)])
    assert abs(spiked.difference - pair_of(differences).difference) < 0.002
    assert spiked.error < 2 * pair_of(differences).error


@given(st.floats(0, 0.05), changes, noises)
def test_whether_more_rounds_are_taken_does_not_depend_on_the_effect(error: float, shift: float, noise: Noise) -> None:
    assert precise(Pair(0.0, error), noise) == precise(Pair(shift, error), noise)


def test_rounds_end_where_what_is_left_lies_between_processes() -> None:
    assert precise(Pair(0.0, math.sqrt(2) * 0.02), CPU)
    assert not precise(Pair(0.0, math.sqrt(2) * 0.02 + 1e-9), CPU)
    assert precise(Pair(0.0, 0.004), Noise(0.0001, 0.01))


# Over pairs


def test_the_variance_is_moderated_by_what_was_known_before() -> None:
    """Smyth 2004: (4·(2·0.02² + mean s²) + 2·S²)/(4 + 2), over three pairs."""
    estimate = pairs_estimate([Pair(0.01, 0.01), Pair(0.03, 0.02), Pair(0.05, 0.01)], CPU)
    assert estimate.change == pytest.approx(0.03)
    assert estimate.df == 6
    assert estimate.error**2 == pytest.approx((4 * (0.0008 + 0.0002) + 2 * 0.0004) / 6 / 3)


KNOWS_NOTHING = Noise(0.02, 0.05, df=1e-12)
KNOWS_ALL = Noise(0.02, 0.05, df=1e12)


def test_without_prior_knowledge_it_is_the_two_one_sided_tests_of_statsmodels() -> None:
    base = np.array([2.00, 2.05, 1.97, 2.02, 2.01])
    head = base + np.array([0.03, 0.01, 0.02, 0.05, 0.00])
    estimate = pairs_estimate([Pair(h - b, 0.0) for h, b in zip(head, base, strict=True)], KNOWS_NOTHING)
    _, (_, above, df), (_, below, _) = ttost_paired(head, base, math.log(1.02), math.log(1.05))
    assert estimate.surely_above(math.log(1.02)) == pytest.approx(above)
    assert estimate.surely_below(math.log(1.05)) == pytest.approx(below)
    assert estimate.df == pytest.approx(df)


def test_without_prior_knowledge_the_interval_is_scipys() -> None:
    differences = [0.03, 0.01, 0.02, 0.05, 0.00]
    estimate = pairs_estimate([Pair(difference, 0.0) for difference in differences], KNOWS_NOTHING)
    low, high = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (estimate.change - estimate.spread, estimate.change + estimate.spread) == pytest.approx((low, high))


def test_with_full_knowledge_it_is_the_normal_test() -> None:
    estimate = pairs_estimate([Pair(0.04, 0.01), Pair(0.08, 0.01)], KNOWS_ALL)
    error = math.sqrt((2 * 0.02**2 + 0.01**2) / 2)
    assert estimate.surely_above(0.02) == pytest.approx(norm.sf(0.04 / error))
    assert estimate.surely_below(0.10) == pytest.approx(norm.cdf(-0.04 / error))


@given(pairs_lists, noises)
def test_swapping_arms_mirrors_the_estimate_and_its_interval(pairs: list[Pair], noise: Noise) -> None:
    one, other = pairs_estimate(pairs, noise), pairs_estimate(mirrored(pairs), noise)
    assert (other.change, other.error, other.df, other.spread) == (-one.change, one.error, one.df, one.spread)


@given(pairs_lists, noises, tolerances, alphas, st.sampled_from([4, 8]), st.floats(-0.5, 0.5))
def test_what_is_regressed_one_way_is_improved_the_other(pairs, noise, tolerance, error, most, shift) -> None:
    pairs = shifted(pairs, shift)
    one = pairs_verdict(pairs, noise, tolerance, alpha=error, most=most)
    other = pairs_verdict(mirrored(pairs), noise, tolerance, alpha=error, most=most)
    if one is Verdict.REGRESSED:
        assert other is Verdict.IMPROVED


@given(st.builds(Estimate, changes, st.floats(1e-4, 0.3), st.floats(1, 50)), tolerances, alphas)
def test_any_estimate_that_is_regressed_one_way_is_improved_the_other(estimate, tolerance, error) -> None:
    other = dataclasses.replace(estimate, change=-estimate.change)
    if decide(estimate, tolerance, alpha=error) is Verdict.REGRESSED:
        assert decide(other, tolerance, alpha=error) is Verdict.IMPROVED


@given(st.lists(errors, min_size=1, max_size=8), noises, tolerances, alphas, st.sampled_from([4, 8]))
def test_the_same_compared_with_itself_is_never_regressed(own, noise, tolerance, error, most) -> None:
    pairs = [Pair(0.0, value) for value in own]
    assert pairs_verdict(pairs, noise, tolerance, alpha=error, most=most) is not Verdict.REGRESSED


@given(pairs_lists, noises, tolerances, alphas, st.sampled_from([4, 8]), st.floats(0, 0.5))
def test_a_larger_change_is_never_judged_milder(pairs, noise, tolerance, error, most, more) -> None:
    verdicts = [pairs_verdict(seen, noise, tolerance, alpha=error, most=most) for seen in (pairs, shifted(pairs, more))]
    assert MILDEST_FIRST.index(verdicts[0]) <= MILDEST_FIRST.index(verdicts[1])


@given(st.builds(Estimate, changes, st.floats(1e-4, 0.3), st.floats(1, 50)), tolerances, alphas)
def test_no_change_below_the_floor_is_regressed_and_none_of_the_tolerance_is_ok(estimate, tolerance, error) -> None:
    verdict = decide(estimate, tolerance, alpha=error)
    if estimate.change < math.log1p(0.8 * tolerance):
        assert verdict is not Verdict.REGRESSED
    if estimate.change >= math.log1p(tolerance):
        assert verdict not in (Verdict.OK, Verdict.IMPROVED)


def test_ok_is_asked_before_regressed() -> None:
    """Between 0.8·τ and τ an estimate may be surely both above what is harmless and below the tolerance."""
    assert decide(Estimate(0.042, 0.0005, 30), TOLERANCE, alpha=0.002) is Verdict.OK
    assert decide(Estimate(0.042, 0.0120, 30), TOLERANCE, alpha=0.002) is Verdict.INCONCLUSIVE
    assert decide(Estimate(0.048, 0.0050, 30), TOLERANCE, alpha=0.002) is Verdict.REGRESSED


def test_an_estimate_below_the_floor_is_not_regressed_though_it_is_surely_not_harmless() -> None:
    below, above = Estimate(0.039, 0.0050, 30), Estimate(0.040, 0.0050, 30)
    assert below.surely_above(math.log(1.02)) < 0.002
    assert decide(below, TOLERANCE, alpha=0.002) is Verdict.INCONCLUSIVE
    assert decide(above, TOLERANCE, alpha=0.002) is Verdict.REGRESSED


# How many pairs it takes


@pytest.mark.parametrize(
    ("noise", "few", "enough"), [(CPU, 1, 2), (QUIET, 1, 2), (TWO_KINDS, 2, 3)], ids=["priors", "calibrated", "bimodal"]
)
def test_fewer_pairs_than_that_are_no_proof_of_a_regression(noise: Noise, few: int, enough: int) -> None:
    def verdict(count: int) -> Verdict:
        return pairs_verdict([Pair(3.0, 0.001)] * count, noise, TOLERANCE, alpha=0.002, most=8)

    assert verdict(few) is Verdict.INCONCLUSIVE
    assert verdict(enough) is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (QUIET, Verdict.OK),
        (dataclasses.replace(QUIET, calibrated=False), Verdict.INCONCLUSIVE),
        (dataclasses.replace(QUIET, bimodal=True), Verdict.INCONCLUSIVE),
    ],
    ids=["calibrated", "not calibrated", "bimodal"],
)
def test_one_pair_is_enough_for_ok_only_where_processes_are_known_to_be_alike(noise: Noise, expected: Verdict) -> None:
    assert pairs_verdict([Pair(0.0, 0.001)], noise, TOLERANCE, alpha=0.002, most=8) is expected


@pytest.mark.parametrize("difference", [-3.0, 3.0])
def test_no_chance_is_so_small_that_it_counts_where_no_error_may_be_spent(difference: float) -> None:
    known = dataclasses.replace(QUIET, df=400, calibrated=False)
    pairs = [Pair(difference, 0.001)]
    assert min(pairs_estimate(pairs, known).surely_above(0), pairs_estimate(pairs, known).surely_below(0)) == 0
    assert pairs_verdict(pairs, known, TOLERANCE, alpha=0.002, most=8) is Verdict.INCONCLUSIVE


KINDS_OF_NOISE = {"cpu priors": CPU, "cuda priors": CUDA, "calibrated": QUIET, "bimodal": TWO_KINDS}


def pairs_of(n: int, count: int, shift: float) -> list[Pair]:
    """Alike pairs of n rounds that are spread by 1 %."""
    rounds = norm.ppf((np.arange(n) + 0.5) / n, scale=0.01) + shift
    return [pair_of(rounds.tolist())] * count


@pytest.mark.parametrize("noise", KINDS_OF_NOISE.values(), ids=KINDS_OF_NOISE)
@pytest.mark.parametrize("most", sorted(set(MOST_PAIRS.values())))
@pytest.mark.parametrize("n", PAIRED_ROUNDS)
def test_every_outcome_can_happen(noise: Noise, most: int, n: int) -> None:
    for comparisons, count in itertools.product((1, 10, 100, 1000), range(1, most + 1)):
        seen = {
            shift: pairs_verdict(pairs_of(n, count, shift), noise, TOLERANCE, alpha=alpha(comparisons), most=most)
            for shift in (-3.0, 0.0, 3.0)
        }
        assert (seen[3.0] is Verdict.REGRESSED) == (count >= noise.fewest)
        if count == most:
            assert seen == {-3.0: Verdict.IMPROVED, 0.0: Verdict.OK, 3.0: Verdict.REGRESSED}


@pytest.mark.parametrize("noise", KINDS_OF_NOISE.values(), ids=KINDS_OF_NOISE)
@pytest.mark.parametrize("most", [1, 2, 4, 8])
@pytest.mark.parametrize("comparisons", [1, 10, 11, 1000])
def test_no_more_error_is_spent_than_there_is(monkeypatch, noise: Noise, most: int, comparisons: int) -> None:
    spent = []
    monkeypatch.setattr(comparison, "decide", lambda *args, alpha, beta: spent.append((alpha, beta)))
    for count in range(1, most + 1):
        pairs_verdict([Pair(0.0, 0.01)] * count, noise, TOLERANCE, alpha=alpha(comparisons), most=most)
    regressed, ok = map(sum, zip(*spent, strict=True))
    assert regressed <= alpha(comparisons) * (1 + 1e-9)
    assert ok <= BETA * (1 + 1e-9)
    assert regressed * comparisons <= 0.02 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("true", "wrong", "most_often"),
    [(0.4 * TOLERANCE, {Verdict.REGRESSED}, 0.002), (TOLERANCE, {Verdict.OK, Verdict.IMPROVED}, BETA)],
    ids=["harmless", "of the tolerance"],
)
def test_the_errors_kept_over_all_looks_are_those_promised(true: float, wrong: set[Verdict], most_often: float) -> None:
    draw = np.random.default_rng(5)
    noise = dataclasses.replace(QUIET, process=0.02)
    trials, mistaken = 1500, 0
    for _ in range(trials):
        own = math.sqrt(2) * noise.process
        differences = draw.normal(math.log1p(true), math.hypot(own, 0.01), 8)
        for count in range(1, 9):
            pairs = [Pair(float(difference), 0.01) for difference in differences[:count]]
            verdict = pairs_verdict(pairs, noise, TOLERANCE, alpha=0.002, most=8)
            if verdict is not Verdict.INCONCLUSIVE:
                mistaken += verdict in wrong
                break
    assert mistaken <= trials * most_often


# Stored sessions


def known(session: float, process: float) -> Noise:
    return Noise(process, session, session_df=1e12)


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.001, 0.1), st.floats(0.001, 0.1))
def test_the_error_against_stored_sessions_is_that_of_the_formula(count, processes, session, process) -> None:
    estimate = stored_estimate([Level(1.0)] * count, [Level(1.0, processes)], known(session, process))
    squared = session**2 * (1 + 1 / count) + process**2 * (1 / count + 1 / processes)
    assert estimate.error**2 == pytest.approx(squared)


def test_more_processes_of_one_sitting_do_not_make_a_session_more_certain() -> None:
    noise = known(0.05, 0.02)
    one, two, many = (
        stored_estimate([Level(1.0)] * 10, [Level(1.0, processes)], noise).error for processes in (1, 2, 10**6)
    )
    assert one > two > many > 0.05 * math.sqrt(1.1)
    as_sessions = stored_estimate([Level(1.0)] * 10, [Level(1.0)] * 100, noise).error
    assert as_sessions < many / 2


def caught(error: float, df: float, power: float = 0.99) -> float:
    """The change that is REGRESSED so often."""
    return math.expm1(math.log(1.02) + error * (t.isf(0.002, df) + t.isf(1 - power, df)))


def test_what_stored_baselines_can_see_is_what_the_page_says() -> None:
    ten = stored_estimate([Level(1.0)] * 10, [Level(1.0)], dataclasses.replace(known(0.015, 0.005), session_df=4))
    assert ten.df == 13
    assert caught(math.sqrt(0.015**2 * 1.1 + 0.005**2 * 1.1), 13) == pytest.approx(0.13, abs=0.005)
    one = stored_estimate([Level(1.0)], [Level(1.0)], known(0.045, 0.0005))
    assert caught(one.error, one.df) == pytest.approx(0.42, abs=0.005)
    unknown = stored_estimate([Level(1.0)], [Level(1.0)], dataclasses.replace(known(0.045, 0.0005), session_df=4))
    assert caught(unknown.error, unknown.df) == pytest.approx(0.89, abs=0.005)
    assert caught(unknown.error, unknown.df, power=0.5) == pytest.approx(0.49, abs=0.005)


@given(level_lists, level_lists, noises, learnings)
def test_swapping_stored_and_measured_mirrors_the_estimate(base, head, noise, learned) -> None:
    one, other = stored_estimate(base, head, noise, learned), stored_estimate(head, base, noise, learned)
    assert other.change == -one.change
    assert (other.error, other.df) == pytest.approx((one.error, one.df))


@given(level_lists, level_lists, noises, learnings)
def test_where_higher_is_better_the_estimate_is_that_of_the_arms_swapped(base, head, noise, learned) -> None:
    one = stored_estimate(base, head, noise, learned, worse=-1)
    other = stored_estimate(base, head, noise, learned)
    assert (one.change, one.error, one.df) == (-other.change, other.error, other.df)


@given(level_lists, noises, learnings, tolerances, alphas)
def test_sessions_compared_with_themselves_are_never_regressed(sessions, noise, learned, tolerance, error) -> None:
    estimate = stored_estimate(sessions, sessions, noise, learned)
    assert estimate.change == 0
    assert decide(estimate, tolerance, alpha=error) is not Verdict.REGRESSED


@given(
    st.lists(st.floats(0.5, 2), min_size=1, max_size=5),
    st.lists(st.floats(0.5, 2), min_size=1, max_size=5),
    noises,
    tolerances,
)
def test_the_unit_of_time_makes_no_difference(base, head, noise, tolerance) -> None:
    def estimate(factor: float) -> Estimate:
        arms = [[Level.of([value * factor], [0.01 * factor]) for value in arm] for arm in (base, head)]
        return stored_estimate(*arms, noise)

    one, other = estimate(1), estimate(1e3)
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-9)
    assume(all(abs(abs(one.change) - math.log1p(f * tolerance)) > 1e-6 for f in (0.4, 0.8, 1)))
    assert decide(one, tolerance, alpha=0.002) is decide(other, tolerance, alpha=0.002)


def test_a_level_is_the_mean_of_logarithms_and_the_relative_error_of_one_process() -> None:
    level = Level.of([2.0, 8.0], [0.02, 0.16])
    assert level.mean == pytest.approx(math.log(4))
    assert level.processes == 2
    assert level.error == pytest.approx(math.sqrt((0.01**2 + 0.02**2) / 2))


def test_errors_within_sessions_count_once() -> None:
    """Ten sessions that differ by 2 %, each known to 2 %: a session to come lies 2.8 %·√1.1 from their mean."""
    draw = np.random.default_rng(3)
    noise = Noise(0.001, 0.02, session_df=1e-9)
    squares = []
    for _ in range(300):
        base = [Level(float(mean), error=0.02) for mean in draw.normal(0, math.hypot(0.02, 0.02), 10)]
        squares.append(stored_estimate(base, [Level(0.0, error=0.02)], noise).error ** 2)
    assert np.mean(squares) == pytest.approx(2 * 0.02**2 * 1.1, rel=0.1)


def test_sessions_replace_the_prior_as_they_grow_in_number() -> None:
    steady = [Level(0.001 * (-1) ** k) for k in range(20)]
    errors = [stored_estimate(steady[:count], [Level(0.0)], CPU).error for count in (1, 5, 20)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] == pytest.approx(math.sqrt(2 * (0.05**2 + 0.02**2)))
    assert errors[2] < errors[0] / 2


def test_what_sessions_taught_holds_on_without_them() -> None:
    wild = [Level(0.2 * (-1) ** k) for k in range(10)]
    taught = learn(wild, CPU)
    assert taught.df == 9
    assert taught.deviation == pytest.approx(statistics.stdev(level.mean for level in wild))
    with_them = stored_estimate(wild, [Level(0.0)], CPU)
    without = stored_estimate([Level(0.0)], [Level(0.0)], CPU, taught)
    assert without.df == with_them.df
    assert without.error > 0.8 * with_them.error


def test_one_session_teaches_nothing() -> None:
    assert learn([Level(1.0)], CPU) is None
    assert learn([Level(1.0)], CPU, Spread(0.03, 5)) == Spread(pytest.approx(0.03), 5)


def test_what_was_learned_is_worth_no_more_than_a_full_baseline() -> None:
    taught = learn([Level(0.01 * k) for k in range(20)], CPU, Spread(0.05, 15))
    assert taught.df == 19


# Errors divided beforehand


@pytest.mark.parametrize(("comparisons", "each"), [(0, 0.002), (1, 0.002), (10, 0.002), (20, 0.001), (1000, 0.00002)])
def test_the_error_of_a_run_is_divided_among_its_comparisons(comparisons: int, each: float) -> None:
    assert alpha(comparisons) == pytest.approx(each)


@pytest.mark.parametrize(
    ("change", "error", "more"),
    [(0.03, 0.02, True), (0.01, 0.02, False), (0.03, 0.002, False), (0.05, 0.002, True), (-0.05, 0.05, False)],
    ids=["unsure", "looks harmless", "surely below the floor", "above the floor", "better"],
)
def test_more_pairs_are_worth_while_for_what_may_be_regressed(change: float, error: float, more: bool) -> None:
    assert worth_more(Estimate(change, error, 8), 0.05) is more
