"""Memory: exact on real models, leaks seen, and the peak of the resident set."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from pytest_llmperf import nvml, resident
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.measure.memory import device_gpu_bytes, memory_pass, peak_rss, process_gpu_bytes
from pytest_llmperf.metrics import summarize
from pytest_llmperf.model import Measurement, Memory, Unknown, Workload
from pytest_llmperf.targets import LoadOptions, random_weights, resolve
from pytest_llmperf.targets.device import Cuda
from tests.fakes import FakeClock, FakeDevice, FakeTarget
from tests.gpus import FakeGpu, FakeNvml

MIB = 2**20
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
WORKLOAD = Workload(prompt_tokens=8, output_tokens=5)


def watched(target, *, twice=True, workload=WORKLOAD):
    return memory_pass(target, target.request(workload, 1), time.perf_counter, twice)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


def metrics_of(memory):
    return summarize(Measurement(target="", workload=WORKLOAD, rounds=(), memory=memory))


def around_generate(target, then):
    """Let the model do something of its own at each call of `generate()`."""
    original = target.model.generate

    def generate(**arguments):
        output = original(**arguments)
        then()
        return output

    target.model.generate = generate
    return target


# Two calls, on a fake device


def fake(**device):
    return FakeTarget(FakeClock(), device=FakeDevice(**device))


def test_the_peak_is_weights_and_growth():
    seen = metrics_of(watched(fake(peak=7 * MIB)))
    assert seen.weights_mib == 100.0
    assert seen.peak_memory_mib == 107.0
    assert seen.kv_cache_mib == 2.0
    assert seen.activations_mib == 5.0
    assert seen.leak_mib == 0.0
    assert seen.peak_reserved_mib == 3.0
    assert seen.fragmentation_mib == 1.0


def test_what_earlier_targets_left_with_the_allocator_is_handed_back_first():
    target = fake()
    watched(target)
    assert target.device.calls == ["release", "track", "track"]


def test_the_peaks_of_the_allocator_are_over_both_calls():
    """The second call reserves no more than the first; where it also uses less, that is no fragmentation."""
    target = fake()
    target.device.stretches = iter([(30 * MIB, 29 * MIB), (30 * MIB, 12 * MIB)])
    seen = watched(target)
    assert seen.reserved == 30 * MIB
    assert seen.fragmentation == MIB


def test_an_allocator_that_tells_of_no_blocks_leaves_fragmentation_unknown():
    target = fake()
    target.device.stretches = itertools.repeat((30 * MIB, Unknown("cudaMallocAsync")))
    seen = metrics_of(watched(target))
    assert seen.peak_reserved_mib == 30.0
    assert seen.unknown["fragmentation_mib"] == "cudaMallocAsync"


def test_what_the_first_call_leaves_raises_the_peak_of_the_second():
    without = watched(fake(peak=7 * MIB))
    leaking = watched(fake(peak=7 * MIB, end=2 * MIB))
    assert without.peak_growth == 7 * MIB
    assert leaking.peak_growth == 9 * MIB
    assert leaking.leaked_per_call == 2 * MIB


def test_memory_that_a_call_gives_back_does_not_lower_the_peak():
    seen = watched(fake(peak=7 * MIB, end=-2 * MIB))
    assert seen.peak_growth == 7 * MIB
    assert seen.leaked_per_call == -2 * MIB


def test_without_time_for_a_second_call_the_leak_is_unknown_and_the_peak_is_known():
    target = fake(peak=7 * MIB, end=2 * MIB)
    seen = watched(target, twice=False)
    assert seen.peak_growth == 7 * MIB
    assert seen.leaked_per_call == Unknown(
        "one call alone takes longer than the time allowed for memory", by_chance=True
    )
    assert target.runs == 0
    assert target.device.calls.count("track") == 1


def test_a_target_without_weights_in_sight_is_not_served_again():
    target = fake()
    target.weights = Unknown("out of sight")
    seen = watched(target)
    assert target.runs == 0
    assert target.device.calls == []
    for value in (seen.weights, seen.kv_cache, seen.peak_growth, seen.leaked_per_call):
        assert value == Unknown("out of sight")


def test_a_device_that_shows_no_peak_leaves_it_unknown_and_the_rest_known():
    reason = Unknown("mps offers no peak")
    seen = metrics_of(watched(fake(peak=reason, end=reason)))
    assert seen.weights_mib == 100.0
    assert seen.kv_cache_mib == 2.0
    assert seen.unknown["peak_memory_mib"] == seen.unknown["leak_mib"] == "mps offers no peak"


# Real models, exactly


@pytest.mark.parametrize("reference", [GPT2, LLAMA], ids=lambda reference: reference.model_type)
def test_every_repetition_sees_the_same_bytes(reference):
    target = reference.load(CPU)
    target.run(target.request(WORKLOAD, 1), time.perf_counter)
    seen = [watched(target) for _ in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert seen[0].leaked_per_call == 0
    assert seen[0].peak_growth >= seen[0].kv_cache > 0


def test_the_number_of_threads_does_not_change_memory():
    def seen(threads):
        return measure(GPT2.load(CPU), WORKLOAD, Effort(rounds=1, threads=threads)).memory

    one, two = seen(1), seen(2)
    assert (one.peak_growth, one.weights, one.kv_cache) == (two.peak_growth, two.weights, two.kv_cache)


def test_a_longer_prompt_needs_more_and_other_loaded_models_do_not_count():
    target = GPT2.load(CPU)
    short = watched(target)
    others = [GPT2.load(CPU) for _ in range(2)]
    assert watched(target) == short
    assert watched(target, workload=Workload(prompt_tokens=40, output_tokens=5)).peak_growth > short.peak_growth
    del others


def test_a_module_that_leaks_one_mebibyte_per_call_shows_exactly_that():
    kept = []
    target = around_generate(GPT2.load(CPU), lambda: kept.append(torch.zeros(MIB // 4)))
    sound = watched(GPT2.load(CPU))
    leaking = watched(target)
    assert metrics_of(leaking).leak_mib == 1.0
    # both calls leave one, and a call's own peak lies before its leak
    assert sound.peak_growth < leaking.peak_growth <= sound.peak_growth + 2 * MIB


def test_a_module_that_leaks_per_step_shows_all_its_steps():
    kept, target = [], GPT2.load(CPU)
    target.model.lm_head.register_forward_hook(lambda *arguments: kept.append(torch.zeros(1024)))
    assert watched(target).leaked_per_call == WORKLOAD.output_tokens * 4096


def test_a_leak_in_a_reference_cycle_is_no_leak():
    class Node:
        def __init__(self):
            self.itself, self.tensor = self, torch.zeros(MIB // 4)

    assert watched(around_generate(GPT2.load(CPU), Node)).leaked_per_call == 0


def test_a_buffer_that_each_call_replaces_is_no_leak():
    kept = {}
    target = around_generate(GPT2.load(CPU), lambda: kept.update(last=torch.zeros(MIB // 4)))
    target.run(target.request(WORKLOAD, 1), time.perf_counter)
    assert watched(target).leaked_per_call == 0


def test_a_buffer_filled_once_is_no_leak():
    kept = {}
    target = around_generate(GPT2.load(CPU), lambda: kept or kept.update(only=torch.zeros(MIB // 4)))
    assert watched(target).leaked_per_call == 0


@pytest.mark.parametrize(("dtype", "size"), [(torch.qint8, 1), (torch.float16, 2)])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_weights_packed_by_quantization_are_counted(dtype, size):
    model = torch.nn.Sequential(torch.nn.Embedding(10, 64), torch.nn.Linear(64, 256), torch.nn.Linear(256, 64))
    packed = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=dtype)
    packed.generate = print
    target = resolve(packed).load(LoadOptions())
    assert target.weights_bytes() == 4 * 10 * 64 + 2 * 64 * 256 * size + 4 * (256 + 64)


def test_half_the_bytes_per_number_are_half_the_weights_and_half_the_cache():
    target = GPT2.load(CPU)
    masks = sum(buffer.nbytes for buffer in target.model.buffers() if not buffer.is_floating_point())
    whole = watched(target)
    half = watched(GPT2.load(LoadOptions(device="cpu", dtype="bfloat16")))
    assert (half.weights - masks) * 2 == whole.weights - masks
    assert half.kv_cache * 2 == whole.kv_cache


# The resident set


def occupied(mebibytes, seconds=0.0):
    """Pages that are really written to, then given back."""
    block = bytearray(os.urandom(1)) * (mebibytes * MIB)
    time.sleep(seconds)
    return len(block)


@pytest.fixture(params=["kernel", "sampled"])
def watching(request, monkeypatch):
    """Both ways of watching the resident set; sampling needs memory to be held for a few samples."""
    if request.param == "sampled":
        monkeypatch.setattr(resident, "_PROC", Path("/nonexistent"))
        return 0.2
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this kernel resets no high-water mark")
    return 0.0


def test_the_peak_of_the_resident_set_sees_memory_that_is_gone_again(watching):
    before = psutil.Process().memory_info().rss
    with peak_rss() as peak:
        assert isinstance(peak.value, Unknown), "not known before the stretch ends"
        occupied(200, watching)
    assert 190 * MIB <= peak.value - before <= 260 * MIB


def test_an_earlier_peak_is_forgotten(watching):
    occupied(200)
    gc.collect()
    before = psutil.Process().memory_info().rss
    with peak_rss() as peak:
        occupied(20, watching)
    assert peak.value - before < 100 * MIB


def test_the_sampler_ends_with_its_stretch_even_after_an_error(monkeypatch):
    monkeypatch.setattr(resident, "_PROC", Path("/nonexistent"))
    with pytest.raises(KeyError, match="True"), peak_rss():
        raise KeyError("llmperf-rss" in [thread.name for thread in threading.enumerate()])
    assert "llmperf-rss" not in [thread.name for thread in threading.enumerate()]


# What NVML says


class Nvml:
    """Two GPUs with the processes given for each."""

    def __init__(self, monkeypatch, *, processes=((), ()), fails_at=None):
        self.open = 0
        self.processes = processes
        replaced = {
            "nvmlInit": self.init,
            "nvmlShutdown": self.shutdown,
            "nvmlDeviceGetCount": lambda: len(processes),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: list(processes[handle]),
        }
        for name, replacement in replaced.items():
            monkeypatch.setattr(pynvml, name, self.failing if name == fails_at else replacement)

    def init(self):
        self.open += 1

    def shutdown(self):
        self.open -= 1

    def failing(self, *arguments):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


@pytest.fixture
def on_gpu():
    target = fake()
    target.device = Cuda(["cuda:0"])
    return target


def test_a_target_on_cpu_has_no_gpu_memory():
    assert process_gpu_bytes(fake()) == device_gpu_bytes(fake()) == Unknown("the target is not on a CUDA device")


def test_memory_of_this_process_is_summed_over_gpus(monkeypatch, on_gpu):
    own, other = os.getpid(), os.getpid() + 1
    nvml = Nvml(monkeypatch, processes=([process(own, 5 * MIB), process(other, 9 * MIB)], [process(own, 2 * MIB)]))
    assert process_gpu_bytes(on_gpu) == 7 * MIB
    assert nvml.open == 0


def test_memory_of_a_process_in_a_container_is_that_of_whom_nvml_calls_so(monkeypatch, on_gpu):
    monkeypatch.setattr(nvml, "_own", 4242)
    Nvml(monkeypatch, processes=([process(4242, 5 * MIB), process(os.getpid(), 9 * MIB)],))
    assert process_gpu_bytes(on_gpu) == 5 * MIB


@pytest.fixture
def gpus(monkeypatch):
    """Two, of which the model is on the second; a slice is known by its own memory."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))
    own, other = os.getpid(), os.getpid() + 1
    first = FakeGpu("GPU-uuid-0", processes={own: 3 * MIB})
    return FakeNvml([first, FakeGpu("MIG-uuid-1", processes={own: 5 * MIB, other: 9 * MIB})]).install(monkeypatch)


@pytest.mark.parametrize(("names", "used"), [(["cuda:1"], 14), (["cuda:0", "cuda:1"], 17)])
def test_memory_of_the_gpus_that_hold_the_model_is_that_of_all_processes(gpus, on_gpu, names, used):
    on_gpu.device = Cuda(names)
    assert device_gpu_bytes(on_gpu) == used * MIB
    assert gpus.open == 0


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMemoryInfo"])
def test_memory_of_gpus_that_nvml_does_not_tell_is_unknown(gpus, on_gpu, refused):
    gpus.refused[refused] = pynvml.NVML_ERROR_NO_PERMISSION
    assert device_gpu_bytes(on_gpu) == Unknown("NVML: Insufficient Permissions")
    assert gpus.open == 0


@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        ([[process(1, 5)], []], "does not list this process"),
        ([[process(os.getpid(), None)], []], "does not say how much"),
    ],
)
def test_what_nvml_does_not_show_is_unknown(monkeypatch, on_gpu, processes, reason):
    nvml = Nvml(monkeypatch, processes=processes)
    seen = process_gpu_bytes(on_gpu)
    assert isinstance(seen, Unknown)
    assert reason in seen.reason
    assert nvml.open == 0


@pytest.mark.parametrize("fails_at", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetComputeRunningProcesses"])
def test_an_nvml_that_fails_leaves_it_unknown_and_closed(monkeypatch, on_gpu, fails_at):
    nvml = Nvml(monkeypatch, fails_at=fails_at)
    seen = process_gpu_bytes(on_gpu)
    assert isinstance(seen, Unknown)
    assert seen.reason.startswith("NVML: ")
    assert nvml.open == 0


def test_a_whole_measurement_knows_all_but_what_the_cpu_lacks():
    seen = measure(GPT2.load(CPU), WORKLOAD, Effort(rounds=1)).memory
    unknown = {name for name in Memory.__dataclass_fields__ if isinstance(getattr(seen, name), Unknown)}
    assert unknown == {"reserved", "fragmentation", "process_gpu", "device_gpu"}
    assert seen.peak_rss > seen.weights
