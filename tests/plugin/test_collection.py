"""What makes no sense is an error at collection, at the line of the very mark that says it."""

from __future__ import annotations

import pytest

HEAD = """\
import pytest
from pytest_llmperf import *
from pytest_llmperf import llm_perf  # named, so that its line could be taken for a mark's


def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)


FAST = stream(fast)

"""
HERE = "# here"


def write(suite: pytest.Pytester, text: str, name: str = "test_chat.py") -> str:
    """Write a module, and say `path:line` of its line with the comment `# here`."""
    suite.path.joinpath(name).write_text(HEAD + text)
    lines = [number for number, line in enumerate((HEAD + text).splitlines(), 1) if HERE in line]
    return f"{name}:{lines[0]}:" if lines else ""


def assert_collection_error(result: pytest.RunResult, place: str, *said: str) -> None:
    text = result.stdout.str()
    told = [line for line in text.splitlines() if place in line]
    assert told, text
    for part in said:
        assert part in text
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    assert "INTERNALERROR" not in text + result.stderr.str()
    assert "pytest_llmperf/" not in text, "no traceback of the plugin's insides"


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        pytest.param("promt_tokens=8", ["promt_tokens=8", "did you mean 'prompt_tokens'?"], id="unknown keyword"),
        pytest.param("zzz=8", ["zzz=8", "known: model, prompt_tokens"], id="keyword like no other"),
        pytest.param("'tfft_ms < 5'", ["'tfft_ms < 5'", "did you mean 'ttft_ms'?"], id="unknown metric"),
        pytest.param("'ttft_ms.p98 < 5'", ["'ttft_ms.p98 < 5'", "no statistic 'p98'"], id="unknown statistic"),
        pytest.param("'ttft_ms < 5 s'", ["'ttft_ms < 5 s'", "write the number in ms"], id="another unit"),
        pytest.param("'10 < ttft_ms < 50'", ["'10 < ttft_ms < 50'", "write two limits"], id="chained text"),
        pytest.param("'ttft_ms'", ["'ttft_ms'", "a limit is METRIC"], id="text without a bound"),
        pytest.param("prompt_tokens=0", ["prompt_tokens=0", "at least 1"], id="size of zero"),
        pytest.param("output_tokens=-1", ["output_tokens=-1", "at least 1"], id="negative size"),
        pytest.param("batch_size=2.5", ["batch_size=2.5", "a whole number"], id="size with a fraction"),
        pytest.param("prompt_tokens='8'", ["prompt_tokens='8'", "a whole number"], id="size as text"),
        pytest.param("prompt=''", ["prompt=''", "expected text"], id="empty prompt"),
        pytest.param("tolerance=5", ["tolerance=5", "write '5%' or 0.05"], id="tolerance without percent"),
        pytest.param("tolerance='5'", ["tolerance='5'", "write '5%'"], id="tolerance as bare text"),
        pytest.param("ttft_ms", ["ttft_ms alone is no limit", "like ttft_ms < 50"], id="metric without a bound"),
        pytest.param("[ttft_ms < 5]", ["is no limit", "write ttft_ms < 50"], id="list of limits"),
        pytest.param("50", ["50 is no limit", "write ttft_ms < 50"], id="bare number"),
        pytest.param("device='gpu'", ["device='gpu'", "known: auto, cpu, cuda"], id="unknown device"),
        pytest.param("device='cdua'", ["device='cdua'", "did you mean 'cuda'?"], id="misspelt device"),
        pytest.param("dtype='flaot16'", ["dtype='flaot16'", "did you mean 'float16'?"], id="misspelt dtype"),
        pytest.param("dtype='int4'", ["dtype='int4'", "known: auto, float32"], id="unknown dtype"),
        pytest.param("threads=0", ["threads=0", "or 'all'"], id="no threads"),
        pytest.param("rounds=0", ["rounds=0", "at least 1"], id="no rounds"),
        pytest.param("rounds=True", ["rounds=True", "at least 1"], id="rounds as truth value"),
        pytest.param("workload='short-lnog'", ["'short-lnog'", "did you mean 'short-long'?"], id="misspelt preset"),
        pytest.param("load=['a']", ["load=['a']", "a dictionary"], id="load as list"),
        pytest.param("load={'dtype': 'bf16'}", ["write dtype='bf16' beside load="], id="dtype inside load"),
        pytest.param("model=fast", ["model=<function fast", "wrap a function as stream(fn)"], id="bare function"),
        pytest.param("model=''", ["model=''", "expected a Hub id"], id="empty model"),
        pytest.param("model=3", ["model=3", "is no target"], id="number as model"),
        pytest.param("model='random:gpt2?n_layer'", ["'n_layer' is no option"], id="random text without value"),
    ],
)
def test_a_mark_that_makes_no_sense_is_a_collection_error_at_its_line(
    suite: pytest.Pytester, mark: str, said: list[str]
) -> None:
    place = write(
        suite,
        f"""
@pytest.mark.usefixtures("tmp_path")
@llm_perf({mark})  # here
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, *said)


def test_concurrency_of_a_target_in_this_process_is_refused_at_the_line_of_the_mark(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@pytest.mark.usefixtures("tmp_path")
@llm_perf(model=FAST, concurrency=4)  # here
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "concurrency=4", "stream:fast", "one request at a time")


def test_concurrency_of_a_model_in_this_process_is_refused_with_the_batch_size_that_is_meant(
    suite: pytest.Pytester,
) -> None:
    place = write(
        suite,
        """
@llm_perf(model="random:gpt2", concurrency=4)  # here
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "concurrency=4", "random:gpt2", "use batch_size=4")


def test_concurrency_is_refused_where_it_stands_though_the_target_is_named_elsewhere(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(concurrency=4)  # here
class TestChat:
    @llm_perf(model=FAST)
    def test_chat(self, llm):
        llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "concurrency=4")


def test_gpus_of_what_has_none_are_refused_where_they_stand(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(gpus=2)  # here
class TestChat:
    @llm_perf(model="gpt2", device="cpu")
    def test_chat(self, llm):
        llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "gpus=2", "device='cpu' is no CUDA device")


def test_of_two_stacked_marks_the_wrong_one_is_shown_when_it_is_the_lower(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(ttft_ms < 50, model=FAST)
@llm_perf(rouds=3)  # here
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3", "did you mean 'rounds'?")


def test_of_two_stacked_marks_the_wrong_one_is_shown_when_it_is_the_upper(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(rouds=3)  # here
@llm_perf(ttft_ms < 50, model=FAST)
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3", "did you mean 'rounds'?")


def test_a_wrong_mark_over_several_lines_is_shown_where_it_begins(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(  # here
    ttft_ms < 50,
    model=FAST,
    rouds=3,
)
@pytest.mark.usefixtures("tmp_path")
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_other_mentions_of_the_mark_do_not_draw_the_line_away(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        '''
# the mark llm_perf of this test is wrong
@llm_perf(rouds=3)  # here
def test_llm_perf_chat(llm):
    """A test of llm_perf."""
    assert llm_perf  # llm_perf
    llm.measure()
''',
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_a_wrong_mark_written_as_pytest_mark_is_shown_at_its_line(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@pytest.mark.llm_perf(rouds=3)  # here
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_a_wrong_mark_of_a_class_is_shown_at_its_line(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(ttft_ms < 50, model=FAST)
def test_before(llm):
    llm.measure()

@pytest.mark.usefixtures("tmp_path")
@llm_perf(rouds=3)  # here
class TestChat:
    @llm_perf(ttft_ms < 50, model=FAST)
    def test_first(self, llm):
        llm.measure()

    @llm_perf(ttft_ms < 60, model=FAST)
    def test_second(self, llm):
        llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_a_wrong_mark_of_a_method_is_shown_at_its_line(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(model=FAST)
class TestChat:
    @llm_perf(ttft_ms < 50)
    def test_first(self, llm):
        llm.measure()

    @llm_perf(ttft_ms < 60)
    @llm_perf(rouds=3)  # here
    def test_second(self, llm):
        llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_a_wrong_mark_of_a_nested_class_is_shown_at_its_line(suite: pytest.Pytester) -> None:
    place = write(
        suite,
        """
@llm_perf(model=FAST)
class TestChat:
    @llm_perf(rouds=3)  # here
    class TestLong:
        @llm_perf(ttft_ms < 50)
        def test_first(self, llm):
            llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_a_wrong_mark_of_a_base_class_in_another_file_is_shown_in_that_file(suite: pytest.Pytester) -> None:
    suite.syspathinsert()
    place = write(suite, "@llm_perf(rouds=3)  # here\nclass Base:\n    pass\n", "base_of_chat.py")
    write(
        suite,
        """
from base_of_chat import Base

@llm_perf(model=FAST)
class TestChat(Base):
    def test_chat(self, llm):
        llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


@pytest.mark.parametrize(
    "written",
    [
        "pytestmark = llm_perf(rouds=3)  # here",
        'pytestmark = [pytest.mark.usefixtures("tmp_path"), llm_perf(rouds=3)]  # here',
        "pytestmark = [\n    llm_perf(ttft_ms < 50),\n    llm_perf(rouds=3),  # here\n]",
    ],
    ids=["alone", "in a list", "in a list of lines"],
)
def test_a_wrong_mark_of_a_module_is_shown_at_its_line(suite: pytest.Pytester, written: str) -> None:
    place = write(
        suite,
        f"""
{written}

@llm_perf(ttft_ms < 50, model=FAST)
def test_chat(llm):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3")


@pytest.mark.parametrize("own", ["", "@llm_perf(ttft_ms < 50)\n"], ids=["alone", "above a mark"])
def test_a_wrong_mark_of_a_parameter_is_shown_at_its_line(suite: pytest.Pytester, own: str) -> None:
    place = write(
        suite,
        f"""
@pytest.mark.parametrize("n", [
    pytest.param(1, marks=llm_perf(rounds=3)),
    pytest.param(2, marks=llm_perf(rouds=3)),  # here
])
{own}def test_chat(llm, n):
    llm.measure()
""",
    )
    assert_collection_error(suite.runpytest(), place, "rouds=3", "test_chat[2]")


def test_a_wrong_mark_on_an_unmeasured_test_of_its_own_is_found_without_the_fixture(suite: pytest.Pytester) -> None:
    place = write(suite, "@llm_perf(rouds=3)  # here\ndef test_chat():\n    pass\n")
    assert_collection_error(suite.runpytest(), place, "rouds=3")


def test_other_modules_run_when_collection_errors_are_to_be_passed_over(suite: pytest.Pytester) -> None:
    place = write(suite, "@llm_perf(rouds=3)  # here\ndef test_chat(llm):\n    llm.measure()\n")
    write(suite, "@llm_perf(model=FAST)\ndef test_good(llm):\n    llm.measure()\n", "test_other.py")
    result = suite.runpytest("--continue-on-collection-errors")
    assert place in result.stdout.str()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_good*128→32*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_wrong_marks_of_two_modules_are_both_told(suite: pytest.Pytester) -> None:
    one = write(suite, "@llm_perf(rouds=3)  # here\ndef test_chat(llm):\n    llm.measure()\n")
    other = write(suite, "@llm_perf(threads=0)  # here\ndef test_more(llm):\n    llm.measure()\n", "test_more.py")
    result = suite.runpytest()
    assert one in result.stdout.str()
    assert other in result.stdout.str()
    result.assert_outcomes(errors=2)


def test_the_whole_message_is_one_line_that_names_test_value_and_fix(suite: pytest.Pytester) -> None:
    place = write(suite, "@llm_perf(promt_tokens=8)  # here\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    result.stdout.fnmatch_lines(
        [f"{place} @llm_perf of test_chat: promt_tokens=8: no such keyword; did you mean 'prompt_tokens'?"]
    )


def test_a_wrong_mark_is_an_error_of_collect_only_too(suite: pytest.Pytester) -> None:
    place = write(suite, "@llm_perf(rouds=3)  # here\ndef test_chat(llm):\n    llm.measure()\n")
    assert_collection_error(suite.runpytest("--collect-only"), place, "rouds=3")


def test_a_wrong_mark_added_by_a_hook_fails_the_test_with_the_fix(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.llm_perf(rouds=3))
"""
    )
    write(suite, "def test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    assert result.ret != pytest.ExitCode.OK
    assert "did you mean 'rounds'?" in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert "pytest_llmperf/" not in result.stdout.str()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("10 < ttft_ms < 50", ["10 < ttft_ms < 50", "two limits"]),
        ("10 < ttft_ms.p99 < 50", ["ttft_ms.p99", "two limits"]),
        ("ttft_ms < [50]", ["ttft_ms < [50]", "expected a plain number of ms, not list"]),
        ("ttft_ms < '50'", ["ttft_ms < '50'", "expected a plain number of ms, not str"]),
        ("ttft_ms < float('nan')", ["ttft_ms < nan", "a finite number of ms"]),
        ("ttft_ms < float('inf')", ["ttft_ms < inf", "a finite number of ms"]),
        ("ttft_ms == 50", ["ttft_ms == 50", "use <= or >="]),
        ("ttft_ms < tpot_ms", ["ttft_ms < tpot_ms", "not with another metric"]),
        ("ttft_ms.p98 < 5", ["ttft_ms has no statistic 'p98'", "known: median"]),
        ("ttft_ms.meen < 5", ["did you mean 'mean'?"]),
        ("tpot_ms.within(5)", ["tpot_ms.within()", "write '5%' or 0.05"]),
        ("tpot_ms.p95.within('3%')", ["baselines compare medians only"]),
        ("model=stream('gpt2')", ["stream('gpt2')", "expected a function"]),
        ("model=random_weights('')", ["random_weights('')", "like 'gpt2'"]),
        ("workload=Workload(prompt_tokens=0)", ["prompt_tokens=0", "at least 1"]),
    ],
)
def test_an_expression_that_makes_no_sense_is_an_error_at_its_line(
    suite: pytest.Pytester, written: str, said: list[str]
) -> None:
    place = write(suite, f"\n@llm_perf({written})  # here\ndef test_chat(llm):\n    llm.measure()\n")
    result = suite.runpytest()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"{place} in <module>*"])
    for part in said:
        assert part in result.stdout.str()


@pytest.mark.parametrize(
    ("name", "meant"), [("ttft", "ttft_ms"), ("random_weigths", "random_weights"), ("llmperf", "llm_perf")]
)
def test_a_misspelt_import_is_an_error_at_its_line_with_the_nearest_name(
    suite: pytest.Pytester, name: str, meant: str
) -> None:
    place = write(suite, f"from pytest_llmperf import {name}  # here\n")
    result = suite.runpytest()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"{place} in <module>*", f"E*cannot import name '{name}'*did you mean '{meant}'?"])


def test_an_import_like_no_name_at_all_is_pythons_own_error(suite: pytest.Pytester) -> None:
    place = write(suite, "from pytest_llmperf import zzzzzz  # here\n")
    result = suite.runpytest()
    result.stdout.fnmatch_lines([f"{place} in <module>*", "E*cannot import name 'zzzzzz' from 'pytest_llmperf'*"])


def test_collect_only_lists_tests_and_measures_nothing(suite: pytest.Pytester) -> None:
    write(
        suite,
        """
def never(prompt_ids, output_tokens):
    raise AssertionError("was asked for tokens")

@llm_perf(model=stream(never))
def test_chat(llm):
    llm.measure()
""",
    )
    result = suite.runpytest("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert result.stdout.lines[0] == "test_chat.py::test_chat"
    assert "llmperf:" not in result.stdout.str()


def test_collect_only_of_marked_tests_imports_nothing_heavy(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
import pathlib
import sys

HEAVY = ("torch", "transformers", "numpy", "rich", "psutil", "pynvml", "tokenizers", "huggingface_hub", "aiohttp")

def pytest_unconfigure():
    pathlib.Path("imported.txt").write_text(" ".join(name for name in HEAVY if name in sys.modules))
"""
    )
    write(
        suite,
        """
@llm_perf(ttft_ms < 50, "tpot_ms < 9", model="gpt2", dtype="bf16", device="cuda", workload="short-long")
def test_chat(llm):
    llm.measure()

@llm_perf(model=random_weights("llama", num_hidden_layers=2))
@pytest.mark.parametrize("shape", [Workload(8, 4), Workload(16, 4)])
def test_shapes(llm, shape):
    llm.measure(workload=shape)

def test_by_fixture(llm):
    llm.load(FAST)
""",
    )
    result = suite.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["test_chat.py::test_shapes[[]16-4[]]", "4 tests collected*"])
    assert suite.path.joinpath("imported.txt").read_text() == ""


def test_a_metric_alone_is_told_though_another_mark_has_a_text_in_its_place(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_chat="""
from pytest_llmperf import llm_perf, ttft_ms

@llm_perf("ttft_ms < 50", model="gpt2")
@llm_perf(ttft_ms, model="gpt2")
def test_chat(llm):
    llm.measure()
"""
    )
    result = suite.runpytest()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["test_chat.py:*: @llm_perf of test_chat: ttft_ms alone is no limit; *"])
    assert "Traceback" not in result.stdout.str()
