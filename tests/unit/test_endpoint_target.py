"""A server as a target: requests made ready, rounds served, failures counted and never fast."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import contextmanager

import pytest

from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Outcome, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, Served, endpoint
from pytest_llmperf.targets.cache import TargetCache
from pytest_llmperf.targets.endpoint.remote import Remote
from tests.models import Model, serving
from tests.servers import answers


@contextmanager
def served(model, /, **options):
    """A loaded target; questions of its load are forgotten."""
    with serving(model) as url:
        target = endpoint(url, **options).load(LoadOptions())
        model.asked.clear()
        try:
            yield target
        finally:
            target.close()


def rounds_of(target, workload, count=1):
    upcoming = (target.request(workload, seed) for seed in itertools.count(1))
    target.begin()
    return [target.serve(workload, upcoming, time.perf_counter) for _ in range(count)]


class Failing(Model):
    """Fails at every n-th question once it is told to."""

    every = 0

    def __call__(self, received):
        answer = super().__call__(received)
        if self.every and len(self.asked) % self.every == 0:
            return answers({"error": "overloaded"}, 503)
        return answer


# Requests


def test_a_request_is_ready_to_be_sent_when_it_is_made():
    model = Model()
    with served(model) as target:
        request = target.request(Workload(20, 5), 1)
        asked = json.loads(request.prompt.body)
    assert len(asked["prompt"]) == 20
    assert (asked["max_tokens"], asked["stream"], asked["model"]) == (5, True, "tiny")
    assert request.due is None


def test_a_request_made_shorter_asks_for_fewer_tokens():
    with served(Model()) as target:
        trace = target.run(target.request(Workload(20, 5), 1).shorter(2), time.perf_counter)
    assert trace.output_tokens == 2


def test_the_same_seed_asks_the_same_and_another_seed_something_else():
    with served(Model()) as target:
        bodies = [target.request(Workload(20, 5), seed).prompt.body for seed in (1, 2, 1)]
    assert bodies[0] == bodies[2] != bodies[1]


def test_lengths_of_a_mix_are_those_of_each_request():
    model = Model()
    workload = Workload(mix="uniform:10-30,2-9")
    with served(model) as target:
        requests = [target.request(workload, seed) for seed in range(1, 20)]
        traces = [target.run(request, time.perf_counter) for request in requests]
    assert len({request.workload.prompt_tokens for request in requests}) > 5
    for request, trace, asked in zip(requests, traces, model.asked, strict=True):
        assert (trace.prompt_tokens, trace.output_tokens) == (
            request.workload.prompt_tokens,
            request.workload.output_tokens,
        )
        assert (len(asked["prompt"]), asked["max_tokens"]) == (trace.prompt_tokens, trace.output_tokens)


def test_a_replay_says_when_its_requests_are_due(tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text('{"prompt_tokens": 9, "output_tokens": 2, "arrival": 0.25}\n')
    with served(Model()) as target:
        request = target.request(Workload(mix=f"replay:{file}"), 1)
    assert request.due == 0.25


def test_a_text_is_sent_as_it_is_and_counted_by_the_server():
    model = Model(overhead=1)
    with served(model) as target:
        trace = target.run(
            target.request(Workload(prompt="the quick brown fox", output_tokens=3), 1), time.perf_counter
        )
    assert model.asked[-1]["prompt"] == "the quick brown fox"
    assert trace.prompt_tokens == 5


def test_a_text_that_nobody_counts_is_refused():
    with served(Model(shows_usage=False)) as target, pytest.raises(UsageError, match="does not say how many tokens"):
        target.request(Workload(prompt="the fox"), 1)


def test_a_batch_is_refused_in_favour_of_a_concurrency():
    with served(Model()) as target, pytest.raises(UsageError, match=r"batch_size=4: .* use concurrency=4"):
        target.request(Workload(batch_size=4), 1)


def test_what_the_model_has_no_room_for_is_refused():
    model = Model(pages={"/v1/models": {"data": [{"id": "tiny", "max_model_len": 64}]}})
    with served(model) as target:
        target.request(Workload(60, 4), 1)
        with pytest.raises(UsageError, match=r"prompt_tokens=60 \+ output_tokens=5 = 65: .* has room for 64 tokens"):
            target.request(Workload(60, 5), 1)


# Rounds


def test_a_request_alone_is_a_trace_of_its_tokens():
    with served(Model()) as target:
        trace = target.run(target.request(Workload(20, 5), 1), time.perf_counter)
    assert (trace.prompt_tokens, trace.output_tokens) == (20, 5)
    assert trace.sent < trace.arrivals[0]


def test_a_request_alone_that_fails_is_an_error_that_says_how():
    model = Model()
    with served(model) as target:
        model.instead = answers({"error": "no more memory"}, 500)
        with pytest.raises(MeasurementError, match=r"localhost/tiny: server error \(HTTP 500: no more memory\)"):
            target.run(target.request(Workload(20, 5), 1), time.perf_counter)


def test_a_prompt_that_the_server_counts_otherwise_is_no_answer_to_ours():
    class Losing(Model):
        loses = 0

        def length(self, prompt):
            return super().length(prompt) - self.loses

    model = Losing()
    with served(model) as target:
        model.loses = 1
        with pytest.raises(MeasurementError, match=r"prompt of another length \(19 tokens by the server, 20 asked for"):
            target.run(target.request(Workload(20, 5), 1), time.perf_counter)


def test_a_round_is_all_requests_of_its_load_with_prompts_of_their_own():
    model = Model()
    with served(model) as target:
        rounds = rounds_of(target, Workload(20, 3, concurrency=4, requests=10), 2)
    assert [len(each.traces) for each in rounds] == [10, 10]
    assert all(trace.output_tokens == 3 for each in rounds for trace in (*each.traces, *each.beside))
    assert not rounds[0].failures
    prompts = [tuple(asked["prompt"]) for asked in model.asked]
    assert len(set(prompts)) == len(prompts) >= 28


def test_a_round_knows_how_late_the_client_was_in_it_alone():
    with served(Model()) as target:
        target._service.client.watch._stretches.append(1000.0)
        target._service.client.watch._events.append(1_000_000)
        (seen,) = rounds_of(target, Workload(20, 3, concurrency=2))
    assert 0 < seen.client_lag < 1000


def test_a_measurement_is_made_of_its_rounds():
    with served(Model(refused=("temperature",))) as target:
        seen = measure(target, Workload(20, 3, concurrency=2), Effort(rounds=3, max_time=0.01))
    assert [len(taken.traces) for taken in seen.rounds] == [8, 8, 8]
    assert seen.ttft_ms > 0
    assert seen.weights_mib is None
    assert seen.notes[0].startswith("the server refuses temperature")


def test_failed_requests_are_counted_and_have_no_times():
    model = Failing()
    with served(model) as target:
        model.every = 3
        (seen,) = rounds_of(target, Workload(20, 3, concurrency=2, requests=12))
    assert {failure.outcome for failure in seen.failures} == {Outcome.SERVER_ERROR}
    assert len(seen.traces) + len(seen.beside) + len(seen.failures) == len(model.asked)
    assert len(seen.traces) < 12


def test_a_round_in_which_everything_fails_is_an_error_that_counts_how():
    model = Failing()
    with served(model) as target:
        model.every = 1
        with pytest.raises(MeasurementError, match=r"(\d+) of \1 requests failed: \1 × server error \(HTTP 503: overl"):
            rounds_of(target, Workload(20, 3, concurrency=2, requests=8))


# What it tells of itself


def test_it_is_a_served_target_out_of_sight():
    with served(Model(refused=("temperature",))) as target:
        assert isinstance(target, Served)
        assert target.notes == ("the server refuses temperature, and nothing else gives the same answer every time",)
        request = target.request(Workload(20, 3), 1)
        for value in (target.weights_bytes(), target.kv_cache_bytes(request), target.step_through(request, list)):
            assert value == Unknown("a server's model is out of sight")
        assert all(isinstance(value, Unknown) for value in vars(target.memory()).values())
        assert target.device.name == "served:localhost"


def test_its_device_goes_by_what_it_is_said_to_run_on():
    with served(Model(), hardware="H200 x8") as target:
        assert target.device.name == "served:H200 x8"


def test_a_remote_device_knows_no_memory_and_the_time_of_the_client():
    device = Remote("host")
    with device.track_memory() as track:
        pass
    assert device.rooms() == ()
    for value in (*vars(track).values(), device.held_bytes(), device.available_bytes()):
        assert isinstance(value, Unknown)
    assert device.seconds(device.stamp(lambda: 1.0), device.stamp(lambda: 3.5)) == 2.5


def test_a_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("LLM_KEY", "sk-very-secret")
    seen = []

    class Listening(Model):
        def __call__(self, received):
            seen.append(received.headers.get("authorization"))
            return super().__call__(received)

    model = Listening()
    with served(model, api_key_env="LLM_KEY", headers={"X-Team": "blue-team"}) as target:
        model.instead = answers({"error": "who is sk-very-secret of blue-team?"}, 500)
        with pytest.raises(MeasurementError) as caught:
            target.run(target.request(Workload(20, 3), 1), time.perf_counter)
        shown = f"{caught.value} {target!r} {vars(target)!r}"
    assert set(seen) == {"Bearer sk-very-secret"}
    assert "very-secret" not in shown
    assert "blue-team" not in shown


# In the session


def test_the_session_keeps_it_and_closes_it_in_the_end(monkeypatch):
    closed = []
    with serving(Model()) as url:
        cache, reference = TargetCache(), endpoint(url)
        target, _ = cache.load(reference, LoadOptions())
        assert cache.load(endpoint(url), LoadOptions())[0] is target
        monkeypatch.setattr(target, "close", lambda close=target.close: (closed.append("first"), close()))
        fresh, _ = cache.load(reference, LoadOptions(), fresh=True)
        assert closed == ["first"]
        monkeypatch.setattr(fresh, "close", lambda close=fresh.close: (closed.append("fresh"), close()))
        cache.clear()
    assert closed == ["first", "fresh"]
