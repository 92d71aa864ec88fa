"""The mark means what marks always mean: on functions, classes, modules and parameters, nearest first."""

from __future__ import annotations

import pytest

from pytest_llmperf.mark import KEYWORDS
from tests.fakes import TINY

HEAD = f"""\
import pytest
from pytest_llmperf import *

TINY = {TINY!r}
ALWAYS = ttft_ms < 60_000
NEVER = ttft_ms < 1e-9


def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)


def other(prompt_ids, output_tokens):
    yield from range(output_tokens)


FAST = stream(fast)
OTHER = stream(other)

"""


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def test_each_keyword_comes_from_the_nearest_mark_that_gives_it(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
pytestmark = llm_perf(model=OTHER, prompt_tokens=1, output_tokens=11, rounds=1, threads=1)

@llm_perf(prompt_tokens=2, output_tokens=12, rounds=2)
class Base:
    pass

@llm_perf(prompt_tokens=3, output_tokens=13)
class TestChat(Base):
    @llm_perf(prompt_tokens=4)
    @pytest.mark.parametrize("n", [pytest.param(0, marks=llm_perf(model=FAST))])
    def test_chat(self, llm, n):
        m = llm.measure()
        assert m.target == "stream:fast", "from the parameter"
        assert m.workload.prompt_tokens == 4, "from the function"
        assert m.workload.output_tokens == 13, "from the class"
        assert len(m.rounds) == 2, "from its base"
        assert m.environment.threads == 1, "from the module"
""",
    )
    result.assert_outcomes(passed=1)


LEVELS = ["module", "base", "subclass", "function", "parameter"]


@pytest.mark.parametrize("nearest", range(1, len(LEVELS)), ids=LEVELS[1:])
def test_a_keyword_of_a_nearer_mark_wins(suite: pytest.Pytester, nearest: int) -> None:
    size = {level: f"prompt_tokens={n + 1}" if n <= nearest else "" for n, level in enumerate(LEVELS)}
    result = run(
        suite,
        f"""
pytestmark = llm_perf(model=FAST, {size["module"]})

@llm_perf({size["base"]})
class Base:
    pass

@llm_perf({size["subclass"]})
class TestChat(Base):
    @llm_perf({size["function"]})
    @pytest.mark.parametrize("n", [pytest.param(0, marks=llm_perf({size["parameter"]}))])
    def test_chat(self, llm, n):
        assert llm.measure().workload.prompt_tokens == {nearest + 1}
""",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("nearest", range(1, len(LEVELS)), ids=LEVELS[1:])
def test_a_limit_of_a_nearer_mark_replaces_those_further_out(suite: pytest.Pytester, nearest: int) -> None:
    limit = {
        level: "" if n > nearest else "ALWAYS" if n == nearest else f"ttft_ms < 1e-{n + 5}"
        for n, level in enumerate(LEVELS)
    }
    text = f"""
pytestmark = [llm_perf(model=FAST), llm_perf({limit["module"]})]

@llm_perf({limit["base"]})
class Base:
    pass

@llm_perf({limit["subclass"]})
class TestChat(Base):
    @llm_perf({limit["function"]})
    @pytest.mark.parametrize("n", [pytest.param(0, marks=llm_perf({limit["parameter"]}))])
    def test_chat(self, llm, n):
        llm.measure()
"""
    run(suite, text).assert_outcomes(passed=1)
    broken = run(suite, text.replace("ALWAYS", "NEVER"))
    broken.assert_outcomes(failed=1)
    broken.stdout.fnmatch_lines(["BROKEN ttft_ms * ms (limit < 1e-09)"])


def test_of_stacked_decorators_the_lowest_is_nearest(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(NEVER, prompt_tokens=1, output_tokens=9)
@llm_perf(ttft_ms < 1e-8, prompt_tokens=2)
@llm_perf(ALWAYS, model=FAST, prompt_tokens=3)
def test_chat(llm):
    m = llm.measure()
    assert (m.workload.prompt_tokens, m.workload.output_tokens) == (3, 9)
""",
    )
    result.assert_outcomes(passed=1)


def test_of_stacked_class_decorators_the_lowest_is_nearest(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=OTHER, prompt_tokens=1)
@llm_perf(model=FAST)
class TestChat:
    def test_chat(self, llm):
        m = llm.measure()
        assert (m.target, m.workload.prompt_tokens) == ("stream:fast", 1)
""",
    )
    result.assert_outcomes(passed=1)


def test_limits_on_other_metrics_and_statistics_of_outer_marks_stay(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
pytestmark = llm_perf(tpot_ms < 50_000, model=FAST)

@llm_perf(ttft_ms.max < 60_000)
class TestChat:
    @llm_perf(ttft_ms < 70_000)
    def test_chat(self, llm):
        llm.measure()
""",
        "-v",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ttft_ms *< 70000*OK*", "*ttft_ms.max *< 60000*OK*", "*tpot_ms *< 50000*OK*"])


def test_marks_of_a_class_reach_nested_classes(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST, prompt_tokens=1, output_tokens=5)
class TestChat:
    @llm_perf(prompt_tokens=2)
    class TestLong:
        def test_chat(self, llm):
            m = llm.measure()
            assert (m.workload.prompt_tokens, m.workload.output_tokens) == (2, 5)
""",
    )
    result.assert_outcomes(passed=1)


def test_a_subclass_may_change_the_target_of_inherited_tests(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST)
class TestFast:
    def test_chat(self, llm):
        assert llm.measure().target == f"stream:{self.expected}"

    expected = "fast"

@llm_perf(model=OTHER)
class TestOther(TestFast):
    expected = "other"
""",
    )
    result.assert_outcomes(passed=2)


def test_a_workload_and_a_size_in_one_mark_give_the_size_the_last_word(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST, workload="long-short", prompt_tokens=7)
def test_chat(llm):
    m = llm.measure()
    assert (m.workload.prompt_tokens, m.workload.output_tokens) == (7, 16)
""",
    )
    result.assert_outcomes(passed=1)


def test_a_class_mark_leaves_tests_that_do_not_measure_ordinary(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(NEVER, model=FAST)
class TestChat:
    def test_arithmetic(self):
        assert 1 + 1 == 2
""",
    )
    result.assert_outcomes(passed=1)
    assert "llmperf:" not in result.stdout.str()


def test_a_module_mark_leaves_tests_that_do_not_measure_ordinary(suite: pytest.Pytester) -> None:
    result = run(suite, "pytestmark = llm_perf(NEVER, model=FAST)\n\ndef test_arithmetic():\n    assert 1 + 1 == 2\n")
    result.assert_outcomes(passed=1)
    assert "llmperf:" not in result.stdout.str()


def test_a_mark_added_by_a_hook_of_the_suite_works(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import pytest
from pytest_llmperf import stream, ttft_ms

def engine(prompt_ids, output_tokens):
    yield from range(output_tokens)

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.llm_perf(ttft_ms < 1e-9, model=stream(engine), prompt_tokens=5))
"""
    )
    result = run(suite, "def test_chat(llm):\n    assert llm.measure().workload.prompt_tokens == 5\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms * ms (limit < 1e-09)"])


def test_a_mark_without_parentheses_is_told_that_it_names_no_target(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf\ndef test_chat(llm):\n    llm.measure()\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_chat names no target: write @llm_perf(model=*"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_a_test_with_the_mark_that_measures_nothing_fails_and_says_so(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat():\n    pass\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_chat.py::test_chat*measured nothing: call llm.measure()"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_a_marked_test_that_skips_itself_is_skipped(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    pytest.skip('not today')\n", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*not today"])


TWO_MODELS = """
@llm_perf(model="random:gpt2", prompt_tokens=8)
def test_first(llm):
    llm.measure()

@llm_perf(model="random:llama")
def test_second(llm):
    llm.measure()

def test_ordinary():
    pass
"""


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("llm_perf", ["test_first", "test_second"]),
        ("not llm_perf", ["test_ordinary"]),
        ('llm_perf(model="random:gpt2")', ["test_first"]),
        ("llm_perf(prompt_tokens=8)", ["test_first"]),
        ('llm_perf(model="random:qwen3")', []),
    ],
)
def test_marks_are_selected_with_m(suite: pytest.Pytester, expression: str, selected: list[str]) -> None:
    result = run(suite, TWO_MODELS, "-m", expression, "--collect-only", "-q")
    assert [line for line in result.stdout.lines if "::" in line] == [f"test_chat.py::{name}" for name in selected]


def test_marks_on_a_class_are_selected_with_m(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(ALWAYS, model="random:gpt2")
class TestChat:
    def test_first(self, llm):
        llm.measure()

def test_ordinary():
    pass
""",
        *("-m", 'llm_perf(model="random:gpt2")', "--collect-only", "-q"),
    )
    assert result.stdout.lines[0] == "test_chat.py::TestChat::test_first"
    result.stdout.fnmatch_lines(["1/2 tests collected (1 deselected)*"])


def test_tests_are_selected_with_k(suite: pytest.Pytester) -> None:
    result = run(suite, TWO_MODELS, "-k", "second", "--collect-only", "-q")
    assert result.stdout.lines[0] == "test_chat.py::test_second"
    result.stdout.fnmatch_lines(["1/3 tests collected (2 deselected)*"])


def test_deselected_tests_that_measure_leave_the_run_an_ordinary_one(suite: pytest.Pytester) -> None:
    result = run(suite, TWO_MODELS, "-k", "ordinary")
    result.assert_outcomes(passed=1, deselected=2)
    assert "llmperf:" not in result.stdout.str()
    assert "= llmperf =" not in result.stdout.str()


def test_the_mark_is_registered(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n", "--strict-markers")
    result.assert_outcomes(passed=1)


def test_markers_shows_the_signature_with_every_keyword(suite: pytest.Pytester) -> None:
    result = suite.runpytest("--markers")
    line = next(line for line in result.stdout.lines if line.startswith("@pytest.mark.llm_perf("))
    assert "*limits" in line
    for keyword in KEYWORDS:
        assert f" {keyword}=" in line
    assert "prompt_tokens=128, output_tokens=32, batch_size=1" in line
    assert line.partition("): ")[2].startswith("measure a language model")


def test_targets_and_workloads_as_parameters_have_readable_ids(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
from pytest_llmperf.workloads import PRESETS

@pytest.mark.parametrize("model", [
    random_weights("gpt2"),
    random_weights("gpt2", dtype="bf16", n_layer=2, n_embd=64),
    random_weights("gpt2", n_embd=64, n_layer=2, dtype="bfloat16", attn_implementation="eager"),
    FAST,
    "gpt2",
    "random:gpt2",
])
def test_model(llm, model):
    pass

@pytest.mark.parametrize("shape", [Workload(512, 128), Workload(8, 4, batch_size=2), *PRESETS])
def test_shape(llm, shape):
    pass
""",
        *("--collect-only", "-q"),
    )
    ids = [line.partition("[")[2][:-1] for line in result.stdout.lines if "[" in line]
    assert ids == [
        "random:gpt2_0",
        "random:gpt2?dtype=bfloat16&n_embd=64&n_layer=2",
        "random:gpt2?dtype=bfloat16&attn_implementation=eager&n_embd=64&n_layer=2",
        "stream:fast",
        "gpt2",
        "random:gpt2_1",
        "512-128",
        "8-4-b2",
        "short-short",
        "short-long",
        "long-short",
        "long-long",
    ]


def test_an_id_from_a_parameter_selects_that_very_test(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.mark.parametrize("model", [FAST, OTHER])
@pytest.mark.parametrize("shape", [Workload(8, 4), Workload(16, 4)])
def test_model(llm, model, shape):
    llm.measure(model=model, workload=shape)
""",
        "test_chat.py::test_model[16-4-stream:other]",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_model*16→4*"])


def test_a_parameter_mark_measures_only_its_own_case(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(ALWAYS, model=FAST)
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=llm_perf(NEVER)), pytest.param(3, marks=llm_perf(rounds=4))])
def test_chat(llm, n):
    m = llm.measure()
    assert len(m.rounds) == (4 if n == 3 else 3)
""",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_chat.py::test_chat[[]2[]]*BROKEN*"])


def test_marks_through_indirect_parameters_name_the_target(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.fixture
def tokens(request):
    return request.param

@llm_perf(model=FAST)
@pytest.mark.parametrize("tokens", [3, 5], indirect=True)
def test_chat(llm, tokens):
    assert llm.measure(output_tokens=tokens).workload.output_tokens == tokens
""",
    )
    result.assert_outcomes(passed=2)
