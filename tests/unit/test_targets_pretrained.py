"""Saved models and Hub ids: loaded with their tokenizer, or one sentence why not."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest
import torch
from huggingface_hub import HfApi, constants, errors

from pytest_llmperf.errors import LlmperfError, TargetError, UsageError
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Unknown, Workload
from pytest_llmperf.targets import LoadOptions, Pretrained, random_weights, resolve
from tests.fakes import transformers_validates_configs

try:  # the Hub's client of huggingface_hub 2, and of 1
    import httpx2 as httpx
except ImportError:
    import httpx

CPU = LoadOptions(device="cpu")


def load(name, **options):
    return resolve(str(name)).load(LoadOptions(device="cpu", **options))


def refused(name, error=TargetError, **options):
    """The message with which a target is refused: one sentence that names it."""
    with pytest.raises(error) as caught:
        load(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "chat"
    path.mkdir()
    return path


@pytest.fixture
def copy(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "copy")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that is online and answers as told, with an empty cache."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def answer(error):
        def model_info(self, name, *, timeout=None, **others):
            assert timeout is not None, "nobody waits for a Hub that does not answer"
            raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)
        return cache

    return answer


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/models/org/chat"))


def put_in_cache(cache, saved_model, name="org/chat"):
    """As the Hub's client lays a downloaded model out."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(saved_model, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)


# What loads


def test_a_saved_folder_loads_with_its_tokenizer(saved_model):
    target = load(saved_model)
    assert target.id == str(saved_model)
    assert target.tokenizer("the quick")["input_ids"]
    assert target.dtype == "float32"
    assert not target.model.training


def test_weights_are_those_that_were_saved(saved_model):
    from safetensors.torch import load_file

    saved = load_file(saved_model / "model.safetensors")
    loaded = load(saved_model).model.state_dict()
    assert saved
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())


def test_a_path_object_loads_as_its_text_does(saved_model):
    assert resolve(saved_model).load(CPU).id == load(saved_model).id


def test_the_estimate_of_a_folder_is_the_size_of_its_weight_files(saved_model):
    estimate = Pretrained(str(saved_model)).weights_estimate(CPU)
    assert estimate == (saved_model / "model.safetensors").stat().st_size
    assert estimate == pytest.approx(load(saved_model).weights_bytes(), rel=0.05)


@pytest.mark.parametrize("name", ["org/chat", "./missing"])
def test_what_is_no_folder_has_an_unknown_size(name):
    assert isinstance(Pretrained(name).weights_estimate(CPU), Unknown)


def test_the_dtype_asked_for_is_the_dtype_loaded(saved_model):
    assert load(saved_model, dtype="bfloat16").dtype == "bfloat16"
    assert load(saved_model, dtype="auto").dtype == "float32", "as it was saved"


def test_load_options_go_to_from_pretrained(saved_model):
    target = load(saved_model, load={"attn_implementation": "eager"})
    assert target.model.config._attn_implementation == "eager"


def test_fields_of_the_generation_config_are_set_on_it(saved_model):
    target = load(saved_model, load={"cache_implementation": "static"})
    assert target.model.generation_config.cache_implementation == "static"
    trace = target.run(target.request(Workload(prompt_tokens=5, output_tokens=4), 1), time.perf_counter)
    assert trace.output_tokens == 4


def test_device_map_auto_measures_where_the_weights_came_to_lie(saved_model):
    pytest.importorskip("accelerate")
    target = load(saved_model, load={"device_map": "auto"})
    assert target.device.name == str(next(target.model.parameters()).device)


def test_loading_prints_nothing(saved_model, capfd):
    load(saved_model)
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_verbosity_of_transformers_alone(saved_model):
    import transformers

    transformers.logging.set_verbosity_info()
    try:
        load(saved_model)
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json", "both"])
def test_a_folder_without_a_whole_tokenizer_is_served_with_token_ids(copy, missing):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if missing in (name, "both"):
            (copy / name).unlink()
    target = load(copy)
    request = target.request(Workload(prompt_tokens=20, output_tokens=3), 1)
    assert request.prompt["input_ids"].shape == (1, 20)
    assert target.run(request, time.perf_counter).output_tokens == 3


def test_a_folder_without_a_tokenizer_has_none(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    target = load(copy)
    assert target.tokenizer is None
    with pytest.raises(UsageError, match="has no tokenizer"):
        target.request(Workload(prompt="the quick"), 1)


def test_a_saved_gpt2_without_a_tokenizer_is_served_with_token_ids(tmp_path):
    random_weights("gpt2", n_layer=1, n_embd=32, n_head=4, vocab_size=100, n_positions=64).load(
        CPU
    ).model.save_pretrained(tmp_path / "gpt2")  # transformers makes an empty tokenizer of its type's name
    target = load(tmp_path / "gpt2")
    assert target.tokenizer is None
    ids = target.request(Workload(prompt_tokens=30, output_tokens=1), 1).prompt["input_ids"]
    assert len(set(ids.flatten().tolist())) > 10


def test_a_broken_tokenizer_leaves_the_model_usable(copy):
    (copy / "tokenizer.json").write_text("{not json")
    target = load(copy)
    assert target.tokenizer is None


# Prompts


def test_prompt_ids_have_the_exact_length_are_distinct_and_never_special(saved_model):
    target = load(saved_model)
    workload = Workload(prompt_tokens=300, output_tokens=1, batch_size=2)
    prompts = [target.request(workload, seed).prompt["input_ids"] for seed in (1, 2, 1)]
    assert prompts[0].shape == (2, 300)
    assert torch.equal(prompts[0], prompts[2])
    assert not torch.equal(prompts[0], prompts[1])
    special = set(target.tokenizer.all_special_ids)
    assert special
    assert special.isdisjoint(prompts[0].flatten().tolist())
    assert prompts[0].max() < len(target.tokenizer)


def test_prompt_ids_stay_within_the_smaller_of_tokenizer_and_model(saved_model):
    target = load(saved_model)
    target.model.config.vocab_size = 1000  # as models padded to a round size have
    ids = target.request(Workload(prompt_tokens=500, output_tokens=1), 1).prompt["input_ids"]
    assert ids.max() < len(target.tokenizer)


def test_a_text_prompt_measures_tokenization_and_detokenization(saved_model):
    target = load(saved_model)
    text = "the quick brown fox"
    measured = measure(target, Workload(prompt=text, output_tokens=4), Effort(rounds=3, max_time=0.01))
    assert measured.tokenize_ms > 0
    assert measured.detokenize_ms > 0
    assert measured.workload.prompt_tokens == len(target.tokenizer(text)["input_ids"])
    assert measured.workload.prompt == text


def test_tokenization_lies_outside_the_time_to_first_token(saved_model):
    target = load(saved_model)
    readings = iter(range(1, 100))
    trace = target.run(target.request(Workload(prompt="the fox", output_tokens=3), 1), lambda: float(next(readings)))
    # tokenize 1 to 2, sent 3, prefill 4 to 5, tokens 6 7 8, detokenize 9 to 10
    assert trace.tokenize == 1.0
    assert trace.sent == 3.0
    assert trace.prefill == 1.0
    assert trace.arrivals == (6.0, 7.0, 8.0)
    assert trace.detokenize == 1.0


def test_a_text_prompt_is_sent_once_per_sequence_of_the_batch(saved_model):
    target = load(saved_model)
    request = target.request(Workload(prompt="the fox", output_tokens=3, batch_size=3), 1)
    trace = target.run(request, time.perf_counter)
    assert trace.sequences == 3
    tokens = len(target.tokenizer("the fox")["input_ids"])
    assert trace.prompt_tokens == tokens
    layers, kv_heads, head_dim = 2, 2, 16
    assert target.kv_cache_bytes(request) == 2 * layers * kv_heads * head_dim * 4 * (tokens + 3 - 1) * 3


def test_token_ids_leave_tokenization_unknown_but_their_answer_is_detokenized(saved_model):
    measured = measure(load(saved_model), Workload(5, 3), Effort(rounds=3, max_time=0.01))
    assert measured.tokenize_ms is None
    assert "prompt= measures tokenization" in measured.unknown["tokenize_ms"]
    assert measured.detokenize_ms > 0


def test_the_models_own_end_of_sequence_does_not_end_a_measurement(saved_model):
    target = load(saved_model)
    target.model.generation_config.eos_token_id = list(range(target.model.config.vocab_size))
    trace = target.run(target.request(Workload(prompt_tokens=5, output_tokens=6), 1), time.perf_counter)
    assert trace.output_tokens == 6


# What does not load


@pytest.mark.parametrize("name", ["org/missing-model", "missing-model"])
def test_an_id_that_is_not_in_the_cache_is_an_error_offline(name):
    message = refused(name)
    assert message.startswith(f"model='{name}': not in the Hub's cache, and HF_HUB_OFFLINE is set")
    assert "random_weights(" in message


@pytest.mark.parametrize("name", ["./missing", "../missing", "/missing/model", "~/missing", "a/b/c"])
def test_a_path_that_does_not_exist_is_an_error(name):
    message = refused(name)
    assert message.startswith(f"model='{name}': this path does not exist")
    assert "relative to" in message


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert f"model='{file}': this path is no folder" in refused(file)


def test_a_folder_without_a_config_is_an_error_that_says_how_to_save(folder):
    message = refused(folder)
    assert f"model='{folder}': the folder has no config.json" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("name", ["two words", "wrong!", "x" * 100, "-dash", "stream:fn"])
def test_what_is_neither_folder_nor_id_is_an_error(name):
    assert refused(name).startswith(f"model='{name}': ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "wibble"}', "does not know its architecture.*wibble"),
        ("{}", "names no model_type that transformers knows"),
        ('{"model_type": 3}', "does not know its architecture"),
        ("[]", "names no model_type"),
        ('{"model_type": "gpt2",', "config.json' is not a valid JSON file"),
        ("", "not a valid JSON file"),
        ('{"model_type": "vit"}', "it is no causal language model"),
        ('{"model_type": "gpt2", "n_layer": "two"}', "n_layer"),
        ('{"model_type": "llama", "num_attention_heads": 3, "hidden_size": 32}', "hidden size"),
        ('{"model_type": "gpt2", "n_layer": 1}', "no file named model.safetensors"),
    ],
)
def test_a_config_that_makes_no_model_is_an_error_that_names_the_folder(folder, config, message):
    (folder / "config.json").write_text(config)
    shown = refused(folder, LlmperfError)
    assert shown.startswith(f"model='{folder}'")
    assert re.search(message, shown) or not transformers_validates_configs()


def test_a_config_that_is_no_text_is_an_error(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x01")
    assert f"model='{folder}'" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"not a weight file", None])
def test_a_broken_weight_file_is_an_error_that_names_the_folder(copy, content):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    assert f"model='{copy}'" in refused(copy)


def test_weights_of_another_shape_than_the_config_says_are_an_error(copy):
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "intermediate_size": 256}))
    assert f"model='{copy}'" in refused(copy)


@pytest.mark.parametrize(
    ("keyword", "near"),
    [("atn_implementation", "'attn_implementation'"), ("devicemap", "'device_map'"), ("revison", "'revision'")],
)
def test_an_unknown_keyword_is_refused_with_the_nearest(saved_model, keyword, near):
    message = refused(saved_model, UsageError, load={keyword: "eager"})
    assert f"'{keyword}': …" in message
    assert f"did you mean {near}" in message


def test_an_unknown_attention_implementation_is_an_error(saved_model):
    message = refused(saved_model, LlmperfError, load={"attn_implementation": "wibble"})
    assert f"model='{saved_model}'" in message
    assert "wibble" in message


def test_an_unknown_cache_implementation_is_an_error_that_names_it(saved_model):
    assert "wibble" in refused(saved_model, UsageError, load={"cache_implementation": "wibble"})


# The Hub


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("name resolution failed"),
        httpx.ReadTimeout("timed out"),
        OSError("network is unreachable"),
        errors.HfHubHTTPError("Internal Server Error", response=response(500)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_cannot_be_reached_is_an_error_that_says_so(hub, error):
    hub(error)
    message = refused("org/chat")
    assert message.startswith("model='org/chat': not in the Hub's cache, and the Hub cannot be reached")
    assert type(error).__name__ in message
    assert "random_weights(" in message


def test_a_gated_model_is_an_error_that_says_what_to_do(hub):
    hub(errors.GatedRepoError("403", response=response(403)))
    message = refused("org/chat")
    assert message.startswith("model='org/chat': gated on the Hub")
    assert "HF_TOKEN" in message


def test_a_model_that_is_nowhere_is_an_error(hub):
    hub(errors.RepositoryNotFoundError("404", response=response(404)))
    assert refused("org/chat").startswith("model='org/chat': neither a local folder nor a model on the Hub")


def test_a_cached_model_loads_though_the_hub_cannot_be_reached(hub, saved_model):
    put_in_cache(hub(httpx.ConnectError("no network")), saved_model)
    target = load("org/chat")
    assert target.id == "org/chat"
    assert target.tokenizer is not None


def test_a_cached_model_loads_offline(hub, saved_model, monkeypatch):
    put_in_cache(hub(AssertionError("nobody asks the Hub offline")), saved_model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("org/chat").model is not None


def test_a_folder_is_loaded_without_asking_the_hub(hub, saved_model):
    hub(AssertionError("nobody asks the Hub for a folder"))
    assert load(saved_model).model is not None
