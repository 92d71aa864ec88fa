"""The real thing: `transformers serve` on this machine, with a model saved here."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from pytest_llmperf.errors import TargetError
from pytest_llmperf.model import Workload
from pytest_llmperf.settings import check, merge
from pytest_llmperf.targets import LoadOptions, endpoint
from pytest_llmperf.targets.cache import TargetCache
from pytest_llmperf.targets.endpoint.prompts import COMMON
from tests.saved import llama, words_of

pytest.importorskip("uvicorn", reason="transformers serve is not installed: pip install 'transformers[serving]'")
pytest.importorskip("openai", reason="transformers serve is not installed: pip install 'transformers[serving]'")

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def talkative_model(tmp_path_factory) -> Path:
    """A small Llama that says nothing but words, saved with a tokenizer and a chat template."""
    import torch

    folder = tmp_path_factory.mktemp("models") / "talkative"
    tokenizer = words_of([" ".join(COMMON.split())], 800)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = llama(tokenizer)
    silent = [token for token in range(len(tokenizer)) if not tokenizer.decode([token]).strip().isalpha()]
    model.lm_head.weight.data[silent] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(talkative_model, tmp_path_factory, llm_server):
    """Of a server that has been started with the model."""
    surroundings = {"HF_HOME": str(tmp_path_factory.mktemp("hub")), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = ["transformers", "serve", str(talkative_model), "--host", "127.0.0.1", "--port", "{port}"]
    server = llm_server(command, ready="http://127.0.0.1:{port}/health", timeout=120, env=surroundings)
    yield f"{server.url}/v1"
    server.stop()  # the rest of the session does without


@pytest.fixture(scope="module", params=["completions", "chat"])
def reference(request, url, talkative_model):
    return endpoint(url, model=str(talkative_model), api=request.param)


@pytest.fixture(scope="module")
def target(reference):
    loaded = reference.load(LoadOptions())
    yield loaded
    loaded.close()


def test_it_is_asked_in_the_words_that_it_understands(target):
    assert target.id.startswith("endpoint:localhost/talkative")
    assert target.notes[-1] == "the server refuses ignore_eos and min_tokens; generation_config asks for the same"


@pytest.mark.parametrize(("prompt_tokens", "output_tokens"), [(20, 1), (40, 12), (300, 5)])
def test_prompt_and_answer_have_the_tokens_asked_for(target, prompt_tokens, output_tokens):
    trace = target.run(target.request(Workload(prompt_tokens, output_tokens), 1), time.perf_counter)
    assert (trace.prompt_tokens, trace.output_tokens) == (prompt_tokens, output_tokens)
    assert len(trace.arrivals) == output_tokens, "each token came in an event of its own"


def test_its_end_of_sequence_does_not_end_a_measurement(target):
    trace = target.run(target.request(Workload(30, 100), 1), time.perf_counter)
    assert trace.output_tokens == 100


def test_a_load_is_served(target):
    workload = Workload(32, 6, concurrency=3, requests=8)
    target.begin()
    upcoming = (target.request(workload, seed) for seed in itertools.count(1))
    seen = target.serve(workload, upcoming, time.perf_counter)
    assert not seen.failures
    assert [trace.output_tokens for trace in seen.traces] == [6] * 8


def test_the_memory_of_a_measurement_is_that_of_the_server(target):
    target.begin()
    target.run(target.request(Workload(30, 4), 1), time.perf_counter)
    seen = target.memory().peak_rss
    assert isinstance(seen, int)
    assert seen > 100 * 2**20  # torch alone is more


def test_its_own_tokenizer_makes_the_same_of_prompts(reference, url, talkative_model):
    named = endpoint(url, model=str(talkative_model), api=reference.api, tokenizer=talkative_model)
    target = named.load(LoadOptions())
    trace = target.run(target.request(Workload(64, 3), 1), time.perf_counter)
    target.close()
    assert trace.prompt_tokens == 64


def test_a_mark_names_it_and_the_session_keeps_it(reference):
    settings = merge([check([], {"model": reference})])
    cache = TargetCache()
    target, _ = cache.load(settings.target, settings.load_options)
    assert cache.load(reference, settings.load_options)[0] is target
    cache.clear()


def test_another_model_than_it_has_is_an_error_in_its_own_words(url):
    with pytest.raises(TargetError, match=r"bad request \(HTTP 400: Server is pinned to"):
        endpoint(url, model="gpt2").load(LoadOptions())
