"""A real model that becomes worse in a known way fails with its reason; test_duet_verdicts has one in a duet."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Again
from tests.plugin.stored import Stored
from tests.plugin.test_verdicts import FAILED, OK, text

CHANGES = """
def cache_off(model):
    model.generation_config.use_cache = False

def eager(model):
    model.set_attn_implementation("eager")

def reads(model):
    def read(module, args):
        float(args[0].sum())

    for layer in model.transformer.h:
        layer.register_forward_pre_hook(read)
"""
MODEL = f"""
{CHANGES}
@llm_perf(model=TINY, prompt_tokens=32, output_tokens=8)
def test_model(llm):
    globals().get(os.environ.get("CHANGE"), id)(llm.model)
    llm.measure()
"""


def changed(stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, change: str = "") -> pytest.RunResult:
    """A run with that change; times have no part in it."""
    again()
    stored.change(ttft_ms=None, tpot_ms=None)
    monkeypatch.setenv("CHANGE", change)
    return stored.run()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("cache_off", "the cache is not used: a token takes"),
        ("eager", "attention in single steps (aten::_softmax 0 → 2, aten::bmm 0 → 4) in place of a fused"),
        ("reads", "2 more waits of the host per token (aten::_local_scalar_dense 1 → 3): "),
    ],
)
def test_a_known_regression_is_told_with_its_operators_and_its_cause(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch, change: str, hint: str
) -> None:
    stored.record(MODEL)
    result = changed(stored, again, monkeypatch, change)
    assert result.ret == FAILED
    result.stdout.re_match_lines(["  where the time went, decode, ms per token", r"    aten::\w+ .* \d+ → \d+ calls"])
    assert f"  hint: {hint}" in text(result)


def test_nothing_is_explained_where_nothing_is_regressed(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(MODEL)
    result = changed(stored, again, monkeypatch)
    assert result.ret == OK
    assert "where the time went" not in text(result)
    assert "hint:" not in text(result)


def test_profiles_never_shown_are_not_explained_either(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(MODEL)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--llmperf-profile=never")
    result = changed(stored, again, monkeypatch, "eager")
    assert result.ret == FAILED
    assert "where the time went" not in text(result)


def test_a_limit_that_is_broken_is_not_explained(stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.record(MODEL)
    stored.write(MODEL.replace("model=TINY", "NEVER, model=TINY"))
    result = changed(stored, again, monkeypatch)
    assert result.ret == FAILED
    assert "hint:" not in text(result)


def test_other_hardware_has_the_calls_without_times(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(MODEL)
    for path in stored.folder.glob("cpu-*/*.json"):
        path.unlink()
    result = changed(stored, again, monkeypatch, "eager")
    assert result.ret == FAILED
    result.stdout.re_match_lines([".*what there is more of, decode, calls per token", r" +aten::add +11 → 15$"])


def test_a_baseline_without_operators_says_how_to_keep_them(
    stored: Stored, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(MODEL)
    stored.say(calls={}, times={}, decode_flops=[])
    result = changed(stored, again, monkeypatch, "reads")
    assert result.ret == FAILED
    assert "the baseline keeps no operators to compare with: the next --llmperf-update will" in text(result)
    assert "where the time went" not in text(result)
