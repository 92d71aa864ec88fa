"""Real models that grow by what a server dies of are REGRESSED; what an allocator rounds is not."""

from __future__ import annotations

import re

import pytest

from tests.plugin.conftest import Again
from tests.plugin.stored import Stored
from tests.plugin.test_verdicts import FAILED, OK, text, verdicts

MODELS = """
import types
import torch
from transformers import AutoConfig, AutoModelForCausalLM

def build(heads=2):
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=2, hidden_size=128, intermediate_size=512, vocab_size=2000)
    config = AutoConfig.for_model("llama", num_attention_heads=4, num_key_value_heads=heads, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()

def serving(model, before):
    generate = model.generate
    def serve(self, *args, **kwargs):
        before(self)
        return generate(*args, **kwargs)
    model.generate = types.MethodType(serve, model)
    return model

def leak(model):
    kept = model.__dict__.setdefault("kept", [])
    kept.append(torch.zeros(64 * 1024))

def jitter(model):
    model.__dict__["scratch"] = torch.zeros(1024 + 64 * int(torch.randint(16, ())))

def larger():
    model = build()
    weights = sum(parameter.numel() for parameter in model.parameters())
    model.extra = torch.nn.Parameter(torch.zeros(int(0.03 * weights)))
    return model

MODELS = {
    "as it was": build,
    "leaks": lambda: serving(build(), leak),
    "twice the cache": lambda: build(heads=4),
    "3 % larger": larger,
    "jitters": lambda: serving(build(), jitter),
}

@llm_perf(prompt_tokens=64, output_tokens=4)
def test_model(llm):
    llm.load(MODELS[os.environ.get("MODEL", "as it was")]())
    llm.measure()
"""


def changed(stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, model: str) -> pytest.RunResult:
    """A run of that model against the baseline of the unchanged one."""
    again()
    stored.record(MODELS)
    stored.change(ttft_ms=None, tpot_ms=None)
    monkeypatch.setenv("MODEL", model)
    return stored.run("-v")


@pytest.mark.parametrize(
    ("model", "regressed"),
    [
        ("leaks", {"leak_mib"}),
        ("twice the cache", {"kv_cache_mib", "weights_mib", "peak_memory_mib"}),
        ("3 % larger", {"weights_mib", "peak_memory_mib"}),
    ],
)
def test_what_grows_is_regressed(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, model: str, regressed: set[str]
) -> None:
    result = changed(stored, again, monkeypatch, model)
    assert result.ret == FAILED
    found = verdicts(result)
    assert {name for name, verdict in found.items() if verdict == "REGRESSED"} >= regressed
    if model == "leaks":
        assert found["weights_mib"] == found["kv_cache_mib"] == "OK"
    else:
        assert found["leak_mib"] == "OK"


@pytest.mark.parametrize("model", ["as it was", "jitters"])
def test_what_an_allocator_rounds_is_not(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    result = changed(stored, again, monkeypatch, model)
    assert result.ret == OK
    found = verdicts(result)
    assert {found[name] for name in ("leak_mib", "peak_memory_mib", "weights_mib", "kv_cache_mib")} == {"OK"}


def test_weights_and_cache_gate_to_the_byte(stored: Stored, again: Again) -> None:
    again()
    stored.record(MODELS)
    stored.change(weights_mib=1 - 1e-6, kv_cache_mib=1 - 1e-6)
    result = stored.run()
    assert result.ret == FAILED
    assert re.findall(r"REGRESSED (\w+) ", text(result))[:2] == ["weights_mib", "kv_cache_mib"]
