"""Tests of one module that share a target run together; otherwise the order is the suite's own."""

from __future__ import annotations

import pytest

HEAD = """\
import pytest
from pytest_llmperf import *


def a(prompt_ids, output_tokens):
    yield from range(output_tokens)


def b(prompt_ids, output_tokens):
    yield from range(output_tokens)


def c(prompt_ids, output_tokens):
    yield from range(output_tokens)


A, B, C = stream(a), stream(b), stream(c)

"""


def order(suite: pytest.Pytester, text: str, *arguments: str) -> list[str]:
    """The names of the tests as they ran, all of them having passed."""
    suite.makepyfile(test_chat=HEAD + text)
    record = suite.inline_run(*arguments)
    ran = [report for report in record.getreports("pytest_runtest_logreport") if report.when == "call"]
    assert all(report.passed for report in ran)
    return [report.nodeid.partition("::")[2].replace("test_", "") for report in ran]


def test_tests_that_share_a_target_run_together(suite: pytest.Pytester) -> None:
    assert order(
        suite,
        """
@llm_perf(model=A)
def test_a1(llm):
    llm.measure()

@llm_perf(model=B)
def test_b1(llm):
    llm.measure()

@llm_perf(model=A)
def test_a2(llm):
    llm.measure()

@llm_perf(model=C)
def test_c1(llm):
    llm.measure()

@llm_perf(model=B)
def test_b2(llm):
    llm.measure()

@llm_perf(model=A)
def test_a3(llm):
    llm.measure()
""",
    ) == ["a1", "a2", "a3", "b1", "b2", "c1"]


def test_targets_named_by_text_and_by_call_are_the_same(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_chat=HEAD
        + """
@llm_perf(model="random:gpt2?n_layer=2")
def test_1(llm):
    pass

@llm_perf(model="random:llama")
def test_2(llm):
    pass

@llm_perf(model=random_weights("gpt2", n_layer=2))
def test_3(llm):
    pass
"""
    )
    result = suite.runpytest("--collect-only", "-q")
    assert [line[-1] for line in result.stdout.lines[:3]] == ["1", "3", "2"]


def test_ordinary_tests_keep_their_places(suite: pytest.Pytester) -> None:
    assert order(
        suite,
        """
def test_before():
    pass

@llm_perf(model=A)
def test_a1(llm):
    llm.measure()

def test_between():
    pass

@llm_perf(model=B)
def test_b1(llm):
    llm.measure()

@llm_perf(model=A)
def test_a2(llm):
    llm.measure()

def test_after():
    pass
""",
    ) == ["before", "a1", "between", "a2", "b1", "after"]


def test_parameters_over_targets_are_grouped_by_target(suite: pytest.Pytester) -> None:
    assert order(
        suite,
        """
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("model", [pytest.param(A, marks=llm_perf(model=A)), pytest.param(B, marks=llm_perf(model=B))])
def test_chat(llm, model, n):
    llm.measure(prompt_tokens=n)
""",
    ) == ["chat[stream:a-1]", "chat[stream:a-2]", "chat[stream:b-1]", "chat[stream:b-2]"]


def test_tests_do_not_leave_their_class_or_module(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_more=HEAD + "@llm_perf(model=A)\ndef test_a9(llm):\n    llm.measure()\n")
    assert order(
        suite,
        """
@llm_perf(model=A)
def test_a1(llm):
    llm.measure()

class TestOne:
    @llm_perf(model=B)
    def test_b1(self, llm):
        llm.measure()

    @llm_perf(model=A)
    def test_a2(self, llm):
        llm.measure()

    @llm_perf(model=B)
    def test_b2(self, llm):
        llm.measure()

@llm_perf(model=B)
def test_b3(llm):
    llm.measure()
""",
    ) == ["a1", "TestOne::b1", "TestOne::b2", "TestOne::a2", "b3", "a9"]


def test_fixtures_with_parameters_for_the_whole_module_keep_their_grouping(suite: pytest.Pytester) -> None:
    text = """
SETUPS = []

@pytest.fixture(scope="module", params=["x", "y"])
def server(request):
    SETUPS.append(request.param)
    return request.param

@llm_perf(model=A)
def test_a1(llm, server):
    llm.measure()

@llm_perf(model=B)
def test_b1(llm, server):
    llm.measure()

@llm_perf(model=A)
def test_a2(llm, server):
    llm.measure()
    assert SETUPS in (["x"], ["x", "y"])
"""
    assert order(suite, text) == ["a1[x]", "b1[x]", "a2[x]", "a1[y]", "b1[y]", "a2[y]"]


def test_tests_beside_a_parametrized_module_fixture_are_still_brought_together(suite: pytest.Pytester) -> None:
    text = """
@pytest.fixture(scope="module", params=["x", "y"])
def server(request):
    return request.param

@llm_perf(model=A)
def test_a1(llm):
    llm.measure()

@llm_perf(model=B)
def test_b1(llm):
    llm.measure()

@llm_perf(model=A)
def test_a2(llm):
    llm.measure()

@llm_perf(model=A)
def test_served(llm, server):
    llm.measure()
"""
    assert order(suite, text) == ["a1", "a2", "b1", "served[x]", "served[y]"]


def test_parameters_of_functions_alone_do_not_hinder(suite: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize("n", [1, 2])
@llm_perf(model=A)
def test_a1(llm, n):
    llm.measure()

@llm_perf(model=B)
def test_b1(llm):
    llm.measure()

@pytest.mark.parametrize("n", [1, 2])
@llm_perf(model=A)
def test_a2(llm, n):
    llm.measure()
"""
    assert order(suite, text) == ["a1[1]", "a1[2]", "a2[1]", "a2[2]", "b1"]


def test_an_order_that_the_command_line_gives_is_kept_within_a_target(suite: pytest.Pytester) -> None:
    text = """
@llm_perf(model=A)
def test_a1(llm):
    llm.measure()

@llm_perf(model=A)
def test_a2(llm):
    llm.measure()
"""
    assert order(suite, text, "test_chat.py::test_a2", "test_chat.py::test_a1") == ["a2", "a1"]


def test_a_target_that_two_tests_share_is_loaded_once_though_another_stands_between(suite: pytest.Pytester) -> None:
    text = """
LOADS = []

@pytest.fixture(autouse=True)
def counted(monkeypatch):
    from pytest_llmperf.targets import random_init
    load = random_init.load
    monkeypatch.setattr(random_init, "load", lambda *given: LOADS.append(given[0].id) or load(*given))

SMALL = dict(n_embd=32, n_head=2, n_layer=1, vocab_size=50, n_positions=64)
sizes = dict(prompt_tokens=4, output_tokens=2, device="cpu")

@llm_perf(model=random_weights("gpt2", **SMALL), **sizes)
def test_first(llm):
    llm.measure()

@llm_perf(model=A)
def test_other(llm):
    llm.measure()

@llm_perf(model=random_weights("gpt2", **SMALL), **sizes)
def test_last(llm):
    llm.measure()
    assert len(LOADS) == 1
"""
    assert order(suite, text) == ["first", "last", "other"]
