"""`variants(…)`: the same test, told apart by the keywords of its mark."""

from __future__ import annotations

import re

import pytest

from pytest_llmperf import variants
from pytest_llmperf.errors import UsageError

SUITE = """
    import pytest
    from pytest_llmperf import llm_perf, random_weights, variants

    TINY = random_weights("gpt2", n_layer=2, n_embd=64, n_head=4, vocab_size=500)

    @llm_perf(model=TINY, prompt_tokens=16, output_tokens=8, rounds=3)
    @variants(short={}, long={"prompt_tokens": 64}, uncached={"load": {"use_cache": False}})
    def test_shape(llm, variant):
        measured = llm.measure()
        assert measured.workload.prompt_tokens == (64 if variant == "long" else 16)
"""


def test_each_variant_is_a_test_and_the_report_sets_them_side_by_side(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_shape=SUITE)
    ran = suite.runpytest("--llmperf-baselines=nowhere", "--confcutdir=.")
    ran.assert_outcomes(passed=3)
    text = ran.stdout.str()
    table = text[text.index("variants, in proportion to short") :]
    rows = [line.split()[0] for line in table.splitlines()[3:6]]
    assert rows == ["short", "long", "uncached"]
    assert re.search(r"^ *long .* ×1\.\d\d", table, re.MULTILINE)


def test_variants_of_any_name_stand_side_by_side(suite: pytest.Pytester) -> None:
    named = """@variants(**{"int8-dynamic": {}, "größe": {"prompt_tokens": 64}, "4bit [x]": {}})"""
    start, end = SUITE.index("@variants("), SUITE.index("def test_shape")
    body = '"größe"'.join(SUITE[end:].split('"long"'))
    suite.makepyfile(test_shape=f"{SUITE[:start]}{named}\n    {body}")
    ran = suite.runpytest("--llmperf-baselines=nowhere", "--confcutdir=.")
    ran.assert_outcomes(passed=3)
    table = re.split(r"test_shape.py::test_shape\s+variants, in proportion to int8-dynamic", ran.stdout.str())[1]
    for name in ("int8-dynamic", "größe", "4bit [x]"):
        assert re.search(rf"^ *{re.escape(name)} +\d", table, re.MULTILINE), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "compares at least two, and there is none"),
        ({"full": {}}, "compares at least two, and there is only 'full'"),
        ({"full": {1: 2}, "half": {}}, "variants(full={1: 2}): expected a dictionary of llm_perf's keywords"),
        ({"full": {}, "": {}}, "variants(**{'': …}): expected a name that can be read, in one line"),
        ({"full": {}, "a\nb": {}}, r"variants(**{'a\nb': …}): expected a name that can be read, in one line"),
        ({"full": {}, "half": "bfloat16"}, "variants(half='bfloat16'): expected a dictionary of llm_perf's keywords"),
    ],
)
def test_what_is_no_set_of_variants_is_an_error_that_says_why(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        variants(**given)


def test_a_wrong_keyword_of_a_variant_is_an_error_at_collection(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_shape=SUITE.replace('"prompt_tokens": 64', '"prompt_token": 64'))
    ran = suite.runpytest()
    assert ran.ret != 0
    ran.stdout.fnmatch_lines(["*prompt_token*did you mean*prompt_tokens*"])
