"""The catalogue: each figure by hand, each direction proved, each unknown with its reason."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.metrics import CATALOGUE, Better, Kind, Metric, Per, summarize
from pytest_llmperf.model import (
    Ceilings,
    Counts,
    Environment,
    Failure,
    Limit,
    Measurement,
    Memory,
    Outcome,
    Phase,
    Round,
    Sample,
    Trace,
    Unknown,
    Work,
    Workload,
)

NANOSECOND_MS = 1e-6
MIB = 1_048_576


def _measured(*rounds: Round, **fields) -> Measurement:
    return summarize(Measurement("fake", Workload(8, 4), rounds, **fields))


def _of(*traces: Trace, **fields) -> Measurement:
    return _measured(Round(traces), **fields)


def _exactly(value: float):
    return pytest.approx(value, rel=0, abs=NANOSECOND_MS)


# Arithmetic of traces

UNEVEN = Trace(sent=100.0, arrivals=(100.123456789, 100.133456790, 100.150000001, 100.160000004), prompt_tokens=8)
"""Four tokens, with gaps of 10.000001, 16.543211 and 10.000003 ms."""


def test_the_times_of_one_request_are_exact_to_the_nanosecond() -> None:
    m = _of(UNEVEN)
    assert m.ttft_ms == _exactly(123.456789)
    assert m.latency_ms == _exactly(160.000004)
    assert m.tpot_ms == _exactly(36.543215 / 3)
    assert m.itl_ms.samples == (_exactly(10.000001), _exactly(16.543211), _exactly(10.000003))


def test_phases_outside_the_request_are_converted_and_kept_out_of_its_latency() -> None:
    m = _of(dataclasses.replace(UNEVEN, prefill=0.101000001, tokenize=0.002000003, detokenize=0.000500007))
    assert m.prefill_ms == _exactly(101.000001)
    assert m.tokenize_ms == _exactly(2.000003)
    assert m.detokenize_ms == _exactly(0.500007)
    assert m.latency_ms == _exactly(160.000004)


def test_a_median_over_requests_ignores_how_they_fall_into_rounds() -> None:
    traces = [Trace(0.0, (first, first + 0.010), 8) for first in (0.030, 0.010, 0.020)]
    spread_out = _measured(*(Round((trace,)) for trace in traces))
    together = _of(*traces)
    assert spread_out.ttft_ms == together.ttft_ms == _exactly(20.0)
    assert [len(values) for values in spread_out.ttft_ms.by_round] == [1, 1, 1]
    assert [len(values) for values in together.ttft_ms.by_round] == [3]


def test_gaps_are_pooled_over_requests_within_their_round() -> None:
    one = Trace(0.0, (0.1, 0.11, 0.13), 8)
    two = Trace(0.0, (0.2, 0.24), 8)
    m = _measured(Round((one, two)), Round((two,)))
    assert [len(values) for values in m.itl_ms.by_round] == [3, 1]
    assert sorted(m.itl_ms.samples) == [_exactly(10.0), _exactly(20.0), _exactly(40.0), _exactly(40.0)]


def test_a_batch_counts_its_tokens_in_rates_and_not_in_times() -> None:
    single = Trace(sent=10.0, arrivals=(10.5, 11.0, 11.5, 12.0), prompt_tokens=100)
    batch = dataclasses.replace(single, sequences=8)
    assert _of(single).output_tokens_per_s == 2.0
    assert _of(batch).output_tokens_per_s == 16.0  # 8 sequences × 4 tokens in 2 s
    assert _of(single).total_tokens_per_s == 52.0
    assert _of(batch).total_tokens_per_s == 416.0  # 8 × (100 + 4) in 2 s
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "latency_ms"):
        assert _of(batch).samples[name] == _of(single).samples[name]


def test_rates_are_of_all_requests_over_the_time_of_the_whole_round() -> None:
    early = Trace(sent=0.0, arrivals=(1.0, 2.0), prompt_tokens=10)
    late = Trace(sent=1.0, arrivals=(3.0, 3.5, 4.0), prompt_tokens=30)
    m = _of(early, late)
    assert m.output_tokens_per_s == 5 / 4.0
    assert m.total_tokens_per_s == 45 / 4.0


def test_each_round_is_one_sample_of_a_rate() -> None:
    m = _measured(Round((Trace(0.0, (1.0, 2.0), 8),)), Round((Trace(5.0, (5.5, 6.0), 8),)))
    assert m.output_tokens_per_s.by_round == ((1.0,), (2.0,))


def _sent(at: float, *arrivals: float, tokens: int | None = None) -> Trace:
    return Trace(at, arrivals, prompt_tokens=10, tokens=tokens)


def test_a_rate_takes_in_what_others_of_the_load_got_meanwhile_and_no_more() -> None:
    """From 10 to 14 s: two requests that count, one that began before them, one that ended after them."""
    counted = (_sent(10.0, 11.0, 12.0), _sent(12.0, 13.0, 14.0))
    before, after = _sent(8.0, 9.0, 10.0, 11.0), _sent(13.0, 14.0, 15.0)
    m = _measured(Round(counted, beside=(before, after)))
    assert m.output_tokens_per_s == (4 + 2 + 1) / 4
    assert m.total_tokens_per_s == (4 + 2 + 1 + 3 * 10) / 4  # the prompt of the first came before
    assert m.requests_per_s == (2 + 1) / 4
    assert len(m.ttft_ms.samples) == 2


def test_tokens_that_are_only_known_in_all_are_spread_over_the_arrivals() -> None:
    beside = _sent(8.0, 9.0, 11.0, tokens=8)
    m = _measured(Round((_sent(10.0, 11.0, 12.0, tokens=6),), beside=(beside,)))
    assert m.output_tokens_per_s == (6 + 4) / 2
    assert m.tpot_ms == 1000 / 5
    assert m.tokens_per_step == 3


def test_of_what_was_drafted_some_was_accepted() -> None:
    """Four steps bring ten tokens: six of them were drafted, out of eight."""
    m = _of(dataclasses.replace(_sent(0.0, 1.0, 2.0, 3.0, 4.0), counts=(1, 4, 4, 1), drafted=8))
    assert m.acceptance_rate == 6 / 8
    assert "without assistance" in _of(UNEVEN).unknown["acceptance_rate"]
    assert "drafted no token" in _of(dataclasses.replace(UNEVEN, drafted=0)).unknown["acceptance_rate"]


def _with_objectives(*limits: Limit) -> Measurement:
    """Of 200 and 300 ms to the first token, and gaps of 100 and 500 ms, and of 100 and 100."""
    uneven, even = _sent(0.0, 0.2, 0.3, 0.8), _sent(1.0, 1.3, 1.4, 1.5)
    return _of(uneven, even, objectives=limits)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ([Limit("ttft_ms", "median", "<", 250)], 1),
        ([Limit("ttft_ms", "p99", "<", 350)], 2),
        ([Limit("ttft_ms", "median", "<", 250), Limit("tpot_ms", "median", "<", 200)], 0),
        ([Limit("itl_ms", "median", "<=", 400)], 2),
        ([Limit("itl_ms", "max", "<=", 400)], 1),
        ([Limit("latency_ms", "mean", "<", 600)], 1),
    ],
)
def test_goodput_is_of_requests_that_by_themselves_keep_every_limit(limits: list[Limit], good: int) -> None:
    m = _with_objectives(*limits)
    assert m.goodput_per_s == pytest.approx(good / 1.5)


def test_goodput_without_limits_on_times_is_unknown() -> None:
    assert "limits none of the times of a request" in _with_objectives().unknown["goodput_per_s"]


def test_goodput_counts_no_failed_request() -> None:
    limits = (Limit("ttft_ms", "median", "<", 1000),)
    failed = _measured(Round((_sent(0.0, 0.5, 1.0),), failures=(Failure(Outcome.CLOSED),)), objectives=limits)
    assert failed.goodput_per_s == 1.0


def test_failed_requests_are_a_share_of_all_that_were_sent() -> None:
    failed = Failure(Outcome.SERVER_ERROR, "HTTP 500")
    rounds = Round((UNEVEN,), beside=(UNEVEN,), failures=(failed,)), Round((UNEVEN, UNEVEN))
    served = Environment(device="served:somewhere")
    assert _measured(*rounds, environment=served).failed_share == 1 / 5
    assert _measured(Round((UNEVEN,)), environment=served).failed_share == 0
    assert "to a server" in _measured(Round((UNEVEN,))).unknown["failed_share"]


def test_the_cost_of_tokens_is_that_of_the_hours_that_they_take() -> None:
    m = _of(_sent(0.0, 0.5, 1.0), price_per_hour=3.6)  # two tokens a second, a thousandth a second
    assert m.cost_per_million_tokens == pytest.approx(500)
    assert _of(UNEVEN).unknown["cost_per_million_tokens"] == "llmperf_price_per_hour is not set"


def test_an_answer_of_one_token_in_a_mix_lacks_only_its_own_time_per_token() -> None:
    single = _sent(0.0, 0.5)
    m = _measured(Round((single, UNEVEN)), Round((single,)))
    assert m.tpot_ms.samples == (_exactly(36.543215 / 3),)
    assert len(m.itl_ms.samples) == 3
    assert len(m.ttft_ms.samples) == 3


def test_a_chunk_of_several_tokens_is_one_gap_and_all_its_tokens() -> None:
    chunked = Trace(sent=1.0, arrivals=(1.1, 1.2, 1.5), prompt_tokens=8, counts=(1, 4, 2))
    m = _of(chunked)
    assert m.itl_ms.samples == (_exactly(100.0), _exactly(300.0))
    assert m.tpot_ms == _exactly(400.0 / 6)
    assert m.output_tokens_per_s == pytest.approx(7 / 0.5)
    assert m.latency_ms == _exactly(500.0)


def test_one_token_has_no_time_per_token_and_no_gap_and_says_why() -> None:
    m = _of(Trace(0.0, (0.25,), 8))
    assert m.ttft_ms == m.latency_ms == 250.0
    assert m.tpot_ms is None
    assert m.itl_ms is None
    assert m.unknown["tpot_ms"] == "time per output token needs at least 2 output tokens"
    assert m.unknown["itl_ms"] == "inter-token latency needs at least 2 arrivals"


def test_one_chunk_of_several_tokens_does_not_claim_there_was_one_token() -> None:
    m = _of(Trace(0.0, (0.25,), 8, counts=(4,)))
    assert m.itl_ms is None
    assert "needs at least 2 output tokens" not in m.unknown["itl_ms"]


def test_one_request_without_a_figure_leaves_the_whole_metric_unknown() -> None:
    known = dataclasses.replace(UNEVEN, tokenize=0.001)
    unseen = dataclasses.replace(UNEVEN, tokenize=Unknown("the second one sent ids"))
    m = _measured(Round((known,)), Round((unseen,)))
    assert m.tokenize_ms is None
    assert m.unknown["tokenize_ms"] == "the second one sent ids"


def test_no_round_at_all_is_unknown_and_not_zero() -> None:
    m = _measured()
    assert m.unknown["ttft_ms"] == "no round was taken"
    assert m.ttft_ms is None


_seconds = st.floats(min_value=1e-6, max_value=100.0)


@settings(deadline=None)
@given(st.floats(0, 1e5), st.lists(_seconds, min_size=2, max_size=40), st.integers(1, 16))
def test_latency_is_ttft_and_the_time_of_all_further_tokens(sent: float, steps: list[float], batch: int) -> None:
    arrivals, now = [], sent
    for step in steps:
        now += step
        arrivals.append(now)
    m = _of(Trace(sent, tuple(arrivals), 8, sequences=batch))
    further = len(steps) - 1
    assert m.latency_ms == pytest.approx(m.ttft_ms + m.tpot_ms * further, rel=1e-12, abs=NANOSECOND_MS)
    assert math.fsum(m.itl_ms.samples) == pytest.approx(m.tpot_ms * further, rel=1e-12, abs=NANOSECOND_MS)


@settings(deadline=None)
@given(st.lists(st.tuples(_seconds, st.integers(1, 8)), min_size=2, max_size=20))
def test_latency_is_ttft_and_further_tokens_also_where_chunks_hold_several(chunks: list[tuple[float, int]]) -> None:
    arrivals, now = [], 50.0
    for step, _ in chunks:
        now += step
        arrivals.append(now)
    counts = tuple(count for _, count in chunks)
    m = _of(Trace(50.0, tuple(arrivals), 8, counts=counts))
    assert m.latency_ms == pytest.approx(m.ttft_ms + m.tpot_ms * (sum(counts) - 1), rel=1e-12, abs=NANOSECOND_MS)


# Load, first request, memory


def test_load_and_first_request_are_single_figures() -> None:
    m = _of(UNEVEN, load=2.5, cold=Trace(0.0, (0.75, 0.80), 8))
    assert m.load_s.samples == (2.5,)
    assert m.cold_ttft_ms.samples == (750.0,)


def test_a_target_that_was_loaded_before_has_neither_load_nor_cold_time() -> None:
    m = _of(UNEVEN)
    assert m.unknown["load_s"] == "the target was not loaded for this measurement"
    assert m.unknown["cold_ttft_ms"] == "the target had served requests before"


MEMORY = Memory(
    weights=100 * MIB,
    kv_cache=6 * MIB,
    peak_growth=20 * MIB,
    leaked_per_call=MIB // 2,
    reserved=256 * MIB,
    fragmentation=30 * MIB,
    process_gpu=700 * MIB,
    device_gpu=800 * MIB,
    peak_rss=1024 * MIB,
)


def test_memory_is_told_in_mebibytes_and_split_without_remainder() -> None:
    m = _of(UNEVEN, memory=MEMORY)
    figures = {name: float(value) for name, value in m.samples.items() if name.endswith("_mib")}
    assert figures == {
        "peak_memory_mib": 120.0,
        "weights_mib": 100.0,
        "kv_cache_mib": 6.0,
        "activations_mib": 14.0,
        "leak_mib": 0.5,
        "peak_reserved_mib": 256.0,
        "fragmentation_mib": 30.0,
        "process_gpu_mib": 700.0,
        "device_gpu_mib": 800.0,
        "peak_rss_mib": 1024.0,
    }
    assert m.peak_memory_mib == m.weights_mib + m.kv_cache_mib + m.activations_mib


@pytest.mark.parametrize(
    ("field", "lost"),
    [
        ("weights", {"weights_mib", "peak_memory_mib"}),
        ("kv_cache", {"kv_cache_mib", "activations_mib"}),
        ("peak_growth", {"peak_memory_mib", "activations_mib"}),
        ("leaked_per_call", {"leak_mib"}),
        ("reserved", {"peak_reserved_mib"}),
        ("fragmentation", {"fragmentation_mib"}),
        ("process_gpu", {"process_gpu_mib"}),
        ("device_gpu", {"device_gpu_mib"}),
        ("peak_rss", {"peak_rss_mib"}),
    ],
)
def test_what_memory_could_not_be_seen_is_unknown_with_its_reason_and_nothing_else_is(
    field: str, lost: set[str]
) -> None:
    m = _of(UNEVEN, memory=dataclasses.replace(MEMORY, **{field: Unknown("out of sight")}))
    assert {name: why for name, why in m.unknown.items() if name.endswith("_mib")} == dict.fromkeys(
        lost, "out of sight"
    )


def test_memory_that_nothing_used_is_zero_and_known() -> None:
    m = _of(UNEVEN, memory=dataclasses.replace(MEMORY, leaked_per_call=0))
    assert m.leak_mib == 0.0
    assert "leak_mib" not in m.unknown


# Counts

COUNTS = Counts(
    prefill=Phase(ops=90.0, syncs=2.0, kernels=60.0),
    decode=Phase(ops=75.5, syncs=1.0, kernels=50.0),
    prefill_work=Work(flops=8_000_000, weight_bytes=4_000),
    decode_work=Work(flops=3_000_000.0, weight_bytes=4_000.0),
    flops_by_step=(2_999_000, 3_001_000),
    cache_growth=1024.0,
    compiles=0,
)


def test_counts_are_those_of_a_step_and_flops_of_a_step_are_shared_by_its_sequences() -> None:
    m = summarize(Measurement("fake", Workload(8, 4, batch_size=2), (Round((UNEVEN,)),), counts=COUNTS))
    assert m.flops_per_token == 1_500_000
    assert m.prefill_flops == 8_000_000
    assert (m.ops_per_token, m.syncs_per_token, m.kernels_per_token) == (75.5, 1, 50)
    assert m.kv_bytes_per_token == 1024
    assert m.compiles == 0


@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        ({"decode": Phase(*4 * [Unknown("out of sight")])}, {"ops_per_token", "syncs_per_token", "kernels_per_token"}),
        ({"decode_work": Work(Unknown("out of sight"))}, {"flops_per_token"}),
        ({"decode_work": Work(1.0, Unknown("out of sight"))}, {"mbu"}),
        ({"prefill_work": Work(Unknown("out of sight"))}, {"prefill_flops", "mfu"}),
        ({"cache_growth": Unknown("out of sight")}, {"kv_bytes_per_token"}),
        ({"compiles": Unknown("out of sight")}, {"compiles"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_was_not_counted_is_unknown_with_its_reason_and_nothing_else_is(counts: dict, lost: set[str]) -> None:
    m = _of(UNEVEN, counts=dataclasses.replace(COUNTS, **counts))
    assert {name for name, why in m.unknown.items() if why == "out of sight"} == lost


def test_without_a_counting_pass_every_count_says_so() -> None:
    said = {name for name, why in _of(UNEVEN).unknown.items() if why == "no counting pass was made"}
    counted = {name for name, metric in CATALOGUE.items() if metric.kind is Kind.COUNTED and metric.unit != "MiB"}
    assert said == counted | {"mbu", "mfu"}


# Directions

_TRACE = Trace(
    sent=100.0,
    arrivals=(100.1, 100.11, 100.12, 100.13),
    prompt_tokens=8,
    sequences=2,
    prefill=0.08,
    tokenize=0.002,
    detokenize=0.001,
    counts=(1, 1, 1, 1),
    drafted=2,
)
CEILINGS = Ceilings(bandwidth=1e9, flop_rate=1e11)
BEFORE = Measurement(
    "fake",
    Workload(8, 4, 2),
    (Round((_TRACE,), energy=8.0),) * 3,
    memory=MEMORY,
    counts=COUNTS,
    ceilings=CEILINGS,
    load=2.0,
    cold=Trace(0.0, (0.9, 1.0), 8),
    environment=Environment(device="served:somewhere"),
    objectives=(Limit("ttft_ms", "median", "<", 120),),
    price_per_hour=3.6,
)


def _trace(change: Callable[[Trace], Trace]) -> Measurement:
    rounds = tuple(Round(tuple(change(trace) for trace in taken.traces)) for taken in BEFORE.rounds)
    return dataclasses.replace(BEFORE, rounds=rounds)


def _rounds(**changed: object) -> Measurement:
    return dataclasses.replace(BEFORE, rounds=tuple(dataclasses.replace(each, **changed) for each in BEFORE.rounds))


def _later(first: float = 0.0, each_gap: float = 0.0) -> Measurement:
    return _trace(
        lambda trace: dataclasses.replace(
            trace, arrivals=tuple(t + first + k * each_gap for k, t in enumerate(trace.arrivals))
        )
    )


def _memory(**more: int) -> Measurement:
    memory = {name: getattr(MEMORY, name) + count for name, count in more.items()}
    return dataclasses.replace(BEFORE, memory=dataclasses.replace(MEMORY, **memory))


def _counts(**changed: object) -> Measurement:
    return dataclasses.replace(BEFORE, counts=dataclasses.replace(COUNTS, **changed))


WORSENED = {
    "ttft_ms": _later(first=0.05),
    "tpot_ms": _later(each_gap=0.005),
    "itl_ms": _later(each_gap=0.005),
    "latency_ms": _later(each_gap=0.005),
    "prefill_ms": _trace(lambda trace: dataclasses.replace(trace, prefill=0.09)),
    "tokenize_ms": _trace(lambda trace: dataclasses.replace(trace, tokenize=0.003)),
    "detokenize_ms": _trace(lambda trace: dataclasses.replace(trace, detokenize=0.002)),
    "tokens_per_step": _trace(lambda trace: dataclasses.replace(trace, counts=(1, 1, 1, 0))),  # one brings nothing
    "acceptance_rate": _trace(lambda trace: dataclasses.replace(trace, counts=(1, 1, 1, 0))),
    "output_tokens_per_s": _later(each_gap=0.005),
    "total_tokens_per_s": _later(first=0.05),
    "requests_per_s": _later(each_gap=0.005),
    "goodput_per_s": _later(first=0.05),
    "failed_share": dataclasses.replace(
        BEFORE, rounds=(*BEFORE.rounds[1:], Round((_TRACE,), failures=(Failure(Outcome.TIMED_OUT),)))
    ),
    "cost_per_million_tokens": _later(each_gap=0.005),
    "mbu": _later(each_gap=0.005),
    "mfu": _trace(lambda trace: dataclasses.replace(trace, prefill=0.09)),
    "load_s": dataclasses.replace(BEFORE, load=3.0),
    "cold_ttft_ms": dataclasses.replace(BEFORE, cold=Trace(0.0, (1.9, 2.0), 8)),
    "peak_memory_mib": _memory(peak_growth=MIB),
    "weights_mib": _memory(weights=MIB),
    "kv_cache_mib": _memory(kv_cache=MIB),
    "activations_mib": _memory(peak_growth=MIB),
    "leak_mib": _memory(leaked_per_call=MIB),
    "flops_per_token": _counts(decode_work=Work(flops=3_000_001)),
    "prefill_flops": _counts(prefill_work=Work(flops=8_000_001)),
    "ops_per_token": _counts(decode=dataclasses.replace(COUNTS.decode, ops=76.0)),
    "syncs_per_token": _counts(decode=dataclasses.replace(COUNTS.decode, syncs=2.0)),
    "kernels_per_token": _counts(decode=dataclasses.replace(COUNTS.decode, kernels=51.0)),
    "kv_bytes_per_token": _counts(cache_growth=2048.0),
    "compiles": _counts(compiles=1),
    "energy_j_per_token": _rounds(energy=9.0),
    "peak_reserved_mib": _memory(reserved=MIB),
    "fragmentation_mib": _memory(fragmentation=MIB),
    "process_gpu_mib": _memory(process_gpu=MIB),
    "device_gpu_mib": _memory(device_gpu=MIB),
    "peak_rss_mib": _memory(peak_rss=MIB),
}
"""For each metric a measurement that everyone would call worse: later tokens, slower phases, more bytes, more work."""


def test_every_metric_of_the_catalogue_has_a_worsening_to_prove_its_direction() -> None:
    assert set(WORSENED) == set(CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_a_worsening_moves_the_metric_in_its_worse_direction(metric: Metric) -> None:
    before, after = (summarize(m).samples[metric.name] for m in (BEFORE, WORSENED[metric.name]))
    assert isinstance(before, Sample)
    assert isinstance(after, Sample)
    if metric.better is Better.LOWER:
        assert after > before
    else:
        assert after < before


# Shares of what the device could do


def test_bandwidth_used_is_what_a_step_reads_over_the_time_of_a_token() -> None:
    """4,000 bytes of weights, and 6 MiB of cache less the token of each sequence that is not there in the mean step."""
    m = summarize(BEFORE)
    read = 4_000 + 6 * MIB - 1 * 2 * 1024
    assert m.mbu.samples == pytest.approx([read / 0.010 / 1e9] * 3)


def test_arithmetic_used_leaves_out_attention_to_what_comes_later() -> None:
    """A position costs 2,000 FLOPs, and of 8 tokens 28 pairs are masked."""
    assert summarize(BEFORE).mfu.samples == pytest.approx([(8_000_000 - 28 * 2_000) / 0.08 / 1e11] * 3)


def test_arithmetic_used_is_of_the_time_to_first_token_where_prefill_is_not_seen() -> None:
    unseen = _trace(lambda trace: dataclasses.replace(trace, prefill=Unknown("not shown")))
    assert summarize(unseen).mfu == pytest.approx(summarize(BEFORE).mfu * 0.08 / 0.1)


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({"ceilings": Ceilings(bandwidth=Unknown("out of sight"))}, {"mbu"}),
        ({"ceilings": dataclasses.replace(CEILINGS, flop_rate=Unknown("out of sight"))}, {"mfu"}),
        ({"counts": dataclasses.replace(COUNTS, cache_growth=Unknown("out of sight"))}, {"mbu", "kv_bytes_per_token"}),
        (
            {"memory": dataclasses.replace(MEMORY, kv_cache=Unknown("out of sight"))},
            {"mbu", "kv_cache_mib", "activations_mib"},
        ),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_a_share_of_which_a_part_is_unknown_is_unknown_for_that_reason(changed: dict, lost: set[str]) -> None:
    m = summarize(dataclasses.replace(BEFORE, **changed))
    assert {name for name, why in m.unknown.items() if why == "out of sight"} == lost


def test_a_share_of_no_time_is_unknown() -> None:
    at_once = _trace(lambda trace: dataclasses.replace(trace, prefill=0.0))
    assert summarize(at_once).unknown["mfu"] == "the clock did not move during a round"


# Entries

UNIT_IN_NAME = {
    "share": "^m[bf]u$|_share$|_rate$",
    "requests/s": "_per_s$",
    "price": "^cost_",
    "ms": "_ms$",
    "s": "_s$",
    "MiB": "_mib$",
    "J": "_j_per_token$",
    "tokens": "^tokens_per_step$",
    "tokens/s": "_tokens_per_s$",
    "FLOP": "flops(_per_token)?$",
    "operators": "^ops_per_token$",
    "waits": "^syncs_per_token$",
    "launches": "^kernels_per_token$",
    "bytes": "_bytes_per_token$",
    "graphs": "^compiles$",
}


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_every_entry_is_complete(metric: Metric) -> None:
    assert CATALOGUE[metric.name] is metric
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
    assert metric.unit
    assert metric.definition
    assert metric.source
    assert re.search(UNIT_IN_NAME[metric.unit], metric.name)


def test_only_reported_metrics_never_gate() -> None:
    assert not [metric.name for metric in CATALOGUE.values() if metric.kind is Kind.REPORT and metric.gates]


def test_these_gate_without_being_asked_to() -> None:
    assert {metric.name for metric in CATALOGUE.values() if metric.gates} == {
        "ttft_ms",
        "tpot_ms",
        "peak_memory_mib",
        "weights_mib",
        "kv_cache_mib",
        "leak_mib",
        "flops_per_token",
        "prefill_flops",
        "ops_per_token",
        "syncs_per_token",
        "kernels_per_token",
        "kv_bytes_per_token",
        "compiles",
    }


def test_a_leak_is_told_by_less_than_what_an_allocator_moves() -> None:
    leak, others = CATALOGUE["leak_mib"], [CATALOGUE["peak_memory_mib"], CATALOGUE["activations_mib"]]
    assert leak.least.cpu * MIB == 4096
    assert {(metric.least.cpu * 1024, metric.least.cuda) for metric in others} == {(64, 2)}


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_a_metric_has_as_many_samples_as_it_says(metric: Metric) -> None:
    """Three rounds of one request of four tokens: three requests, nine gaps, three rounds, one measurement."""
    expected = {Per.REQUEST: 3, Per.GAP: 9, Per.ROUND: 3, Per.MEASUREMENT: 1}[metric.per]
    assert len(summarize(BEFORE).samples[metric.name].samples) == expected


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CATALOGUE["ttft_ms"] = None


def test_summarizing_leaves_what_was_seen_as_it_was() -> None:
    summarized = summarize(BEFORE)
    assert dataclasses.replace(summarized, samples={}) == BEFORE
    assert list(summarized.samples) == list(CATALOGUE)
