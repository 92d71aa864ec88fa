"""Who has which turn: the same for both sides, in an order that favours neither."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.duet.script import (
    COLD_S,
    FEWEST_TOKENS,
    MOST_PREFILLS,
    TURN_S,
    Pace,
    Script,
    Scripts,
    other,
    scripts,
)
from pytest_llmperf.model import plain

WARM = Pace(gap=0.002, ttft=0.02, rests=True)
SECONDS = st.floats(1e-5, 2.0)
PACES = st.builds(Pace, gap=SECONDS, ttft=SECONDS, rests=st.just(True))
LENGTHS = st.integers(2, 700)


def kinds(drawn: Scripts) -> tuple[Iterator[Script], ...]:
    return drawn.whole, drawn.prefills, drawn.decoding


def whole(*paces: Pace, tokens: int = 100, seed: int = 1) -> Script:
    return next(scripts(paces, tokens, seed).whole)


@given(PACES, PACES, LENGTHS)
def test_every_gap_is_in_exactly_one_block(base: Pace, head: Pace, tokens: int) -> None:
    script = whole(base, head, tokens=tokens)
    assert sum(script.blocks) == tokens - 1
    assert max(script.blocks) - min(script.blocks) <= 1
    assert len(script.blocks) == 1 or min(script.blocks) >= FEWEST_TOKENS
    bounds = (1, *(1 + end for end in itertools.accumulate(script.blocks)))
    assert script.ends == bounds[:-1], "after its first token, and after each block but the last"
    assert bounds[-1] == tokens


@given(PACES, PACES, LENGTHS)
def test_both_sides_have_as_many_turns_at_the_same_tokens(base: Pace, head: Pace, tokens: int) -> None:
    script = whole(base, head, tokens=tokens)
    assert Counter(script.order) == {"base": 1 + len(script.ends), "head": 1 + len(script.ends)}
    for first, second in zip(script.order[::2], script.order[1::2], strict=True):
        assert second == other(first), "neither is ahead by more than a turn"


@given(PACES, PACES, LENGTHS)
def test_the_gaps_after_a_switch_do_not_count_and_most_others_do(base: Pace, head: Pace, tokens: int) -> None:
    script = whole(base, head, tokens=tokens)
    starts = [end - 1 for end in script.ends]
    unsteady = set(script.unsteady)
    assert len(unsteady) == len(script.unsteady)
    assert unsteady <= set(range(tokens - 1))
    for start, size in zip(starts, script.blocks, strict=True):
        dropped = unsteady & set(range(start, start + size))
        assert dropped == set(range(start, start + len(dropped))), "those right after the switch"
        assert len(dropped) <= size / 4
        cold = max(base.gap, head.gap) * len(dropped) >= COLD_S
        assert cold or len(dropped) == size // 4, "enough of them, where the block has so many"


def test_turns_of_decoding_take_about_as_long_as_they_should_on_the_slower_side() -> None:
    for gap in (0.0005, 0.001, 0.002, 0.005):
        script = whole(Pace(gap, 0.02, rests=True), Pace(gap / 3, 0.02, rests=True), tokens=1000)
        assert all(0.8 * TURN_S <= size * gap <= 1.2 * TURN_S for size in script.blocks)


@pytest.mark.parametrize("side", [Pace(0.002, 0.02, rests=False), Pace(0.0, 0.02, rests=False)])
def test_rounds_are_whole_where_one_side_cannot_be_made_to_wait(side: Pace) -> None:
    for paces in ((WARM, side), (side, WARM), (side, side)):
        script = whole(*paces)
        assert (script.blocks, script.ends, script.unsteady) == ((), (), ())
        assert sorted(script.order) == ["base", "head"]


def test_a_request_for_one_token_is_one_turn() -> None:
    assert len(whole(WARM, WARM, tokens=1).order) == 2


@pytest.mark.parametrize(
    ("ttft", "prefills"), [(0.0, MOST_PREFILLS), (0.0001, 10), (0.005, 10), (0.01, 5), (0.025, 2), (0.05, 1), (9.0, 1)]
)
def test_a_turn_of_prefills_has_as_many_as_take_the_time_and_one_more_to_warm_up(ttft: float, prefills: int) -> None:
    script = whole(Pace(0.002, ttft / 2, rests=True), Pace(0.002, ttft, rests=True))
    assert (script.prefills, script.warm) == (prefills, prefills > 1)


def test_rounds_of_prefills_alone_have_one_turn_of_each_side_and_as_many_prefills() -> None:
    drawn = scripts((WARM, WARM), 100, seed=1)
    script = next(drawn.prefills)
    assert (script.decodes, script.blocks, script.ends, script.unsteady) == (False, (), (), ())
    assert sorted(script.order) == ["base", "head"]
    assert (script.prefills, script.warm) == (next(drawn.whole).prefills, True)
    assert script.requests == script.prefills + 1


@pytest.mark.parametrize(("ttft", "requests"), [(0.005, 2), (0.06, 1)])
def test_rounds_of_decoding_alone_have_no_more_prefills_than_they_must(ttft: float, requests: int) -> None:
    drawn = scripts((WARM, Pace(0.002, ttft, rests=True)), 100, seed=1)
    script, usual = next(drawn.decoding), next(drawn.whole)
    assert (script.prefills, script.requests) == (0, requests)
    assert (script.decodes, script.blocks, script.cold) == (True, usual.blocks, usual.cold)


def test_the_order_of_turns_is_drawn_anew_for_each_round_and_favours_neither_side() -> None:
    for endless in kinds(scripts((WARM, WARM), 100, seed=3)):
        orders = [script.order for script in itertools.islice(endless, 400)]
        for turn in range(0, len(orders[0]), 2):
            assert 160 <= sum(order[turn] == "base" for order in orders) <= 240, turn
    orders = [script.order for script in itertools.islice(scripts((WARM, WARM), 100, seed=3).whole, 400)]
    assert all(0.4 < sum(order[0] == order[2 * turn] for order in orders) / 400 < 0.6 for turn in (1, 2, 3))


def test_the_order_follows_from_the_seed_alone() -> None:
    drawn = [[s.order for s in itertools.islice(scripts((WARM, WARM), 200, seed).whole, 9)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@given(PACES, PACES, LENGTHS)
def test_a_script_arrives_as_it_was_sent(base: Pace, head: Pace, tokens: int) -> None:
    for endless in kinds(scripts((base, head), tokens, seed=1)):
        script = next(endless)
        assert Script.from_plain(json.loads(json.dumps(plain(script)))) == script
