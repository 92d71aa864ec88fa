"""The smallest change that the rule sees: what is reported is what the rule does."""

from __future__ import annotations

import math
import random

import pytest

from pytest_llmperf.results import Verdict
from pytest_llmperf.verdict.comparison import Level, Noise, Pair, alpha, decide, pairs_verdict, stored_estimate
from pytest_llmperf.verdict.visible import visible_duet, visible_stored

QUIET = Noise(0.004, 0.008, df=10, session_df=9, calibrated=True)
LOUD = Noise(0.02, 0.05)


def test_more_sessions_see_smaller_changes() -> None:
    found = [visible_stored(QUIET, sessions, 0.05) or math.inf for sessions in (1, 5, 20)]
    assert found == sorted(found, reverse=True)
    assert found[2] < 0.9 * found[0]


def test_a_louder_machine_sees_less() -> None:
    assert (visible_stored(LOUD, 5, 0.05) or math.inf) > 2 * (visible_stored(QUIET, 5, 0.05) or math.inf)
    assert (visible_duet(LOUD, 0.02, 0.05, 8) or math.inf) > (visible_duet(QUIET, 0.004, 0.05, 8) or math.inf)


def test_no_change_below_four_fifths_of_the_tolerance_is_ever_seen() -> None:
    silent = Noise(1e-6, 1e-6, df=100, session_df=100, calibrated=True)
    assert visible_stored(silent, 20, 0.05) == pytest.approx(0.05, abs=0.001), "below that it is OK"
    assert 0.04 <= (visible_duet(silent, 1e-6, 0.05, 8) or 0) <= 0.051


def test_where_no_change_would_be_seen_that_is_said() -> None:
    assert visible_stored(Noise(0.5, 3.0), 1, 0.05) is None


def test_what_a_stored_baseline_is_said_to_see_is_caught_four_times_in_five() -> None:
    change = math.log1p(visible_stored(QUIET, 5, 0.05) or 0)
    draw = random.Random(11)
    spread = math.hypot(QUIET.process, QUIET.session)
    head = math.hypot(QUIET.process / math.sqrt(2), QUIET.session)
    caught = 0
    for _ in range(400):
        base = [Level(draw.gauss(0, spread)) for _ in range(5)]
        estimate = stored_estimate(base, [Level(draw.gauss(change, head), 2)], QUIET)
        caught += decide(estimate, 0.05, alpha=alpha(1)) is Verdict.REGRESSED
    assert 0.7 < caught / 400 < 0.9


def test_what_a_duet_is_said_to_see_is_caught_four_times_in_five() -> None:
    noise = Noise(0.01, 0.03, df=10, calibrated=True)
    change = math.log1p(visible_duet(noise, 0.01, 0.05, 8) or 0)
    draw = random.Random(11)
    caught = 0
    for _ in range(300):
        pairs: list[Pair] = []
        verdict = Verdict.INCONCLUSIVE
        while verdict is Verdict.INCONCLUSIVE and len(pairs) < 8:
            pairs.append(Pair(draw.gauss(change, math.hypot(math.sqrt(2) * 0.01, 0.01)), 0.01))
            verdict = pairs_verdict(pairs, noise, 0.05, alpha=alpha(1), most=8)
        caught += verdict is Verdict.REGRESSED
    assert 0.68 < caught / 300 < 0.92
