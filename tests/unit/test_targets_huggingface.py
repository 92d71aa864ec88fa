"""`generate()` as it is measured: exactly the tokens asked for, times, stamps, caches, weights."""

from __future__ import annotations

import copy
import functools
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import CompileConfig

from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.model import Unknown, Workload
from pytest_llmperf.targets import LoadOptions, random_weights, resolve
from pytest_llmperf.targets.huggingface import GenerateTarget
from tests.fakes import TINY, FakeDevice

CPU = LoadOptions(device="cpu")
GPT2 = random_weights("gpt2", n_layer=2, n_embd=32, n_head=4, vocab_size=100, n_positions=64)
_SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 100}
LLAMA = random_weights("llama", num_attention_heads=4, num_key_value_heads=2, **_SMALL)
QWEN3 = random_weights("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=16, **_SMALL)
MIXTRAL = random_weights(
    "mixtral", num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **_SMALL
)
MAMBA = random_weights("mamba", num_hidden_layers=2, hidden_size=32, vocab_size=100, state_size=4)
ALL = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3, "mixtral": MIXTRAL, "mamba": MAMBA}


def serve(target, workload, seed=1, clock=time.perf_counter):
    return target.run(target.request(workload, seed), clock)


class Ticking:
    """A clock on which every reading is one second later than the last: shows the order of readings."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Plain(torch.nn.Module):
    """A module of the user's own, with nothing of transformers in it."""

    def __init__(self, *, makes=None, streams=None, error=None) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 4)
        self.config = SimpleNamespace(vocab_size=50)
        self.makes, self.streams, self.error = makes, streams, error

    def generate(self, input_ids, max_new_tokens, streamer=None, **others):
        if self.error is not None:
            raise self.error
        made = max_new_tokens if self.makes is None else self.makes
        streamed = made if self.streams is None else self.streams
        if streamer is not None:
            streamer.put(input_ids)
            for _ in range(streamed):
                streamer.put(torch.zeros(len(input_ids), dtype=torch.long))
            streamer.end()
        return torch.cat([input_ids, torch.zeros(len(input_ids), made, dtype=torch.long)], dim=1)


# Exactly the tokens asked for


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("batch", "output"), [(1, 5), (3, 4), (1, 1)])
def test_exactly_the_tokens_asked_for_come_at_ascending_times(name, batch, output):
    target = ALL[name].load(CPU)
    trace = serve(target, Workload(prompt_tokens=7, output_tokens=output, batch_size=batch))
    assert trace.output_tokens == len(trace.arrivals) == output
    assert trace.counts == ()
    assert trace.prompt_tokens == 7
    assert trace.sequences == batch
    assert [trace.sent, *trace.arrivals] == sorted([trace.sent, *trace.arrivals])
    assert 0 < trace.prefill < trace.arrivals[0] - trace.sent


def test_a_model_that_only_ever_emits_its_eos_still_makes_every_token():
    target = GPT2.load(CPU)
    target.model.generation_config.eos_token_id = list(range(100))
    request = target.request(Workload(prompt_tokens=6, output_tokens=8), 1)
    left_alone = target.model.generate(**request.prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert left_alone.shape[1] == 6 + 1, "every token is an eos, so that the model would stop at once"
    assert target.run(request, time.perf_counter).output_tokens == 8


@pytest.mark.parametrize("cache", ["static", "dynamic"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_cache_implementation_given_as_load_option_is_used(cache, batch):
    target = LLAMA.load(LoadOptions(device="cpu", load={"cache_implementation": cache}))
    workload = Workload(prompt_tokens=6, output_tokens=5, batch_size=batch)
    assert serve(target, workload).output_tokens == 5
    request = target.request(workload, 1)
    output = target.model.generate(**request.prompt, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert type(output.past_key_values).__name__.lower().startswith(cache)


def test_sampling_settings_of_the_model_do_not_disturb_the_greedy_call():
    target = GPT2.load(CPU)
    config = target.model.generation_config
    config.do_sample, config.temperature, config.top_p, config.num_beams = True, 0.7, 0.9, 4
    assert serve(target, Workload(prompt_tokens=6, output_tokens=5)).output_tokens == 5


def test_a_model_set_to_return_dictionaries_can_be_measured():
    target = GPT2.load(CPU)
    target.model.generation_config.return_dict_in_generate = True
    assert serve(target, Workload(prompt_tokens=6, output_tokens=5)).output_tokens == 5


@pytest.mark.parametrize(
    ("makes", "streams", "shown"),
    [
        (3, None, "generated 3 tokens and streamed 3"),
        (0, None, "generated 0 tokens and streamed 0"),
        (8, None, "generated 8 tokens and streamed 8"),
        (None, 0, "generated 6 tokens and streamed 0"),
        (None, 5, "generated 6 tokens and streamed 5"),
    ],
)
def test_a_model_that_makes_or_streams_other_than_asked_is_an_error(makes, streams, shown):
    target = resolve(Plain(makes=makes, streams=streams)).load(CPU)
    with pytest.raises(MeasurementError, match=f"Plain {shown}, where output_tokens=6 were asked for.*early"):
        serve(target, Workload(prompt_tokens=4, output_tokens=6))


def test_a_subclass_that_drops_the_token_limit_is_an_error():
    target = GPT2.load(CPU)
    original = target.model.generate

    def generate(**arguments):
        return original(**{**arguments, "max_new_tokens": 2})

    target.model.generate = generate
    with pytest.raises(MeasurementError, match="generated 2 tokens"):
        serve(target, Workload(prompt_tokens=4, output_tokens=6))


# What is refused


def test_a_prompt_longer_than_the_learned_positions_is_refused_before_it_runs():
    target = GPT2.load(CPU)
    with pytest.raises(UsageError, match=r"prompt_tokens=60 \+ output_tokens=9 = 69.*positions for 64 tokens"):
        target.request(Workload(prompt_tokens=60, output_tokens=9), 1)


def test_all_learned_positions_can_be_used():
    assert serve(GPT2.load(CPU), Workload(prompt_tokens=60, output_tokens=4)).output_tokens == 4


def test_rotary_positions_have_no_end():
    target = random_weights(
        "llama", num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16, **_SMALL
    ).load(CPU)
    assert serve(target, Workload(prompt_tokens=20, output_tokens=2)).output_tokens == 2


def test_a_vocabulary_as_large_as_the_rotary_positions_is_no_table_of_positions():
    sizes = {**_SMALL, "vocab_size": 64}
    target = random_weights(
        "llama", num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, **sizes
    ).load(CPU)
    assert serve(target, Workload(prompt_tokens=70, output_tokens=2)).output_tokens == 2


def test_positions_in_a_fixed_table_end_too():
    target = random_weights("gptj", n_layer=1, n_embd=32, n_head=4, rotary_dim=4, vocab_size=100, n_positions=16)
    with pytest.raises(UsageError, match="positions for 16 tokens"):
        serve(target.load(CPU), Workload(prompt_tokens=20, output_tokens=2))


def test_max_time_is_refused_because_it_ends_generation_silently():
    target = GPT2.load(CPU)
    target.model.generation_config.max_time = 5.0
    with pytest.raises(UsageError, match=r"generation_config\.max_time is set"):
        target.request(Workload(), 1)


def test_a_text_prompt_without_a_tokenizer_is_refused():
    with pytest.raises(UsageError, match="has no tokenizer; set prompt_tokens="):
        GPT2.load(CPU).request(Workload(prompt="hello"), 1)


def test_a_module_that_does_not_say_its_vocabulary_is_refused():
    module = Plain()
    del module.config
    with pytest.raises(UsageError, match="Plain does not say its vocabulary"):
        resolve(module).load(CPU).request(Workload(), 1)


@pytest.mark.parametrize("decorate", [lambda function: function, torch.no_grad(), torch.inference_mode()])
def test_a_generate_that_takes_other_arguments_is_an_error_that_names_it(decorate):
    class Narrow(Plain):
        @decorate
        def generate(self, ids):
            return ids

    target = resolve(Narrow()).load(CPU)
    with pytest.raises((UsageError, TargetError, MeasurementError), match="Narrow"):
        serve(target, Workload(prompt_tokens=4, output_tokens=6))


def test_a_type_error_inside_the_model_comes_through_unchanged():
    def helper(size):
        return size

    class Wrong(Plain):
        def generate(self, **arguments):
            return helper(sise=3)

    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        serve(resolve(Wrong()).load(CPU), Workload(prompt_tokens=4, output_tokens=6))


def test_a_generate_that_returns_no_dictionary_has_an_unknown_cache():
    class Strict(Plain):
        def generate(
            self,
            input_ids,
            attention_mask,
            max_new_tokens,
            do_sample,
            num_beams,
            eos_token_id,
            pad_token_id,
            streamer=None,
            logits_processor=(),
        ):
            return super().generate(input_ids, max_new_tokens, streamer)

    target = resolve(Strict()).load(CPU)
    workload = Workload(prompt_tokens=4, output_tokens=6)
    assert serve(target, workload).output_tokens == 6
    assert isinstance(target.kv_cache_bytes(target.request(workload, 1)), Unknown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(device="cuda"), "device='cuda': Plain is on cpu"),
        (LoadOptions(dtype="bfloat16"), "dtype='bfloat16': Plain is in torch.float32"),
        (LoadOptions(load={"attn_implementation": "eager"}), "load=.*Plain is loaded already"),
    ],
)
def test_a_users_module_is_measured_as_it_is_or_not_at_all(options, message):
    with pytest.raises(UsageError, match=message):
        resolve(Plain()).load(options)


def test_a_module_on_the_meta_device_is_named_with_what_to_do():
    with pytest.raises(UsageError, match="Plain is on the meta device, where weights hold nothing: load them"):
        resolve(Plain().to("meta")).load(LoadOptions())


def test_an_encoder_decoder_model_is_told_to_be_none_of_ours():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    model = T5ForConditionalGeneration(T5Config(**sizes))
    with pytest.raises(UsageError, match=r"is an encoder-decoder model, which is not supported; wrap .* stream\(fn\)"):
        resolve(model).load(LoadOptions())


def test_a_vocabulary_of_special_tokens_alone_is_told_with_the_target_and_a_fix():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1}
    target = resolve(GPT2LMHeadModel(GPT2Config(**sizes))).load(CPU)
    with pytest.raises(UsageError, match=r"^GPT2LMHeadModel: a vocabulary of 2 .* special ones; give it a larger"):
        target.request(Workload(4, 2), 1)


@pytest.mark.parametrize("options", [CPU, LoadOptions(), LoadOptions(dtype="float32")])
def test_options_that_a_users_module_meets_are_no_error(options):
    module = Plain()
    assert resolve(module).load(options).model is module


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_running_out_of_memory_is_an_error_that_names_the_workload(error):
    target = resolve(Plain(error=error)).load(CPU)
    with pytest.raises(TargetError, match=r"Plain ran out of memory on cpu serving 2 × \(4 \+ 6\) tokens"):
        serve(target, Workload(prompt_tokens=4, output_tokens=6, batch_size=2))


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation` in its documentation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 18.08 GB, max allowed: 18.13 GB)",
    ],
)
def test_what_has_no_error_class_of_its_own_is_running_out_of_memory_too(words):
    error = RuntimeError(words)
    with pytest.raises(TargetError, match="ran out of memory"):
        serve(resolve(Plain(error=error)).load(CPU), Workload())


def test_out_of_memory_beyond_rotary_positions_is_no_matter_of_positions():
    target = random_weights(
        "llama", num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16, **_SMALL
    ).load(CPU)

    def generate(**arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    target.model.generate = generate
    with pytest.raises(TargetError, match="ran out of memory"):
        serve(target, Workload(prompt_tokens=20, output_tokens=2))


def test_any_other_error_of_the_model_comes_through_unchanged():
    with pytest.raises(RuntimeError, match="my kernel is wrong"):
        serve(resolve(Plain(error=RuntimeError("my kernel is wrong"))).load(CPU), Workload())


# A module of the user's own


def test_a_plain_module_has_arrivals_and_an_unknown_prefill():
    trace = serve(resolve(Plain()).load(CPU), Workload(prompt_tokens=4, output_tokens=6, batch_size=2))
    assert trace.output_tokens == 6
    assert trace.sequences == 2
    assert trace.prefill == Unknown("the target does not show where prefill ends")
    assert isinstance(trace.tokenize, Unknown)
    assert isinstance(trace.detokenize, Unknown)


def test_a_plain_module_has_weights_and_an_unknown_cache():
    target = resolve(Plain()).load(CPU)
    assert target.weights_bytes() == 50 * 4 * 4
    cache = target.kv_cache_bytes(target.request(Workload(prompt_tokens=4, output_tokens=6), 1))
    assert cache == Unknown("generate() of Plain returned no cache")


def test_several_tokens_at_once_are_one_arrival_with_its_count():
    class Speculative(Plain):
        def generate(self, input_ids, max_new_tokens, streamer=None, **others):
            if streamer is not None:
                streamer.put(input_ids)
                streamer.put(torch.zeros(1, 2, dtype=torch.long))
                streamer.put(torch.zeros(1, 1, dtype=torch.long))
                streamer.put(torch.zeros(1, 3, dtype=torch.long))
            return torch.cat([input_ids, torch.zeros(1, max_new_tokens, dtype=torch.long)], dim=1)

    trace = serve(resolve(Speculative()).load(CPU), Workload(prompt_tokens=4, output_tokens=6))
    assert trace.counts == (2, 1, 3)
    assert len(trace.arrivals) == 3
    assert trace.output_tokens == 6


# Stamps, and what is left behind


def test_on_a_device_without_its_own_clock_only_the_prefill_is_stamped():
    target = GPT2.load(CPU)
    target.device = device = FakeDevice()
    trace = serve(target, Workload(prompt_tokens=4, output_tokens=3), clock=Ticking())
    assert device.calls == ["stamp", "stamp", "seconds"]
    # sent 1, prefill begins 2, ends 3, then the tokens
    assert trace.sent == 1.0
    assert trace.prefill == 1.0
    assert trace.arrivals == (4.0, 5.0, 6.0)
    assert trace.device_arrivals == ()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
@pytest.mark.parametrize("output", [1, 2, 6])
def test_a_device_with_its_own_clock_is_stamped_once_per_token_and_never_waited_for(name, output):
    target = ALL[name].load(CPU)
    target.device = device = FakeDevice(has_own_clock=True)
    serve(target, Workload(prompt_tokens=4, output_tokens=output))
    stamps = 1 + 1 + output
    assert device.calls[:stamps] == ["stamp"] * stamps
    assert set(device.calls[stamps:]) == {"seconds"}


def test_device_times_count_from_the_beginning_of_prefill():
    target = GPT2.load(CPU)
    target.device = FakeDevice(has_own_clock=True)
    trace = serve(target, Workload(prompt_tokens=4, output_tokens=3), clock=Ticking())
    # sent 1, prefill begins 2, ends 3, then in turn: token on the device, token on the host
    assert trace.sent == 1.0
    assert trace.prefill == 1.0
    assert trace.device_arrivals == (2.0, 4.0, 6.0)
    assert trace.arrivals == (5.0, 7.0, 9.0)


def test_a_run_leaves_nothing_on_the_model():
    target = GPT2.load(CPU)
    before = dict(vars(target.model))
    serve(target, Workload(prompt_tokens=4, output_tokens=3))
    assert vars(target.model) == before


def test_a_run_puts_back_what_the_user_had_put_on_the_model():
    target = GPT2.load(CPU)
    calls = []
    original = target.model.prepare_inputs_for_generation

    @functools.wraps(original)  # generate() reads the signature
    def mine(*arguments, **keywords):
        calls.append(1)
        return original(*arguments, **keywords)

    target.model.prepare_inputs_for_generation = mine
    serve(target, Workload(prompt_tokens=4, output_tokens=3))
    assert target.model.prepare_inputs_for_generation is mine
    assert len(calls) == 3


def test_a_run_that_fails_leaves_nothing_on_the_model_either():
    target = GPT2.load(CPU)
    before = dict(vars(target.model))
    request = target.request(Workload(prompt_tokens=4, output_tokens=3), 1)
    handle = target.model.lm_head.register_forward_hook(lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        target.run(request, time.perf_counter)
    handle.remove()
    assert vars(target.model) == before
    assert target.run(request, time.perf_counter).output_tokens == 3


# Prompts


def test_prompts_have_the_exact_length_and_differ_by_seed():
    target = GPT2.load(CPU)
    workload = Workload(prompt_tokens=11, output_tokens=2, batch_size=3)
    one, other, again = (target.request(workload, seed).prompt["input_ids"] for seed in (1, 2, 1))
    assert one.shape == (3, 11)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 3, "the sequences of a batch differ too"


def test_every_prompt_token_is_attended_to():
    request = GPT2.load(CPU).request(Workload(prompt_tokens=5, output_tokens=2, batch_size=2), 1)
    assert request.prompt["attention_mask"].tolist() == [[1] * 5] * 2


def test_prompts_hold_no_special_tokens():
    target = random_weights(
        "gpt2",
        n_layer=1,
        n_embd=32,
        n_head=4,
        vocab_size=8,
        n_positions=512,
        bos_token_id=1,
        eos_token_id=[2, 5],
        pad_token_id=0,
    ).load(CPU)
    ids = target.request(Workload(prompt_tokens=400, output_tokens=1), 1).prompt["input_ids"]
    assert set(ids.flatten().tolist()) == {3, 4, 6, 7}


# Weights and caches, by hand


def masks_of(target):
    """Bytes of causal masks, which transformers 5.0 kept as buffers of GPT-2."""
    return sum(buffer.nbytes for buffer in target.model.buffers() if not buffer.is_floating_point())


def test_tied_weights_are_counted_once():
    layer = 2 * 32 + (32 * 96 + 96) + (32 * 32 + 32) + 2 * 32 + (32 * 128 + 128) + (128 * 32 + 32)
    parameters = 100 * 32 + 64 * 32 + 2 * layer + 2 * 32
    target = GPT2.load(CPU)
    assert target.weights_bytes() - masks_of(target) == parameters * 4 == 122_880


def test_buffers_belong_to_the_weights():
    attention = 32 * 32 + 16 * 32 + 16 * 32 + 32 * 32
    layer = attention + 3 * 32 * 64 + 2 * 32
    parameters = 2 * 100 * 32 + 2 * layer + 32
    target = LLAMA.load(CPU)
    buffers = {buffer.untyped_storage().data_ptr(): buffer for buffer in target.model.buffers()}
    assert sum(buffer.numel() for buffer in buffers.values()) > 0
    assert target.weights_bytes() == parameters * 4 + sum(buffer.numel() * 4 for buffer in buffers.values())


def test_half_the_bytes_per_weight_are_half_the_weights():
    whole = GPT2.load(LoadOptions(device="cpu", dtype="float32"))
    half = GPT2.load(LoadOptions(device="cpu", dtype="bfloat16"))
    assert (half.weights_bytes() - masks_of(half)) * 2 == whole.weights_bytes() - masks_of(whole)
    assert half.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("reference", "kv_heads", "head_dim"), [(GPT2, 4, 8), (LLAMA, 2, 8), (QWEN3, 2, 16), (MIXTRAL, 2, 8)]
)
@pytest.mark.parametrize(("prompt", "output", "batch"), [(7, 5, 1), (7, 1, 1), (3, 4, 3)])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_dynamic_cache_holds_keys_and_values_of_all_but_the_last_token(
    reference, kv_heads, head_dim, prompt, output, batch, dtype, size
):
    target = reference.load(LoadOptions(device="cpu", dtype=dtype))
    request = target.request(Workload(prompt_tokens=prompt, output_tokens=output, batch_size=batch), 1)
    layers = 2
    assert target.kv_cache_bytes(request) == 2 * layers * kv_heads * head_dim * size * (prompt + output - 1) * batch


def test_a_static_cache_is_as_large_as_it_was_made():
    target = LLAMA.load(LoadOptions(device="cpu", load={"cache_implementation": "static"}))
    request = target.request(Workload(prompt_tokens=7, output_tokens=5, batch_size=2), 1)
    tensors = 2 * 2 * 2 * 8 * 4 * (7 + 5 - 1) * 2
    counters = target.kv_cache_bytes(request) - tensors
    assert 0 <= counters <= 2 * 16, "beside its keys and values each layer may count its tokens"


@pytest.mark.parametrize("output", [1, 4, 12])
def test_a_state_space_models_state_does_not_grow(output):
    target = MAMBA.load(CPU)
    request = target.request(Workload(prompt_tokens=7, output_tokens=output), 1)
    layers, inner, convolution, state = 2, 64, 4, 4
    assert target.kv_cache_bytes(request) == layers * inner * (convolution + state) * 4


def test_a_model_without_a_cache_says_so():
    target = GPT2.load(LoadOptions(device="cpu", load={"use_cache": False}))
    workload = Workload(prompt_tokens=4, output_tokens=3)
    assert serve(target, workload).output_tokens == 3
    cache = target.kv_cache_bytes(target.request(workload, 1))
    assert isinstance(cache, Unknown)
    assert "returned no cache" in cache.reason


def test_a_target_takes_its_dtype_from_the_model():
    model = GPT2.load(LoadOptions(device="cpu", dtype="float64")).model
    assert GenerateTarget("mine", model, None, FakeDevice()).dtype == "float64"


@pytest.mark.gpu
def test_on_a_real_gpu_device_times_are_ascending_and_within_the_hosts():
    target = GPT2.load(LoadOptions(device="cuda"))
    workload = Workload(prompt_tokens=16, output_tokens=8)
    serve(target, workload)
    trace = serve(target, workload)
    assert len(trace.device_arrivals) == 8
    assert list(trace.device_arrivals) == sorted(trace.device_arrivals)
    assert 0 < trace.prefill <= trace.device_arrivals[0]
    assert trace.device_arrivals[-1] <= (trace.arrivals[-1] - trace.sent) * 1.1
    assert target.dtype == "bfloat16"


STATIC = {"cache_implementation": "static"}
GRAPHS = {**STATIC, "compile_config": CompileConfig(mode="reduce-overhead", fullgraph=False)}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "load"),
    [("bfloat16", {}), ("float16", {}), ("bfloat16", STATIC), ("bfloat16", GRAPHS)],
    ids=["bfloat16", "float16", "static cache", "CUDA graphs"],
)
def test_on_a_real_gpu_each_token_has_an_event_however_it_is_decoded(dtype, load):
    target = resolve("random:llama?num_hidden_layers=2&hidden_size=256&intermediate_size=512&vocab_size=1000").load(
        LoadOptions(device="cuda", dtype=dtype, load=load)
    )
    workload = Workload(prompt_tokens=16, output_tokens=12)
    for _ in range(3):  # graphs are recorded meanwhile
        trace = serve(target, workload)
    assert target.dtype == dtype
    assert len(trace.device_arrivals) == len(trace.arrivals) == 12
    assert list(trace.device_arrivals) == sorted(trace.device_arrivals)
    host, device = (times[-1] - times[0] for times in (trace.arrivals, trace.device_arrivals))
    assert device == pytest.approx(host, rel=0.2)


@pytest.mark.parametrize("assisted", [True, False])
def test_what_an_assistant_drafted_is_counted(assisted: bool) -> None:
    """An assistant that is the model itself drafts nothing that the model would not have said."""
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    if assisted:
        generate, itself = target.model.generate, copy.deepcopy(target.model)
        target.model.generate = functools.partial(generate, assistant_model=itself)
    trace = target.run(target.request(Workload(16, 24), 1), time.perf_counter)
    assert trace.output_tokens == 24
    assert trace.drafted == (24 - len(trace.arrivals) if assisted else None)
    assert len(trace.arrivals) < 24 or not assisted
