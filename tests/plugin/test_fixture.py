"""The fixture `llm`: several measurements, targets chosen in the body, and fixtures of the same name."""

from __future__ import annotations

import pytest

from tests.plugin.suites import HEAD


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def told(result: pytest.RunResult) -> str:
    """What the failures say, without the summaries below them."""
    return result.stdout.str().partition("= FAILURES =")[2].partition("= short test summary")[0]


def test_several_measurements_of_a_test_have_a_row_each(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(ttft_ms < 60_000, model=FAST, output_tokens=4)
def test_chat(llm):
    llm.measure(prompt_tokens=8)
    llm.measure("long", prompt_tokens=64)
    llm.measure(label="longer", prompt_tokens=128)
""",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*test_chat *8→4*NEW", "*test_chat::long*64→4*NEW", "*test_chat::longer*128→4*NEW", "3 measured: 3 new"]
    )


@pytest.mark.parametrize("label", ["", "'long'"], ids=["no label", "a label"])
def test_a_repeated_label_is_an_error_that_says_what_to_do(suite: pytest.Pytester, label: str) -> None:
    result = run(
        suite,
        f"""
@llm_perf(model=FAST)
def test_chat(llm):
    llm.measure({label})
    llm.measure({label})
""",
    )
    result.assert_outcomes(failed=1)
    key = "test_chat.py::test_chat" + ("::long" if label else "")
    result.stdout.fnmatch_lines([f"{key} was measured before: give each measure() of a test a label of its own"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_what_was_measured_before_an_error_is_still_shown(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST, output_tokens=4)
def test_chat(llm):
    llm.measure("good", prompt_tokens=8)
    llm.measure("bad", prompt_tokens=-1)
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["prompt_tokens=-1: expected a whole number of at least 1", "*good*8→4*", "1 measured:*"]
    )


def test_an_override_that_is_no_keyword_is_an_error_with_the_nearest(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure(promt_tokens=8)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*promt_tokens=8: no such keyword; did you mean 'prompt_tokens'?"])
    assert "pytest_llmperf/" not in result.stdout.str()


def test_concurrency_in_the_body_is_refused_like_in_the_mark(suite: pytest.Pytester) -> None:
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure(concurrency=2)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["concurrency=2: stream:fast *one request at a time"])


def test_the_target_may_be_loaded_in_the_body(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
def test_chat(llm):
    target = llm.load(TINY, dtype="bfloat16", device="cpu")
    m = llm.measure(prompt_tokens=8, output_tokens=4)
    assert m.target == target.id
    assert m.target.startswith("random:gpt2?n_embd=64&")
    assert m.environment.dtype == "bfloat16"
""",
    )
    result.assert_outcomes(passed=1)


def test_a_target_loaded_in_the_body_takes_the_place_of_the_marks(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
def other(prompt_ids, output_tokens):
    yield from range(output_tokens)

@llm_perf(ttft_ms < 1e-9, model=FAST, prompt_tokens=3)
def test_chat(llm):
    llm.load(stream(other))
    m = llm.measure()
    assert (m.target, m.workload.prompt_tokens) == ("stream:other", 3)
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms *"])


def test_a_module_of_the_users_own_fixture_is_measured_as_it_is(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.fixture
def own():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    config = AutoConfig.for_model("gpt2", n_layer=1, n_embd=32, n_head=2, vocab_size=100, n_positions=64,
                                  bos_token_id=None, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()

@llm_perf(weights_mib < 1, prompt_tokens=8, output_tokens=4)
def test_loaded(llm, own):
    llm.load(own)
    m = llm.measure()
    assert llm.model is own
    assert m.target == "GPT2LMHeadModel"
    assert m.load_s is None

def test_overridden(llm, own):
    llm.measure(model=own, prompt_tokens=8, output_tokens=4)
""",
    )
    result.assert_outcomes(passed=2)


def test_the_fixture_shows_the_target_its_model_and_its_tokenizer(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    assert llm.target.id.startswith("random:gpt2?n_embd=64&")
    assert llm.model.config.n_layer == 2
    assert llm.tokenizer is None, "random weights come without one"
    llm.measure()
    assert llm.target is llm.target
""",
    )
    result.assert_outcomes(passed=1)


def test_tests_that_name_the_same_target_load_it_once(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
pytestmark = llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
SEEN = []

@pytest.mark.parametrize("n", [0, 1])
def test_chat(llm, n):
    m = llm.measure()
    SEEN.append(llm.model)
    assert SEEN[0] is SEEN[-1]
    assert (m.load_s is None, m.cold_ttft_ms is None) == (n > 0, n > 0)
""",
    )
    result.assert_outcomes(passed=2)


def test_llm_and_llmperf_are_one_object_in_one_test(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST)
def test_chat(llm, llmperf):
    assert llm is llmperf
    llmperf.measure()
""",
    )
    result.assert_outcomes(passed=1)


def test_each_test_has_an_object_of_its_own(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
SEEN = []

@llm_perf(model=FAST)
@pytest.mark.parametrize("n", [0, 1])
def test_chat(llm, n):
    assert llm not in SEEN
    SEEN.append(llm)
    llm.measure()
""",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("name", ["llm", "llmperf"])
def test_a_test_that_requests_the_fixture_and_measures_nothing_fails_and_says_so(
    suite: pytest.Pytester, name: str
) -> None:
    result = run(suite, f"def test_chat({name}):\n    pass\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_chat.py::test_chat*measured nothing: call llm.measure()"])


def test_without_a_target_the_fixture_says_how_to_name_one(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_chat(llm):\n    llm.measure()\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["test_chat.py::test_chat names no target: write @llm_perf(model=…), or llm.load(…) before llm.measure()"]
    )
    assert "pytest_llmperf/" not in result.stdout.str()


def test_another_fixture_may_request_the_fixture(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.fixture
def measured(llm):
    return llm.measure()

@llm_perf(ttft_ms < 1e-9, model=FAST)
def test_marked(measured):
    pass

@llm_perf(ttft_ms < 60_000, model=FAST)
def test_holds(measured):
    assert measured.ttft_ms > 0
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms *", "2 measured: 1 broken, 1 new"])


def test_the_fixture_can_be_used_by_name_alone(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(model=FAST)
@pytest.mark.usefixtures("llm")
def test_chat(request):
    request.getfixturevalue("llm").measure()
""",
    )
    result.assert_outcomes(passed=1)


def test_a_marked_test_may_ask_for_the_fixture_while_it_runs(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@llm_perf(ttft_ms < 1e-9, model=FAST)
def test_chat(request):
    request.getfixturevalue("llm").measure()
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["BROKEN ttft_ms *"])


def test_an_unmarked_test_that_asks_for_the_fixture_while_it_runs_is_told_how_to_ask(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
def test_chat(request):
    request.getfixturevalue("llm")
""",
    )
    result.assert_outcomes(failed=1)
    assert "test_chat.py::test_chat: name the fixture llm among the test's arguments" in told(result)
    assert "pytest_llmperf/" not in result.stdout.str(), "no traceback of the plugin's insides"


SHADOW = """
import pytest

@pytest.fixture
def llm():
    return "a fixture of the suite"
"""


def test_a_conftest_fixture_that_hides_ours_is_named_with_its_line(suite: pytest.Pytester) -> None:
    suite.makeconftest(SHADOW)
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    assert llm.startswith('a fixture')\n")
    result.assert_outcomes(failed=1)
    assert "measured nothing" in told(result)
    assert "conftest.py:3" in told(result)
    assert "request 'llmperf' instead" in told(result)


def test_a_fixture_that_hides_ours_is_named_also_where_its_lack_of_methods_is_what_fails(
    suite: pytest.Pytester,
) -> None:
    suite.makeconftest(SHADOW)
    result = run(suite, "@llm_perf(model=FAST)\ndef test_chat(llm):\n    llm.measure()\n")
    result.assert_outcomes(failed=1)
    assert "conftest.py:3" in told(result)
    assert "'llmperf'" in told(result)


def test_llmperf_works_beside_a_conftest_fixture_that_hides_llm(suite: pytest.Pytester) -> None:
    suite.makeconftest(SHADOW)
    result = run(
        suite,
        """
@llm_perf(ttft_ms < 60_000, model=FAST)
def test_chat(llm, llmperf):
    assert llm == "a fixture of the suite"
    llmperf.measure()
""",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 measured: 1 new"])


def test_a_suite_with_an_llm_fixture_of_its_own_and_no_mark_is_left_alone(suite: pytest.Pytester) -> None:
    suite.makeconftest(SHADOW)
    result = run(suite, "def test_chat(llm):\n    assert llm == 'a fixture of the suite'\n")
    result.assert_outcomes(passed=1)
    assert "llmperf:" not in result.stdout.str()


def test_a_fixture_that_extends_ours_under_the_same_name_measures(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import pytest

@pytest.fixture
def llm(llm):
    llm.warmed = True
    return llm
"""
    )
    result = run(
        suite,
        """
@llm_perf(ttft_ms < 60_000, model=FAST)
def test_chat(llm):
    assert llm.warmed
    llm.measure()
""",
    )
    result.assert_outcomes(passed=1)


def test_a_fixture_of_wider_scope_cannot_request_ours_and_pytest_says_so(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
@pytest.fixture(scope="module")
def shared(llm):
    return llm

def test_chat(shared):
    pass
""",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ScopeMismatch*"])


def test_the_measurement_can_be_stored_as_json(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
import json

@llm_perf(model=FAST, prompt_tokens=8, output_tokens=4)
def test_chat(llm):
    record = json.loads(llm.measure().to_json())
    assert record["workload"]["prompt_tokens"] == 8
    assert len(record["metrics"]["ttft_ms"]["samples"]) == 3
    assert "out of sight" in record["unknown"]["weights_mib"]
""",
    )
    result.assert_outcomes(passed=1)


def test_fixtures_lists_both_names_with_their_help(suite: pytest.Pytester) -> None:
    result = suite.runpytest("--fixtures", "-q")
    result.stdout.fnmatch_lines(["llm -- *", "*Loads the model*", "llmperf -- *", "*fixture `llm` by another name*"])
