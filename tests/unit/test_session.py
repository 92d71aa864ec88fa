"""The course of one test: which target is measured, against which limits, and what is known of its load."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections import namedtuple
from contextlib import contextmanager

import psutil
import pytest
import torch

from pytest_llmperf import session as session_module
from pytest_llmperf import tpot_ms, ttft_ms
from pytest_llmperf.errors import (
    DeviceMissingError,
    MeasurementError,
    NoRoomError,
    OutOfMemoryTargetError,
    TargetError,
    UsageError,
)
from pytest_llmperf.limits import parse
from pytest_llmperf.measure import Need
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Round, Trace, Workload
from pytest_llmperf.profiling import roofline
from pytest_llmperf.results import Verdict
from pytest_llmperf.session import Defaults, Llm, Session, look
from pytest_llmperf.settings import check
from pytest_llmperf.targets import LoadOptions, resolve, stream
from pytest_llmperf.targets.device import Cpu, Cuda
from tests.fakes import TINY

SMALL = "random:gpt2?n_layer=1&n_embd=16&n_head=2&vocab_size=50&n_positions=64"
LIMITS = ("ttft_ms < 60_000", "tpot_ms < 60_000")
SIZES = {"prompt_tokens": 8, "output_tokens": 4}


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def session():
    return Session(Defaults(device="cpu", rounds=1, max_time=0.02))


def llm_of(session, *levels, key="test_chat.py::test_turn"):
    """The fixture of a test whose marks say so, nearest first."""
    return Llm(session, key, [check(limits, {**SIZES, **keywords}) for limits, keywords in levels])


def rows(result):
    return {(row.metric, row.statistic): row for row in result.rows}


# Which target


def test_the_marks_target_is_measured(session):
    measured = llm_of(session, ((), {"model": SMALL})).measure()
    assert measured.target == resolve(SMALL).id
    assert measured.workload == Workload(**SIZES)


def test_no_target_at_all_is_an_error_that_says_where_to_name_one(session):
    with pytest.raises(UsageError, match=r"test_turn names no target: write @llm_perf\(model=…\), or llm\.load"):
        llm_of(session, ((), {})).measure()


@pytest.mark.parametrize("attribute", ["target", "model", "tokenizer"])
def test_asking_for_the_target_of_a_test_without_one_is_the_same_error(session, attribute):
    with pytest.raises(UsageError, match="names no target"):
        getattr(llm_of(session, ((), {})), attribute)


def test_the_nearest_mark_that_names_a_target_wins(session):
    llm = llm_of(session, ((), {}), ((), {"model": SMALL}), ((), {"model": TINY}))
    assert llm.measure().target == resolve(SMALL).id


def test_a_target_may_be_given_to_measure_itself(session):
    llm = llm_of(session, ((), {"model": TINY}))
    assert llm.measure(model=SMALL).target == resolve(SMALL).id
    assert llm.measure("marked").target == resolve(TINY).id


def test_load_chooses_the_target_in_place_of_the_mark(session):
    llm = llm_of(session, ((), {"model": TINY}), ((), {"model": TINY}))
    target = llm.load(SMALL)
    assert target.id == llm.measure().target == resolve(SMALL).id
    assert llm.target is target
    assert llm.model is target.model
    assert llm.tokenizer is None


def test_load_options_of_the_mark_do_not_reach_a_target_loaded_in_the_body(session):
    llm = llm_of(session, ((), {"model": TINY, "load": {"cache_implementation": "static"}}))
    assert llm.model.generation_config.cache_implementation == "static"
    assert llm.load(SMALL).model.generation_config.cache_implementation is None


def test_load_options_given_to_load_are_used(session):
    llm = llm_of(session, ((), {"model": TINY, "dtype": "float32"}))
    target = llm.load(SMALL, dtype="bfloat16", device="cpu", cache_implementation="static")
    assert target.dtype == "bfloat16"
    assert target.model.generation_config.cache_implementation == "static"
    assert llm.measure().environment.dtype == "bfloat16"


def test_the_marks_dtype_holds_for_a_target_loaded_in_the_body(session):
    assert llm_of(session, ((), {"model": TINY, "dtype": "bfloat16"})).load(SMALL).dtype == "bfloat16"


def test_workload_and_limits_of_the_mark_hold_for_a_target_loaded_in_the_body(session):
    llm = llm_of(session, (LIMITS, {"model": TINY, "batch_size": 2}))
    llm.load(SMALL)
    assert llm.measure().workload.batch_size == 2
    assert llm.results()[0].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat17"}, "did you mean 'bfloat16'"),
        ({"device": "gpu"}, "device='gpu' is no device"),
        ({"torch_dtype": "float32"}, "dtype='float32' beside load="),
        ({"revision": "main"}, "has nothing to load"),
    ],
)
def test_wrong_load_options_are_refused(session, options, message):
    with pytest.raises(UsageError, match=message):
        llm_of(session, ((), {"model": TINY})).load(SMALL, **options)


def test_what_cannot_be_loaded_is_an_error_and_leaves_the_next_try_free(session):
    llm = llm_of(session, ((), {}))
    with pytest.raises(TargetError, match="does not exist"):
        llm.load("./missing")
    llm.load(SMALL)
    assert llm.measure().target == resolve(SMALL).id


class Releasing:
    """Against a base that holds what is in head's way, and can let go of it."""

    def __init__(self):
        self.in_the_way = True

    def release(self):
        self.in_the_way = False


@pytest.mark.parametrize("against", [Releasing(), None], ids=["base", "alone"])
def test_what_base_holds_gives_way_to_what_head_loads(session, monkeypatch, against):
    session.against = against
    load = session.targets.load

    def load_if_there_is_room(*what, **how):
        if against is None or against.in_the_way:
            raise NoRoomError("it needs 2 GiB")
        return load(*what, **how)

    monkeypatch.setattr(session.targets, "load", load_if_there_is_room)
    llm = llm_of(session, ((), {"model": SMALL}))
    if against is None:
        with pytest.raises(NoRoomError, match="2 GiB"):
            _ = llm.target
    else:
        assert llm.target.id == resolve(SMALL).id


def test_nobody_measures_on_a_gpu_while_another_target_is_loaded_onto_it(session, monkeypatch):
    events = []

    @contextmanager
    def exclusive(device):
        events.append(f"has {device}")
        yield
        events.append(f"leaves {device}")

    session.exclusive = exclusive
    monkeypatch.setattr(session.targets, "load", lambda *given, fresh: events.append("loads"))
    monkeypatch.setattr(session_module, "device_of", lambda name, gpus: Cuda([f"cuda:{each}" for each in range(gpus)]))
    session.load(resolve(SMALL), LoadOptions(gpus=2), fresh=False)
    assert events == ["has cuda:0,1", "loads", "leaves cuda:0,1"]
    events.clear()
    session.load(stream(print), LoadOptions(gpus=2), fresh=False)
    monkeypatch.setattr(session_module, "device_of", lambda name, gpus: Cpu())
    session.load(resolve(SMALL), LoadOptions(), fresh=False)
    assert events == ["loads", "loads"]


class Full:
    """A model's `generate()` that runs out of memory for as long as others are in the way."""

    def __init__(self, generate, in_the_way):
        self._generate, self._in_the_way = generate, in_the_way
        self.tensors = []

    def __call__(self, **arguments):
        big = torch.ones(1000)
        self.tensors.append(weakref.ref(big))
        if self._in_the_way():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity")
        return self._generate(**arguments)


def full(session, in_the_way=lambda: True):
    """A test whose model runs out of memory, in a session that holds another."""
    other = weakref.ref(llm_of(session, ((), {"model": TINY})).target)
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.model.generate = Full(llm.model.generate, lambda: in_the_way() or other() is not None)
    return llm, other


@pytest.mark.parametrize("asked", ["measure", "profile"])
def test_other_targets_give_way_to_one_that_runs_out_of_memory_while_serving(session, asked):
    llm, other = full(session, in_the_way=lambda: False)
    seen = getattr(llm, asked)()
    assert seen.target == resolve(SMALL).id
    assert other() is None
    assert llm.model.generate.tensors[0]() is None


@pytest.mark.parametrize("asked", ["measure", "profile"])
def test_what_does_not_fit_even_alone_says_where_the_memory_went_and_leaves_none_of_it_taken(session, asked):
    llm, other = full(session)
    with pytest.raises(OutOfMemoryTargetError) as caught:
        getattr(llm, asked)()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{resolve(SMALL).id} ran out of memory on cpu serving 1 × (8 + 4) tokens; use a ")
    assert [line.split(":")[0].strip() for line in lines[1:6]] == [
        "cpu",
        "what failed",
        "weights",
        "cache of 1 × 12 tokens",
        "gave way before",
    ]
    assert "20.00 GiB" in lines[2]
    assert len(llm.model.generate.tensors) == 2, "once more, alone"
    assert [tensor() for tensor in llm.model.generate.tensors] == [None, None], "though the error is still held"
    assert other() is None


def test_alone_there_is_no_second_try(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.model.generate = Full(llm.model.generate, lambda: True)
    with pytest.raises(OutOfMemoryTargetError) as caught:
        llm.measure()
    assert len(llm.model.generate.tensors) == 1
    assert "gave way" not in str(caught.value)


def test_those_that_gave_way_to_an_earlier_target_are_not_told_again(session):
    llm, _ = full(session, in_the_way=lambda: False)
    llm.measure()
    again = llm_of(session, ((), {"model": SMALL}), key="test_chat.py::test_next")
    again.model.generate = Full(again.model.generate, lambda: True)
    with pytest.raises(OutOfMemoryTargetError) as caught:
        again.measure()
    assert "gave way" not in str(caught.value)


def test_a_device_that_is_not_here_is_an_error_of_its_own(session, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissingError, match="device='cuda'"):
        llm_of(session, ((), {"model": SMALL, "device": "cuda"})).measure()


def test_a_users_module_is_served_where_it_is_whatever_the_defaults_say():
    module = resolve(SMALL).load(Session(Defaults(device="cpu")).load_options(_settings(SMALL))).model
    session = Session(Defaults(device="cuda:5", dtype="bfloat16", rounds=1, max_time=0.02))
    measured = llm_of(session, ((), {"model": module})).measure()
    assert measured.target == "GPT2LMHeadModel"
    assert measured.environment.device == "cpu"
    assert measured.environment.dtype == "float32"


def _settings(model):
    from pytest_llmperf.settings import merge

    return merge([check((), {"model": model})])


def test_a_stream_is_measured_though_it_has_no_device(session):
    measured = llm_of(session, ((), {"model": stream(lambda ids, n: iter(range(n)))})).measure()
    assert measured.ttft_ms > 0
    assert measured.peak_memory_mib is None


@pytest.mark.parametrize("levels", [[((), {})], [((), {"model": SMALL})]])
def test_a_test_knows_whether_its_marks_name_a_target(session, levels):
    assert llm_of(session, *levels).names_target is ("model" in levels[0][1])


# Labels and limits


def test_measuring_twice_without_a_label_is_an_error(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure()
    with pytest.raises(UsageError, match=r"test_turn was measured before: give each measure\(\).*a label"):
        llm.measure()
    assert llm.measured
    assert len(llm.results()) == 1


def test_a_label_used_twice_is_an_error(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure("short")
    with pytest.raises(UsageError, match="test_turn::short was measured before"):
        llm.measure("short", prompt_tokens=4)


def test_labels_are_the_keys_of_results(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    for label in (None, "short", "long"):
        llm.measure(label)
    base = "test_chat.py::test_turn"
    assert [result.key for result in llm.results()] == [base, f"{base}::short", f"{base}::long"]


def test_the_same_label_in_two_tests_is_no_error(session):
    for key in ("a.py::test_one", "a.py::test_two"):
        llm_of(session, ((), {"model": SMALL}), key=key).measure("short")


def test_limits_of_measure_replace_the_marks_for_the_same_metric_and_join_it_for_others(session):
    llm = llm_of(session, (["ttft_ms < 0.0001", "latency_ms < 60_000"], {"model": SMALL}))
    llm.measure(limits=["ttft_ms < 60_000", "itl_ms.max < 60_000"])
    limits = {key: row.limit for key, row in rows(llm.results()[0]).items() if row.limit}
    assert limits == {
        ("ttft_ms", "median"): "< 60000",
        ("latency_ms", "median"): "< 60000",
        ("itl_ms", "max"): "< 60000",
    }
    assert llm.results()[0].verdict is Verdict.OK


def test_limits_of_one_measure_do_not_reach_the_next(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure("strict", limits=["ttft_ms < 0.0001"])
    llm.measure("free")
    assert [result.verdict for result in llm.results()] == [Verdict.BROKEN, None]


@pytest.mark.parametrize("limits", ["ttft_ms < 60_000", parse("ttft_ms < 60_000")])
def test_a_single_limit_needs_no_list(session, limits):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure(limits=limits)
    assert llm.results()[0].verdict is Verdict.OK


def test_a_limit_on_what_was_not_measured_is_broken(session):
    llm = llm_of(session, (["tpot_ms < 50"], {"model": SMALL}))
    llm.measure(output_tokens=1)
    row = rows(llm.results()[0])["tpot_ms", "median"]
    assert row.verdict is Verdict.BROKEN
    assert "needs at least 2 output tokens" in row.note


def test_every_known_metric_has_a_row_in_the_catalogues_order(session):
    llm = llm_of(session, (["peak_memory_mib < 9999", "ttft_ms.max < 60_000"], {"model": SMALL}))
    measured = llm.measure()
    names = [row.metric for row in llm.results()[0].rows]
    assert names == sorted(names, key=list(CATALOGUE).index)
    assert set(names) == set(CATALOGUE) - set(measured.unknown)
    assert names.count("peak_memory_mib") == 1
    assert names.count("ttft_ms") == 2, "its median, and the maximum that has a limit"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"promt_tokens": 8}, "promt_tokens=8: no such keyword; did you mean 'prompt_tokens'"),
        ({"output_tokens": 0}, "output_tokens=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"concurrency": 2}, "use batch_size=2"),
        ({"prompt_tokens": 500}, "has positions for 64 tokens"),
        ({"prompt": "hello"}, "has no tokenizer"),
        ({"limits": ["tpot < 5"]}, "did you mean 'tpot_ms'"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_wrong_overrides_are_refused_and_leave_no_result(session, overrides, message):
    llm = llm_of(session, ((), {"model": SMALL}))
    with pytest.raises(UsageError, match=message):
        llm.measure(**overrides)
    assert not llm.measured
    assert llm.results() == []


def test_an_error_while_serving_leaves_no_result_and_the_label_free(session):
    def lazy(ids, output_tokens):
        return iter(range(output_tokens - 1))

    llm = llm_of(session, ((), {"model": stream(lazy)}))
    with pytest.raises(MeasurementError):
        llm.measure("turn")
    assert llm.measure("turn", model=SMALL).ttft_ms > 0


# What is known of the load


def test_the_first_measurement_after_a_load_knows_its_time_and_its_cold_request(session):
    measured = llm_of(session, ((), {"model": SMALL})).measure()
    assert measured.load_s > 0
    assert measured.cold_ttft_ms > 0


def test_a_second_measurement_in_the_same_test_was_not_loaded_for(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure("first")
    second = llm.measure("second")
    assert second.load_s is None
    assert second.cold_ttft_ms is None
    assert second.unknown["load_s"] == "the target was not loaded for this measurement"


def test_a_target_of_the_sessions_cache_was_loaded_before(session):
    llm_of(session, ((), {"model": SMALL}), key="a.py::test_one").measure()
    second = llm_of(session, ((), {"model": SMALL}), key="a.py::test_two").measure()
    assert second.load_s is None
    assert second.cold_ttft_ms is None
    assert second.unknown["load_s"] == "the target was already loaded in this session"


def test_a_fresh_load_is_timed_and_makes_the_next_request_cold(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure("cached")
    before = llm.target
    fresh = llm.load(SMALL, fresh=True)
    assert fresh is not before
    measured = llm.measure("fresh")
    assert measured.load_s > 0
    assert measured.cold_ttft_ms > 0
    assert llm.measure("again").cold_ttft_ms is None


def test_looking_at_the_model_before_measuring_does_not_hide_the_load(session):
    llm = llm_of(session, ((), {"model": SMALL}))
    assert llm.model.config.n_layer == 1
    assert llm.measure().load_s > 0


def test_a_target_loaded_and_never_measured_lends_its_load_to_no_other(session):
    llm_of(session, ((), {"model": SMALL}), key="a.py::test_one").measure()
    llm = llm_of(session, ((), {"model": TINY}), key="a.py::test_two")
    assert llm.model is not None  # loads TINY
    llm.load(SMALL)
    measured = llm.measure()
    assert measured.target == resolve(SMALL).id
    assert measured.load_s is None


def test_a_users_module_was_not_loaded_here(session):
    module = llm_of(session, ((), {"model": SMALL})).model
    measured = llm_of(session, ((), {"model": module}), key="b").measure()
    assert measured.load_s is None
    assert measured.unknown["load_s"] == "the test brought its target with it"


def test_a_target_that_gives_way_within_a_test_is_really_let_go_of(session, monkeypatch):
    llm = llm_of(session, ((), {"model": SMALL}))
    llm.measure("first")
    first = weakref.ref(llm.model)
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(1000 if first() is not None else 2**40))
    assert llm.measure("second", model=TINY).target == resolve(TINY).id
    assert first() is None


# How it is measured


@pytest.mark.parametrize(
    ("defaults", "keywords", "rounds", "threads"),
    [
        (Defaults(), {}, None, 1),
        (Defaults(rounds=4, threads=2), {}, 4, 2),
        (Defaults(rounds=4, threads=2), {"rounds": 2, "threads": 3}, 2, 3),
        (Defaults(threads="all"), {}, None, None),
        (Defaults(threads=2), {"threads": "all"}, None, None),
    ],
)
def test_marks_go_before_options_in_effort(defaults, keywords, rounds, threads):
    from pytest_llmperf.settings import merge

    effort = Session(defaults).effort(merge([check((), keywords)]))
    assert effort.rounds == rounds
    assert effort.threads == threads


@pytest.mark.parametrize(
    ("defaults", "keywords", "device", "dtype"),
    [
        (Defaults(), {}, "auto", None),
        (Defaults(device="cpu", dtype="bfloat16"), {}, "cpu", "bfloat16"),
        (Defaults(device="cuda", dtype="bfloat16"), {"device": "cpu", "dtype": "fp16"}, "cpu", "float16"),
        (Defaults(device="cpu"), {"gpus": 2}, "cuda", None),
        (Defaults(device="cuda:1"), {"gpus": 2}, "cuda:1", None),
    ],
)
def test_marks_go_before_options_in_loading(defaults, keywords, device, dtype):
    from pytest_llmperf.settings import merge

    options = Session(defaults).load_options(merge([check((), {"model": SMALL, **keywords})]))
    assert options.device == device
    assert options.dtype == dtype


def test_a_smoke_run_takes_one_round_and_judges_nothing():
    session = Session(Defaults(device="cpu", smoke=True))
    llm = llm_of(session, (["ttft_ms < 0.0001"], {"model": SMALL}))
    assert len(llm.measure().rounds) == 1
    result = llm.results()[0]
    assert result.verdict is None
    assert rows(result)["ttft_ms", "median"].limit == "< 0.0001"


def test_threads_of_a_test_measure_one_after_the_other():
    session, inside = Session(Defaults(smoke=True)), []
    together = threading.Barrier(3, timeout=30)

    def tokens(ids, count):
        inside.append("begins")
        for token in range(count):
            time.sleep(0.01)
            yield token
        inside.append("ends")

    def measure(key):
        llm = llm_of(session, ((), {"model": stream(tokens)}), key=key)
        together.wait()
        llm.measure()

    threads = [threading.Thread(target=measure, args=(f"test_chat.py::test_{name}",)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == ["begins", "ends"] * 3


def test_what_was_measured_on_is_recorded(session):
    llm = llm_of(session, ((), {"model": SMALL, "threads": 2}))
    environment = llm.measure().environment
    assert environment.device == "cpu"
    assert environment.dtype == "float32"
    assert environment.threads == 2
    assert environment.versions["torch"]
    assert llm.results()[0].device.startswith("cpu ")
    assert llm.results()[0].rounds == 1


def test_progress_is_told_and_cleared(session):
    told = []
    session.progress = told.append
    llm_of(session, ((), {"model": SMALL})).measure()
    assert told == [
        f"loading {resolve(SMALL).id}",
        "warming up",
        "round 1 of 1",
        "measuring memory",
        "counting",
        "",
    ]


def test_progress_is_cleared_after_an_error(session):
    told = []
    session.progress = told.append
    with pytest.raises(MeasurementError):
        llm_of(session, ((), {"model": stream(lambda ids, n: iter(()))})).measure()
    assert told[-1] == ""


def test_a_measurement_is_written_as_json(session):
    measured = llm_of(session, ((), {"model": SMALL})).measure()

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(measured.to_json(), parse_constant=no_constant)
    assert set(record["metrics"]) | set(record["unknown"]) == set(CATALOGUE)
    assert set(record["metrics"]).isdisjoint(record["unknown"])
    assert record["metrics"]["ttft_ms"] == {
        "median": measured.ttft_ms.median,
        "samples": list(measured.ttft_ms.samples),
    }
    assert record["unknown"]["tokenize_ms"] == measured.unknown["tokenize_ms"]
    assert record["workload"]["prompt_tokens"] == 8
    assert len(record["rounds"]) == 1
    assert record["environment"]["device"] == "cpu"
    assert record["memory"]["process_gpu"] is None


# What the rounds so far still lack


def rounds_of(latencies, tokens=11):
    """A round per latency in seconds, its tokens evenly spaced."""
    return [
        Round((Trace(0.0, tuple(latency * (k + 1) / tokens for k in range(tokens)), prompt_tokens=1),))
        for latency in latencies
    ]


@pytest.mark.parametrize(
    ("latencies", "limits", "need"),
    [
        ([1.0] * 3, [], Need.NOTHING),
        ([1.0, 1.001, 0.999], [], Need.NOTHING),
        ([1.0, 1.5, 0.7], [], Need.PRECISION),
        ([1.0] * 3, ["latency_ms < 2000"], Need.NOTHING),
        ([1.0] * 3, ["latency_ms < 500"], Need.NOTHING),
        ([1.0, 1.001, 0.999], ["latency_ms < 1000"], Need.PRECISION),
        ([1.0] * 3, ["latency_ms.p90 < 2000"], Need.SAMPLES),
        ([1.0] * 10, ["latency_ms.p90 < 2000"], Need.NOTHING),
        ([1.0] * 9, ["itl_ms.p99 < 2000"], Need.SAMPLES),
        ([1.0] * 10, ["itl_ms.p99 < 2000"], Need.NOTHING),
        ([1.0, 1.5, 0.7], ["latency_ms.p99 < 2000"], Need.SAMPLES),
        ([1.0] * 3, ["peak_memory_mib < 1"], Need.NOTHING),
        ([1.0] * 3, ["tokenize_ms < 1"], Need.NOTHING),
    ],
)
def test_rounds_go_on_for_percentiles_for_precision_and_for_limits_within_noise(latencies, limits, need):
    assert look(rounds_of(latencies), [parse(limit) for limit in limits]) is need


def test_a_single_output_token_lacks_no_precision_in_time_per_output_token():
    assert look(rounds_of([1.0] * 3, tokens=1), []) is Need.NOTHING


@pytest.mark.parametrize("limit", [ttft_ms < 5, "ttft_ms < 5", tpot_ms.within("3%")], ids=str)
def test_a_limit_where_the_label_stands_is_refused_and_not_lost(session, limit):
    with pytest.raises(UsageError, match=r"limits go in limits=\[…\]"):
        llm_of(session, ((), {"model": SMALL})).measure(limit)


@pytest.mark.parametrize("label", ["", "  ", 5, "a::b", "two\nlines"])
def test_a_label_that_would_spoil_its_key_is_refused(session, label):
    with pytest.raises(UsageError, match="expected a label of one line"):
        llm_of(session, ((), {"model": SMALL})).measure(label)


def test_a_class_is_no_target_but_its_instances_are():
    with pytest.raises(UsageError, match="model=Linear is a class; pass an instance of it"):
        resolve(torch.nn.Linear)


def test_limits_are_no_keyword_of_the_mark_and_the_fix_is_told():
    with pytest.raises(UsageError, match="write limits as plain arguments"):
        check((), {"limits": [ttft_ms < 5]})


# What the device could do


def test_a_time_that_the_device_cannot_reach_is_told_with_the_result(session, monkeypatch):
    class Slow:
        """A device that a model beats, however often it is asked."""

        def bandwidth(self, working_set, *, anew):
            return 1e3

        def flop_rate(self, *, anew):
            return 1e15

    monkeypatch.setattr(roofline, "probe_of", lambda *args: Slow())
    llm = llm_of(session, ((), {"model": SMALL}))
    assert llm.measure().mbu > 1
    assert "tpot_ms" in llm.results()[0].impossible


def test_a_smoke_run_probes_nothing(monkeypatch):
    monkeypatch.setattr(roofline, "probe_of", None)
    smoke = Session(Defaults(device="cpu", smoke=True))
    assert llm_of(smoke, ((), {"model": SMALL})).measure().unknown["mbu"] == "no counting pass was made"


@pytest.mark.gpu
def test_a_real_gpu_that_is_full_says_so_and_is_free_again_afterwards():
    session = Session(Defaults(device="cuda", rounds=1, max_time=0.02))
    other = weakref.ref(llm_of(session, ((), {"model": TINY})).target)
    llm = llm_of(session, ((), {"model": SMALL}))
    device, generate = llm.target.device, llm.model.generate
    before = device.available_bytes()

    def serve(**arguments):
        _kept = [torch.empty(before // 4, dtype=torch.uint8, device=device.name) for _ in range(5)]
        return generate(**arguments)

    llm.model.generate = serve
    with pytest.raises(OutOfMemoryTargetError) as caught:
        llm.measure()
    told = str(caught.value)
    assert f"  {device.name}: " in told
    assert " reserved, " in told
    assert "what failed: an allocation of " in told
    assert "gave way before: " in told
    assert other() is None
    assert device.available_bytes() > 0.98 * before
    llm.model.generate = generate
    assert llm.measure().peak_reserved_mib >= 1
