"""Counts as limits and against exact baselines, as a user meets them."""

from __future__ import annotations

import json
import re

import pytest

from tests.plugin.conftest import Again
from tests.plugin.stored import Stored
from tests.plugin.test_verdicts import FAILED, OK, counted, text

COUNTED = "flops_per_token|prefill_flops|ops_per_token|syncs_per_token|kernels_per_token|kv_bytes_per_token|compiles"
LIMITS = """
@llm_perf(syncs_per_token <= 1, "flops_per_token < 3e5", prefill_flops < 3e8, kv_bytes_per_token <= 1024, compiles <= 0,
          model=TINY, **SIZES)
def test_model(llm):
    llm.measure()

@llm_perf(syncs_per_token < 1, "flops_per_token < 1e5", model=TINY, **SIZES)
def test_less(llm):
    llm.measure()
"""
CHANGING = """
from transformers import AutoConfig, AutoModelForCausalLM

def reads_a_scalar(layer, given, output):
    (output[0] if isinstance(output, tuple) else output).sum().item()

@llm_perf(**SIZES)
def test_model(llm):
    sizes = dict(n_layer=2, n_embd=64, n_head=4, vocab_size=500, n_positions=256)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes)).eval()
    change = os.environ.get("CHANGE", "")
    if change == "item":
        for layer in model.transformer.h:
            layer.register_forward_hook(reads_a_scalar)
    if change == "no cache":
        model.generation_config.use_cache = False
    llm.load(model)
    llm.measure()
"""


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    """Counted metric → verdict in the tables of `-v` and of failures."""
    rows = re.findall(rf"^  ({COUNTED})\b.*?\b(BROKEN|REGRESSED|INCONCLUSIVE|NEW|IMPROVED|OK)\b", text(result), re.M)
    return dict(rows)


@pytest.fixture(autouse=True)
def _no_process(again: Again) -> None:
    """What is suspect is measured again where it was."""
    again()


def changed(stored: Stored, monkeypatch: pytest.MonkeyPatch, change: str) -> pytest.RunResult:
    """A run of the changed model against what is stored, without its times."""
    stored.change(ttft_ms=None, tpot_ms=None)
    monkeypatch.setenv("CHANGE", change)
    return stored.run("-v")


def test_counts_are_limits(stored: Stored) -> None:
    stored.write(LIMITS)
    result = stored.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "BROKEN flops_per_token 26?,??? FLOP (limit < 100000), BROKEN syncs_per_token 1 waits (limit < 1)",
            "  flops_per_token  * FLOP * < 100000 * BROKEN *",
        ]
    )


def test_counts_are_stored_for_all_machines_of_a_device_type_and_kernels_by_hardware(stored: Stored) -> None:
    stored.record(CHANGING)
    [own] = stored.sessions("test_model")
    assert not re.search(COUNTED, " ".join(own["metrics"]))
    exact = json.loads(stored.files()["exact-cpu/test_chat.json"])["tests"]["test_model"]
    [session] = exact["sessions"]
    assert set(session["metrics"]) == {
        *("weights_mib", "kv_cache_mib", "kv_bytes_per_token", "compiles"),
        *("flops_per_token", "prefill_flops", "ops_per_token", "syncs_per_token"),
    }
    assert {"torch", "transformers"} <= set(session["versions"])


def test_what_did_not_change_is_equal_to_the_last_operator(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(CHANGING)
    result = changed(stored, monkeypatch, "")
    assert result.ret == OK
    assert set(verdicts(result).values()) == {"OK"}
    assert len(verdicts(result)) == 6


def test_a_scalar_read_in_each_layer_is_regressed(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(CHANGING)
    result = changed(stored, monkeypatch, "item")
    assert result.ret == FAILED
    assert counted(result) == "1 regressed"
    found = verdicts(result)
    assert found["syncs_per_token"] == found["ops_per_token"] == "REGRESSED"
    assert {found[name] for name in ("flops_per_token", "prefill_flops", "kv_bytes_per_token", "compiles")} == {"OK"}
    result.stdout.fnmatch_lines(["*REGRESSED syncs_per_token 1 → 3 waits (+200* %, exact; 2 processes)*"])


def test_a_cache_that_is_not_used_is_work_that_grows(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(CHANGING)
    result = changed(stored, monkeypatch, "no cache")
    assert result.ret == FAILED
    found = verdicts(result)
    assert found["flops_per_token"] == found["kv_bytes_per_token"] == "REGRESSED"
    assert found["prefill_flops"] == "OK"


def test_counts_of_another_torch_are_shown_and_fail_only_if_strict(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(CHANGING)
    stored.say(versions={"torch": "1.0"})
    result = changed(stored, monkeypatch, "item")
    assert result.ret == OK
    assert verdicts(result)["syncs_per_token"] == "INCONCLUSIVE"
    assert "counted with torch 1.0" in text(result)
    assert stored.run("--llmperf-strict=versions").ret == FAILED


def test_a_difference_of_one_operation_is_seen_and_not_shown_as_none(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(CHANGING)
    stored.change(prefill_flops=1 - 1e-6)
    result = changed(stored, monkeypatch, "")
    assert result.ret == FAILED
    assert verdicts(result)["prefill_flops"] == "REGRESSED"
    result.stdout.fnmatch_lines(["*REGRESSED prefill_flops * FLOP (+0.0001 %, exact; 2 processes)"])


def test_large_counts_are_readable_in_eighty_columns(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(CHANGING)
    stored.change(prefill_flops=1.5e7, flops_per_token=1e6)
    monkeypatch.setenv("COLUMNS", "80")
    result = changed(stored, monkeypatch, "")
    result.stdout.re_match_lines(
        [r"  flops_per_token +26\d\.\d G +26\d,\d{3} .*IMPROVED", r"  prefill_flops +2\d\.\d T +1,6"]
    )
