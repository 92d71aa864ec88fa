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
    Conditions,
    Environment,
    Limit,
    Measurement,
    Memory,
    Operator,
    Phase,
    Profile,
    Round,
    Sample,
    Trace,
    Unknown,
    Workload,
    plain,
    quantile,
    split,
)
from pytest_llmperf.results import Comparison, Explanation, Grown, Result, Row, Verdict

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(min_value=-1e6, max_value=1e6)
sizes = st.integers(min_value=1, max_value=2**14)
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
            environment=Environment(
                "cpu", "a processor", "cpu-a-processor-1c", "float32", 1, {"torch": "2.13.0"}, {"power limit": "700 W"}
            ),
            conditions=Conditions(foreign=0.5, processors=2),
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
    asked = {name: value for name, value in record["workload"].items() if value is not None}
    assert asked == {"prompt_tokens": 8, "output_tokens": 3, "batch_size": 1, "concurrency": 1}
    assert record["environment"] == {
        "device": "cpu",
        "device_name": "a processor",
        "hardware": "cpu-a-processor-1c",
        "dtype": "float32",
        "threads": 1,
        "versions": {"torch": "2.13.0"},
        "machine": {"power limit": "700 W"},
    }
    conditions = {
        "foreign": 0.5,
        "stolen": None,
        "processors": 2,
        "withheld": None,
        "mhz": None,
        "gpus": [],
        "again": 0,
    }
    assert record["conditions"] == conditions
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


def test_results_stand_from_the_worst_to_what_nobody_judged() -> None:
    rows = [(Row("ttft_ms", "median", "ms", 1.0, verdict=verdict),) for verdict in (*Verdict, None)]
    assert [Result("key", "fake", Workload(), "cpu", 3, row).rank for row in rows] == list(range(len(rows)))


def test_what_was_expected_to_fail_is_not_red() -> None:
    failing = Result(
        "key", "fake", Workload(), "cpu", 3, (Row("ttft_ms", "median", "ms", 1.0, verdict=Verdict.BROKEN),)
    )
    assert failing.is_red
    assert not dataclasses.replace(failing, expected_to_fail=True).is_red
    assert not dataclasses.replace(failing, rows=()).is_red


def test_a_metric_has_one_median_however_many_limits_it_has() -> None:
    rows = (
        Row("ttft_ms", "p90", "ms", 3.0),
        Row("ttft_ms", "median", "ms", 2.0, limit="< 4"),
        Row("ttft_ms", "median", "ms", 2.0, limit="> 1"),
        Row("tpot_ms", "median", "ms", None, limit="< 4"),
        Row("latency_ms", "median", "ms", 9.0),
    )
    medians = Result("key", "fake", Workload(), "cpu", 3, rows).medians
    assert [*medians.items()] == [("ttft_ms", rows[1]), ("latency_ms", rows[4])]


def test_the_verdict_of_a_result_is_the_worst_of_its_rows() -> None:
    rows = [Row("ttft_ms", "median", "ms", 1.0, verdict=v) for v in (Verdict.OK, Verdict.INCONCLUSIVE, None)]
    assert Result("key", "fake", Workload(), "cpu", 3, tuple(rows)).verdict is Verdict.INCONCLUSIVE


def _result(*rows: Row, **fields) -> Result:
    return Result("a.py::test", "fake", Workload(), "cpu", 3, rows, **fields)


def test_without_a_baseline_a_result_is_new_unless_a_limit_is_worse() -> None:
    held, broken = (Row("ttft_ms", "median", "ms", 1.0, limit="< 2", verdict=v) for v in (Verdict.OK, Verdict.BROKEN))
    assert _result(held, new="no baseline").verdict is Verdict.NEW
    assert _result(new="no baseline").verdict is Verdict.NEW
    assert _result(held, broken, new="no baseline").verdict is Verdict.BROKEN


@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_a_row_fails_by_its_verdict_unless_options_say_otherwise(verdict: Verdict | None) -> None:
    row = Row("ttft_ms", "median", "ms", 1.0, verdict=verdict)
    assert row.fails is (verdict in (Verdict.BROKEN, Verdict.REGRESSED))
    for outcome in (True, False):
        assert dataclasses.replace(row, outcome=outcome).fails is (outcome and verdict is not None)


def test_a_result_fails_with_any_of_its_rows_or_because_it_is_new() -> None:
    held, broken = (Row("ttft_ms", "median", "ms", 1.0, verdict=v) for v in (Verdict.OK, Verdict.BROKEN))
    assert _result(held, broken).fails
    assert not _result(held, new="no baseline").fails
    assert _result(held, new="no baseline", new_fails=True).fails
    assert not _result(held, dataclasses.replace(broken, outcome=False)).fails


def test_the_test_of_a_result_is_its_key_without_the_label() -> None:
    assert _result().test == "a.py::test"
    assert dataclasses.replace(_result(label="b8"), key="a.py::test[x::y]::b8").test == "a.py::test[x::y]"


def test_a_result_is_quiet_only_where_all_that_is_inconclusive_is() -> None:
    def unsure(*, quiet: bool) -> Row:
        comparison = Comparison(Verdict.INCONCLUSIVE, quiet=quiet)
        return Row("ttft_ms", "median", "ms", 1.0, verdict=Verdict.INCONCLUSIVE, comparison=comparison)

    limited = Row("itl_ms", "p99", "ms", 1.0, limit="< 2", verdict=Verdict.INCONCLUSIVE)
    assert _result(unsure(quiet=True)).quiet
    assert not _result(unsure(quiet=True), unsure(quiet=False)).quiet
    assert not _result(unsure(quiet=True), limited).quiet
    assert not _result(Row("ttft_ms", "median", "ms", 1.0, verdict=Verdict.OK)).quiet


# Comparison


def test_what_would_be_regressed_is_a_suspect_until_enough_processes_agree() -> None:
    found = Comparison(Verdict.REGRESSED, note="tolerance 5 %")
    assert found.after(1, 2) == dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE, suspect=True)
    assert found.after(2, 2) == dataclasses.replace(found, note="tolerance 5 %; 2 processes")
    for verdict in set(Verdict) - {Verdict.REGRESSED}:
        assert Comparison(verdict).after(1, 2) == Comparison(verdict)


# Conditions


@pytest.mark.parametrize(
    ("conditions", "threads", "disturbance"),
    [
        (Conditions(), 1, ""),
        (Conditions(foreign=1.2, stolen=0.2, processors=2), 1, ""),
        (Conditions(foreign=1.3, stolen=0.0, processors=2), 1, "other processes kept 1.3 of 2 cores busy"),
        (Conditions(foreign=0.3, stolen=0.0, processors=2), 2, "other processes kept 0.3 of 2 cores busy"),
        (Conditions(foreign=0.2, stolen=0.0, processors=2), 64, ""),
        (Conditions(foreign=0.2, stolen=0.0, processors=2), 2, ""),
        (Conditions(foreign=0.0, stolen=0.3, processors=64), 1, "the hypervisor took 0.3 cores away"),
        (Conditions(foreign=Unknown("?"), stolen=Unknown("?"), processors=1), 1, ""),
    ],
)
def test_a_measurement_is_disturbed_when_its_threads_lack_cores(
    conditions: Conditions, threads: int, disturbance: str
) -> None:
    assert conditions.disturbance(threads) == disturbance


_comparisons = st.builds(
    Comparison,
    verdict=st.sampled_from(Verdict),
    base=st.none() | finite,
    change=st.none() | finite,
    spread=st.none() | finite,
    note=st.text(max_size=9),
    quiet=st.booleans(),
    suspect=st.booleans(),
    cause=st.sampled_from(["", "conditions", "versions"]),
)
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
    comparison=st.none() | _comparisons,
    outcome=st.none() | st.booleans(),
)
_positive = st.floats(min_value=1e-6, max_value=1e3)
_phases = st.one_of(
    st.builds(lambda why: Phase(*4 * [Unknown(why)]), st.text(max_size=9)),
    st.builds(
        Phase,
        ops=_positive,
        syncs=_positive,
        kernels=_positive,
        seconds=_positive,
        operators=st.lists(
            st.builds(Operator, st.text(max_size=9), _positive, _positive, st.just(0.0) | _positive), max_size=3
        ).map(tuple),
    ),
)
_profiles = st.builds(Profile.of, st.text(max_size=9), st.builds(Workload, sizes, sizes), _phases, _phases)
_pairs = st.none() | st.tuples(st.floats(0, 9), st.floats(0, 9))
_explanations = st.builds(
    Explanation,
    st.dictionaries(
        st.sampled_from(["prefill", "decode"]),
        st.lists(st.builds(Grown, st.text(max_size=4), _pairs, _pairs), max_size=2).map(tuple),
    ),
    st.lists(st.text(max_size=9), max_size=2).map(tuple),
    st.text(max_size=9),
)
_results = st.builds(
    Result,
    key=st.text(max_size=9),
    target=st.text(max_size=9),
    workload=st.builds(Workload, sizes, sizes, sizes, sizes, st.none() | st.text(min_size=1, max_size=5)),
    device=st.text(max_size=9),
    rounds=st.integers(0, 1000),
    rows=st.lists(_rows, max_size=4).map(tuple),
    label=st.text(max_size=9),
    new=st.text(max_size=9),
    new_fails=st.booleans(),
    since=st.lists(st.text(max_size=9), max_size=2).map(tuple),
    recording=st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    unfit=st.text(max_size=9),
    explanation=st.none() | _explanations,
    expected_to_fail=st.booleans(),
    profile=st.none() | _profiles,
)


@given(_results)
def test_a_result_comes_back_from_json_as_it_was(result: Result) -> None:
    again = Result.from_plain(json.loads(json.dumps(plain(result))))
    assert again == result
    assert [type(row.verdict) for row in again.rows] == [type(row.verdict) for row in result.rows]
    compared = [row.comparison for row in again.rows if row.comparison]
    assert all(type(comparison.verdict) is Verdict for comparison in compared)


def test_plain_data_has_no_types_of_ours() -> None:
    comparison = Comparison(Verdict.REGRESSED, base=1.0)
    row = Row("ttft_ms", "median", "ms", None, verdict=Verdict.OK, values=(1.0,), comparison=comparison)
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
                "comparison": {
                    "verdict": "REGRESSED",
                    "base": 1.0,
                    "change": None,
                    "spread": None,
                    "note": "",
                    "quiet": False,
                    "suspect": False,
                    "unfinished": False,
                    "cause": "",
                },
                "outcome": None,
            }
        ],
        "why": None,
    }
    assert type(plain(Verdict.OK)) is str


# Phases and profiles


@given(_phases)
def test_the_shares_of_a_phase_sum_to_one_unless_kernels_overlap(phase: Phase) -> None:
    shares = split(phase)
    if isinstance(phase.seconds, Unknown):
        assert set(shares.values()) == {None}
        return
    busy = sum(share for name, share in shares.items() if name != "outside" and share is not None)
    assert shares["outside"] == pytest.approx(max(0.0, 1 - busy))


def test_shares_are_of_the_host_unless_kernels_ran() -> None:
    mm, view = Operator("aten::mm", 1.0, 0.001), Operator("aten::view", 4.0, 0.002)
    host = Phase(2.0, 0.0, Unknown("none"), 0.010, (mm, view))
    assert (host.compute, host.overhead, host.elementwise) == (pytest.approx(0.1), pytest.approx(0.2), 0.0)
    assert host.outside == pytest.approx(0.7)
    device = dataclasses.replace(host, operators=(dataclasses.replace(mm, device=0.006), view))
    assert (device.compute, device.overhead, device.outside) == (pytest.approx(0.6), 0.0, pytest.approx(0.4))


def test_an_operator_is_found_with_or_without_namespace_and_underscores() -> None:
    softmax, inner = Operator("aten::softmax", 1.0, 0.001), Operator("aten::_softmax", 1.0, 0.004)
    read, launch = Operator("aten::_local_scalar_dense", 1.0, 0.001), Operator("cudaLaunchKernel", 9.0, 0.001)
    phase = Phase(1.0, 0.0, 0.0, 0.010, (inner, softmax, read, launch))
    assert phase.find("aten::softmax") is softmax
    assert phase.find("aten::_softmax") is inner
    assert phase.find("softmax") is inner, "the longest"
    for name in ("aten::_local_scalar_dense", "aten::local_scalar_dense", "_local_scalar_dense", "local_scalar_dense"):
        assert phase.find(name) is read
    assert phase.find("cudaLaunchKernel") is launch
    assert phase.find("aten::nonzero") is None


@pytest.mark.parametrize(
    ("name", "near"), [("aten::nonzeroo", "aten::nonzero"), ("local_scalar_dens", "local_scalar_dense")]
)
def test_a_name_that_torch_does_not_know_is_refused(name: str, near: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=rf"find\('{name}'\): torch has no such operator; did you mean '{near}'\?"):
        Phase().find(name)


@pytest.mark.parametrize("name", ["cudaLaunchKernel", "triton_poi_fused_0", "not_loaded::gemv", "a range of a user"])
def test_a_name_that_is_no_operators_may_be_missing(name: str) -> None:
    pytest.importorskip("torch")
    assert Phase().find(name) is None


def test_a_phase_names_its_largest_operators_where_an_assertion_shows_it() -> None:
    rows = [Operator(f"aten::op{number}", 1.0, number / 1e3) for number in range(1, 5)]
    seen = Phase(1.0, 0.0, Unknown("none"), 0.030, tuple(rows))
    assert repr(seen) == "<Phase: 30 ms, aten::op4 13.3 %, aten::op3 10 %, aten::op2 6.7 %>"
    profile = Profile.of("fake", Workload(8, 1), seen, Phase(*4 * [Unknown("one token")]))
    assert repr(profile) == (
        "<Profile of fake: prefill 30 ms, aten::op4 13.3 %, aten::op3 10 %, aten::op2 6.7 %; decode one token>"
    )


def test_a_profile_as_json_has_shares_beside_what_was_seen() -> None:
    seen = Phase(1.0, 0.0, Unknown("none"), 0.010, (Operator("aten::mm", 1.0, 0.004),))
    profile = Profile.of("fake", Workload(8, 1), seen, Phase(*4 * [Unknown("one token")]))
    record = json.loads(profile.to_json())
    assert record["prefill"]["compute"] == 0.4
    assert record["prefill"]["operators"] == [{"name": "aten::mm", "calls": 1.0, "host": 0.004, "device": 0.0}]
    assert record["decode"]["seconds"] is None
    assert record["decode"]["outside"] is None
    assert record["unknown"] == {"decode": "one token"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("concurrency", 10**6, "concurrency=1000000: expected at most 16,384"),
        ("requests", 10**7, "requests=10000000: expected at most 1,000,000"),
        ("request_rate", 1e9, "request_rate=1000000000.0: expected requests per second, from 0.001 to 100,000"),
        ("request_rate", 1e-9, "request_rate=1e-09: expected requests per second, from 0.001"),
        ("request_rate", float("nan"), "request_rate=nan: expected requests per second"),
    ],
)
def test_a_load_that_would_never_end_is_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(UsageError) as error:
        Workload(**{name: value})
    assert said in str(error.value)


def test_the_greatest_loads_are_none_too_many() -> None:
    assert Workload(concurrency=16_384, requests=10**6).loads
    assert Workload(request_rate=100_000).loads
    assert Workload(request_rate=0.001).loads
