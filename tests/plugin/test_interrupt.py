"""Ctrl-C while measuring ends the run as in any suite: what was done is shown, and all is put back."""

from __future__ import annotations

import gc

import pytest

SUITE = """
import pytest
from pytest_llmperf import llm_perf, stream, ttft_ms

def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)

def later(prompt_ids, output_tokens):
    yield from range(output_tokens)

def interrupted(prompt_ids, output_tokens):
    yield 1
    raise {error}

@llm_perf(ttft_ms < 60_000, model=stream(fast), prompt_tokens=8, output_tokens=4, threads=1)
def test_done(llm):
    llm.measure()

@llm_perf(model=stream(interrupted), prompt_tokens=8, output_tokens=4, threads=1)
def test_interrupted(llm):
    llm.measure()

@llm_perf(model=stream(later))
def test_never(llm):
    llm.measure()
"""


@pytest.fixture
def threads_before() -> int:
    import torch

    return torch.get_num_threads()


def interrupt(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=text)
    return suite.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)


def test_ctrl_c_ends_the_run_and_shows_what_was_done(suite: pytest.Pytester) -> None:
    result = interrupt(suite, SUITE.format(error="KeyboardInterrupt"))
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["*= llmperf =*", "  test_done *8→4*NEW", "1 measured: 1 new", "*! KeyboardInterrupt !*"]
    )
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "pytest_llmperf/" not in text
    assert "INTERNALERROR" not in text


def test_ctrl_c_puts_the_collector_and_the_threads_back(suite: pytest.Pytester, threads_before: int) -> None:
    import torch

    torch.set_num_threads(2)
    try:
        interrupt(suite, SUITE.format(error="KeyboardInterrupt"))
        assert gc.isenabled()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads_before)


def test_ctrl_c_in_the_second_measurement_of_a_test_ends_the_run(suite: pytest.Pytester) -> None:
    text = SUITE.format(error="KeyboardInterrupt").replace(
        "def test_interrupted(llm):", "def test_interrupted(llm):\n    llm.measure('first', model=stream(fast))"
    )
    result = interrupt(suite, text)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert gc.isenabled()
    result.stdout.fnmatch_lines(["  test_done *8→4*NEW"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_ctrl_c_during_a_models_rounds_puts_the_model_back(suite: pytest.Pytester) -> None:
    text = """
import gc
import pytest
from pytest_llmperf import llm_perf, random_weights

MODEL = random_weights("gpt2", n_layer=1, n_embd=32, n_head=2, vocab_size=50, n_positions=64)

@llm_perf(model=MODEL, prompt_tokens=4, output_tokens=4, device="cpu")
def test_chat(llm, monkeypatch):
    forward, calls = type(llm.model).forward, []
    own = set(vars(llm.model))

    def interrupted(*given, **named):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(*given, **named)

    monkeypatch.setattr(type(llm.model), "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.measure()
    assert gc.isenabled()
    assert set(vars(llm.model)) == own, "nothing of ours stays on the model"
    monkeypatch.undo()
    llm.measure("again")
"""
    suite.makepyfile(test_chat=text)
    result = suite.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 measured:*"])


def test_an_exit_asked_for_while_measuring_ends_the_run_and_shows_what_was_done(suite: pytest.Pytester) -> None:
    result = interrupt(suite, SUITE.replace("raise {error}", "pytest.exit('enough')"))
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["  test_done *8→4*NEW", "1 measured: 1 new", "*Exit: enough*"])
    assert gc.isenabled()


def test_any_other_error_in_a_round_puts_the_collector_back_and_the_run_goes_on(suite: pytest.Pytester) -> None:
    result = interrupt(suite, SUITE.format(error="MemoryError('of the engine')"))
    result.assert_outcomes(passed=2, failed=1)
    assert gc.isenabled()
    result.stdout.fnmatch_lines(["E*MemoryError: of the engine", "2 measured: 2 new"])
