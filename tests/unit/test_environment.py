"""The machine and the software, as recorded with every measurement."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch
import transformers

from pytest_llmperf import cgroup
from pytest_llmperf.baselines import environment as environment_module
from pytest_llmperf.baselines.environment import (
    commit,
    cores,
    cpu_model,
    device_name,
    environment_of,
    hardware,
    machine,
    nvidia_gpus,
    versions,
)
from tests.fakes import FakeClock, FakeTarget
from tests.ranks import acting


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
    monkeypatch.setattr(environment_module, "cores", lambda: 2.0)
    target = FakeTarget(FakeClock(), dtype="bfloat16")
    target.device.name = "cpu"
    seen = environment_of(target, 3)
    assert (seen.device, seen.device_name) == ("cpu", "AMD EPYC 7763, 2 cores")
    assert (seen.hardware, seen.machine) == ("cpu-amd-epyc-7763-2c", {})
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


@pytest.fixture
def gpus(monkeypatch):
    """Lets torch see GPUs of these names."""

    def install(*names):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))

    return install


H200, A100, SLICE = "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
SEVERAL = (H200, A100, H200, SLICE)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cuda", H200),
        ("cuda:1", A100),
        ("cuda:3", SLICE),
        ("cuda:1,2", f"{A100}, {H200}"),
        ("cuda:0,1,2", f"{H200}, {A100}"),
    ],
)
def test_a_gpu_is_named_as_cuda_names_it(gpus, device, name):
    gpus(*SEVERAL)
    assert device_name(device) == name


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("cuda:0", "cuda-nvidia-h200-x1"),
        ("cuda:2", "cuda-nvidia-h200-x1"),
        ("cuda:3", "cuda-nvidia-h100-80gb-hbm3-mig-1g.10gb-x1"),
        ("cuda:0,1,2", "cuda-nvidia-a100-sxm4-80gb-x1-nvidia-h200-x2"),
    ],
)
def test_the_hardware_of_gpus_names_each_model_and_how_many_whatever_their_order(gpus, device, key):
    gpus(*SEVERAL)
    assert hardware(device) == key


def test_several_ranks_are_named_by_all_that_they_run_on(gpus, monkeypatch):
    gpus(*SEVERAL)
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "AMD EPYC 7763")
    monkeypatch.setattr(environment_module, "cores", lambda: 2.0)

    def work(rank):
        target = FakeTarget(FakeClock())
        target.device.name = "cpu"
        seen = environment_of(target, 1)
        return hardware(f"cuda:{rank}"), seen.hardware, seen.versions["ranks"]

    of_gpus = "cuda-nvidia-a100-sxm4-80gb-x1-nvidia-h200-x2"
    of_cpus = "cpu-amd-epyc-7763-2c-x3", "3"
    assert acting(monkeypatch, 3, work) == [(of_gpus, *of_cpus)] * 3


@pytest.mark.parametrize(
    ("count", "key", "name"),
    [
        (2.0, "cpu-amd-epyc-7763-2c", "AMD EPYC 7763, 2 cores"),
        (1, "cpu-amd-epyc-7763-1c", "AMD EPYC 7763, 1 core"),
        (1.5, "cpu-amd-epyc-7763-1.5c", "AMD EPYC 7763, 1.5 cores"),
        (0.25, "cpu-amd-epyc-7763-0.25c", "AMD EPYC 7763, 0.25 cores"),
        (100, "cpu-amd-epyc-7763-100c", "AMD EPYC 7763, 100 cores"),
    ],
)
def test_the_hardware_of_a_processor_names_the_cores_it_may_use(monkeypatch, count, key, name):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "AMD EPYC 7763")
    monkeypatch.setattr(environment_module, "cores", lambda: count)
    assert (hardware("cpu"), device_name("cpu")) == (key, name)


@pytest.mark.parametrize(
    ("model", "key"), [("Apple M3", "mps-apple-m3"), ("???", "mps-unknown"), ("../../etc", "mps-etc")]
)
def test_the_hardware_of_an_apple_gpu_is_a_name_for_a_folder(monkeypatch, model, key):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: model)
    assert hardware("mps") == key


def test_an_apple_gpu_is_named_after_its_processor(monkeypatch):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "Apple M3")
    assert device_name("mps") == "Apple M3 GPU"


# A server


@pytest.fixture
def epyc(monkeypatch):
    monkeypatch.setattr(environment_module, "cpu_model", lambda: "AMD EPYC 7763")
    monkeypatch.setattr(environment_module, "cores", lambda: 2.0)


@pytest.mark.parametrize(
    ("gpus", "key", "name"),
    [
        ([], "served-cpu-amd-epyc-7763-2c", "AMD EPYC 7763, 2 cores"),
        ([H200], "served-cuda-nvidia-h200-x1", H200),
        ([H200, A100, H200], "served-cuda-nvidia-a100-sxm4-80gb-x1-nvidia-h200-x2", f"{H200}, {A100}"),
    ],
)
def test_a_server_on_this_machine_may_use_all_that_it_has(monkeypatch, epyc, gpus, key, name):
    monkeypatch.setattr(environment_module, "nvidia_gpus", lambda: gpus)
    assert (hardware("served:localhost"), device_name("served:localhost")) == (key, name)


@pytest.mark.parametrize(
    ("device", "key", "name"),
    [
        ("served:llm.example.org", "served-llm.example.org", "llm.example.org"),
        ("served:H200 x8", "served-h200-x8", "H200 x8"),
        ("served:[2001:db8::1]", "served-2001-db8-1", "[2001:db8::1]"),
        ("served:../../etc", "served-etc", "../../etc"),
    ],
)
def test_a_server_elsewhere_goes_by_what_it_is_said_to_run_on_or_its_host(device, key, name):
    assert (hardware(device), device_name(device)) == (key, name)
    assert machine(device) == {}


def test_a_served_target_is_recorded_with_the_versions_of_its_server_and_no_threads():
    class Server(FakeTarget):
        versions = {"vllm": "0.11.1"}  # noqa: RUF012
        notes = ()

        def serve(self, workload, upcoming, clock):
            raise NotImplementedError

        memory = close = serve

    target = Server(FakeClock())
    target.device.name = "served:llm.example.org"
    seen = environment_of(target, 1)
    assert (seen.versions, seen.threads) == ({"vllm": "0.11.1"}, None)
    assert (seen.device_type, seen.hardware) == ("served", "served-llm.example.org")


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(cgroup, "quota", lambda: math.inf)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert device_name("cpu").endswith(", 3 cores")


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.setattr(cgroup, "quota", lambda: math.inf)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert device_name("cpu").endswith(", 12 cores")


@pytest.mark.parametrize(("quota", "expected"), [(1.5, 1.5), (3, 3), (8.0, 3), (math.inf, 3)])
def test_a_quota_takes_cores_away_and_gives_none(monkeypatch, quota, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    monkeypatch.setattr(cgroup, "quota", lambda: quota)
    assert cores() == expected


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


# Power limits


@pytest.fixture
def limits(nvml, monkeypatch):
    """Lets NVML know GPUs by the ids that torch gives, with these limits in milliwatts."""

    def install(*milliwatts):
        def limit(handle):
            if handle is None or milliwatts[handle] is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return milliwatts[handle]

        known = {f"GPU-uuid-{index}".encode(): index for index in range(len(milliwatts))}
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", known.get)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", limit)

    return install


@pytest.mark.parametrize(
    ("device", "recorded"),
    [
        ("cuda", "700 W"),
        ("cuda:0", "700 W"),
        ("cuda:1", "450 W"),
        ("cuda:0,1", "700 W, 450 W"),
        ("cuda:1,2", "450 W, 700 W"),
    ],
)
def test_the_power_limits_of_the_gpus_in_use_are_recorded(gpus, limits, nvml, device, recorded):
    gpus(H200, H200, H200)
    limits(700_000, 450_000, 700_000)
    assert machine(device) == {"power limit": recorded}
    assert nvml["open"] == 0


@pytest.mark.parametrize("milliwatts", [(None,), ()], ids=["no limit of its own", "unknown to NVML"])
def test_a_gpu_whose_power_limit_cannot_be_had_has_none_recorded(gpus, limits, nvml, milliwatts):
    gpus(SLICE)
    limits(*milliwatts)
    assert machine("cuda") == {}
    assert nvml["open"] == 0


def test_an_older_torch_that_knows_no_ids_of_gpus_records_no_power_limit(gpus, limits, nvml, monkeypatch):
    limits(700_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace())
    assert machine("cuda") == {}
    assert nvml["open"] == 0


def test_without_nvml_no_power_limit_is_recorded(gpus, limits, monkeypatch):
    gpus(H200)
    limits(700_000)
    monkeypatch.setattr(pynvml, "nvmlInit", failing)
    assert machine("cuda") == {}


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_only_gpus_of_nvidia_have_a_power_limit(limits, device):
    limits(700_000)
    assert machine(device) == {}


# Code


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit of a module and a baseline."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    commit.cache_clear()
    folder = tmp_path / "project"
    folder.joinpath("baselines").mkdir(parents=True)
    folder.joinpath("model.py").write_text("speed = 1\n")
    folder.joinpath("baselines", "test_chat.json").write_text("{}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message=first")
    yield folder
    commit.cache_clear()


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_clean_working_tree_is_recorded(repository):
    assert commit(repository, repository / "baselines") == (git(repository, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [("model.py", True), ("untracked.py", False), ("baselines/test_chat.json", False), ("baselines/new.json", False)],
)
def test_only_tracked_files_outside_the_baselines_make_the_code_differ(repository, changed, dirty):
    repository.joinpath(changed).write_text("speed = 2\n")
    assert commit(repository, repository / "baselines") == (git(repository, "rev-parse", "HEAD"), dirty)


def test_a_change_that_is_staged_makes_the_code_differ(repository):
    repository.joinpath("model.py").write_text("speed = 2\n")
    git(repository, "add", ".")
    assert commit(repository, repository / "baselines")[1]


def test_a_change_beside_the_baselines_still_makes_the_code_differ(repository):
    for name in ("model.py", "baselines/test_chat.json"):
        repository.joinpath(name).write_text("speed = 2\n")
    assert commit(repository, repository / "baselines")[1]


def test_baselines_kept_outside_the_repository_excuse_no_change(repository, tmp_path):
    repository.joinpath("model.py").write_text("speed = 2\n")
    assert commit(repository, tmp_path / "elsewhere")[1]


def test_a_folder_that_is_no_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path, tmp_path / "baselines") == ("", False)


def test_a_repository_without_a_commit_has_none_and_nothing_that_differs(tmp_path):
    git(tmp_path, "init", "--quiet")
    tmp_path.joinpath("model.py").touch()
    git(tmp_path, "add", ".")
    assert commit(tmp_path, tmp_path / "baselines") == ("", False)


def test_a_machine_without_git_has_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert commit(repository, repository / "baselines") == ("", False)


@pytest.mark.gpu
def test_a_real_gpu_has_a_key_and_what_its_machine_is_set_to():
    assert environment_module.hardware("cuda:0").startswith("cuda-nvidia-")
    assert environment_module.hardware("cuda:0").endswith("-x1")
    assert set(environment_module.machine("cuda:0")) <= {"power limit", "ECC"}


def test_a_git_hook_that_pytest_is_run_from_names_no_other_commit(repository, tmp_path, monkeypatch):
    here = git(repository, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet", "elsewhere")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere" / ".git"))
    assert commit(repository, repository / "baselines") == (here, False)
