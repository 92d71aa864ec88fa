"""`endpoint(…)`: what names a server, what is refused at once, and what is never shown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_llmperf.errors import TargetError, UsageError
from pytest_llmperf.settings import check, merge
from pytest_llmperf.targets import Endpoint, LoadOptions, endpoint, resolve
from pytest_llmperf.targets.plain import thawed

URL = "http://llm.example.org:8000/v1"


def test_an_endpoint_resolves_to_itself_and_passes_through_a_mark():
    reference = endpoint(URL, model="gpt2")
    assert resolve(reference) is reference
    settings = merge([check([], {"model": reference, "concurrency": 8, "request_rate": None})])
    assert settings.target is reference
    assert settings.workload.concurrency == 8


def test_equal_endpoints_are_one_target_and_others_are_not():
    def made(**more):
        return endpoint(URL, **{"model": "gpt2", "headers": {"a": "1"}, "body": {"stop": ["x", {"y": 1}]}, **more})

    assert made() == made()
    assert hash(made()) == hash(made())
    assert made().cacheable
    assert not made().in_process
    assert len({made(), made(api="chat"), made(headers={"a": "2"}), made(body={"stop": ["z"]})}) == 4


def test_fields_of_the_body_come_back_as_the_plain_data_they_were():
    body = {"top_k": 1, "stop": ["a", {"b": None}]}
    assert {name: thawed(value) for name, value in endpoint(URL, body=body).body} == body


@pytest.mark.parametrize(
    ("url", "options", "shown"),
    [
        (URL, {"model": "gpt2"}, "endpoint:llm.example.org:8000/gpt2"),
        ("https://llm.example.org/v1/", {"model": "org/model"}, "endpoint:llm.example.org/org/model"),
        (URL, {}, "endpoint:llm.example.org:8000"),
        ("http://localhost:8000/v1", {"model": "gpt2"}, "endpoint:localhost/gpt2"),
        ("http://127.0.0.1:43117/v1", {"model": "gpt2"}, "endpoint:localhost/gpt2"),
        ("http://[::1]:43117/v1", {"model": "gpt2"}, "endpoint:localhost/gpt2"),
        ("http://0.0.0.0:8000/v1", {"model": "gpt2"}, "endpoint:localhost/gpt2"),
        ("http://[2001:db8::1]:8000/v1", {"model": "gpt2"}, "endpoint:[2001:db8::1]:8000/gpt2"),
        ("http://localhost:8000/v1", {"model": "/data/models/small"}, "endpoint:localhost/small"),
        ("http://localhost:8000/v1", {"model": "./small/"}, "endpoint:localhost/small"),
        (URL, {"model": "gpt2", "api": "chat"}, "endpoint:llm.example.org:8000/gpt2?api=chat"),
    ],
)
def test_ids_name_host_model_and_api_and_no_port_of_this_machine(url, options, shown):
    assert endpoint(url, **options).id == shown


def test_the_text_form_names_the_same_reference():
    text = (
        f"{URL}?model=org/model&api=chat&api_key_env=LLM_KEY&tokenizer=./tok&timeout=30&hardware=H200+x8"
        f"&base=http://old:8000/v1&body=%7B%22top_k%22%3A1%7D"
    )
    assert resolve(text) == endpoint(
        URL,
        model="org/model",
        api="chat",
        api_key_env="LLM_KEY",
        tokenizer="./tok",
        timeout=30,
        hardware="H200 x8",
        base="http://old:8000/v1",
        body={"top_k": 1},
    )
    assert resolve(URL) == endpoint(URL)
    assert resolve(f"{URL}?model=7").model == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/v1", "expected a url like 'http://localhost:8000/v1'"),
        (f"{URL}?modl=gpt2", "'modl' is no option.*did you mean 'model'"),
        (f"{URL}?model", r"'model' has no value; write .*\?model=…"),
        (f"{URL}?model=a&model=b", "model is given twice"),
        (f"{URL}?timeout=soon", "timeout='soon'.: expected seconds"),
        (f"{URL}?body=1", "body=1.: expected a dictionary"),
        (f"{URL}?api=chta", "did you mean 'chat'"),
    ],
)
def test_a_text_that_names_no_endpoint_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        resolve(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api": "chatt"}, "api='chatt': no such api; did you mean 'chat'"),
        ({"api": None}, "api=None: no such api"),
        ({"model": ""}, "model=''.: expected a name"),
        ({"model": 3}, "model=3.: expected a name"),
        ({"model": "a\nb"}, r"model='a\\nb'.: expected a name, in one line"),
        ({"hardware": "\x1b[31mred"}, "expected a name, in one line"),
        ({"hardware": " "}, "hardware=' '.: expected a name"),
        ({"timeout": 0}, "timeout=0.: expected seconds, more than 0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": True}, "timeout=True"),
        ({"tokenizer": ""}, "tokenizer=''.: expected a Hub id or a local folder"),
        ({"tokenizer": 5}, "tokenizer=5"),
        ({"body": [1]}, "expected a dictionary of fields"),
        ({"body": {"model": "x"}}, r"body=\{'model': …\}\): the workload and endpoint\(…\) decide it"),
        ({"body": {"max_tokens": 5}}, "max_tokens"),
        ({"body": {"top_k": object()}}, "expected plain data"),
        ({"body": {"top_p": float("nan")}}, "expected plain data"),
        ({"headers": ["a"]}, "expected a dictionary of names and values"),
        ({"headers": {"a b": "c"}}, "'a b': ….*no name of a header"),
        ({"headers": {"Authorization": "x"}, "api_key_env": "KEY"}, "api_key_env='KEY' sets it too"),
        ({"base": "old"}, r"endpoint\(base='old'\): expected a url"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, message):
    with pytest.raises(UsageError, match=message):
        endpoint(URL, **options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("llm.example.org:8000/v1", "expected a url like"),
        ("http://", "expected a url like"),
        ("http://host:port/v1", "write it like"),
        ("http://host:99999/v1", "write it like"),
        ("http://ho st/v1", "expected a url like"),
        ("http://a..b/v1", r"endpoint\(url='http://a..b/v1'\): a..b is no name of a host"),
        (f"http://{'a' * 70}.org/v1", "1 to 63 letters"),
        (None, r"endpoint\(url=None\): expected text"),
        (f"{URL}/chat/completions", "leave out /chat/completions, which api= adds"),
        (f"{URL}/completions/", "leave out /completions"),
        (f"{URL}?model=gpt2", "write options as keywords"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url, message):
    with pytest.raises(UsageError, match=message):
        endpoint(url)


SECRET = "sk-Very-Secret-99"


@pytest.mark.parametrize(
    "made",
    [
        lambda: endpoint(f"http://user:{SECRET}@host/v1"),
        lambda: endpoint(f"http://user:{SECRET}/x@host:no/v1"),
        lambda: endpoint(URL, base=f"http://{SECRET}@host/v1"),
        lambda: resolve(f"http://user:{SECRET}@host/v1?nothing=1"),
        lambda: resolve(f"{URL}?headers={SECRET}"),
        lambda: resolve(f"{URL}?api_key={SECRET}"),
        lambda: endpoint(f"{URL}?api_key={SECRET}"),
        lambda: endpoint(f"ftp://host/v1?api_key={SECRET}"),
        lambda: endpoint(f"http://host:no/v1#{SECRET}"),
        lambda: endpoint(URL, api_key_env=SECRET),
        lambda: endpoint(URL, api_key_env="verysecret99"),
        lambda: endpoint(URL, headers={"X-Key": f"{SECRET}\r\nX: y"}),
        lambda: endpoint(URL, headers={"X Key": SECRET}),
        lambda: endpoint(URL, headers={"X-Key": [SECRET]}),
        lambda: endpoint(URL, headers={"Authorization": SECRET}, api_key_env="KEY"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(made):
    with pytest.raises(UsageError) as caught:
        made()
    assert "ecret" not in str(caught.value).replace("may hold a secret", "")


def test_the_values_of_headers_are_in_no_representation():
    reference = endpoint(URL, headers={"X-Key": SECRET})
    assert SECRET not in f"{reference!r} {reference.id}"


def test_a_variable_in_small_letters_is_taken_if_it_is_there(monkeypatch):
    monkeypatch.setenv("llm_key", SECRET)
    assert endpoint(URL, api_key_env="llm_key").api_key_env == "llm_key"


def test_a_key_that_is_not_there_is_an_error_that_names_its_variable(monkeypatch):
    monkeypatch.delenv("LLM_KEY", raising=False)
    with pytest.raises(TargetError, match="api_key_env='LLM_KEY': this environment variable is not set"):
        endpoint(URL, api_key_env="LLM_KEY").load(LoadOptions())


def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_show_it(monkeypatch):
    monkeypatch.setenv("LLM_KEY", f"{SECRET}\nX: y")
    with pytest.raises(TargetError, match="api_key_env='LLM_KEY': what it holds cannot be sent") as caught:
        endpoint(URL, api_key_env="LLM_KEY").load(LoadOptions())
    assert SECRET not in str(caught.value)


def test_options_for_loading_a_model_are_refused():
    with pytest.raises(UsageError, match=r"is loaded already.*endpoint\(…, body="):
        endpoint(URL).load(LoadOptions(load={"attn_implementation": "eager"}))


def test_its_weights_take_no_room_here():
    assert endpoint(URL).weights_estimate(LoadOptions()) == 0


def test_without_aiohttp_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from pytest_llmperf.targets import LoadOptions, endpoint\n"
        "try: endpoint('http://localhost:1/v1').load(LoadOptions())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("TargetError endpoint:localhost: ")
    assert "pip install 'pytest-llmperf[endpoint]'" in shown


def test_an_endpoint_is_named_without_anything_heavy():
    code = (
        "import sys; from pytest_llmperf import endpoint; endpoint('http://localhost:1/v1')\n"
        "print([m for m in ('aiohttp', 'torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_class_is_what_the_function_makes():
    assert isinstance(endpoint(URL), Endpoint)
