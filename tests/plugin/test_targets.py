"""Targets that are missing, or do not do what was asked, say so in one short text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import TINY

HEAD = f"""\
import pytest
from pytest_llmperf import *

TINY = {TINY!r}

"""
SIZES = "prompt_tokens=8, output_tokens=4"


def run(suite: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile(test_chat=HEAD + text)
    return suite.runpytest(*arguments)


def marked(mark: str, body: str = "llm.measure()") -> str:
    return f"@llm_perf({mark})\ndef test_chat(llm):\n    {body}\n"


def assert_told_plainly(result: pytest.RunResult, *said: str) -> None:
    text = result.stdout.str()
    for part in said:
        assert part in text
    for trace in ("Traceback", "transformers/", "pytest_llmperf/", "huggingface_hub/", "INTERNALERROR"):
        assert trace not in text


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no-such-org/no-such-model", "not in the Hub's cache, and HF_HUB_OFFLINE is set"),
        ("./no-such-folder", "this path does not exist; paths are relative to"),
        ("/no/such/folder", "this path does not exist"),
        ("a b", "neither a folder nor a valid Hub id"),
    ],
)
def test_a_missing_model_is_an_error_at_setup_in_one_short_text(suite: pytest.Pytester, model: str, said: str) -> None:
    result = run(suite, marked(f"model={model!r}"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, f"model={model!r}: ", said, "ERROR at setup of test_chat")
    error = result.stdout.str().partition("ERROR at setup of test_chat")[2].partition("= short test summary")[0]
    assert len(error.strip().splitlines()) <= 4


def test_a_folder_without_a_model_is_told(suite: pytest.Pytester) -> None:
    suite.mkdir("empty")
    result = run(suite, marked("model='./empty'"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, "model='./empty': the folder has no config.json", "save_pretrained")


def test_a_folder_whose_config_is_no_models_is_told(suite: pytest.Pytester) -> None:
    suite.mkdir("odd").joinpath("config.json").write_text("{}")
    result = run(suite, marked("model='./odd'"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, "model='./odd': its config.json names no model_type that transformers knows")


def test_vv_shows_the_traceback_of_a_missing_model(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model='./no-such-folder'"), "-vv")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*targets/pretrained.py:*: TargetError"])


def test_vv_shows_the_traceback_of_an_error_in_the_body(suite: pytest.Pytester) -> None:
    result = run(suite, marked(f"model=TINY, {SIZES}", "llm.measure(rouds=3)"), "-vv")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       llm.measure(rouds=3)", "*settings.py:*: UsageError"])


def test_a_missing_model_leaves_other_tests_alone(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        f"""
@pytest.mark.parametrize("model", ["./no-such-folder", TINY])
def test_chat(llm, model):
    llm.measure(model=model, {SIZES})
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    assert_told_plainly(result, "model='./no-such-folder': this path does not exist")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("random:gtp2", ["knows no model type 'gtp2'; did you mean 'gpt2'?"]),
        ("random:gpt2?n_layr=2", ["has no 'n_layr'; did you mean 'n_layer'?"]),
        ("random:gpt2?n_layer=two", ["random:gpt2?n_layer=two: "]),
        ("random:vit", ["'vit' is no causal language model"]),
    ],
)
def test_random_weights_that_cannot_be_are_told(suite: pytest.Pytester, model: str, said: list[str]) -> None:
    result = run(suite, marked(f"model={model!r}"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, *said)


def test_random_weights_too_large_for_the_machine_are_refused_before_they_are_made(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=random_weights('gpt2', n_embd=65536, n_head=64, n_layer=96), device='cpu'"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, "for its weights, and cpu has", "use a smaller dtype, fewer layers")


def test_a_missing_device_is_an_error_at_setup_that_says_how_to_skip(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=TINY, device='cuda:99'"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(
        result, "device='cuda:99': torch ", "on this machine; 'auto' takes what is there", "llmperf_missing_device=skip"
    )


def test_a_missing_device_skips_where_the_ini_file_says_so(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=TINY, device='cuda:99'"), "-rs", "-o", "llmperf_missing_device=skip")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_chat.py:*: device='cuda:99': torch *"])
    assert "= llmperf =" not in result.stdout.str()


def test_a_missing_device_in_the_body_skips_too(suite: pytest.Pytester) -> None:
    text = f"def test_chat(llm):\n    llm.load(TINY, device='cuda:99')\n    llm.measure({SIZES})\n"
    run(suite, text).assert_outcomes(failed=1)
    run(suite, text, "-o", "llmperf_missing_device=skip").assert_outcomes(skipped=1)


def test_more_gpus_than_there_are_skip_where_the_ini_file_says_so(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=TINY, gpus=99"))
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, "gpus=99: torch ", "on this machine, and ini llmperf_missing_device=skip skips such")
    result = run(suite, marked("", "llm.load(stream(print), gpus=99)"), "-rs", "-o", "llmperf_missing_device=skip")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_chat.py:*: gpus=99: torch * sees * CUDA device*"])


@pytest.mark.parametrize("verbosity", ["-q", "-v", "-vv"])
def test_a_missing_device_is_told_alike_at_every_verbosity(suite: pytest.Pytester, verbosity: str) -> None:
    result = run(suite, marked("model=TINY, device='cuda:99'"), verbosity)
    result.assert_outcomes(errors=1)
    assert_told_plainly(result, "device='cuda:99': torch ")


def test_a_prompt_text_needs_a_tokenizer(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=TINY, prompt='hello'"))
    result.assert_outcomes(failed=1)
    assert_told_plainly(result, "has no tokenizer; set prompt_tokens=")


def test_more_tokens_than_the_model_has_positions_for_are_refused(suite: pytest.Pytester) -> None:
    result = run(suite, marked("model=TINY, prompt_tokens=250, output_tokens=50"))
    result.assert_outcomes(failed=1)
    assert_told_plainly(result, "256")


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("return iter(range(output_tokens - 1))", "yielded 3 tokens where 4 were asked for"),
        ("return iter(range(output_tokens + 1))", "yielded more than 4 tokens where 4 were asked for"),
        ("return iter(())", "yielded 0 tokens where 4 were asked for"),
    ],
    ids=["too few", "too many", "none"],
)
def test_a_stream_of_the_wrong_length_is_an_error(suite: pytest.Pytester, engine: str, said: str) -> None:
    text = f"def engine(prompt_ids, output_tokens):\n    {engine}\n\n"
    result = run(suite, text + marked(f"model=stream(engine), {SIZES}"))
    result.assert_outcomes(failed=1)
    assert_told_plainly(result, f"stream:engine {said}")


def test_an_error_inside_a_stream_shows_the_users_own_line(suite: pytest.Pytester) -> None:
    text = "def engine(prompt_ids, output_tokens):\n    yield 1\n    raise RuntimeError('engine is down')\n\n"
    result = run(suite, text + marked(f"model=stream(engine), {SIZES}"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*raise RuntimeError('engine is down')", "E*RuntimeError: engine is down"])
    assert "= llmperf =" not in result.stdout.str()


def test_a_stream_gets_prompts_of_the_exact_length_and_never_the_same_twice(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        f"""
SEEN = []

def engine(prompt_ids, output_tokens):
    assert len(prompt_ids) == 8
    assert output_tokens == 4
    SEEN.append(tuple(prompt_ids))
    yield from range(output_tokens)

@llm_perf(model=stream(engine), {SIZES})
def test_chat(llm):
    llm.measure()
    assert len(set(SEEN)) == len(SEEN) > 3
""",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [("batch_size=2", "batch_size=2: stream:engine"), ("prompt='hello'", "stream:engine has no tokenizer")],
)
def test_a_stream_refuses_what_it_cannot_do(suite: pytest.Pytester, keywords: str, said: str) -> None:
    text = "def engine(prompt_ids, output_tokens):\n    yield from range(output_tokens)\n\n"
    result = run(suite, text + marked(f"model=stream(engine), {keywords}"))
    result.assert_outcomes(failed=1)
    assert_told_plainly(result, said)


def test_a_saved_model_is_measured_with_its_tokenizer(suite: pytest.Pytester, saved_model: Path) -> None:
    result = run(
        suite,
        f"""
@llm_perf(tokenize_ms < 60_000, detokenize_ms < 60_000, model={str(saved_model)!r}, device="cpu",
          prompt="the quick brown fox", output_tokens=4)
def test_chat(llm):
    m = llm.measure()
    assert m.workload.prompt_tokens == len(llm.tokenizer("the quick brown fox")["input_ids"])
""",
    )
    result.assert_outcomes(passed=1)
    assert_told_plainly(result, "1 measured: 1 new")


def test_a_module_without_generate_is_told_how_to_wrap_it(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
def test_chat(llm):
    import torch
    llm.load(torch.nn.Linear(2, 2))
""",
    )
    result.assert_outcomes(failed=1)
    assert_told_plainly(result, "model=Linear(…) has no generate()", "stream(fn)")
