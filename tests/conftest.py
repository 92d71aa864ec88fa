"""What tests share: no network, and a small model saved to a folder with a real tokenizer."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.repositories import SETTINGS
from tests.saved import llama, words_of

os.environ["HF_HUB_OFFLINE"] = "1"
if "LLMPERF_CACHE" not in os.environ:  # probed once for all tests, and for the workers that inherit it
    os.environ["LLMPERF_CACHE"] = tempfile.mkdtemp(prefix="llmperf-")
    atexit.register(shutil.rmtree, os.environ["LLMPERF_CACHE"], ignore_errors=True)

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def require_gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` skip without a CUDA device, those marked `gpus` without two.

    LLMPERF_REQUIRE_GPU says how many there must be: the skip of a test that needs no more is a failure.
    """
    needed = 2 if request.node.get_closest_marker("gpus") else 1 if request.node.get_closest_marker("gpu") else 0
    if not needed:
        return
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < needed:
        told = f"{needed} CUDA device{'s' * (needed > 1)} needed, and torch sees {found}"
        if int(os.environ.get("LLMPERF_REQUIRE_GPU", "0")) >= needed:
            pytest.fail(f"LLMPERF_REQUIRE_GPU is set: {told}")
        pytest.skip(told)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch's, for as long as a test runs."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def git_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tests, whatever runs them."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def llmperf_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[Any, str, str]]:
    """Exit status, standard output and standard error of the command `llmperf`, called in a folder of its own."""
    from tests.commands import called

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[Any, str, str]:
        capsys.readouterr()
        return called(capsys, *arguments)

    return run


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama type of two layers, saved with a byte-level BPE tokenizer trained on a few sentences."""
    folder = tmp_path_factory.mktemp("models") / "small-llama"
    sentences = ["the quick brown fox jumps over the lazy dog", "a model that stops early is no fast model"]
    tokenizer = words_of(sentences, 400)
    llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
