"""The mark `llm_perf`: its one signature, for type checkers, for help, and for the check of its keywords."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import UsageError

if TYPE_CHECKING:
    from pytest_llmperf.model import Limit, Tolerance, Workload


def _llm_perf(
    *limits: Limit | Tolerance | str,
    model: Any = None,
    prompt_tokens: int = 128,
    output_tokens: int = 32,
    batch_size: int = 1,
    concurrency: int = 1,
    prompt: str | None = None,
    request_rate: float | None = None,
    arrivals: str | None = None,
    requests: int | None = None,
    shared_prefix_tokens: int | None = None,
    mix: str | None = None,
    workload: Workload | str | None = None,
    dtype: Any = None,
    device: str | None = None,
    gpus: int | None = None,
    threads: int | str | None = None,
    tolerance: float | str = 0.05,
    rounds: int | None = None,
    load: Mapping[str, Any] | None = None,
) -> pytest.MarkDecorator:
    """measure a language model and fail where a limit is broken, as in @llm_perf(ttft_ms < 50, model="gpt2")"""
    raise NotImplementedError  # only its signature is used


SIGNATURE = inspect.signature(_llm_perf)
KEYWORDS = tuple(name for name in SIGNATURE.parameters if name != "limits")

if TYPE_CHECKING:
    llm_perf = _llm_perf
else:
    llm_perf = pytest.mark.llm_perf


VARIANT = "variant"
"""The parameter by which tests of one function are told apart, and compared side by side in the report."""


def variants(**each: Mapping[str, Any]) -> pytest.MarkDecorator:
    """The same test, several variants: each name with the keywords of `llm_perf` that make it differ.

    The test takes the name as its argument `variant`; the report sets the variants side by side, and the others in
    proportion to the first.

        @variants(full={"dtype": "float32"}, half={"dtype": "bfloat16"})
        def test_precision(llm, variant): ...
    """
    if len(each) < 2:
        given = f"only {next(iter(each))!r}" if each else "none"
        raise UsageError(f"variants(…) compares at least two, and there is {given}")
    for name, keywords in each.items():
        if not (name.strip() and name.isprintable()):
            raise UsageError(f"variants(**{{{name!r}: …}}): expected a name that can be read, in one line")
        if not isinstance(keywords, Mapping) or not all(isinstance(keyword, str) for keyword in keywords):
            raise UsageError(f"variants({name}={keywords!r}): expected a dictionary of llm_perf's keywords")
    parameters = [pytest.param(name, id=name, marks=llm_perf(**keywords)) for name, keywords in each.items()]
    return pytest.mark.parametrize(VARIANT, parameters)


def marker_help() -> str:
    """The line of `pytest --markers`."""
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in SIGNATURE.parameters.values()]
    shown = SIGNATURE.replace(parameters=parameters, return_annotation=SIGNATURE.empty)
    return f"llm_perf{shown}: {_llm_perf.__doc__}"
