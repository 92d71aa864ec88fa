"""Growth over sizes: by hand, and through `llm.scaling()` with a label for each size."""

from __future__ import annotations

import copy
import math
import pickle
import re

import numpy as np
import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.limits import parse
from pytest_llmperf.model import Measurement, Sample, Unknown, Workload
from pytest_llmperf.scaling import Scaling, sizes_of
from pytest_llmperf.session import Defaults, Llm, Session
from pytest_llmperf.settings import check

SMALL = "random:gpt2?n_layer=1&n_embd=16&n_head=2&vocab_size=50&n_positions=64"


def scaling(**values: float | Unknown) -> Scaling:
    """Over prompts of 100, 200 and 400 tokens; each metric by a function of the size, or unknown."""

    def at(size: int) -> Measurement:
        samples = {
            name: value if isinstance(value, Unknown) else Sample([[value * size**2 + 1e-9]])
            for name, value in values.items()
        }
        return Measurement("fake", Workload(size), (), samples=samples)

    return Scaling("prompt_tokens", {size: at(size) for size in (100, 200, 400)})


def test_growth_is_the_last_over_the_first_and_the_exponent_that_of_a_power_law() -> None:
    s = scaling(ttft_ms=0.001)
    assert s.ttft_ms.values == pytest.approx((10, 40, 160))
    assert s.ttft_ms.growth == s.trend("ttft_ms").growth == pytest.approx(16)
    assert s.ttft_ms.exponent == s.trend("ttft_ms").exponent == pytest.approx(2)


def test_the_exponent_is_the_least_squares_slope_of_logarithms() -> None:
    samples = {1: 1.0, 10: 10.0, 100: 10.0}
    s = Scaling(
        "batch_size",
        {
            size: Measurement("", Workload(), (), samples={"ttft_ms": Sample([[value]])})
            for size, value in samples.items()
        },
    )
    assert s.ttft_ms.exponent == pytest.approx(0.5)
    assert s.ttft_ms.by_size == samples


def test_a_metric_that_is_unknown_at_a_size_is_named_with_both() -> None:
    s = scaling(tpot_ms=Unknown("one token only"))
    with pytest.raises(UsageError, match=r"tpot_ms is unknown at prompt_tokens=100: one token only"):
        _ = s.tpot_ms


def test_how_a_zero_grows_cannot_be_said() -> None:
    s = Scaling("batch_size", {1: _of(0.0), 2: _of(3.0)})
    for name in ("growth", "exponent"):
        with pytest.raises(UsageError, match="compiles is 0 at batch_size=1: nothing can be said"):
            getattr(s.compiles, name)


def _of(value: float) -> Measurement:
    return Measurement("", Workload(), (), samples={"compiles": Sample([[value]])})


def test_a_name_that_is_no_metric_is_told_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean 'ttft_ms'"):
        _ = scaling().ttft_mss
    with pytest.raises(UsageError, match="'ttft_mss' is no metric; did you mean 'ttft_ms'"):
        scaling().trend("ttft_mss")


def test_it_survives_being_copied_and_sent_and_shows_itself_shortly() -> None:
    s = scaling(ttft_ms=1.0)
    for other in (copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
        assert other.ttft_ms.growth == s.ttft_ms.growth
    assert repr(s) == "<Scaling over prompt_tokens 100, 200, 400>"


# Which sizes


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "expected a list of sizes for exactly one of prompt_tokens, .* none was given"),
        ({"prompt_tokens": 8}, "prompt_tokens=8 was given"),
        ({"prompt_tokens": [8, 16], "batch_size": [1, 2]}, "prompt_tokens= and batch_size= are lists"),
        ({"prompt_tokens": [8]}, r"prompt_tokens=\[8\]: growth needs at least two sizes"),
        ({"prompt_tokens": []}, "at least two sizes"),
        ({"prompt_tokens": [8, 16, 8]}, r"prompt_tokens=\[8, 16, 8\]: 8 is there more than once"),
        ({"prompt_tokens": [8, 0]}, "prompt_tokens=0: expected a whole number"),
        ({"prompt_tokens": [8, 16.0]}, "prompt_tokens=16.0: expected a whole number"),
        ({"prompt_tokens": "8 16"}, "prompt_tokens='8 16' was given"),
        ({"prompt_tokens": {8: 1}, "batch_size": 2}, r"prompt_tokens=\{8: 1\} and batch_size=2 was given"),
        ({"prompt_tokens": [8, True]}, "prompt_tokens=True: expected a whole number"),
        ({"prompt_tokens": np.array([8.0, 16.0])}, r"prompt_tokens=.*8.0.*: expected a whole number"),
    ],
    ids=str,
)
def test_anything_but_one_list_of_different_sizes_is_an_error(keywords: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sizes_of(keywords)


@pytest.mark.parametrize(
    "given",
    [[8, 16], (8, 16), range(8, 17, 8), {8, 16}, iter([8, 16]), np.array([8, 16]), [np.int64(8), 16]],
    ids=["list", "tuple", "range", "set", "iterator", "array", "numbers of numpy"],
)
def test_any_list_will_do(given: object) -> None:
    name, sizes = sizes_of({"prompt_tokens": given, "batch_size": 2})
    assert (name, sorted(sizes)) == ("prompt_tokens", [8, 16])
    assert {type(size) for size in sizes} == {int}


# Through the fixture


@pytest.fixture
def llm() -> Llm:
    session = Session(Defaults(device="cpu", rounds=1, max_time=0.2))
    return Llm(session, "test_chat.py::test_growth", [check((), {"model": SMALL, "output_tokens": 4})])


def test_every_size_is_a_measurement_with_a_label_and_rows_of_its_own(llm: Llm) -> None:
    s = llm.scaling(prompt_tokens=[32, 8], limits="ttft_ms < 60_000", batch_size=2)
    assert list(s.measurements) == [8, 32]
    assert [m.workload for m in s.measurements.values()] == [Workload(8, 4, 2), Workload(32, 4, 2)]
    results = llm.results()
    assert [result.key for result in results] == [
        "test_chat.py::test_growth::prompt_tokens=32",
        "test_chat.py::test_growth::prompt_tokens=8",
    ]
    assert all(row.limit == "< 60000" for result in results for row in result.rows if row.metric == "ttft_ms")
    assert s.kv_cache_mib.growth == pytest.approx(35 / 11)
    assert s.kv_bytes_per_token.growth == 1
    assert math.isclose(s.kv_bytes_per_token.exponent, 0, abs_tol=1e-12)


def test_limits_hold_for_every_size_also_where_they_come_one_by_one(llm: Llm) -> None:
    llm.scaling(output_tokens=[2, 4], prompt_tokens=8, limits=(parse(text) for text in ["ttft_ms < 60_000"]))
    assert [sum(row.limit is not None for row in result.rows) for result in llm.results()] == [1, 1]


def test_a_test_that_scales_twice_gives_labels(llm: Llm) -> None:
    llm.scaling("short", output_tokens=[2, 3], prompt_tokens=4)
    llm.scaling("long", output_tokens=[2, 3], prompt_tokens=40)
    assert [result.label for result in llm.results()] == [
        "short output_tokens=2",
        "short output_tokens=3",
        "long output_tokens=2",
        "long output_tokens=3",
    ]


def test_an_unknown_keyword_is_an_error_before_anything_is_measured(llm: Llm) -> None:
    with pytest.raises(UsageError, match="prompt_tokns=8: no such keyword; did you mean 'prompt_tokens'"):
        llm.scaling(prompt_tokens=[8, 16], prompt_tokns=8)
    assert not llm.measured


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"promt_tokens": [4, 8]}, "promt_tokens=[4, 8]: no such keyword; did you mean 'prompt_tokens'"),
        ({"workload": [Workload(), Workload(256)]}, "workload=[Workload("),
        ({"prompt_tokens": [4, 8], "limits": 5}, "limits=5: expected a list of limits, like [ttft_ms < 50]"),
        ({"prompt_tokens": [4, 8], "limits": ["ttft < 5"]}, "'ttft < 5'"),
        ({"prompt_tokens": [4, 8], "label": ["x"]}, "llm.scaling(['x']): expected a label of one line"),
        ({"prompt_tokens": [4, 8], "label": "ttft_ms < 5"}, "llm.scaling('ttft_ms < 5'): limits go in limits=[…]"),
        ({"prompt_tokens": [4, 10_000]}, "has positions for"),
        ({"concurrency": [1, 2], "prompt_tokens": 8}, "concurrency=2: random:gpt2"),
    ],
    ids=str,
)
def test_whatever_is_wrong_with_one_size_or_all_is_told_before_anything_is_measured(
    llm: Llm, given: dict, told: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        llm.scaling(**given)
    assert not llm.measured


def test_a_text_has_the_length_that_it_has(llm: Llm) -> None:
    with pytest.raises(UsageError, match=r"prompt_tokens=\[8, 16\]: a prompt= text has the length"):
        llm.scaling(prompt_tokens=[8, 16], prompt="a text")
