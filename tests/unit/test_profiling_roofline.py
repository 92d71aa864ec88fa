"""Floors: by hand, by tensors counted, and never above what a real model needs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pytest_llmperf.demand import decode_bytes, prefill_bytes, prefill_flops
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.metrics import summarize
from pytest_llmperf.model import (
    Ceilings,
    Counts,
    Measurement,
    Memory,
    Operator,
    Phase,
    Round,
    Trace,
    Unknown,
    Work,
    Workload,
)
from pytest_llmperf.profiling import roofline as module
from pytest_llmperf.profiling.roofline import ARITHMETIC, MEMORY, Floor, findings, roofline, under_ceilings
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.targets.tensors import storage_bytes
from tests.fakes import FakeClock, FakeTarget

GB = 10**9
SEEN = Measurement(
    "fake",
    Workload(prompt_tokens=100, output_tokens=11),
    (Round((Trace(0.0, tuple(0.2 + 0.02 * k for k in range(11)), 100, prefill=0.18),)),),
    memory=Memory(kv_cache=1100),
    counts=Counts(
        prefill_work=Work(flops=2.0 * GB, weight_bytes=0.5 * GB),
        decode_work=Work(flops=0.02 * GB, weight_bytes=0.1 * GB),
        flops_by_step=(1000, 1010, 1020),
        cache_growth=10.0,
    ),
    ceilings=Ceilings(bandwidth=10.0 * GB, flop_rate=100.0 * GB),
)
"""Prefill: 2 GFLOP at 100 GFLOP/s are 20 ms, 0.5 GB at 10 GB/s are 50 ms. Decode: 0.1 GB are 10 ms."""


def seen(**changed: object) -> Measurement:
    return summarize(dataclasses.replace(SEEN, **changed))


def faster(by: float) -> Measurement:
    trace = SEEN.rounds[0].traces[0]
    arrivals = tuple(at / by for at in trace.arrivals)
    return seen(rounds=(Round((dataclasses.replace(trace, arrivals=arrivals, prefill=0.18 / by),)),))


# Floors


def test_a_floor_is_the_longer_of_moving_and_computing() -> None:
    roof = roofline(seen())
    assert roof.tpot == Floor("tpot_ms", pytest.approx(10.0, rel=1e-4), pytest.approx(20.0), MEMORY)
    assert roof.ttft == Floor("ttft_ms", pytest.approx(50.0, rel=1e-4), pytest.approx(200.0), MEMORY)
    assert roof.prefill == Floor("prefill_ms", pytest.approx(50.0, rel=1e-4), pytest.approx(180.0), MEMORY)
    assert roof.tpot.distance == pytest.approx(2.0, rel=1e-4)


def test_arithmetic_binds_where_it_takes_longer() -> None:
    roof = roofline(seen(ceilings=Ceilings(bandwidth=10.0 * GB, flop_rate=0.5 * GB)))
    assert (roof.tpot.bound_by, roof.ttft.bound_by) == (ARITHMETIC, ARITHMETIC)
    assert roof.tpot.ms == pytest.approx(40.0)


def test_a_share_of_bandwidth_is_the_inverse_of_the_distance_where_memory_binds() -> None:
    assert seen().mbu == pytest.approx(1 / roofline(seen()).tpot.distance)


def test_what_is_unknown_leaves_its_floor_unknown_for_that_reason() -> None:
    roof = roofline(seen(ceilings=Ceilings(bandwidth=10.0 * GB, flop_rate=Unknown("no such product"))))
    assert roof.tpot == roof.ttft == Unknown("no such product")
    assert findings(seen(counts=Counts())) == []


def test_a_time_below_its_floor_is_told_with_its_floor() -> None:
    assert roofline(seen()).impossible == []
    assert roofline(faster(2.5)).impossible == ["tpot_ms 8 (floor 10.0)"]
    assert roofline(faster(5)).impossible == [
        "ttft_ms 40 (floor 50.0)",
        "prefill_ms 36 (floor 50.0)",
        "tpot_ms 4 (floor 10.0)",
    ]


def test_findings_are_sentences_with_the_figures_behind_them() -> None:
    assert findings(seen()) == [
        "decode reads weights and cache at 50 % of this machine's bandwidth (5.00 of 10 GB/s); "
        "tpot_ms is 2.00 times its floor, which memory sets",
        "prefill computes at 11.1 % of this machine's rate (11.1 of 100 GFLOP/s); "
        "prefill_ms is 3.60 times its floor, which memory sets",
    ]
    assert findings(faster(2.5))[2:] == ["tpot_ms 8 (floor 10.0): faster than this machine can be, an error of llmperf"]


def test_a_share_and_its_distance_are_of_the_same_time() -> None:
    whole = dataclasses.replace(SEEN.traces[0], prefill=Unknown("not seen"))
    [_, prefill] = findings(seen(rounds=(Round((whole,)),)))
    assert "prefill computes at 10 % of this machine's rate (10.00 of 100 GFLOP/s); ttft_ms is 4.00 times" in prefill


# Demand


def test_the_mean_step_reads_the_cache_as_it_is_in_the_middle() -> None:
    """11 tokens are 10 steps; the cache holds 101 to 110 tokens of 10 bytes meanwhile."""
    assert decode_bytes(SEEN) == 0.1 * GB + sum(10 * tokens for tokens in range(101, 111)) / 10


def test_prefill_writes_the_cache_of_its_prompt() -> None:
    assert prefill_bytes(SEEN) == 0.5 * GB + 10 * 100


def test_a_state_that_does_not_grow_is_read_whole_in_every_step() -> None:
    state = dataclasses.replace(SEEN, counts=dataclasses.replace(SEEN.counts, cache_growth=0.0))
    assert decode_bytes(state) == 0.1 * GB + 1100
    assert prefill_bytes(state) == 0.5 * GB + 1100


def test_the_masked_half_of_attention_is_not_needed() -> None:
    assert prefill_flops(SEEN) == 2.0 * GB - 10 * 100 * 99 / 2


def test_flops_that_do_not_grow_with_position_have_no_masked_half() -> None:
    assert prefill_flops(_with_steps(7, 7, 7)) == 2.0 * GB


def test_one_step_does_not_tell_what_a_position_costs() -> None:
    assert prefill_flops(_with_steps(7)) == Unknown("how much of attention is masked is seen from 3 output tokens on")


def test_a_context_worked_through_at_every_step_is_not_taken_for_attention() -> None:
    assert prefill_flops(_with_steps(int(2 * GB), int(2.1 * GB), int(2.2 * GB))) == GB


def _with_steps(*flops: int) -> Measurement:
    return dataclasses.replace(SEEN, counts=dataclasses.replace(SEEN.counts, flops_by_step=flops))


# Real models

LLAMA = "random:llama?num_hidden_layers=2&hidden_size=64&intermediate_size=128&num_attention_heads=4&vocab_size=500"
MODELS = {
    "gpt2": "random:gpt2?n_layer=2&n_embd=64&n_head=4&vocab_size=500",
    "llama": f"{LLAMA}&num_key_value_heads=4",
    "llama with grouped queries": f"{LLAMA}&num_key_value_heads=1",
    "mamba": "random:mamba?num_hidden_layers=2&hidden_size=64&vocab_size=500",
}


@pytest.fixture(autouse=True)
def never_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are about counts: no clock has a say in them."""
    monkeypatch.setattr(module, "probe_of", lambda *args: Ceiling())


class Ceiling:
    """A device that reaches so much at first, and another time more."""

    def __init__(self, *bandwidths: float) -> None:
        self.bandwidths = list(bandwidths) or [1e15]
        self.asked: list[tuple[float, bool]] = []

    def bandwidth(self, working_set: float, *, anew: bool) -> float:
        self.asked.append((working_set, anew))
        return self.bandwidths.pop(0)

    def flop_rate(self, *, anew: bool) -> float:
        return 1e18


def measured(name: str, batch_size: int = 1, **options: object) -> tuple[Measurement, torch.nn.Module]:
    target = resolve(name).load(LoadOptions(device="cpu", **options))
    return measure(target, Workload(32, 6, batch_size), Effort(rounds=1, max_time=0.5)), target.model


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", MODELS.values(), ids=MODELS)
def test_a_step_reads_every_weight_once_but_those_of_words_that_are_not_there(name: str, batch_size: int) -> None:
    found, model = measured(name, batch_size)
    weights = storage_bytes([*model.parameters()])
    words = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is words
    rows = sum(
        table.embedding_dim * table.weight.element_size()
        for table in model.modules()
        if isinstance(table, torch.nn.Embedding)
    )
    unread = sum(
        storage_bytes([table.weight])
        for table in model.modules()
        if isinstance(table, torch.nn.Embedding) and not (tied and table.weight is words)
    )
    read = found.counts.decode_work.weight_bytes
    assert weights - unread <= read <= weights - unread + batch_size * rows + 4096, "and buffers, a few"


@pytest.mark.parametrize("heads", [1, 4])
def test_a_step_reads_the_cache_of_heads_that_are_there(heads: int) -> None:
    found, _ = measured(f"{LLAMA}&num_key_value_heads={heads}", batch_size=3)
    per_token = 2 * 2 * heads * 16 * 4
    cache = decode_bytes(found) - found.counts.decode_work.weight_bytes
    assert cache == 3 * per_token * (33 + 37) / 2


def test_a_step_reads_half_as_much_in_half_precision() -> None:
    full, half = (decode_bytes(measured(MODELS["llama"], dtype=dtype)[0]) for dtype in ("float32", "bfloat16"))
    assert half == pytest.approx(full / 2, rel=0.01)  # some buffers stay as they are


def test_a_step_reads_the_experts_that_work_and_no_others() -> None:
    sizes = "num_hidden_layers=2&hidden_size=64&intermediate_size=128&num_attention_heads=4&num_key_value_heads=2"
    common = f"random:mixtral?{sizes}&vocab_size=500&num_experts_per_tok=2&num_local_experts="
    few, many = (measured(f"{common}{experts}")[0] for experts in (2, 8))
    routers = 2 * 64 * 6 * 4
    assert decode_bytes(many) - decode_bytes(few) == routers
    assert many.memory.weights > 2 * few.memory.weights


def test_the_masked_half_of_a_real_model_is_that_of_its_attention() -> None:
    found, _ = measured(MODELS["gpt2"])
    layers, width, prompt = 2, 64, 32
    assert found.counts.prefill_work.flops - prefill_flops(found) == layers * 4 * width * prompt * (prompt - 1) / 2


# Ceilings


def test_a_device_is_probed_for_the_smaller_of_both_working_sets() -> None:
    ceiling = Ceiling(1e15)
    found = _probed(ceiling)
    assert ceiling.asked == [(decode_bytes(SEEN), False)]
    assert found.ceilings == Ceilings(1e15, 1e18)
    assert found.mbu is not None


def test_a_model_that_beats_its_ceiling_has_the_device_probed_once_more() -> None:
    ceiling = Ceiling(1.0 * GB, 20.0 * GB)
    found = _probed(ceiling)
    assert [anew for _, anew in ceiling.asked] == [False, True]
    assert roofline(found).impossible == []


def test_a_model_that_still_beats_it_is_told() -> None:
    found = _probed(Ceiling(1.0 * GB, 1.0 * GB))
    assert [below.partition(" ")[0] for below in roofline(found).impossible] == ["ttft_ms", "prefill_ms", "tpot_ms"]


def _probed(ceiling: Ceiling) -> Measurement:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "probe_of", lambda *args: ceiling)
        return under_ceilings(summarize(SEEN), FakeTarget(FakeClock()), FakeClock())


def test_what_was_not_counted_is_not_probed_for() -> None:
    ceiling = Ceiling()
    nothing = summarize(dataclasses.replace(SEEN, counts=Counts()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "probe_of", lambda *args: ceiling)
        found = under_ceilings(nothing, FakeTarget(FakeClock()), FakeClock())
    assert ceiling.asked == []
    assert found.ceilings.bandwidth == Unknown("no counting pass was made", by_chance=True)


@pytest.mark.parametrize("name", ["quantized::linear_dynamic", "aten::_int_mm"])
def test_products_in_another_type_have_no_ceiling(name: str) -> None:
    quantized = dataclasses.replace(SEEN.counts, prefill=Phase(operators=(Operator(name, 1.0, 0.1),)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "probe_of", lambda *args: Ceiling())
        found = under_ceilings(seen(counts=quantized), FakeTarget(FakeClock()), FakeClock())
    assert found.mfu is None
    assert found.unknown["mfu"].startswith(f"{name} multiplies in another type than")
    assert found.mbu is not None
