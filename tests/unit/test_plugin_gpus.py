"""Which GPUs each worker of xdist sees: its own first, the others after it, and none that it was not to see."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from pytest_llmperf.plugin import gpus as gpus_module
from pytest_llmperf.plugin.gpus import VISIBLE, names_of, of_workers

Install = Callable[..., dict[str, int]]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lets NVML know GPUs by their ids, those divided by MIG as lists of their slices and of gaps between them."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus_module, "_DRIVER", (Path(__file__),))

    def install(*gpus: str | list[str | None]) -> dict[str, int]:
        asked = {"nvmlInit": 0, "nvmlShutdown": 0}

        def mode(gpu: str | list[str | None]) -> list[int]:
            if gpu == "GPU-old":
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return [int(isinstance(gpu, list)), 1]

        def slice_of(gpu: list[str | None], index: int) -> str:
            if (found := gpu[index]) is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
            return found

        answers = {
            "nvmlInit": lambda: asked.update(nvmlInit=asked["nvmlInit"] + 1),
            "nvmlShutdown": lambda: asked.update(nvmlShutdown=asked["nvmlShutdown"] + 1),
            "nvmlDeviceGetCount": lambda: len(gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: gpus[index],
            "nvmlDeviceGetMigMode": mode,
            "nvmlDeviceGetMaxMigDeviceCount": len,
            "nvmlDeviceGetMigDeviceHandleByIndex": slice_of,
            "nvmlDeviceGetUUID": lambda handle: handle,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)
        return asked

    return install


def test_each_worker_has_a_gpu_of_its_own_and_sees_the_others_after_it(nvml: Install) -> None:
    asked = nvml("GPU-a", "GPU-old", "GPU-c")
    assert of_workers(3) == ["GPU-a,GPU-old,GPU-c", "GPU-old,GPU-c,GPU-a", "GPU-c,GPU-a,GPU-old"]
    assert asked == {"nvmlInit": 1, "nvmlShutdown": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells but NVML")
def test_without_a_driver_nothing_is_asked(nvml: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = nvml("GPU-a", "GPU-b")
    monkeypatch.setattr(gpus_module, "_DRIVER", (tmp_path / "nvidiactl",))
    assert of_workers(2) == []
    assert asked["nvmlInit"] == 0


def test_more_workers_than_gpus_share_them_in_turn(nvml: Install) -> None:
    nvml("GPU-a", "GPU-b")
    assert [each.partition(",")[0] for each in of_workers(5)] == ["GPU-a", "GPU-b", "GPU-a", "GPU-b", "GPU-a"]


def test_a_worker_has_one_slice_and_a_whole_gpu_stands_beside_whole_ones(nvml: Install) -> None:
    nvml(["MIG-a", None, "MIG-b"], "GPU-c", "GPU-d")
    assert of_workers(4) == ["MIG-a", "MIG-b", "GPU-c,GPU-d", "GPU-d,GPU-c"]


@pytest.mark.parametrize("gpus", [(), ("GPU-a",), (["MIG-a"],), (["MIG-a", None],), ([None, None],)])
def test_with_nothing_to_share_out_nothing_is_changed(nvml: Install, gpus: tuple[str, ...]) -> None:
    nvml(*gpus)
    assert of_workers(2) == []


@pytest.mark.parametrize(
    "fails_at", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"]
)
def test_where_nvml_is_missing_or_refuses_nothing_is_changed(
    nvml: Install, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    asked = nvml("GPU-a", "GPU-b")

    def refuse(*arguments: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    monkeypatch.setattr(pynvml, fails_at, refuse)
    assert of_workers(2) == []
    assert asked["nvmlInit"] == asked["nvmlShutdown"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("3,1", ["3,1", "1,3", "3,1"]),
        (" 3 , GPU-8932f937 ", ["3,GPU-8932f937", "GPU-8932f937,3", "3,GPU-8932f937"]),
        ("0,1,-1,2", ["0,1", "1,0", "0,1"]),
        ("MIG-a,MIG-GPU-b/1/0", ["MIG-a", "MIG-GPU-b/1/0", "MIG-a"]),
        ("2", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_what_the_user_lets_be_seen_is_shared_out_in_its_own_spelling(
    nvml: Install, monkeypatch: pytest.MonkeyPatch, told: str, expected: list[str]
) -> None:
    asked = nvml("GPU-a", "GPU-b", "GPU-c")
    monkeypatch.setenv(VISIBLE, told)
    assert of_workers(3) == expected
    assert asked["nvmlInit"] == 0, "there is nothing to ask"


@pytest.mark.parametrize("told", ["5,3", "3,5"])
def test_a_gpu_has_one_name_in_all_workers_and_several_have_one_order(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv(VISIBLE, told)
    assert names_of("cuda:0") == names_of("cuda") == [told[0]]
    assert names_of("cuda:1") == [told[2]]
    assert names_of("cuda:0,1") == ["3", "5"]


@pytest.mark.parametrize("told", ["1,1", "1,+0"])
def test_no_gpu_is_named_twice_whatever_cuda_makes_of_the_variable(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(VISIBLE, told)
    assert names_of("cuda:0,1") == ["1"]  # a lock taken twice would wait for itself


@pytest.mark.parametrize("told", [None, "", "-1"])
def test_a_gpu_of_which_the_variable_says_nothing_goes_by_its_number(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if told is not None:
        monkeypatch.setenv(VISIBLE, told)
    assert names_of("cuda:1") == ["1"]
    assert names_of("cuda:0,1") == ["0", "1"]
