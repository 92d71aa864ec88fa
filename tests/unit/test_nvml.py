"""Who this process is to NVML: in a container it lists the process ids of the host."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pynvml
import pytest
import torch

from pytest_llmperf import nvml
from pytest_llmperf.errors import OutOfMemoryTargetError
from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import device_of
from tests.gpus import FakeGpu, FakeNvml

OTHER = 4_000_001


@pytest.fixture(autouse=True)
def nobody_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_own", nvml._UNSEEN)


def recognised(
    monkeypatch: pytest.MonkeyPatch, *came: int, elsewhere: tuple[int, ...] = (), **refused: int
) -> int | Unknown:
    """After CUDA was started on the second of two GPUs, to which these processes came; others to the first."""
    gpus = [FakeGpu("GPU-a", processes={OTHER: 1}), FakeGpu("GPU-b")]
    fake = FakeNvml(gpus, refused).install(monkeypatch)
    started: list[bool] = []

    def start() -> None:
        started.append(True)
        gpus[0].processes.update(dict.fromkeys(elsewhere))
        gpus[1].processes.update(dict.fromkeys(came))

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="ab"[index]))
    nvml.recognise(1, start)
    assert started == [True]
    assert fake.open == 0
    return nvml.own_pid()


def test_before_cuda_was_started_it_is_unknown() -> None:
    assert isinstance(nvml.own_pid(), Unknown)


def test_whom_nobody_saw_come_is_known_where_its_own_number_is_listed() -> None:
    assert nvml.own_pid({OTHER, os.getpid()}) == os.getpid()
    assert isinstance(nvml.own_pid({OTHER}), Unknown)


def test_who_was_seen_to_come_is_no_namesake_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    recognised(monkeypatch, 31337)
    assert nvml.own_pid({os.getpid(), 31337}) == 31337


def test_on_the_host_it_has_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recognised(monkeypatch, os.getpid(), 12345) == os.getpid()


def test_in_a_container_it_is_who_came_when_cuda_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recognised(monkeypatch, 31337) == 31337


def test_who_came_to_another_gpu_meanwhile_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recognised(monkeypatch, 31337, elsewhere=(31338,)) == 31337


def test_in_a_slice_it_is_found_wherever_nvml_lists_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recognised(monkeypatch, elsewhere=(31337,)) == 31337


def test_of_two_that_came_at_once_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    own = recognised(monkeypatch, 31337, 31338)
    assert own == Unknown("2 processes came to the GPUs while this one started CUDA: it is one of them")


def test_where_nvml_lists_nobody_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recognised(monkeypatch) == Unknown("NVML does not list this process")


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetComputeRunningProcesses"])
def test_where_nvml_refuses_it_is_unknown_and_cuda_is_started(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    own = recognised(monkeypatch, 31337, **{function: pynvml.NVML_ERROR_NO_PERMISSION})
    assert own == Unknown("NVML: Insufficient Permissions")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A torch with two GPUs; notes what starts CUDA."""
    asked: list[str] = []

    def current_device() -> int:
        asked.append("current_device")
        return 0

    answers = {
        "get_device_properties": lambda index: SimpleNamespace(uuid="ab"[index]),
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": current_device,
        "is_initialized": lambda: bool(asked),
        "synchronize": asked.append,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return asked


@pytest.mark.parametrize(("asked", "place"), [("cuda:1", "cuda:1"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0")])
def test_a_process_is_recognised_when_it_first_asks_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: list[str], asked: str, place: str
) -> None:
    gpus = [FakeGpu("GPU-a", processes={OTHER: 1}), FakeGpu("GPU-b")]
    FakeNvml(gpus).install(monkeypatch)

    def starts(name: str) -> None:
        cuda.append(name)
        gpus[int(name[-1])].processes[31337] = 2**30

    monkeypatch.setattr(torch.cuda, "synchronize", starts)
    assert device_of(asked).name == place
    assert nvml.own_pid() == 31337
    device_of("cuda:1")
    assert cuda == [place], "it is started once, with NVML looking on"


def test_where_cuda_runs_already_nothing_is_started_and_who_it_is_stays_unknown(
    monkeypatch: pytest.MonkeyPatch, cuda: list[str]
) -> None:
    cuda.append("started by a conftest")
    fake = FakeNvml([FakeGpu()]).install(monkeypatch)
    device_of("cuda")
    assert fake.calls == []
    assert nvml.own_pid() == Unknown("CUDA had been started before anyone looked who it is that starts it")


def test_what_nvml_told_stands_where_it_cannot_be_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml([FakeGpu(processes={OTHER: 5})], {"nvmlShutdown": pynvml.NVML_ERROR_GPU_IS_LOST})
    fake.install(monkeypatch)
    assert nvml.process_bytes([OTHER], "it") == 5
    with pytest.raises(KeyboardInterrupt), nvml.opened():
        raise KeyboardInterrupt


def test_a_driver_too_old_to_list_processes_leaves_them_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml([FakeGpu()]).install(monkeypatch)

    def lists(gpu: FakeGpu) -> None:
        raise pynvml.NVMLLibraryMismatchError("Unversioned function called")

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lists)
    with nvml.opened() as library:
        unknown = nvml.Gpu(library, library.nvmlDeviceGetHandleByIndex(0)).users()
    assert isinstance(unknown, Unknown)
    assert unknown.reason.endswith("has no nvmlDeviceGetComputeRunningProcesses")
    assert isinstance(nvml.process_bytes([OTHER], "it"), Unknown)


@pytest.mark.parametrize("nothing_seen", [pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND])
def test_where_nothing_was_seen_to_run_nobody_worked(monkeypatch: pytest.MonkeyPatch, nothing_seen: int) -> None:
    FakeNvml([FakeGpu()], {"nvmlDeviceGetProcessUtilization": nothing_seen}).install(monkeypatch)
    with nvml.opened() as library:
        assert nvml.Gpu(library, library.nvmlDeviceGetHandleByIndex(0)).work(0.0) == {}


@pytest.mark.parametrize(
    ("said", "raised"),
    [("CUDA error: out of memory", OutOfMemoryTargetError), ("CUDA error: an illegal memory access", RuntimeError)],
)
def test_a_gpu_that_others_have_filled_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, cuda: list[str], said: str, raised: type[Exception]
) -> None:
    FakeNvml([FakeGpu("GPU-a")]).install(monkeypatch)

    def fails(name: str) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(raised, match=f"cuda:1 has not even memory|{said}"):
        device_of("cuda:1")
