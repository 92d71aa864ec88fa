"""`stream(fn)`: times taken as tokens come, and exactly as many as were asked for."""

from __future__ import annotations

import itertools

import pytest

from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, stream
from tests.fakes import FakeClock

WORKLOAD = Workload(prompt_tokens=5, output_tokens=4)


def paced(clock, gaps, *, seen=None):
    """A token stream that takes the given seconds for each of its tokens."""

    def tokens(ids, output_tokens):
        if seen is not None:
            seen.append((ids, output_tokens))
        for gap in gaps:
            clock.advance(gap)
            yield 7

    return tokens


def trace_of(fn, clock, workload=WORKLOAD):
    target = stream(fn).load(LoadOptions())
    return target.run(target.request(workload, 1), clock)


def test_each_arrival_is_the_moment_its_token_was_yielded():
    clock = FakeClock(100.0)
    trace = trace_of(paced(clock, [0.5, 0.1, 0.1, 0.2]), clock)
    assert trace.sent == 100.0
    assert trace.arrivals == pytest.approx((100.5, 100.6, 100.7, 100.9), abs=1e-9)
    assert trace.output_tokens == 4
    assert trace.prompt_tokens == 5


def test_the_function_gets_the_prompt_ids_and_the_number_of_tokens():
    clock, seen = FakeClock(), []
    trace_of(paced(clock, [1] * 4, seen=seen), clock)
    [(ids, output_tokens)] = seen
    assert output_tokens == 4
    assert len(ids) == 5
    assert all(isinstance(token, int) for token in ids)


def test_what_a_stream_does_not_show_is_unknown_with_a_reason():
    clock = FakeClock()
    trace = trace_of(paced(clock, [1] * 4), clock)
    assert trace.prefill == Unknown("a stream does not show where its prefill ends")
    assert trace.tokenize == Trace.tokenize
    assert trace.detokenize == Trace.detokenize


@pytest.mark.parametrize("yielded", [0, 1, 3])
def test_a_stream_that_stops_early_is_an_error(yielded):
    clock = FakeClock()
    with pytest.raises(MeasurementError, match=rf"stream:tokens yielded {yielded} tokens where 4 were asked for"):
        trace_of(paced(clock, [0.1] * yielded), clock)


def test_a_stream_that_yields_too_much_is_an_error():
    clock = FakeClock()
    with pytest.raises(MeasurementError, match="yielded more than 4 tokens where 4 were asked for"):
        trace_of(paced(clock, [0.1] * 5), clock)


def test_a_stream_that_never_ends_is_stopped_at_the_first_token_too_many():
    tokens = itertools.count(1)
    with pytest.raises(MeasurementError, match="more than 4"):
        trace_of(lambda ids, n: tokens, FakeClock())
    assert next(tokens) == 6, "five were drawn"


def test_an_error_of_the_engine_comes_through_unchanged():
    def broken(ids, output_tokens):
        yield 1
        raise ConnectionResetError("the engine went away")

    with pytest.raises(ConnectionResetError, match="went away"):
        trace_of(broken, FakeClock())


def test_prompts_are_seeded_distinct_and_within_the_vocabulary():
    target = stream(lambda ids, n: ids, vocabulary=50).load(LoadOptions())
    workload = Workload(prompt_tokens=200, output_tokens=1)
    prompts = [target.request(workload, seed).prompt for seed in (1, 2, 1)]
    assert prompts[0] == prompts[2]
    assert prompts[0] != prompts[1]
    assert {len(prompt) for prompt in prompts} == {200}
    assert set(prompts[0]) <= set(range(50))
    assert len(set(prompts[0])) > 30, "ids come from the whole vocabulary"


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload(batch_size=2), "batch_size=2: stream:serve answers one prompt at a time"),
        (Workload(prompt="hello"), "prompt=: stream:serve has no tokenizer"),
    ],
)
def test_what_a_stream_cannot_serve_is_refused(workload, message):
    def serve(ids, output_tokens):
        return range(output_tokens)

    with pytest.raises(UsageError, match=message):
        stream(serve).load(LoadOptions()).request(workload, 1)


@pytest.mark.parametrize("fn", [None, 3, "gpt2", [1, 2]])
def test_what_is_no_function_is_refused(fn):
    with pytest.raises(UsageError, match=r"expected a function fn\(prompt_ids, output_tokens\)"):
        stream(fn)


@pytest.mark.parametrize("vocabulary", [0, -1, 2.5, "many", None])
def test_a_vocabulary_that_is_no_size_is_refused(vocabulary):
    with pytest.raises(UsageError, match=r"vocabulary=.*expected a whole number"):
        stream(lambda ids, n: ids, vocabulary=vocabulary)


def test_an_object_with_call_is_a_stream_named_after_its_class():
    class Engine:
        def __call__(self, ids, output_tokens):
            return iter(range(output_tokens))

    reference = stream(Engine())
    assert reference.id == "stream:Engine"
    assert trace_of(Engine(), FakeClock()).output_tokens == 4


def test_two_streams_of_the_same_function_are_equal_and_never_shared():
    def serve(ids, output_tokens):
        return range(output_tokens)

    assert stream(serve) == stream(serve)
    assert not stream(serve).cacheable


def test_a_measured_stream_has_exact_times_and_unknown_memory():
    clock = FakeClock()
    target = stream(paced(clock, [0.2, 0.01, 0.01, 0.01])).load(LoadOptions())
    measured = measure(target, WORKLOAD, Effort(rounds=3), clock=clock)
    assert measured.ttft_ms.samples == pytest.approx([200.0] * 3, abs=1e-6)
    assert measured.tpot_ms.samples == pytest.approx([10.0] * 3, abs=1e-6)
    assert measured.peak_memory_mib is None
    assert measured.unknown["peak_memory_mib"] == "a stream's model is out of sight"
    assert measured.weights_mib is None
    assert measured.kv_cache_mib is None
