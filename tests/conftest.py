"""What tests share: no network, and a small model saved to a folder with a real tokenizer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repositories import SETTINGS

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LLMPERF_CACHE", tempfile.mkdtemp(prefix="llmperf-"))  # probed once for all tests

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def require_gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` skip without a CUDA device; LLMPERF_REQUIRE_GPU=1 makes that a failure."""
    if request.node.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("LLMPERF_REQUIRE_GPU"):
            pytest.fail("LLMPERF_REQUIRE_GPU is set, and torch sees no CUDA device")
        pytest.skip("no CUDA device")


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


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama type of two layers, saved with a byte-level BPE tokenizer trained on a few sentences."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "small-llama"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog", "a model that stops early is no fast model"] * 20,
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="</s>")
    config = AutoConfig.for_model(
        "llama",
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
