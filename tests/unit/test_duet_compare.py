"""From pairs of processes to one comparison per metric."""

from __future__ import annotations

import json
import math

import pytest

from pytest_llmperf.baselines.compare import Rules
from pytest_llmperf.duet.compare import PairTaken, compare_pairs, one_after_the_other
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Unknown
from pytest_llmperf.results import Comparison, Verdict
from pytest_llmperf.verdict.comparison import Noise, Pair, most_pairs
from tests.stored import session

TPOT, WEIGHTS = CATALOGUE["tpot_ms"], CATALOGUE["weights_mib"]
CALIBRATED = Noise(process=0.005, session=0.02, df=12, calibrated=True)
KNOWN = Rules(noise={"tpot_ms": CALIBRATED, "output_tokens_per_s": CALIBRATED}, gate=frozenset({"output_tokens_per_s"}))
ASSUMED = Rules()


def pair(change: float = 0.0, error: float = 0.002, metric: str = "tpot_ms", **given: float) -> PairTaken:
    """Head takes 1 + change times as much of the metric."""
    differences = {metric: Pair(math.log1p(change), error)}
    return PairTaken(session(), session(tpot=8.0 * (1 + change), **given), differences, 12)


def compared(*pairs: PairTaken, rules: Rules = KNOWN, metric: str = "tpot_ms") -> Comparison:
    found = compare_pairs(CATALOGUE[metric], pairs, rules)
    assert found is not None
    return found


def test_one_pair_is_no_proof_of_a_regression_and_a_second_is_asked_for() -> None:
    found = compared(pair(0.2))
    assert (found.verdict, found.suspect, found.unfinished) == (Verdict.INCONCLUSIVE, True, True)
    assert found.note == "too few for a verdict; 1 pair"


def test_two_pairs_that_agree_are_a_regression_and_are_told() -> None:
    found = compared(pair(0.2), pair(0.2))
    assert (found.verdict, found.suspect) == (Verdict.REGRESSED, False)
    assert found.change == pytest.approx(0.2)
    assert found.base == pytest.approx(8.0)
    assert found.note == "tolerance 5 %; 2 pairs"


def test_pairs_that_lack_the_metric_are_not_asked_for_without_end() -> None:
    lacking = [pair(metric="ttft_ms") for _ in range(most_pairs("cpu") - 1)]
    assert compared(pair(0.2), *lacking[1:]).suspect
    found = compared(pair(0.2), *lacking)
    assert (found.verdict, found.suspect, found.unfinished) == (Verdict.INCONCLUSIVE, False, False)


def test_one_pair_shows_that_nothing_changed_where_the_noise_is_known() -> None:
    assert compared(pair(0.001)).verdict is Verdict.OK
    assert compared(pair(-0.1)).verdict is Verdict.IMPROVED


def test_one_pair_shows_nothing_where_the_noise_is_assumed_and_nobody_asks_for_more() -> None:
    found = compared(pair(0.001), rules=ASSUMED)
    assert (found.verdict, found.quiet, found.suspect, found.unfinished) == (Verdict.INCONCLUSIVE, True, False, True)
    assert "pair" not in found.note


@pytest.mark.parametrize(("change", "suspect"), [(0.019, False), (0.021, True), (-0.2, False)])
def test_a_suspect_is_what_may_be_more_than_harmless(change: float, suspect: bool) -> None:
    assert compared(pair(change, 0.02), rules=ASSUMED).suspect is suspect


def test_where_higher_is_better_less_is_a_regression() -> None:
    rate = "output_tokens_per_s"
    slower = [PairTaken(session(), session(), {rate: Pair(math.log(0.8), 0.002)})] * 2
    for each in slower:
        each.base.metrics[rate] = each.head.metrics[rate] = session().metrics["tpot_ms"]
    found = compared(*slower, metric=rate)
    assert found.verdict is Verdict.REGRESSED
    assert found.change == pytest.approx(-0.2)


def test_the_last_pair_leaves_nothing_unfinished() -> None:
    noisy = [pair(0.04, 0.05)] * most_pairs("cpu")
    assert compared(*noisy[:-1], rules=ASSUMED).unfinished
    found = compared(*noisy, rules=ASSUMED)
    assert (found.verdict, found.suspect, found.unfinished) == (Verdict.INCONCLUSIVE, False, False)


def test_devices_have_their_own_most_pairs() -> None:
    assert (most_pairs("cuda"), most_pairs("cpu"), most_pairs("mps")) == (4, 8, 8)


def test_the_tolerance_of_a_metric_is_its_own() -> None:
    rules = Rules(noise=KNOWN.noise, tolerances={"tpot_ms": 0.5})
    assert compared(pair(0.2), pair(0.2), rules=rules).verdict is Verdict.OK


def test_counts_are_equal_or_not_in_two_pairs() -> None:
    grown = pair(weights=51.0)
    first = compared(grown, metric="weights_mib")
    assert (first.suspect, first.verdict) == (True, Verdict.INCONCLUSIVE)
    assert compared(grown, grown, metric="weights_mib").verdict is Verdict.REGRESSED
    assert compared(pair(), metric="weights_mib").verdict is Verdict.OK
    unstable = compared(pair(weights=51.0), pair(weights=52.0), metric="weights_mib")
    assert unstable.verdict is Verdict.INCONCLUSIVE
    assert "unstable" in unstable.note


def test_memory_has_its_tolerance() -> None:
    assert compared(pair(peak=100.5), metric="peak_memory_mib").verdict is Verdict.OK
    grown = pair(peak=110.0)
    assert compared(grown, grown, metric="peak_memory_mib").verdict is Verdict.REGRESSED


def test_what_one_side_alone_has_measured() -> None:
    base, head = session(), session()
    del base.metrics["tpot_ms"], head.metrics["weights_mib"]
    pairs = [PairTaken(base, head, {})] * 2
    assert compared(*pairs).verdict is Verdict.NEW
    gone = compare_pairs(WEIGHTS, pairs, KNOWN, Unknown("the engine hides them"))
    assert gone is not None
    assert gone.verdict is Verdict.REGRESSED
    assert gone.note == "no longer measured: the engine hides them"
    assert compare_pairs(CATALOGUE["itl_ms"], pairs, KNOWN) is None


def test_processes_one_after_the_other_are_compared_by_their_medians_and_seen_less_sharply() -> None:
    base, head = session(tpot=8.0), session(tpot=8.8)
    for each in (base, head):
        each.metrics["tpot_ms"] = each.metrics["tpot_ms"].model_copy(update={"error": 0.08})
    apart = one_after_the_other(base, head)
    assert apart.differences["tpot_ms"].difference == pytest.approx(math.log(1.1))
    assert apart.differences["tpot_ms"].error == pytest.approx(math.hypot(0.08 / 8.0, 0.08 / 8.8))
    together = PairTaken(base, head, apart.differences)
    spreads = [compared(each, each).spread or 0 for each in (apart, together)]
    assert spreads[0] > 1.5 * spreads[1]


def test_a_metric_of_zero_is_left_out_of_a_pair_of_medians() -> None:
    assert "tpot_ms" not in one_after_the_other(session(tpot=0.0), session()).differences


def test_a_pair_travels_as_plain_data() -> None:
    taken = pair(0.1)
    assert PairTaken.from_plain(json.loads(json.dumps(taken.to_plain()))) == taken
