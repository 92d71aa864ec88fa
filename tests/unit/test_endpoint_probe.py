"""What a server can be asked, found by asking it."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import TargetError
from pytest_llmperf.model import Workload
from pytest_llmperf.targets import LoadOptions, endpoint
from tests.models import Model, serving
from tests.servers import answers

FORCED = {"ignore_eos", "min_tokens", "generation_config"}


def loaded(url, **options):
    return endpoint(url, **options).load(LoadOptions())


def probed(model, /, **options):
    """The fields that a request has in the end, and what is said of those it lacks."""
    with serving(model) as url:
        target = loaded(url, **options)
        target.close()
    question = model.asked[-1]
    return question, target.notes


def refused(model, /, **options):
    with serving(model) as url, pytest.raises(TargetError) as caught:
        loaded(url, **options)
    return str(caught.value).replace(url, "URL")


# What is granted


def test_a_server_that_takes_all_is_asked_for_one_field_of_each_kind_in_token_ids():
    model = Model()
    question, notes = probed(model)
    assert notes == ()
    assert len(model.asked) == 2, "one to find out, one to see that the answer is what was asked"
    assert FORCED & question.keys() == {"ignore_eos"}
    assert question["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert "return_token_ids" not in question
    assert question["temperature"] == 0
    assert all(isinstance(token, int) for token in question["prompt"])


def test_what_a_refusal_names_gives_way_to_the_next_of_its_kind():
    model = Model(refused=("ignore_eos", "min_tokens"))
    question, notes = probed(model)
    assert FORCED & question.keys() == {"generation_config"}
    assert notes == ("the server refuses ignore_eos and min_tokens; generation_config asks for the same",)
    assert len(model.asked) == 4


def test_where_nothing_is_left_of_a_kind_it_is_said():
    question, notes = probed(Model(refused=FORCED | {"temperature"}))
    assert not FORCED & question.keys()
    assert notes == (
        "the server refuses ignore_eos and min_tokens and generation_config, and nothing else gives answers of exactly "
        "the tokens asked for",
        "the server refuses temperature, and nothing else gives the same answer every time",
    )


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refusal_that_names_nothing_is_found_field_by_field(status):
    model = Model(refused=("ignore_eos", "temperature"), saying=lambda names: "bad request", status=status)
    question, notes = probed(model)
    assert FORCED & question.keys() == {"min_tokens"}
    assert "temperature" not in question
    assert question["stream_options"]["include_usage"]
    assert isinstance(question["prompt"], list)
    assert len(notes) == 2


def test_token_ids_that_are_refused_give_way_to_text():
    question, notes = probed(Model(takes_ids=False, saying=lambda names: "prompt must be a string."))
    assert isinstance(question["prompt"], str)
    assert notes == ("the server takes no token ids: prompts are words of one token each",)


def test_token_ids_that_are_read_as_something_else_give_way_to_text():
    class Joining(Model):
        def length(self, prompt):
            return super().length(prompt) if isinstance(prompt, str) else 37

    question, _ = probed(Joining())
    assert isinstance(question["prompt"], str)


def test_fields_of_the_user_are_sent_and_their_kind_is_not_wished_for():
    question, _ = probed(Model(), body={"min_tokens": 2, "temperature": 0.7, "user": "x"})
    assert FORCED & question.keys() == {"min_tokens"}
    assert (question["min_tokens"], question["temperature"], question["user"]) == (2, 0.7, "x")


def test_chat_is_asked_in_messages_and_never_in_ids():
    model = Model()
    with serving(model) as url:
        loaded(url, api="chat").close()
    assert all(isinstance(asked["messages"][0]["content"], str) for asked in model.asked)
    assert not any("prompt" in asked for asked in model.asked)


# The model


def test_the_only_model_is_found_and_named():
    card = {"id": "org/tiny", "owned_by": "vllm", "max_model_len": 64}
    model = Model(pages={"/v1/models": {"data": [card]}, "/version": {"version": "0.11.1"}})
    with serving(model) as url:
        target = loaded(url)
        target.close()
    assert target.id == "endpoint:localhost/org/tiny"
    assert model.asked[-1]["model"] == "org/tiny"
    assert target.positions == 63
    assert target.versions == {"vllm": "0.11.1"}


@pytest.mark.parametrize("most", [-1, 0, True, "64", None])
def test_a_length_that_can_be_none_is_not_believed(most):
    with serving(Model(pages={"/v1/models": {"data": [{"id": "tiny", "max_model_len": most}]}})) as url:
        target = loaded(url)
        target.close()
    assert target.positions is None


def test_what_a_server_says_of_itself_is_shown_in_a_line():
    card = {"id": "tiny", "owned_by": "v\nllm"}
    pages = {"/v1/models": {"data": [{"id": "ti\nny"}, card]}, "/version": {"version": "\x1b[31m0.11\n\u202e"}}
    with serving(Model(pages=pages)) as url:
        target = loaded(url)
        target.close()
    assert target.id == "endpoint:localhost/tiny"
    assert target.versions == {"v llm": "[31m0.11 \ufffd"}


def test_without_a_version_the_server_goes_by_its_header():
    with serving(Model()) as url:
        target = loaded(url)
        target.close()
    assert target.versions == {"server": "scripted/1"}
    assert target.positions is None


def test_several_models_are_an_error_that_names_them():
    message = refused(Model(pages={"/v1/models": {"data": [{"id": "one"}, {"id": "two"}]}}))
    assert message == "endpoint:localhost: URL has one, two; name one as model="


def test_of_many_models_the_first_are_named():
    message = refused(Model(pages={"/v1/models": {"data": [{"id": f"m{number}"} for number in range(30)]}}))
    assert message == "endpoint:localhost: URL has m0, m1, m2, m3, m4, m5, m6, m7 and 22 more; name one as model="


@pytest.mark.parametrize("page", [{"data": []}, {}, [], {"data": [{"name": "x"}]}])
def test_a_server_that_names_no_model_is_an_error(page):
    assert "has no model by its own account; name one as model=" in refused(Model(pages={"/v1/models": page}))


def test_a_model_that_is_named_needs_no_list():
    question, _ = probed(Model(pages={}), model="tiny")
    assert question["model"] == "tiny"


# What is no server for us


def test_no_connection_is_an_error_that_says_so():
    with serving(Model()) as url:
        pass
    with pytest.raises(TargetError, match=f"{url}/models: no connection .*; is the server running"):
        loaded(url)


@pytest.mark.parametrize(
    ("status", "options", "outcome", "advice"),
    [
        (401, {}, "unauthorized (HTTP 401: no)", "name the environment variable that holds its key as api_key_env="),
        (403, {"api_key_env": "LLM_KEY"}, "unauthorized (HTTP 403: no)", "is the key in LLM_KEY one of this server's?"),
        (404, {}, "not found (HTTP 404: no)", "it has tiny; a url ends with the version (…/v1)"),
        (429, {}, "rate limited (HTTP 429: no)", ""),
        (500, {}, "server error (HTTP 500: no)", ""),
        (400, {}, "bad request (HTTP 400: no)", ""),
    ],
)
def test_a_refusal_of_the_request_itself_is_an_error_that_says_what_to_do(
    status, options, outcome, advice, monkeypatch
):
    monkeypatch.setenv("LLM_KEY", "sk-secret")
    message = refused(Model(instead=answers({"error": {"message": "no"}}, status)), **options)
    assert message.startswith(f"endpoint:localhost: URL: {outcome}")
    assert advice in message
    assert "sk-secret" not in message


def test_a_server_that_refuses_whatever_is_asked_is_not_asked_field_by_field():
    model = Model(instead=answers({"error": "no"}, 500))
    refused(model)
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (lambda asked: 2, "stopped early (2 of 4 tokens"),
        (lambda asked: 7, "more tokens than asked for (7 tokens, 4 asked for"),
    ],
)
def test_an_answer_of_another_length_is_an_error(made, outcome):
    assert outcome in refused(Model(answered=made))


def test_what_answers_otherwise_is_an_error():
    assert "not understood" in refused(Model(instead=answers("<html>hello</html>", kind="text/html")))


# Prompts


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_prompts_have_their_length_by_the_servers_own_count(api):
    model = Model(takes_ids=False, overhead=5, tokens=lambda word: 2 if "e" in word else 1)
    with serving(model) as url:
        target = loaded(url, api=api)
        for seed in range(3):
            target.request(Workload(40, 2), seed)
            target.run(target.request(Workload(40, 2), seed), lambda: 0.0)
        target.close()
    last = model.asked[-1]
    prompt = last["prompt"] if api == "completions" else last["messages"][0]["content"]
    assert model.length(prompt) == 40


def test_a_server_without_usage_is_asked_in_ids():
    question, _ = probed(Model(shows_usage=False))
    assert isinstance(question["prompt"], list)


@pytest.mark.parametrize("options", [{"api": "chat"}, {"api": "triton", "model": "tiny"}])
def test_text_that_nobody_counts_is_an_error_that_asks_for_the_tokenizer(options):
    message = refused(Model(shows_usage=False), **options)
    assert "does not say how many tokens a text has; name its tokenizer as endpoint(…, tokenizer=)" in message


def test_with_its_tokenizer_a_server_without_usage_gets_exact_prompts(saved_model):
    from transformers import AutoTokenizer

    model = Model(shows_usage=False)
    with serving(model) as url:
        target = loaded(url.removesuffix("/v1"), api="triton", model="tiny", tokenizer=saved_model)
        target.run(target.request(Workload(40, 2), 1), lambda: 0.0)
        target.close()
    text = model.asked[-1]["text_input"]
    assert len(AutoTokenizer.from_pretrained(saved_model)(text)["input_ids"]) == 40


def test_triton_has_to_be_told_its_model():
    assert "name the model of URL as model=" in refused(Model(), api="triton")


def test_what_the_server_adds_is_its_own_and_not_the_tokenizers_to_say(saved_model):
    model = Model(takes_ids=False, overhead=9)
    with serving(model) as url:
        target = loaded(url, tokenizer=saved_model)
        target.run(target.request(Workload(40, 2), 1), lambda: 0.0)
        target.close()
    assert model.length(model.asked[-1]["prompt"]) == 40


def test_a_tokenizer_of_another_model_is_an_error(saved_model):
    message = refused(Model(takes_ids=False, tokens=lambda word: 2), tokenizer=saved_model)
    assert "is not the server's: what it makes of 16 tokens are 32 to the server" in message


def test_a_server_to_which_no_common_word_is_a_token_is_an_error():
    message = refused(Model(takes_ids=False, tokens=len))
    assert "count as one token each; name the server's tokenizer as endpoint(…, tokenizer=)" in message


def test_a_tokenizer_that_is_not_there_is_an_error(tmp_path):
    message = refused(Model(), tokenizer=tmp_path / "missing")
    assert message.startswith(f"tokenizer='{tmp_path / 'missing'}': ")
