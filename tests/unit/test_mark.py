"""The mark: pytest's own, with one signature for help and for the check of keywords."""

from __future__ import annotations

import inspect

import pytest

from pytest_llmperf import itl_ms, llm_perf, tpot_ms, ttft_ms
from pytest_llmperf.limits import EXPRESSIONS
from pytest_llmperf.mark import KEYWORDS, SIGNATURE, marker_help
from pytest_llmperf.model import Limit, Workload
from pytest_llmperf.settings import Settings, merge


def test_the_mark_is_that_of_pytest() -> None:
    made = llm_perf(model="gpt2")
    assert isinstance(made, pytest.MarkDecorator)
    assert made.name == "llm_perf"
    assert made.kwargs == {"model": "gpt2"}


def test_a_limit_alone_is_an_argument_and_not_what_is_decorated() -> None:
    made = pytest.mark.llm_perf(ttft_ms < 50)
    assert isinstance(made, pytest.MarkDecorator)
    assert made.args == (Limit("ttft_ms", "median", "<", 50.0),)


@pytest.mark.parametrize("alone", [ttft_ms, itl_ms.p99, tpot_ms.within("3%"), "ttft_ms < 50"], ids=repr)
def test_anything_a_mark_may_be_given_alone_is_an_argument(alone: object) -> None:
    made = pytest.mark.llm_perf(alone)
    assert isinstance(made, pytest.MarkDecorator)
    assert made.args[0] is alone


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_no_expression_looks_like_a_function_or_a_class(name: str) -> None:
    assert not callable(EXPRESSIONS[name])
    assert not hasattr(EXPRESSIONS[name], "__name__")
    assert not hasattr(EXPRESSIONS[name], "__call__")  # noqa: B004  # how pytest itself asks
    assert not inspect.isclass(EXPRESSIONS[name])


def test_a_function_is_decorated_and_carries_every_stacked_mark_nearest_first() -> None:
    @llm_perf(ttft_ms < 50)
    @llm_perf(tpot_ms < 8, model="gpt2")
    def test_chat() -> None: ...

    assert [(mark.args, mark.kwargs) for mark in test_chat.pytestmark] == [
        ((tpot_ms < 8,), {"model": "gpt2"}),
        ((ttft_ms < 50,), {}),
    ]


def test_the_keywords_are_the_documented_ones() -> None:
    assert KEYWORDS == (
        "model",
        "prompt_tokens",
        "output_tokens",
        "batch_size",
        "concurrency",
        "prompt",
        "request_rate",
        "arrivals",
        "requests",
        "shared_prefix_tokens",
        "mix",
        "workload",
        "dtype",
        "device",
        "gpus",
        "threads",
        "tolerance",
        "rounds",
        "load",
    )


def test_the_defaults_shown_are_those_that_hold() -> None:
    shown = {name: SIGNATURE.parameters[name].default for name in KEYWORDS}
    sizes = ("prompt_tokens", "output_tokens", "batch_size", "concurrency", "prompt")
    assert {name: shown[name] for name in sizes} == {name: getattr(Workload(), name) for name in sizes}
    assert merge([]) == Settings()
    assert shown["tolerance"] == 0.05


def test_every_keyword_is_by_name_only_and_has_a_default() -> None:
    for name in KEYWORDS:
        parameter = SIGNATURE.parameters[name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


def test_the_help_is_one_line_that_names_every_keyword() -> None:
    line = marker_help()
    assert "\n" not in line
    assert line.startswith("llm_perf(*limits, model=None, prompt_tokens=128, output_tokens=32, batch_size=1, ")
    assert all(f"{name}=" in line for name in KEYWORDS)
    assert line.endswith(
        '): measure a language model and fail where a limit is broken, as in @llm_perf(ttft_ms < 50, model="gpt2")'
    )
