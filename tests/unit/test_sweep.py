"""The search for the most load that is borne."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.sweep import CLOSE, most_borne, search


def _tried(borne_up_to: float, most: float, *, whole: bool) -> dict[float, bool]:
    tried: dict[float, bool] = {}

    def bears(load: float) -> bool:
        assert load not in tried, "a load is measured once"
        tried[load] = load <= borne_up_to
        return tried[load]

    search(bears, most, whole=whole)
    return tried


@given(st.integers(0, 600), st.integers(1, 512))
def test_the_most_whole_load_is_found_as_closely_as_promised(borne_up_to: int, most: int) -> None:
    tried = _tried(borne_up_to, most, whole=True)
    found = most_borne(tried)
    assert all(load == int(load) and 1 <= load <= most for load in tried)
    if borne_up_to < 1:
        assert found is None
    elif borne_up_to >= most:
        assert found == most
    else:
        assert found <= borne_up_to <= max(found * CLOSE, found)
        bad = min(load for load, borne in tried.items() if not borne)
        assert bad <= max(found * CLOSE, found + 1)


@given(st.floats(0.6, 400), st.floats(0.5, 300))
def test_the_most_rate_is_found_as_closely_as_promised(borne_up_to: float, most: float) -> None:
    tried = _tried(borne_up_to, most, whole=False)
    found = most_borne(tried)
    if borne_up_to >= most:
        assert found == pytest.approx(most, rel=0.01)
    else:
        assert found is None or found <= borne_up_to <= found * CLOSE * 1.02
        assert found is not None or borne_up_to < 1
    assert len(tried) < 25


def test_it_doubles_and_then_goes_between() -> None:
    assert list(_tried(11, 512, whole=True)) == [1, 2, 4, 8, 16, 11, 13, 12]


@pytest.mark.parametrize("whole", [True, False])
def test_where_the_first_load_is_not_borne_no_lower_one_is_tried(whole: bool) -> None:
    assert list(_tried(0.0, 10, whole=whole)) == [1]


def test_what_is_borne_above_a_load_that_is_not_is_luck() -> None:
    assert most_borne({4: True, 1: True, 2: False}) == 1
    assert most_borne({1: False, 2: True}) is None
    assert most_borne({}) is None
