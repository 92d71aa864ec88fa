"""Random weights: any causal architecture, the same on every load, and wrong fields refused by name."""

from __future__ import annotations

import time
from collections import namedtuple

import psutil
import pytest
import torch

from pytest_llmperf.errors import TargetError, UsageError
from pytest_llmperf.model import Workload
from pytest_llmperf.targets import LoadOptions, random_weights, resolve
from pytest_llmperf.targets.cache import TargetCache
from tests.fakes import transformers_validates_configs

CPU = LoadOptions(device="cpu")
SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 100, "n_positions": 64}
GPT2 = random_weights("gpt2", **SIZES)
_SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 100}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TYPES = {
    "gpt2": GPT2,
    "llama": random_weights("llama", **_SMALL, **_HEADS),
    "qwen3": random_weights("qwen3", head_dim=16, **_SMALL, **_HEADS),
    "mixtral": random_weights("mixtral", num_local_experts=4, **_SMALL, **_HEADS),
    "mamba": random_weights("mamba", num_hidden_layers=2, hidden_size=32, vocab_size=100),
}


def parameters(reference, options=CPU):
    return {name: value.detach() for name, value in reference.load(options).model.named_parameters()}


@pytest.mark.parametrize("name", TYPES)
def test_every_load_has_the_same_weights(name):
    one, other = parameters(TYPES[name]), parameters(TYPES[name])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_do_not_depend_on_the_users_seed():
    torch.manual_seed(1)
    one = parameters(GPT2)
    torch.manual_seed(2)
    assert all(torch.equal(one[key], value) for key, value in parameters(GPT2).items())


def test_loading_leaves_the_users_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    GPT2.load(CPU)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_finite_and_norms_multiply_by_one(name):
    for key, value in parameters(TYPES[name]).items():
        assert torch.isfinite(value).all(), key
        if key.endswith(("ln_1.weight", "layernorm.weight", "ln_f.weight", "norm.weight")):
            assert (value == 1).all(), key
        elif value.numel() > 1000:
            assert float(value.std()) == pytest.approx(0.02, rel=0.2), key


def test_parameters_larger_than_the_random_block_are_filled_to_the_end():
    embedding = parameters(random_weights("gpt2", n_layer=1, n_embd=32, n_head=4, vocab_size=40_000, n_positions=8))[
        "transformer.wte.weight"
    ]
    assert embedding.numel() > 1_000_000
    assert (embedding[-1] != 0).any()
    assert float(embedding.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("name", TYPES)
def test_the_estimate_is_what_the_loaded_parameters_take(name):
    target = TYPES[name].load(CPU)
    buffers = {buffer.untyped_storage().data_ptr(): buffer for buffer in target.model.buffers()}
    held = target.weights_bytes() - sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())
    assert TYPES[name].weights_estimate(CPU) == held


def test_the_estimate_counts_tied_weights_once():
    assert GPT2.weights_estimate(CPU) == 122_880
    untied = random_weights("gpt2", tie_word_embeddings=False, **SIZES)
    assert untied.weights_estimate(CPU) == 122_880 + 100 * 32 * 4


def test_the_estimate_takes_no_memory():
    whole = random_weights("gpt2", n_layer=48, n_embd=1600, n_head=25)
    from pytest_llmperf.targets.device import Cpu

    with Cpu().track_memory() as track:
        estimate = whole.weights_estimate(CPU)
    assert estimate > 6 * 10**9
    assert track.peak < 10 * 2**20


def test_a_tied_head_stays_tied():
    model = GPT2.load(CPU).model
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("own", "asked", "dtype"),
    [
        (None, None, "float32"),
        (None, "bfloat16", "bfloat16"),
        ("float16", None, "float16"),
        ("float16", "bfloat16", "float16"),
        ("bf16", None, "bfloat16"),
    ],
)
def test_a_dtype_of_its_own_wins_over_the_marks_and_float32_is_the_default_on_cpu(own, asked, dtype):
    target = random_weights("gpt2", dtype=own, **SIZES).load(LoadOptions(device="cpu", dtype=asked))
    assert target.dtype == dtype
    assert {str(value.dtype) for value in target.model.parameters()} == {f"torch.{dtype}"}


def test_auto_is_no_dtype_where_there_is_no_checkpoint():
    with pytest.raises(UsageError, match=r"dtype='auto'.*no checkpoint"):
        random_weights("gpt2", dtype="auto", **SIZES).load(CPU)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_is_used_from_the_reference_or_the_load_options(attention):
    own = random_weights("gpt2", attn_implementation=attention, **SIZES).load(CPU)
    asked = GPT2.load(LoadOptions(device="cpu", load={"attn_implementation": attention}))
    assert own.model.config._attn_implementation == attention
    assert asked.model.config._attn_implementation == attention


def test_the_same_attention_implementation_may_be_named_twice():
    options = LoadOptions(device="cpu", load={"attn_implementation": "eager"})
    target = random_weights("gpt2", attn_implementation="eager", **SIZES).load(options)
    assert target.model.config._attn_implementation == "eager"


def test_fields_of_the_generation_config_are_set():
    target = GPT2.load(LoadOptions(device="cpu", load={"cache_implementation": "static"}))
    assert target.model.generation_config.cache_implementation == "static"


def test_the_model_is_in_evaluation_mode():
    assert not GPT2.load(CPU).model.training


def test_fields_by_their_general_names_are_known_too():
    sizes = {name: value for name, value in SIZES.items() if name != "n_layer"}
    model = random_weights("gpt2", num_hidden_layers=3, **sizes).load(CPU).model
    assert len(model.transformer.h) == 3


def test_the_text_form_loads_the_same_model():
    text = resolve("random:gpt2?n_layer=2&n_embd=32&n_head=4&vocab_size=100&n_positions=64")
    assert text == GPT2
    assert text.load(CPU).weights_bytes() == GPT2.load(CPU).weights_bytes()


def test_special_tokens_beyond_a_smaller_vocabulary_are_dropped():
    config = GPT2.load(CPU).model.config  # gpt2's own eos is 50256
    assert config.eos_token_id is None
    assert config.bos_token_id is None


WRONG = [
    ("random:gpt2?n_layr=2", UsageError, "'gpt2' has no 'n_layr'; did you mean 'n_layer'?"),
    ("random:llama?hiden_size=8", UsageError, "did you mean 'hidden_size'?"),
    ("random:gpt2?architectures=x", UsageError, "has no 'architectures'"),
    ("random:gpt3", UsageError, "no model type 'gpt3'; did you mean 'gpt"),
    ("random:lama", UsageError, "did you mean 'llama'?"),
    ("random:zzzzzz", UsageError, "no model type 'zzzzzz'"),
    ("random:t5", TargetError, "'t5' is no causal language model"),
    ("random:vit", TargetError, "'vit' is no causal language model"),
    ("random:clip", TargetError, "'clip' is no causal language model"),
    ("random:gpt2?n_layer=two", UsageError, "'n_layer' expected int, got str"),
    ("random:gpt2?n_layer=2.5", UsageError, "'n_layer' expected int, got float"),
    ("random:gpt2?n_layer=true", UsageError, "'n_layer' expected int, got bool"),
    ("random:gpt2?n_layer=null", UsageError, "'n_layer' expected int, got NoneType"),
    ("random:llama?num_attention_heads=3&hidden_size=32", UsageError, "hidden size (32) is not a multiple"),
    ("random:gpt2?n_embd=30&n_head=4&n_layer=1&vocab_size=10", TargetError, "divisible by num_heads"),
    ("random:gpt2?n_layer=1&attn_implementation=wibble", TargetError, 'attn_implementation="wibble"'),
]


@pytest.mark.parametrize(("text", "error", "message"), WRONG)
@pytest.mark.parametrize("use", ["weights_estimate", "load"])
def test_what_cannot_be_built_is_refused_by_name_in_one_line(text, error, message, use):
    validated_by_transformers = "expected int, got" in message or "is not a multiple" in message
    if validated_by_transformers and not transformers_validates_configs():
        pytest.skip("this transformers does not validate its configs")
    with pytest.raises(error) as caught:
        getattr(resolve(text), use)(CPU)
    assert message in str(caught.value)
    assert text.partition("?")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [{"revision": "main"}, {"device_map": "auto"}, {"n_layer": 3}])
def test_load_options_that_only_a_checkpoint_has_are_refused(load):
    with pytest.raises(UsageError, match="has nothing to load") as caught:
        GPT2.load(LoadOptions(device="cpu", load=load))
    assert next(iter(load)) in str(caught.value)


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(monkeypatch):
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(200_000, 100_000))
    monkeypatch.setattr("pytest_llmperf.targets.random_init.load", None)  # would be called in vain
    with pytest.raises(TargetError) as caught:
        TargetCache().load(GPT2, CPU)
    assert GPT2.id in str(caught.value)
    assert "needs about 120.0 KiB for its weights, and cpu has 97.7 KiB left" in str(caught.value)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_serves(name):
    target = TYPES[name].load(CPU)
    trace = target.run(target.request(Workload(prompt_tokens=4, output_tokens=3), 1), time.perf_counter)
    assert trace.output_tokens == 3


@pytest.mark.gpu
def test_a_model_is_built_on_the_gpu_in_bfloat16():
    target = GPT2.load(LoadOptions(device="cuda"))
    assert {value.device.type for value in target.model.parameters()} == {"cuda"}
    assert target.dtype == "bfloat16"
    assert target.weights_bytes() == 61_440
