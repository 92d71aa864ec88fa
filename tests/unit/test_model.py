"""The domain: sizes are checked, samples are numbers, limits are no truth values, results travel."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import UsageError
from pytest_llmperf.metrics import CATALOGUE, summarize
from pytest_llmperf.model import (
    STATISTICS,
    Environment,
    Limit,
    Measurement,
    Memory,
    Result,
    Round,
    Row,
    Sample,
    Trace,
    Unknown,
    Verdict,
    Workload,
    plain,
    quantile,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(min_value=-1e6, max_value=1e6)
sizes = st.integers(min_value=1, max_value=2**40)
SIZES = ("prompt_tokens", "output_tokens", "batch_size", "concurrency")


# Workload


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, True, False, 1.0, 128.5, "8", None])
def test_a_size_that_is_no_positive_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError) as error:
        Workload(**{name: value})
    assert str(error.value) == f"{name}={value!r}: expected a whole number of at least 1"


@pytest.mark.parametrize("name", SIZES)
def test_a_size_of_one_is_enough(name: str) -> None:
    assert getattr(Workload(**{name: 1}), name) == 1


@pytest.mark.parametrize("prompt", ["", 5, ["text"], b"text"])
def test_a_prompt_that_is_no_text_is_refused(prompt: object) -> None:
    with pytest.raises(UsageError, match=r"^prompt=.*: expected text of at least one character$"):
        Workload(prompt=prompt)


def test_a_workload_is_of_the_documented_size_unless_said() -> None:
    assert Workload() == Workload(128, 32, 1, 1, None)


def test_a_workload_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Workload().prompt_tokens = 1


# Trace and Round


def test_gaps_are_between_consecutive_arrivals_and_leave_the_first_token_out() -> None:
    assert Trace(0.0, (1.0, 1.5, 3.5), 8).gaps == (0.5, 2.0)
    assert Trace(0.0, (1.0,), 8).gaps == ()


def test_tokens_are_counted_by_arrival_or_by_chunk() -> None:
    assert Trace(0.0, (1.0, 2.0, 3.0), 8).output_tokens == 3
    assert Trace(0.0, (1.0, 2.0, 3.0), 8, counts=(1, 4, 2)).output_tokens == 7


def test_a_round_lasts_from_the_first_request_sent_to_the_last_token_of_any() -> None:
    taken = Round((Trace(2.0, (3.0, 9.0), 8), Trace(1.5, (2.0, 4.0), 8)))
    assert taken.wall == 7.5


# Sample


def test_a_sample_is_its_median_as_a_number() -> None:
    sample = Sample([[3.0, 1.0], [2.0]])
    assert sample == 2.0
    assert sample < 2.5
    assert 2 * sample == 4.0
    assert f"{sample:.1f}" == "2.0"


def test_the_median_of_an_even_sample_lies_between_the_middle_two() -> None:
    assert Sample([[1.0, 2.0, 4.0, 8.0]]).median == 3.0


def test_every_statistic_of_a_sample_is_the_one_it_is_called() -> None:
    sample = Sample([[float(value) for value in range(1, 52)], [float(value) for value in range(52, 102)]])
    assert {name: sample.statistic(name) for name in STATISTICS} == {
        "median": 51.0,
        "mean": 51.0,
        "min": 1.0,
        "max": 101.0,
        "p50": 51.0,
        "p90": 91.0,
        "p95": 96.0,
        "p99": 100.0,
    }


def test_the_mean_is_not_the_median_of_a_skewed_sample() -> None:
    sample = Sample([[1.0, 1.0, 10.0]])
    assert (sample.mean, sample.median) == (4.0, 1.0)


def test_a_sample_keeps_which_values_came_from_one_round() -> None:
    sample = Sample([[1.0, 2.0], [3.0]])
    assert sample.by_round == ((1.0, 2.0), (3.0,))
    assert sample.samples == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda sample: pickle.loads(pickle.dumps(sample))])
def test_a_copied_sample_keeps_its_rounds(copied) -> None:
    again = copied(Sample([[1.0, 2.0], [3.0]]))
    assert again == 2.0
    assert again.by_round == ((1.0, 2.0), (3.0,))


@given(st.lists(finite, min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_between_the_smallest_and_the_largest(values: list[float], q: float) -> None:
    if max(values) - min(values) == float("inf"):
        return
    assert min(values) <= quantile(values, q) <= max(values)


@given(st.lists(moderate, min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.9, 4.6), (1.0, 5.0)])
def test_a_quantile_is_linear_between_order_statistics(q: float, expected: float) -> None:
    assert quantile([5.0, 3.0, 1.0, 4.0, 2.0], q) == pytest.approx(expected)


# Measurement


def _measurement() -> Measurement:
    trace = Trace(0.0, (0.5, 0.75, 1.0), 8, prefill=0.25)
    return summarize(
        Measurement(
            "fake",
            Workload(8, 3),
            (Round((trace,)),),
            memory=Memory(weights=2**20),
            environment=Environment("cpu", "a processor", "float32", 1, {"torch": "2.13.0"}),
        )
    )


def test_a_measurement_answers_by_metric_name() -> None:
    m = _measurement()
    assert m.ttft_ms == 500.0
    assert m.tpot_ms.samples == (250.0,)
    assert m.weights_mib == 1.0


def test_a_metric_that_could_not_be_had_is_none_with_its_reason() -> None:
    m = _measurement()
    assert m.tokenize_ms is None
    assert m.unknown["tokenize_ms"] == "the prompt was token ids; prompt= measures tokenization"
    assert "ttft_ms" not in m.unknown


def test_a_name_that_is_no_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no 'ttf_ms'; its metrics are ttft_ms, tpot_ms, "):
        _ = _measurement().ttf_ms


def test_traces_are_those_of_all_rounds_in_order() -> None:
    one, two, three = (Trace(float(k), (k + 1.0,), 8) for k in range(3))
    assert Measurement("fake", Workload(), (Round((one, two)), Round((three,)))).traces == (one, two, three)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_measurement_can_be_copied_and_sent_to_another_process(copied) -> None:
    m = _measurement()
    again = copied(m)
    assert again == m
    assert again.ttft_ms.samples == m.ttft_ms.samples


def test_a_measurement_as_json_holds_metrics_rounds_memory_and_reasons() -> None:
    record = json.loads(_measurement().to_json())
    assert record["metrics"]["ttft_ms"] == {"median": 500.0, "samples": [500.0]}
    assert record["metrics"]["itl_ms"] == {"median": 250.0, "samples": [250.0, 250.0]}
    assert record["rounds"][0]["traces"][0]["arrivals"] == [0.5, 0.75, 1.0]
    assert record["memory"]["weights"] == 2**20
    assert record["memory"]["kv_cache"] is None
    assert record["unknown"]["kv_cache_mib"] == "memory was not measured"
    assert record["workload"] == {
        "prompt_tokens": 8,
        "output_tokens": 3,
        "batch_size": 1,
        "concurrency": 1,
        "prompt": None,
    }
    assert record["environment"]["versions"] == {"torch": "2.13.0"}
    assert set(record["metrics"]) | set(record["unknown"]) == set(CATALOGUE)
    assert "samples" not in record


# Limit


def test_a_limit_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match=r"chained comparison such as 10 < itl_ms\.p99 < 50 .*write two limits"):
        bool(Limit("itl_ms", "p99", "<", 50.0))


@pytest.mark.parametrize(
    ("symbol", "below", "at", "above"),
    [("<", True, False, False), ("<=", True, True, False), (">", False, False, True), (">=", False, True, True)],
)
def test_a_limit_holds_on_its_side_of_the_bound(symbol: str, below: bool, at: bool, above: bool) -> None:
    limit = Limit("ttft_ms", "median", symbol, 50.0)
    assert (limit.holds(49.9), limit.holds(50.0), limit.holds(50.1)) == (below, at, above)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit("ttft_ms", "median", "<", 50.0), "ttft_ms < 50"),
        (Limit("itl_ms", "p99", "<=", 12.5), "itl_ms.p99 <= 12.5"),
        (Limit("peak_memory_mib", "median", "<", 123_456.75), "peak_memory_mib < 123456.75"),
    ],
)
def test_a_limit_reads_as_it_is_written(limit: Limit, text: str) -> None:
    assert str(limit) == text
    assert text == f"{limit.subject} {limit.comparison}"


# Verdict and Result


def test_verdicts_are_ordered_from_worst_to_best() -> None:
    assert [verdict.value for verdict in Verdict] == ["BROKEN", "REGRESSED", "INCONCLUSIVE", "NEW", "IMPROVED", "OK"]


def test_only_broken_and_regressed_fail() -> None:
    assert {verdict for verdict in Verdict if verdict.fails} == {Verdict.BROKEN, Verdict.REGRESSED}


@given(st.lists(st.sampled_from(Verdict), min_size=1))
def test_the_worst_verdict_does_not_depend_on_the_order(verdicts: list[Verdict]) -> None:
    order = ["BROKEN", "REGRESSED", "INCONCLUSIVE", "NEW", "IMPROVED", "OK"]
    assert Verdict.worst(verdicts) == min((verdict.value for verdict in verdicts), key=order.index)
    assert Verdict.worst(verdicts) is Verdict.worst(verdicts[::-1])


def test_nothing_judged_has_no_verdict() -> None:
    assert Verdict.worst([]) is None
    assert Result("key", "fake", Workload(), "cpu", 3, (Row("ttft_ms", "median", "ms", 1.0),)).verdict is None


def test_the_verdict_of_a_result_is_the_worst_of_its_rows() -> None:
    rows = [Row("ttft_ms", "median", "ms", 1.0, verdict=v) for v in (Verdict.OK, Verdict.INCONCLUSIVE, None)]
    assert Result("key", "fake", Workload(), "cpu", 3, tuple(rows)).verdict is Verdict.INCONCLUSIVE


_rows = st.builds(
    Row,
    metric=st.sampled_from(sorted(CATALOGUE)),
    statistic=st.sampled_from(STATISTICS),
    unit=st.text(max_size=5),
    value=st.none() | finite,
    low=st.none() | finite,
    high=st.none() | finite,
    limit=st.none() | st.text(max_size=9),
    verdict=st.none() | st.sampled_from(Verdict),
    note=st.text(max_size=9),
    values=st.lists(finite, max_size=4).map(tuple),
)
_results = st.builds(
    Result,
    key=st.text(max_size=9),
    target=st.text(max_size=9),
    workload=st.builds(Workload, sizes, sizes, sizes, sizes, st.none() | st.text(min_size=1, max_size=5)),
    device=st.text(max_size=9),
    rounds=st.integers(0, 1000),
    rows=st.lists(_rows, max_size=4).map(tuple),
    expected_to_fail=st.booleans(),
)


@given(_results)
def test_a_result_comes_back_from_json_as_it_was(result: Result) -> None:
    again = Result.from_plain(json.loads(json.dumps(plain(result))))
    assert again == result
    assert [type(row.verdict) for row in again.rows] == [type(row.verdict) for row in result.rows]


def test_plain_data_has_no_types_of_ours() -> None:
    row = Row("ttft_ms", "median", "ms", None, verdict=Verdict.OK, values=(1.0,))
    assert plain({"row": [row], "why": Unknown("because")}) == {
        "row": [
            {
                "metric": "ttft_ms",
                "statistic": "median",
                "unit": "ms",
                "value": None,
                "low": None,
                "high": None,
                "limit": None,
                "verdict": "OK",
                "note": "",
                "values": [1.0],
            }
        ],
        "why": None,
    }
    assert type(plain(Verdict.OK)) is str
