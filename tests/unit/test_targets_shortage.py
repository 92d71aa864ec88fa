"""Where the memory went: short lines, on a GPU and on the CPU, and of what cannot be told nothing."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch
from markdown_it import MarkdownIt
from transformers import GPT2Config

from pytest_llmperf.model import Unknown, Workload
from pytest_llmperf.targets import LoadOptions, random_weights, shortage
from pytest_llmperf.targets.device import Cpu, Cuda, Room
from tests.fakes import FakeClock, FakeTarget
from tests.gpus import FakeGpu, FakeNvml

MIB, GIB = 2**20, 2**30
CPU = LoadOptions(device="cpu")
GPT2 = random_weights("gpt2", n_layer=2, n_embd=32, n_head=4, vocab_size=100, n_positions=64)
LLAMA = random_weights(
    "llama",
    num_hidden_layers=2,
    hidden_size=32,
    intermediate_size=64,
    vocab_size=100,
    num_attention_heads=4,
    num_key_value_heads=2,
)
MAMBA = random_weights("mamba", num_hidden_layers=1, hidden_size=16, state_size=4, vocab_size=100)


class Gpus(Cuda):
    """Two, with what they hold."""

    def rooms(self):
        taken = Room("cuda:0", 139 * GIB, 512 * MIB, {"reserved": 120 * GIB, "live": 118 * GIB})
        return [taken, Room("cuda:1", 139 * GIB, 100 * GIB, {"reserved": 0, "live": 0})]


GPUS = Gpus(["cuda:0", "cuda:1"])


@pytest.fixture
def nvml(monkeypatch):
    """What NVML tells of both."""
    own = os.getpid()
    first = FakeGpu("GPU-uuid-0", processes={own: 120 * GIB, 77: GIB, 4242: 18 * GIB})
    second = FakeGpu("MIG-uuid-1", processes={77: 2 * GIB, 78: None})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))
    monkeypatch.setattr(shortage.nvml, "_own", own)
    return FakeNvml([first, second]).install(monkeypatch)


@pytest.mark.usefixtures("nvml")
def test_of_gpus_each_is_told_with_this_process_and_others():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")
    assert list(shortage.of_device(GPUS, error)) == [
        "cuda:0: 512.0 MiB of 139.0 GiB free; own: 120.0 GiB reserved, 118.0 GiB live",
        "cuda:1: 100.0 GiB of 139.0 GiB free; own: 0 bytes reserved, 0 bytes live",
        "what failed: an allocation of 20.00 GiB",
        "other processes: pid 4242 18.0 GiB, pid 77 3.0 GiB",
    ]


def test_where_there_are_no_others_nothing_is_told_of_them(nvml):
    for gpu in nvml.gpus:
        gpu.processes = {os.getpid(): GIB}
    assert len(list(shortage.of_device(GPUS))) == 2


def test_why_others_cannot_be_told_is_told(monkeypatch, nvml):
    nvml.gpus[0].processes = {77: GIB}
    monkeypatch.setattr(shortage.nvml, "_own", Unknown("NVML lists the host's process ids"))
    assert list(shortage.of_device(GPUS))[-1] == ("other processes: unknown, NVML lists the host's process ids")


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetComputeRunningProcesses"])
def test_an_nvml_that_refuses_is_no_second_error(nvml, refused):
    nvml.refused[refused] = pynvml.NVML_ERROR_NO_PERMISSION
    assert list(shortage.of_device(GPUS))[-1] == "other processes: unknown, NVML: Insufficient Permissions"
    assert nvml.open == 0


def test_of_the_cpu_the_resident_set_is_told():
    (line,) = shortage.of_device(Cpu())
    assert line.startswith("cpu: ")
    assert " free; own: " in line
    assert line.endswith(" resident")


@pytest.mark.parametrize("reference", [GPT2, LLAMA], ids=lambda reference: reference.model_type)
def test_the_cache_told_is_that_of_one_token_more_than_the_real_one(reference):
    """The last token is not fed back."""
    target, workload = reference.load(CPU), Workload(prompt_tokens=8, output_tokens=5, batch_size=3)
    real = target.kv_cache_bytes(target.request(workload, 1))
    weights, cache = shortage.of_target(target, workload)
    assert weights.startswith("weights: ")
    assert shortage._largest_cache(target, workload) == real * 13 // 12
    assert cache.startswith("cache of 3 × 13 tokens: up to ")


def test_a_model_without_attention_has_no_cache_by_this_rule():
    assert [line.partition(":")[0] for line in shortage.of_target(MAMBA.load(CPU), Workload())] == ["weights"]


@pytest.mark.parametrize("listed", ["num_attention_heads", "num_key_value_heads"])
def test_a_model_whose_layers_differ_has_no_cache_by_this_rule(listed: str) -> None:
    numbers = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "hidden_size": 32}
    config = SimpleNamespace(**{**numbers, listed: [4, 2]})
    target = FakeTarget(FakeClock(), model=SimpleNamespace(config=config))
    assert list(shortage.of_target(target, Workload())) == ["weights: 100.0 MiB"]


def test_memory_that_cannot_be_read_takes_no_errors_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def rooms(self: Cpu) -> None:
        raise RuntimeError("CUDA error: out of memory\nSearch for it")

    monkeypatch.setattr(Cpu, "rooms", rooms)
    told = list(shortage.of_device(Cpu(), torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")))
    assert told == ["cpu: unknown, CUDA error: out of memory", "what failed: an allocation of 2.00 GiB"]


def test_the_length_of_a_text_is_not_known_beforehand():
    assert len(list(shortage.of_target(GPT2.load(CPU), Workload(prompt="Once")))) == 1


def test_of_what_shows_no_weights_nothing_is_told():
    assert list(shortage.of_target(FakeTarget(FakeClock(), weights=Unknown("out of sight")), Workload())) == []


def test_those_who_gave_way_are_told_with_their_sizes():
    assert list(shortage.of_others({})) == []
    assert list(shortage.of_others({"gpt2": 474 * MIB, "stream(fn)": Unknown("out of sight")})) == [
        "gave way before: gpt2 (474.0 MiB), stream(fn)"
    ]


def test_facts_fit_a_narrow_terminal():
    gave_way = {f"random:llama?num_hidden_layers={number}&hidden_size=4096": 15 * GIB for number in range(4)}
    lines = shortage.told("gpt2 ran out", shortage.of_others(gave_way), iter(["a line"])).splitlines()
    assert lines[0] == "gpt2 ran out"
    assert lines[-1] == "  a line"
    assert all(len(line) <= 78 for line in lines)
    assert all(line.startswith("    ") for line in lines[2:-1])


def test_the_picture_in_the_docs_is_what_one_looks_like(monkeypatch):
    class Full(Cuda):
        def rooms(self):
            own = {"reserved": int(118.3 * GIB), "live": int(486.1 * MIB)}
            return [Room("cuda:0", int(139.8 * GIB), int(1.2 * GIB), own)]

    gpu = FakeGpu("GPU-uuid-0", processes={os.getpid(): 120 * GIB, 4242: int(19.4 * GIB)})
    FakeNvml([gpu]).install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))
    monkeypatch.setattr(shortage.nvml, "_own", os.getpid())
    target = FakeTarget(FakeClock(), weights=int(474.7 * MIB), model=SimpleNamespace(config=GPT2Config()))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 11.25 GiB. GPU 0 has …")
    message = (
        "gpt2 ran out of memory on cuda:0 serving 256 × (512 + 128) tokens; use a smaller batch_size or shorter "
        "prompts and outputs"
    )
    device, needs = shortage.of_device(Full(["cuda:0"]), error), shortage.of_target(target, Workload(512, 128, 256))
    told = shortage.told(message, device, needs, shortage.of_others({"random:llama": int(12.6 * GIB)}))
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (shown,) = [token.content for token in MarkdownIt().parse(page) if token.type == "fence" and token.info == "text"]
    assert shown.split() == told.split()
