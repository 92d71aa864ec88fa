"""`gpus=2`: a model over so many GPUs and no others, or an error that says why not."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
import transformers

from pytest_llmperf.errors import DeviceMissingError, OutOfMemoryTargetError, TargetError, UsageError
from pytest_llmperf.targets import LoadOptions, huggingface, pretrained, random_weights, resolve, stream
from pytest_llmperf.targets.device import Cuda, device_of
from pytest_llmperf.targets.spread import check_spread, placement
from tests.unit.test_targets_device import FakeCuda

GIB = 2**30
SIZES = {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 100}
LLAMA = random_weights("llama", num_attention_heads=4, num_key_value_heads=2, dtype="float32", **SIZES)
TWO = LoadOptions(gpus=2)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(3)
    fake.install(monkeypatch)
    fake.free.update({"cuda:0": 4 * GIB, "cuda:1": 5 * GIB, "cuda:2": 6 * GIB})
    return fake


@pytest.fixture
def dispatched(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, int], dict[str, Any]]]:
    """What accelerate was asked to spread: the model, the place of each part, and how."""
    calls: list[tuple[Any, dict[str, int], dict[str, Any]]] = []
    monkeypatch.setattr(accelerate, "dispatch_model", lambda model, places, **how: calls.append((model, places, how)))
    monkeypatch.setattr(huggingface, "devices_of_model", lambda model, asked: asked)
    return calls


def test_random_weights_are_made_whole_and_then_spread_in_equal_parts(dispatched: list[Any]) -> None:
    target = LLAMA.load(TWO)
    [(model, places, how)] = dispatched
    layers = [places[f"model.layers.{index}"] for index in range(6)]
    assert (layers[0], layers[-1]) == (0, 1)
    assert layers == sorted(layers)
    assert 2 <= layers.count(0) <= 4
    assert set(how) == {"skip_keys"}
    assert "past_key_values" in how["skip_keys"]
    assert target.device.names == ("cuda:0", "cuda:1")
    assert all(parameter.device.type == "cpu" and parameter.any() for parameter in model.parameters())
    assert (model.model.rotary_emb.inv_freq > 0).all(), "a buffer made by the model's own code has its values"


def test_no_more_gpus_than_asked_for_are_used(dispatched: list[Any]) -> None:
    LLAMA.load(LoadOptions(device="cuda:1", gpus=2))
    assert set(dispatched[0][1].values()) == {0, 1}


def test_one_gpu_needs_no_spreading(dispatched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(torch, "device", lambda name: built.append(name) or torch.no_grad())
    LLAMA.load(LoadOptions(gpus=1))
    assert (built, dispatched) == (["cuda:0"], [])


def test_what_does_not_fit_onto_the_gpus_ran_out_of_memory(cuda: FakeCuda, dispatched: list[Any]) -> None:
    cuda.free.update({"cuda:0": 50_000, "cuda:1": 50_000})
    with pytest.raises(OutOfMemoryTargetError, match=r"does not fit onto cuda:0,1; use a smaller dtype or more GPUs"):
        LLAMA.load(TWO)
    assert dispatched == []


def test_without_accelerate_the_error_says_how_to_install_it(
    dispatched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TargetError, match="several GPUs need accelerate: pip install accelerate"):
        LLAMA.load(TWO)


def test_a_model_that_came_to_lie_on_fewer_gpus_is_an_error() -> None:
    with pytest.raises(TargetError, match="gpus=2: gpt2 came to lie on cuda:0 alone, with too few layers to spread"):
        check_spread("gpt2", Cuda(["cuda:0"]), 2)
    check_spread("gpt2", Cuda(["cuda:0", "cuda:1"]), 2)
    check_spread("gpt2", Cuda(["cuda:0"]), None)


def test_from_pretrained_is_told_of_the_gpus_it_may_use(cuda: FakeCuda) -> None:
    assert placement(device_of("cuda:1", 2)) == {"device_map": "auto", "max_memory": {0: 4 * GIB, 1: 5 * GIB}}
    assert placement(device_of("cuda:1")) == placement(device_of("cuda:1", 1)) == {"device_map": "cuda:1"}
    assert placement(device_of("cpu")) == {"device_map": "cpu"}


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, {"device_map": "auto", "max_memory": {0: 4 * GIB, 1: 5 * GIB}}),
        ({"max_memory": {0: 1, 1: 2}}, {"device_map": "auto", "max_memory": {0: 1, 1: 2}}),
        ({"device_map": "balanced"}, {"device_map": "balanced"}),
        ({"tp_plan": "auto"}, {"tp_plan": "auto"}),
        ({"distributed_config": {}}, {"distributed_config": {}}),
    ],
)
def test_where_a_folder_goes_is_for_load_to_say_first(
    dispatched: list[Any], saved_model: Any, monkeypatch: pytest.MonkeyPatch, load: dict, expected: dict
) -> None:
    given: dict[str, Any] = {}
    small = LLAMA.load(LoadOptions(device="cpu")).model

    def from_pretrained(name: str, **keywords: Any) -> Any:
        given.update(keywords)
        return small

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    resolve(str(saved_model)).load(LoadOptions(load=load, gpus=2))
    assert {name: given.get(name) for name in expected} == expected
    assert expected.keys() >= given.keys() & {"device_map", "tp_plan", "max_memory"}


def module_on(*places: str) -> Any:
    weights = [SimpleNamespace(device=place, dtype=torch.float32) for place in places]
    return SimpleNamespace(
        generate=None, config=transformers.GPT2Config(), modules=lambda: [], parameters=lambda: iter(weights)
    )


@pytest.mark.parametrize(
    ("places", "gpus", "lies_on"),
    [(["cuda:0"], 2, "cuda:0"), (["cuda:0", "cuda:1"], 1, "cuda:0,1"), (["cpu"], 1, "cpu")],
)
def test_a_module_that_does_not_lie_on_so_many_gpus_is_an_error(
    cuda: FakeCuda, places: list[str], gpus: int, lies_on: str
) -> None:
    with pytest.raises(UsageError, match=f"gpus={gpus}: Own lies on {lies_on}; spread it before measuring"):
        huggingface.adopt(module_on(*places), "Own", LoadOptions(gpus=gpus))


def test_a_module_on_so_many_gpus_is_measured_there(cuda: FakeCuda) -> None:
    target = huggingface.adopt(module_on("cuda:0", "cuda:2"), "Own", TWO)
    assert target.device.names == ("cuda:0", "cuda:2")


@pytest.mark.parametrize("reference", [LLAMA, resolve("gpt2"), stream(lambda ids, n: iter(range(n)))])
def test_more_gpus_than_there_are_is_an_error_of_every_target(monkeypatch: pytest.MonkeyPatch, reference: Any) -> None:
    FakeCuda(1).install(monkeypatch)
    with pytest.raises(DeviceMissingError, match=r"gpus=2: torch .* sees 1 CUDA device on this machine"):
        reference.load(TWO)


def test_a_module_on_a_machine_with_fewer_gpus_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(1).install(monkeypatch)
    with pytest.raises(DeviceMissingError, match=r"gpus=2: torch .* sees 1 CUDA device on this machine"):
        huggingface.adopt(module_on("cuda:0"), "Own", TWO)


def test_a_stream_runs_where_there_are_enough_gpus(cuda: FakeCuda) -> None:
    assert stream(lambda ids, n: iter(range(n))).load(TWO).device.name == "cpu"


@pytest.mark.parametrize(
    "gpus", [pytest.param(1, marks=pytest.mark.gpu), pytest.param(2, marks=pytest.mark.gpus)], ids=["1", "2"]
)
def test_a_real_model_lies_on_as_many_gpus_as_asked_for_and_generates(gpus: int) -> None:
    target = LLAMA.load(LoadOptions(gpus=gpus))
    assert target.device.names == tuple(f"cuda:{index}" for index in range(gpus))
    ids = torch.ones((1, 4), dtype=torch.long, device="cuda:0")
    assert target.model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None).shape == (1, 8)
