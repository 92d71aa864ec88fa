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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "compares at least two, and there is none"),
        ({"full": {}}, "compares at least two, and there is only 'full'"),
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
