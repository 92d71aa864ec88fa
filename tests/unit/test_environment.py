"""The machine and the software, as recorded with every measurement."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import pynvml
import pytest
import torch
import transformers

from pytest_llmperf.baselines import environment as environment_module
from pytest_llmperf.baselines.environment import cpu_model, device_name, environment_of, nvidia_gpus, versions
from tests.fakes import FakeClock, FakeTarget


@pytest.fixture
def cpuinfo(monkeypatch):
    """Lets /proc/cpuinfo hold the given text, or not exist."""

    def hold(text):
        def read_text(self, *arguments, **keywords):
            assert str(self) == "/proc/cpuinfo"
            if text is None:
                raise FileNotFoundError(self)
            return text

        monkeypatch.setattr(Path, "read_text", read_text)

    return hold


def test_a_target_on_cpu_is_recorded_with_processor_dtype_threads_and_versions(monkeypatch):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "AMD EPYC 7763")
    monkeypatch.setattr(environment_module, "_cores", lambda: 2)
    target = FakeTarget(FakeClock(), dtype="bfloat16")
    target.device.name = "cpu"
    seen = environment_of(target, 3)
    assert (seen.device, seen.device_name) == ("cpu", "AMD EPYC 7763, 2 cores")
    assert (seen.dtype, seen.threads) == ("bfloat16", 3)
    assert seen.versions["python"] == platform.python_version()
    assert seen.versions["torch"] == torch.__version__
    assert seen.versions["transformers"] == transformers.__version__


def test_threads_left_alone_are_recorded_as_they_are():
    assert environment_of(FakeTarget(FakeClock()), None).threads == torch.get_num_threads()


def test_a_process_without_torch_has_no_threads_to_record(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert environment_of(FakeTarget(FakeClock()), None).threads is None


def test_what_is_not_installed_has_no_version(monkeypatch):
    real = importlib.metadata.version

    def without_accelerate(name):
        if name == "accelerate":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", without_accelerate)
    assert set(versions()) == {"torch", "transformers", "numpy"}


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "Intel Xeon Platinum 8370C"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "Intel Core i7-9750H"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("AMD EPYC", "AMD EPYC"),
    ],
)
def test_a_processor_is_named_without_its_marketing(cpuinfo, shown, name):
    cpuinfo(f"processor\t: 0\nvendor_id\t: x\nmodel name\t: {shown}\nstepping\t: 1\nmodel name\t: other\n")
    assert cpu_model() == name


@pytest.mark.parametrize("text", [None, "processor : 0\nCPU implementer : 0x41\n"])
def test_a_processor_that_does_not_say_its_model_is_named_as_the_system_does(cpuinfo, monkeypatch, text):
    cpuinfo(text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_model() == "aarch64"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert cpu_model() == "arm"


@pytest.mark.parametrize(("device", "asked"), [("cuda", 0), ("cuda:1", "cuda:1"), ("cuda×2", 0)])
def test_a_gpu_is_named_as_cuda_names_it(monkeypatch, device, asked):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"NVIDIA H200 of {name}")
    assert device_name(device) == f"NVIDIA H200 of {asked}"


def test_an_apple_gpu_is_named_after_its_processor(monkeypatch):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "Apple M3")
    assert device_name("mps") == "Apple M3 GPU"


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert device_name("cpu").endswith(", 3 cores")


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert device_name("cpu").endswith(", 12 cores")


@pytest.fixture
def nvml(monkeypatch):
    """An NVML with two GPUs; notes what is left open."""
    state = {"open": 0}
    replaced = {
        "nvmlInit": lambda: state.update(open=state["open"] + 1),
        "nvmlShutdown": lambda: state.update(open=state["open"] - 1),
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: f"NVIDIA H{handle + 1}00",
    }
    for name, replacement in replaced.items():
        monkeypatch.setattr(pynvml, name, replacement)
    return state


def failing(*arguments):
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_gpus_are_named_by_nvml_without_starting_cuda(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", failing)
    assert nvidia_gpus() == ["NVIDIA H100", "NVIDIA H200"]
    assert nvml["open"] == 0


@pytest.mark.parametrize("fails_at", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName"])
def test_a_machine_without_nvml_has_no_gpus(nvml, monkeypatch, fails_at):
    monkeypatch.setattr(pynvml, fails_at, failing)
    assert nvidia_gpus() == []
    assert nvml["open"] == 0
