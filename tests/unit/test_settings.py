"""Keywords are checked one by one, and levels are merged nearest first."""

from __future__ import annotations

import pytest

from pytest_llmperf import itl_ms, peak_memory_mib, random_weights, stream, tpot_ms, ttft_ms
from pytest_llmperf.errors import UsageError
from pytest_llmperf.mark import KEYWORDS
from pytest_llmperf.model import Tolerance, Workload
from pytest_llmperf.settings import Level, Settings, check, merge
from pytest_llmperf.targets import LoadOptions, Pretrained


def _merged(*levels: tuple[tuple, dict]) -> Settings:
    return merge([check(limits, keywords) for limits, keywords in levels])


# Keywords


def test_an_unknown_keyword_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        check((), {"prompt_token": 8})
    assert str(error.value) == "prompt_token=8: no such keyword; did you mean 'prompt_tokens'?"


def test_an_unknown_keyword_like_no_other_is_refused_with_all_there_are() -> None:
    with pytest.raises(UsageError) as error:
        check((), {"zzz": 8})
    assert str(error.value) == f"zzz=8: no such keyword (known: {', '.join(KEYWORDS)})"


@pytest.mark.parametrize("name", ["prompt_tokens", "output_tokens", "batch_size", "concurrency", "rounds"])
@pytest.mark.parametrize("value", [0, -8, True, False, 8.0, "8"])
def test_a_size_that_is_no_positive_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {name: value})
    assert str(error.value) == f"{name}={value!r}: expected a whole number of at least 1"


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2", "ALL", [1], 4097, 99999999999])
def test_threads_that_cannot_be_are_refused(value: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"threads": value})
    assert str(error.value) == f"threads={value!r}: expected a whole number from 1 to 4096, or 'all'"


@pytest.mark.parametrize("value", [1, 4, "all"])
def test_threads_are_a_number_or_all(value: object) -> None:
    assert _merged(((), {"threads": value})).threads == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "tolerance=5 is not between 0 and 1: write '5%' or 0.05"),
        ("5", "tolerance='5' is not a percentage: write '5%', or 0.05 as a number"),
        ("0%", "tolerance='0%' is not between 0 and 1"),
        ("150%", "tolerance='150%' is not between 0 and 1"),
        (True, "tolerance=True is not a tolerance"),
    ],
)
def test_a_tolerance_that_cannot_be_is_refused(value: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"tolerance": value})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [0.03, "3%"])
def test_a_tolerance_is_a_fraction_or_a_percentage(value: object) -> None:
    assert _merged(((), {"tolerance": value})).tolerance == 0.03


@pytest.mark.parametrize("value", ["sdpa", ["attn_implementation"], 5, True, {1: 2}])
def test_load_that_is_no_dictionary_of_keywords_is_refused(value: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"load": value})
    assert str(error.value) == f"load={value!r}: expected a dictionary of keywords for from_pretrained"


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"dtype": "bf16"}, "load={'dtype': …}: write dtype='bf16' beside load=, not inside it"),
        ({"torch_dtype": "bf16"}, "load={'torch_dtype': …}: write dtype='bf16' beside load=, not inside it"),
        ({"device": "cpu"}, "load={'device': …}: write device='cpu' beside load=, not inside it"),
    ],
)
def test_load_with_what_has_a_keyword_of_its_own_is_refused(load: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"load": load})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "expected"), [("bf16", "bfloat16"), ("torch.float16", "float16"), ("half", "float16"), ("auto", "auto")]
)
def test_a_dtype_has_one_name(given: str, expected: str) -> None:
    assert _merged(((), {"dtype": given})).dtype == expected


def test_a_misspelt_dtype_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"dtype='float23' is no dtype; did you mean 'float32'\?"):
        check((), {"dtype": "float23"})


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_a_device_is_taken_by_its_name_without_looking_for_it(device: str) -> None:
    assert _merged(((), {"device": device})).device == device


@pytest.mark.parametrize("device", ["gpu", "cudda", "cuda:x", "cpu:1", "", 0])
def test_a_device_that_cannot_be_is_refused(device: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"device": device})
    assert str(error.value).startswith(f"device={device!r} is no device")


@pytest.mark.parametrize("model", ["", "  ", 5, ["gpt2"], lambda ids, n: ids])
def test_a_model_that_is_no_target_is_refused(model: object) -> None:
    with pytest.raises(UsageError, match=r"^model=.* (is empty|is no target): expected a Hub id"):
        check((), {"model": model})


def test_a_function_as_model_is_told_to_be_wrapped() -> None:
    with pytest.raises(UsageError, match=r"wrap a function as stream\(fn\)$"):
        check((), {"model": lambda ids, n: ids})


def test_models_are_resolved_to_targets() -> None:
    tiny = random_weights("gpt2", n_layer=2)
    assert _merged(((), {"model": "gpt2"})).target == Pretrained("gpt2")
    assert _merged(((), {"model": tiny})).target is tiny
    assert _merged(((), {"model": "random:gpt2?n_layer=2"})).target == tiny


@pytest.mark.parametrize("prompt", ["", 5])
def test_a_prompt_that_is_no_text_is_refused(prompt: object) -> None:
    with pytest.raises(UsageError, match=r"^prompt=.*: expected text of at least one character"):
        check((), {"prompt": prompt})


@pytest.mark.parametrize("name", KEYWORDS)
def test_none_is_as_if_the_keyword_were_not_there(name: str) -> None:
    assert check((), {name: None}) == Level()


# Limits


def test_limits_and_tolerances_are_told_apart_in_any_order_and_form() -> None:
    level = check((tpot_ms.within("3%"), ttft_ms < 50, "itl_ms.p99 < 20", "peak_memory_mib.within(2%)"), {})
    assert level.limits == (ttft_ms < 50, itl_ms.p99 < 20)
    assert level.tolerances == (Tolerance("tpot_ms", 0.03), Tolerance("peak_memory_mib", 0.02))


def test_a_metric_without_a_bound_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        check((itl_ms.p99,), {})
    assert str(error.value) == "itl_ms.p99 alone is no limit; compare it with a number, like itl_ms.p99 < 50"


@pytest.mark.parametrize("limit", [5, None, True, ["ttft_ms < 50"], [ttft_ms < 50]], ids=repr)
def test_what_is_no_limit_is_refused(limit: object) -> None:
    with pytest.raises(UsageError) as error:
        check((limit,), {})
    assert str(error.value) == f"{limit!r} is no limit: write ttft_ms < 50, or 'ttft_ms < 50' as text"


def test_a_misspelt_metric_in_a_text_limit_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no metric 'ttf_ms'; did you mean 'ttft_ms'\?"):
        check(("ttf_ms < 50",), {})


# Workloads


def test_a_workload_stands_for_all_its_sizes() -> None:
    whole = Workload(8, 4, 2, 1, "hello")
    assert _merged(((), {"workload": whole})).workload == whole


def test_a_preset_is_named_by_text() -> None:
    assert _merged(((), {"workload": "long-short"})).workload == Workload(512, 16)


def test_a_size_beside_a_workload_wins() -> None:
    merged = _merged(((), {"workload": "long-short", "batch_size": 4, "prompt_tokens": 100}))
    assert merged.workload == Workload(prompt_tokens=100, output_tokens=16, batch_size=4)


def test_a_nearer_workload_replaces_all_sizes_of_those_further_out() -> None:
    merged = _merged(((), {"workload": Workload(8, 4)}), ((), {"batch_size": 4, "prompt": "hello"}))
    assert merged.workload == Workload(8, 4, batch_size=1, prompt=None)


def test_a_nearer_size_wins_over_a_workload_further_out() -> None:
    assert _merged(((), {"output_tokens": 64}), ((), {"workload": "long-short"})).workload == Workload(512, 64)


@pytest.mark.parametrize("workload", [5, {"prompt_tokens": 8}, (8, 4)])
def test_what_is_no_workload_is_refused(workload: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"workload": workload})
    assert str(error.value) == f"workload={workload!r}: expected a Workload(…) or the name of a preset"


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"workload='long-shrt' is no preset; did you mean 'long-short'\?"):
        check((), {"workload": "long-shrt"})


# Merging


def test_without_any_level_everything_is_left_to_the_options() -> None:
    assert merge([]) == Settings((), (), None, Workload(128, 32, 1, 1, None), None, None, None, None, None, {})


def test_the_nearest_level_wins_keyword_by_keyword() -> None:
    merged = _merged(
        ((), {"prompt_tokens": 8}),
        ((), {"prompt_tokens": 16, "model": "near", "threads": 2}),
        ((), {"model": "far", "threads": "all", "rounds": 5, "dtype": "bf16"}),
    )
    assert merged == Settings(
        target=Pretrained("near"), workload=Workload(prompt_tokens=8), threads=2, rounds=5, dtype="bfloat16"
    )


def test_load_is_replaced_as_a_whole() -> None:
    merged = _merged(((), {"load": {"revision": "main"}}), ((), {"load": {"attn_implementation": "eager"}}))
    assert merged.load == {"revision": "main"}


def test_limits_are_replaced_by_metric_and_statistic() -> None:
    merged = _merged(
        ((ttft_ms < 40, itl_ms.p99 < 20), {}),
        ((ttft_ms < 50, ttft_ms.p95 < 80, peak_memory_mib < 4000), {}),
    )
    assert merged.limits == (ttft_ms < 40, itl_ms.p99 < 20, ttft_ms.p95 < 80, peak_memory_mib < 4000)


def test_two_limits_of_one_level_on_one_metric_are_both_kept() -> None:
    merged = _merged(((ttft_ms > 10, ttft_ms < 50), {}), ((ttft_ms < 60,), {}))
    assert merged.limits == (ttft_ms > 10, ttft_ms < 50)


def test_a_limit_is_taken_from_the_nearest_of_three_levels() -> None:
    merged = _merged(((), {}), ((ttft_ms < 40,), {}), ((ttft_ms < 50, tpot_ms < 8), {}))
    assert merged.limits == (ttft_ms < 40, tpot_ms < 8)


def test_tolerances_are_replaced_by_metric() -> None:
    merged = _merged(
        ((tpot_ms.within("3%"),), {}), ((tpot_ms.within("9%"), ttft_ms.within("4%")), {"tolerance": "10%"})
    )
    assert merged.tolerances == (Tolerance("tpot_ms", 0.03), Tolerance("ttft_ms", 0.04))
    assert merged.tolerance == 0.1


def test_a_tolerance_and_a_limit_on_one_metric_stand_side_by_side() -> None:
    merged = _merged(((tpot_ms.within("3%"),), {}), ((tpot_ms < 8,), {}))
    assert merged.limits == (tpot_ms < 8,)
    assert merged.tolerances == (Tolerance("tpot_ms", 0.03),)


def test_merging_leaves_the_levels_as_they_were() -> None:
    near, far = check((ttft_ms < 40,), {"batch_size": 2}), check((ttft_ms < 50,), {"model": "gpt2"})
    before = (dict(near.keywords), dict(far.keywords))
    assert merge([near, far]) == merge([near, far])
    assert (dict(near.keywords), dict(far.keywords)) == before


def test_load_options_are_those_of_the_settings_with_the_device_left_open() -> None:
    assert _merged(((), {"dtype": "bf16", "load": {"revision": "main"}})).load_options == LoadOptions(
        "auto", "bfloat16", {"revision": "main"}
    )
    assert _merged(((), {"device": "cpu"})).load_options == LoadOptions("cpu", None, {})


@pytest.mark.parametrize("value", [0, -1, 1.0, "2", True])
def test_a_number_of_gpus_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(UsageError) as error:
        check((), {"gpus": value})
    assert str(error.value) == f"gpus={value!r}: expected a whole number of at least 1"


def test_options_that_differ_in_their_gpus_load_differently() -> None:
    one, two = (_merged(((), {"gpus": gpus})).load_options for gpus in (1, 2))
    assert (one, two) == (LoadOptions(gpus=1), LoadOptions(gpus=2))
    assert one.key != two.key


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (
            [{"gpus": 2}, {"device": "cpu"}],
            "gpus=2: device='cpu' is no CUDA device; leave out gpus= or say device='cuda'",
        ),
        (
            [{"gpus": 2}, {"model": "http://host:8000/v1?model=gpt2"}],
            "gpus=2: endpoint:host:8000/gpt2 is served, on as many GPUs as its server was started with",
        ),
    ],
)
def test_gpus_of_what_has_none_of_its_own_are_refused(levels: list[dict], message: str) -> None:
    with pytest.raises(UsageError) as error:
        _merged(*(((), level) for level in levels))
    assert str(error.value) == message


# Concurrency


@pytest.mark.parametrize("model", ["gpt2", "random:gpt2?n_layer=2"])
def test_concurrency_on_a_target_of_this_process_is_refused(model: str) -> None:
    with pytest.raises(UsageError) as error:
        _merged(((), {"model": model, "concurrency": 4}))
    assert str(error.value) == (
        f"concurrency=4: {model} runs in this process and serves one batch at a time; use batch_size=4"
    )


def test_concurrency_is_refused_also_where_another_level_names_the_target() -> None:
    with pytest.raises(UsageError, match=r"^concurrency=4: gpt2 runs in this process"):
        _merged(((), {"concurrency": 4}), ((), {"model": "gpt2"}))


def test_concurrency_of_one_is_no_concurrency() -> None:
    assert _merged(((), {"model": "gpt2", "concurrency": 1})).workload.concurrency == 1


def test_concurrency_waits_for_a_target_to_be_judged() -> None:
    assert _merged(((), {"concurrency": 4})).workload.concurrency == 4


def test_concurrency_on_a_stream_is_refused_without_advice_that_a_stream_refuses_too() -> None:
    def tokens(ids: list[int], count: int) -> list[int]:
        return ids[:count]

    with pytest.raises(UsageError, match=r"^concurrency=4: stream:tokens ") as error:
        _merged(((), {"model": stream(tokens), "concurrency": 4}))
    assert "batch_size=4" not in str(error.value)
