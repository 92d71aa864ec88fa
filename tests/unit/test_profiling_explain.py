"""Why something is REGRESSED: each known cause on both sides of where it begins, and operators that grew."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from pytest_llmperf.model import plain
from pytest_llmperf.profiling.explain import NOT_KEPT, NOTHING_GREW, Change, Seen, explain
from pytest_llmperf.profiling.kept import OUTSIDE, VIEWS
from pytest_llmperf.results import Explanation, Grown

CALLS = {
    "aten::addmm": 8,
    "aten::mul": 8,
    "aten::add": 11,
    "aten::copy_": 20,
    "aten::clone": 2,
    "aten::cat": 6,
    "aten::_to_copy": 10,
    "aten::scaled_dot_product_x": 2,
    "aten::_local_scalar_dense": 1,
    VIEWS: 190,
}
TIMES = dict.fromkeys(CALLS, 0.1) | {"aten::addmm": 0.5, OUTSIDE: 1.0}
METRICS = {
    "flops_per_token": 1000.0,
    "prefill_flops": 50_000.0,
    "weights_mib": 10.0,
    "kv_bytes_per_token": 64.0,
    "syncs_per_token": 1.0,
    "compiles": 0.0,
    "leak_mib": 0.0,
}
POSITIONS = 50, 100


def seen(
    calls: Mapping[str, float] | None = None,
    times: Mapping[str, float] | None = None,
    flops: tuple[int, int] = (1000, 1010),
    phase: str = "decode",
    **metrics: float,
) -> Seen:
    """As usual, except for this."""
    both = {name: {"prefill": each, "decode": each} for name, each in CALLS.items()}
    spent = {name: {"prefill": [each], "decode": [each]} for name, each in TIMES.items()}
    for name, number in (calls or {}).items():
        both[name] = {**both.get(name, {}), phase: number}
    for name, each in (times or {}).items():
        spent[name] = {**spent.get(name, {}), phase: [each]}
    return Seen(both, [spent], flops, {**METRICS, **metrics})


def explained(head: Seen, *regressed: str, base: Seen | None = None) -> Explanation:
    return explain(Change(base or seen(), head, regressed, POSITIONS))


def hints(head: Seen, *regressed: str, base: Seen | None = None) -> str:
    return "\n".join(explained(head, *regressed, base=base).hints)


def test_what_is_the_same_has_no_explanation() -> None:
    assert explained(seen()) == Explanation()


# Operators that grew


def test_operators_with_more_calls_are_told_with_what_their_calls_took() -> None:
    told = explained(seen({"aten::copy_": 40, "aten::mul": 6}, {"aten::copy_": 0.7}))
    assert told.grown == {"decode": (Grown("aten::copy_", (20, 40), (0.1, 0.7)),)}


def test_at_most_five_operators_of_a_phase_are_told_those_first_whose_calls_took_most() -> None:
    more = {f"aten::new{number}": 1.0 for number in range(6)}
    told = explained(seen(more, {"aten::new3": 2.0, "aten::new5": 1.0}))
    assert [row.operator for row in told.grown["decode"]][:2] == ["aten::new3", "aten::new5"]
    assert len(told.grown["decode"]) == 5


def test_without_times_more_calls_come_first_and_views_last() -> None:
    head = seen({"aten::cat": 8, "aten::clone": 3, VIEWS: 290})
    told = explained(Seen(head.calls, [], (), head.metrics))
    assert told.grown["decode"] == (
        Grown("aten::cat", (6, 8)),
        Grown("aten::clone", (2, 3)),
        Grown(VIEWS, (190, 290)),
    )


def test_an_operator_too_short_to_be_kept_has_no_time() -> None:
    no_time = seen({"aten::eq": 3})
    assert explained(no_time).grown["decode"] == (Grown("aten::eq", (0, 3)),)
    new = explained(seen({"aten::eq": 3}, {"aten::eq": 0.2}))
    assert new.grown["decode"] == (Grown("aten::eq", (0, 3), (0.0, 0.2)),)


def test_a_time_that_base_did_not_keep_is_told_as_the_most_that_it_can_have_been() -> None:
    base, most = seen({"aten::eq": 1}), pytest.approx(0.005 * (sum(TIMES.values()) - TIMES[OUTSIDE]))
    [longer] = explained(seen({"aten::eq": 3}, {"aten::eq": 0.2}), base=base).grown["decode"]
    assert longer.milliseconds == (most, 0.2)
    [short] = explained(seen({"aten::eq": 3}, {"aten::eq": 0.006}), base=base).grown["decode"]
    assert short == Grown("aten::eq", (1, 3)), "no more than that now"


def test_what_costs_most_is_told_first_and_what_is_too_short_to_tell_last() -> None:
    more = {"aten::ne": 90, "aten::cat": 8, "aten::mul": 9, "aten::add": 12}
    told = explained(seen(more, {"aten::cat": 0.4, "aten::mul": 0.2, "aten::add": 0.9})).grown["decode"]
    assert [row.operator for row in told] == ["aten::add", "aten::cat", "aten::mul", "aten::ne"]
    assert told[-1].milliseconds is None


def test_times_are_the_middle_of_what_processes_took() -> None:
    one, other, third = (seen(times={"aten::copy_": each}).times[0] for each in (0.1, 9.0, 0.3))
    head = seen({"aten::copy_": 21})
    told = explained(Seen(head.calls, [one, other, third], (), head.metrics))
    assert told.grown["decode"][0].milliseconds == (0.1, 0.3)


def test_longer_times_alone_are_told_only_where_the_phase_is_slower() -> None:
    head = seen(times={"aten::mul": 0.6})
    assert explained(head, "tpot_ms").grown == {"decode": (Grown("aten::mul", (8, 8), (0.1, 0.6)),)}
    assert explained(head, "ttft_ms").grown == {}
    assert explained(head).grown == {}


@pytest.mark.parametrize(("others", "told"), [(0.15, True), (0.18, False)])
def test_longer_times_alone_are_told_only_where_most_of_the_growth_is_theirs(others: float, told: bool) -> None:
    more = {name: TIMES[name] + others for name in ("aten::add", "aten::cat", "aten::clone")}
    assert bool(explained(seen(times={**more, "aten::mul": 0.6}), "tpot_ms").grown) is told


def test_a_step_that_a_busy_machine_slows_as_a_whole_accuses_no_operator() -> None:
    told = explained(seen(times={name: 2 * each for name, each in TIMES.items()}), "tpot_ms")
    assert told.grown == {}
    assert told.hints == ("every operator takes 2 × as long: the machine is slower or busier, not one of them",)


def test_more_work_in_as_many_calls_is_told_by_the_operator_that_does_it() -> None:
    head = seen(times={"aten::addmm": 1.5}, flops_per_token=3000)
    assert explained(head, "flops_per_token").grown == {"decode": (Grown("aten::addmm", (8, 8), (0.5, 1.5)),)}


# Of one step of GPT-2 (4 layers, 384 wide) after 64 tokens, with its cache and without, as it was recorded.
WITH_CACHE = {
    "aten::addmm": 2.49,
    "aten::mm": 0.9,
    "aten::scaled_dot_product_x": 0.16,
    "aten::add": 0.1,
    "aten::mul": 0.08,
    "aten::tanh": 0.06,
    "aten::native_layer_norm": 0.08,
    VIEWS: 0.35,
    OUTSIDE: 1.5,
}
WITHOUT = {
    "aten::addmm": 31.25,
    "aten::mm": 0.95,
    "aten::scaled_dot_product_x": 0.8,
    "aten::add": 0.6,
    "aten::mul": 0.55,
    "aten::tanh": 1.2,
    "aten::native_layer_norm": 0.3,
    VIEWS: 0.6,
    OUTSIDE: 3.0,
}


@pytest.mark.parametrize("seed", range(50))
def test_more_work_is_told_first_by_what_took_most_of_it_however_noisy_the_machine_is(seed: int) -> None:
    """Each time is off by 40 %, and all of one side by a factor of up to two."""
    noise = random.Random(seed)

    def noisy(times: Mapping[str, float]) -> dict[str, dict[str, list[float]]]:
        slower = noise.uniform(1, 2)
        return {name: {"decode": [slower * each * noise.lognormvariate(0, 0.4)]} for name, each in times.items()}

    calls = {name: {"decode": 4.0} for name in WITH_CACHE if name != OUTSIDE}
    more, fewer = {"aten::eq": {"decode": 2.0}}, {"aten::eq": {"decode": 1.0}, "aten::cat": {"decode": 8.0}}
    base = Seen({**calls, **fewer}, [noisy(WITH_CACHE)], (), METRICS)
    head = Seen({**calls, **more}, [noisy(WITHOUT)], (), {**METRICS, "flops_per_token": 64_000.0})
    first, *_, last = explained(head, "flops_per_token", "tpot_ms", base=base).grown["decode"]
    assert first.operator == "aten::addmm"
    assert last == Grown("aten::eq", (1, 2))


def test_of_more_work_only_what_took_a_part_worth_telling_is_told() -> None:
    def told(took: float) -> list[str]:
        head = seen(times={"aten::addmm": 5.5 - took, "aten::mul": 0.1 + took}, flops_per_token=3000)
        return [row.operator for row in explained(head, "flops_per_token").grown["decode"]]

    assert told(0.49) == ["aten::addmm"]
    assert told(0.51) == ["aten::addmm", "aten::mul"]


def test_a_baseline_without_operators_says_how_to_keep_them() -> None:
    told = explained(seen({"aten::copy_": 40}, syncs_per_token=2), base=Seen(metrics=METRICS))
    assert told.missing == NOT_KEPT
    assert told.grown == {}
    assert told.hints == ("1 more wait of the host per token: .item(), .tolist(), int() or .cpu() of a tensor",)


def test_a_target_without_operators_misses_none() -> None:
    assert explain(Change(Seen(), Seen(), {"tpot_ms"})) == Explanation()


# Known causes


def test_a_cache_that_is_not_used_does_many_times_the_work_for_the_same_prompt() -> None:
    assert "the cache is not used: a token takes 2.1 × the FLOPs" in hints(seen(flops_per_token=2100))
    assert hints(seen(flops_per_token=2000)) == ""
    assert "cache is not used" not in hints(seen(flops_per_token=2100, prefill_flops=90_000))


def test_a_cache_that_is_not_used_lets_flops_grow_with_the_position() -> None:
    grows = {"flops_per_token": 1500, "prefill_flops": 60_000}
    assert "growing with its position" in hints(seen(flops=(1000, 1500), **grows))
    assert hints(seen(flops=(1000, 1499), **grows)) == ""
    assert hints(seen(flops=(1000, 1500), **grows), base=seen(flops=(1000, 1500))) == ""


def test_a_wait_is_told_with_the_operator_that_waits() -> None:
    head = seen({"aten::_local_scalar_dense": 3}, syncs_per_token=3)
    assert hints(head) == (
        "2 more waits of the host per token (aten::_local_scalar_dense 1 → 3): "
        ".item(), .tolist(), int() or .cpu() of a tensor"
    )
    assert hints(seen({"aten::_local_scalar_dense": 3})) == ""


def test_a_wait_for_the_truth_of_a_tensor_is_told_as_such() -> None:
    head = seen({"aten::_local_scalar_dense": 2, "aten::is_nonzero": 1}, syncs_per_token=2)
    assert hints(head).endswith("aten::is_nonzero 0 → 1): a tensor in an if or while, or bool()")


def test_a_wait_for_the_device_is_told_by_its_call() -> None:
    head = seen({"cudaStreamSynchronize": 2}, syncs_per_token=3)
    assert "2 more waits of the host per token (cudaStreamSynchronize 0 → 2)" in hints(head)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"weights_mib": 20.0, "kv_bytes_per_token": 128.0}, "weights 2 ×, KV cache 2 × the bytes for the same FLOPs"),
        ({"weights_mib": 15.0}, "weights 1.5 × the bytes"),
        ({"weights_mib": 14.9}, ""),
        ({"weights_mib": 20.0, "flops_per_token": 1100.0}, "the model is larger"),
    ],
)
def test_a_wider_dtype_takes_more_bytes_for_the_same_work(metrics: Mapping[str, float], told: str) -> None:
    assert hints(seen(**metrics)).startswith(told)
    assert bool(hints(seen(**metrics))) is bool(told)


def test_tensors_that_are_converted_in_every_step_are_told() -> None:
    assert hints(seen({"aten::_to_copy": 11})).startswith("aten::_to_copy 10 → 11 per token: tensors converted")
    assert hints(seen({"aten::_to_copy": 12}, phase="prefill")).startswith("aten::_to_copy 10 → 12 per prefill")
    assert hints(seen({"aten::_to_copy": 10.5})) == ""


def test_attention_that_is_no_longer_fused_is_told() -> None:
    eager = {"aten::scaled_dot_product_x": 0, "aten::_softmax": 2, "aten::bmm": 4, "aten::clone": 6}
    assert hints(seen(eager)) == (
        "attention in single steps (aten::_softmax 0 → 2, aten::bmm 0 → 4) in place of a fused kernel: "
        "see attn_implementation"
    )
    assert hints(seen({"aten::_softmax": 2, "aten::bmm": 4})) == ""  # beside the fused kernel, which is still there
    assert hints(seen({"aten::scaled_dot_product_x": 0, "aten::flash_attn": 2})) == ""  # another fused kernel


def test_copies_are_told_but_not_those_that_a_conversion_makes() -> None:
    assert hints(seen({"aten::clone": 3, "aten::copy_": 21})).startswith("more copies per token (aten::clone 2 → 3):")
    assert hints(seen({"aten::cat": 7})).startswith("more copies per token (aten::cat 6 → 7):")
    assert hints(seen({"aten::copy_": 21})).startswith("more copies per token (aten::copy_ 20 → 21):")
    assert "copies" not in hints(seen({"aten::_to_copy": 12, "aten::copy_": 22}))
    assert hints(seen({"aten::copy_": 19, "aten::clone": 1})) == ""


def test_graphs_that_are_compiled_while_serving_are_told() -> None:
    assert hints(seen(compiles=2)).startswith("2 more graphs compiled")
    assert hints(seen(), base=seen(compiles=2)) == ""


def test_logits_of_the_whole_prompt_are_more_work_in_as_many_products() -> None:
    assert hints(seen(prefill_flops=60_000)) == (
        "prefill FLOPs +20.0 % in as many products, decode the same: logits of the whole prompt? see logits_to_keep"
    )
    assert hints(seen({"aten::mm": 1}, phase="prefill", prefill_flops=60_000)) == ""
    assert "logits" not in hints(seen(prefill_flops=60_000, flops_per_token=1200))
    assert hints(seen(prefill_flops=50_040)) == ""


def test_a_larger_model_has_more_weights_and_does_more() -> None:
    assert hints(seen(weights_mib=12, flops_per_token=1200, kv_bytes_per_token=128)) == (
        "the model is larger (weights 1.2 ×, FLOPs per token 1.2 ×, KV cache 2 ×): more layers, heads or width"
    )
    assert hints(seen(weights_mib=12)) == ""
    assert hints(seen(flops_per_token=1200)) == ""


def test_a_leak_is_told_only_where_it_is_regressed() -> None:
    assert hints(seen(leak_mib=0.25), "leak_mib").startswith("each call leaves 0.250 MiB of tensors behind")
    assert hints(seen(leak_mib=0.25)) == ""


@pytest.mark.parametrize(("took", "told"), [(0.65, True), (0.6, False)])
def test_an_operator_that_takes_longer_in_as_many_calls_is_told(took: float, told: bool) -> None:
    found = hints(seen(times={"aten::addmm": took}, phase="prefill"), "ttft_ms")
    assert found.startswith("aten::addmm takes 1.3 × as long in as many calls" if told else NOTHING_GREW)


def test_an_operator_that_takes_longer_because_it_does_more_is_no_slower_one() -> None:
    head = seen(times={"aten::addmm": 1.5}, flops_per_token=1900, weights_mib=19)
    assert hints(head, "flops_per_token", "tpot_ms").startswith("the model is larger")
    assert "as long" not in hints(head, "flops_per_token", "tpot_ms")


def test_time_outside_of_operators_is_told_as_such() -> None:
    told = explained(seen(times={OUTSIDE: 3.0}), "tpot_ms")
    assert told.grown == {"decode": (Grown(OUTSIDE, None, (1.0, 3.0)),)}
    assert told.hints == ("only time outside of torch's operators grew: Python between them, or waiting",)
    assert "only time outside" not in hints(seen({"aten::add": 30}, {OUTSIDE: 3.0}), "tpot_ms")


def test_a_slower_host_is_told_apart_from_a_slower_device() -> None:
    def on_device(host: float, device: float) -> Seen:
        times = {name: {"decode": [host * each, device * each]} for name, each in TIMES.items()}
        return Seen(seen().calls, [times], (), METRICS)

    base = on_device(1, 1)
    assert hints(on_device(1.5, 1), "tpot_ms", base=base).startswith("only host time grew, 1.5 × for every operator")
    assert hints(on_device(1.5, 1.5), "tpot_ms", base=base).startswith("every operator takes 1.5 × as long")
    assert hints(on_device(1.2, 1), "tpot_ms", base=base) == NOTHING_GREW


def test_a_slower_kernel_is_told_and_not_the_host_that_waits_for_it() -> None:
    def on_device(product: float) -> Seen:
        times = {name: {"decode": [0.01, each]} for name, each in {**TIMES, "aten::addmm": product}.items()}
        times["cudaStreamSynchronize"] = {"decode": [sum(TIMES.values()) + product, 0.0]}
        return Seen({**seen().calls, "cudaStreamSynchronize": {"decode": 1}}, [times], (), METRICS)

    found = hints(on_device(3.0), "tpot_ms", base=on_device(1.0))
    assert found.startswith("aten::addmm takes 3 × as long in as many calls")
    assert "Synchronize" not in found


def test_a_slower_model_of_which_nothing_grew_is_told_so() -> None:
    assert explained(seen(), "tpot_ms").hints == (NOTHING_GREW,)
    assert explained(seen(), "peak_memory_mib").hints == ()


def test_an_explanation_travels_as_plain_data() -> None:
    told = explained(seen({"aten::copy_": 40}, {OUTSIDE: 3.0}), "tpot_ms")
    assert Explanation.from_plain(plain(told)) == told
    alone = explained(seen(times={OUTSIDE: 3.0}), "tpot_ms")
    assert Explanation.from_plain(plain(alone)) == alone
