"""Operators, waits and launches: of a real model on the CPU, and of what a CUDA device would show."""

from __future__ import annotations

import enum
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pytest_llmperf.model import Phase, Unknown, Workload
from pytest_llmperf.profiling import operators
from pytest_llmperf.profiling.operators import Profiled, profile
from pytest_llmperf.targets import LoadOptions, Target, resolve, stream
from tests.fakes import TINY
from tests.profiles import loaded

WORKLOAD = Workload(8, 5)


def profiled(target: Target, workload: Workload = WORKLOAD, **options: Any) -> Profiled:
    return profile(target, target.request(workload, 0), **options)


def counts(phase: Phase) -> tuple:
    """All of a phase that is not time."""
    return phase.ops, phase.syncs, phase.kernels, sorted((row.name, row.calls) for row in phase.operators)


# A real model


def test_two_profiles_count_the_same() -> None:
    target = loaded()
    one, other = profiled(target), profiled(target)
    assert counts(one.prefill) == counts(other.prefill)
    assert counts(one.decode) == counts(other.decode)


def test_a_step_of_decode_is_counted_and_not_its_share_of_the_whole() -> None:
    target = loaded()
    short, long = profiled(target, Workload(8, 5)).decode, profiled(target, Workload(8, 9)).decode
    assert counts(short) == counts(long)
    calls = {row.name: row.calls for row in short.operators}
    assert calls["aten::addmm"] == 2 * 4, "two layers of four products"
    assert calls["aten::scaled_dot_product_attention"] == 2
    assert short.ops == int(short.ops), "every step is alike"


def test_the_host_reads_one_scalar_per_step_and_one_more_for_each_item() -> None:
    target = loaded()
    assert profiled(target).decode.syncs == 1
    for layer in target.model.transformer.h:
        layer.register_forward_hook(lambda layer, given, hidden: hidden[0].sum().item() and None)
    assert profiled(target).decode.syncs == 1 + 2


def test_rows_say_what_took_time_the_longest_first() -> None:
    decode = profiled(loaded()).decode
    assert [row.host for row in decode.operators] == sorted((row.host for row in decode.operators), reverse=True)
    assert 0 < sum(row.host for row in decode.operators) <= 1.2 * decode.seconds
    assert {row.device for row in decode.operators} == {0}
    assert "llmperf step" not in {row.name for row in decode.operators}


def test_operators_that_call_others_are_no_leaves() -> None:
    decode = profiled(loaded()).decode
    calls = {row.name: row.calls for row in decode.operators}
    assert calls["aten::scaled_dot_product_attention"] == calls["aten::_scaled_dot_product_flash_attention_for_cpu"]
    assert decode.ops < sum(calls.values())


def test_without_a_device_there_are_no_kernels_and_that_is_not_zero() -> None:
    seen = profiled(loaded())
    assert isinstance(seen.prefill.kernels, Unknown)
    assert isinstance(seen.decode.kernels, Unknown)


def test_one_token_has_a_prefill_and_no_decode() -> None:
    seen = profiled(loaded(), Workload(8, 1))
    assert seen.prefill.ops > 0
    assert seen.decode == Phase(*4 * [Unknown("a step of decode needs at least 2 output tokens")])


@pytest.mark.parametrize(("tokens", "steps"), [(2, 5), (3, 5), (4, 6), (5, 6), (6, 8), (7, 5), (10, 8)])
def test_a_short_answer_is_served_again_until_it_has_steps_enough(tokens: int, steps: int) -> None:
    seen = profiled(loaded(), Workload(8, tokens))
    assert seen.decode.steps == steps
    assert seen.decode.find("aten::addmm").calls == 2 * 4
    assert seen.prefill.steps > 1


def test_a_slow_answer_is_not_served_again() -> None:
    ticks = itertools.count(step=1.5)
    assert profiled(loaded(), Workload(8, 3), clock=lambda: next(ticks)).decode.steps == 2


def test_two_tokens_have_one_step_of_decode() -> None:
    target = loaded()
    two, many = profiled(target, Workload(8, 2)).decode, profiled(target).decode
    assert two.syncs == many.syncs == 1
    assert {row.name for row in two.operators} >= {"aten::addmm", "aten::argmax"}


def test_a_trace_is_written_for_tensorboard(tmp_path) -> None:
    trace = tmp_path / "gpt2.pt.trace.json"
    profiled(loaded(), trace=trace)
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::addmm", "llmperf step"} <= names


def test_a_stream_without_torch_is_unknown_and_not_zero() -> None:
    def tokens(prompt, output_tokens):
        yield from range(output_tokens)

    seen = profiled(stream(tokens).load(LoadOptions()))
    assert seen.decode.ops == seen.prefill.syncs
    assert seen.decode.ops.reason.startswith("no operator of torch was seen")


def test_a_stream_of_other_steps_than_tokens_is_unknown() -> None:
    def one_more(prompt, output_tokens):
        for _ in range(output_tokens + 1):
            yield torch.zeros(2) + 1

    assert "not one per token" in profiled(stream(one_more).load(LoadOptions())).decode.ops.reason


def test_a_stream_whose_model_works_in_another_thread_is_unknown_and_not_zero() -> None:
    def threaded(prompt, output_tokens):
        torch.tensor(prompt)  # all that this thread does
        with ThreadPoolExecutor(1) as worker:
            for _ in range(output_tokens):
                yield worker.submit(lambda: torch.ones(2, 2) @ torch.ones(2, 2)).result()

    seen = profiled(stream(threaded).load(LoadOptions()))
    assert seen.decode.ops == seen.prefill.ops == seen.decode.syncs
    assert seen.decode.ops.reason.startswith("nothing was seen between tokens")


def test_a_profiler_of_the_users_own_is_left_running() -> None:
    target = loaded()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        seen = profiled(target)
        torch.zeros(2).exp()
    assert seen.decode.ops == Unknown("a profiler of torch is running already", by_chance=True)
    assert "aten::exp" in {event.name for event in own.events()}


def test_operators_of_a_dispatch_mode_of_the_users_own_are_not_counted_with_the_models() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    target = loaded()
    with FlopCounterMode(display=False):
        seen = profiled(target)
    assert isinstance(seen.decode.ops, Unknown)
    assert "FlopCounterMode is active" in seen.decode.ops.reason
    assert seen.decode.ops.by_chance


# What a CUDA device shows


class DeviceType(enum.Enum):
    CPU = 0
    CUDA = 1


@dataclass
class Event:
    """One of the profiler's, with those that it calls; times in microseconds."""

    name: str
    children: tuple[Event, ...] = ()
    device_type: DeviceType = DeviceType.CPU
    start: float = 0.0
    self_cpu_time_total: float = 2.0
    self_device_time_total: float = 0.0
    cpu_parent: Event | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for child in self.children:
            child.cpu_parent = self

    @property
    def cpu_children(self) -> tuple[Event, ...]:
        return self.children

    @property
    def time_range(self) -> Event:
        return self


def on_device(*roots: Event, steps: int = 1) -> Phase:
    def all_of(event: Event) -> list[Event]:
        return [event, *(inner for child in event.children for inner in all_of(child))]

    events = [event for root in roots for event in all_of(root)]
    spans = [(0.0, 100.0), *[(100.0, 100.0)] * (steps - 1)]
    return operators._phase(events, spans, True)


def _item() -> Event:
    read = Event("aten::_local_scalar_dense", (Event("cudaMemcpyAsync"), Event("cudaStreamSynchronize")))
    return Event("aten::item", (read,))


def _to_host() -> Event:
    copy = Event("aten::copy_", (Event("cudaMemcpyAsync"), Event("cudaStreamSynchronize")))
    return Event("aten::to", (Event("aten::_to_copy", (copy,)),))


@pytest.mark.parametrize(
    ("seen", "waits"),
    [
        pytest.param(_item(), 1, id="item"),
        pytest.param(_to_host(), 1, id="to the host"),
        pytest.param(Event("aten::nonzero", (Event("cudaStreamSynchronize"),)), 1, id="size by content"),
        pytest.param(Event("cudaDeviceSynchronize"), 1, id="device"),
        pytest.param(Event("cudaEventSynchronize"), 1, id="event"),
        pytest.param(Event("hipStreamSynchronize"), 1, id="hip"),
        pytest.param(Event("cudaStreamWaitEvent"), 0, id="a stream waits, the host does not"),
        pytest.param(Event("aten::add", (Event("cudaLaunchKernel"),)), 0, id="launch"),
        pytest.param(Event("cudaMemcpyAsync"), 0, id="copy"),
    ],
)
def test_the_host_waits_once_each_time_it_waits(seen: Event, waits: int) -> None:
    assert on_device(seen).syncs == waits


@pytest.mark.parametrize(
    ("name", "launches"),
    [
        ("cudaLaunchKernel", 1),
        ("cudaLaunchKernelExC", 1),
        ("cudaLaunchCooperativeKernel", 1),
        ("cuLaunchKernel", 1),
        ("cuLaunchKernelEx", 1),
        ("cudaGraphLaunch", 1),
        ("hipModuleLaunchKernel", 1),
        ("cudaLaunchHostFunc", 0),
        ("cudaMemcpyAsync", 0),
        ("cudaStreamSynchronize", 0),
    ],
)
def test_launches_are_of_kernels_and_graphs(name: str, launches: int) -> None:
    assert on_device(Event("aten::mm", (Event(name),))).kernels == launches


def test_an_operator_that_calls_only_the_driver_is_a_leaf() -> None:
    linear = Event("aten::linear", (Event("aten::addmm", (Event("cudaLaunchKernel"),)),))
    assert on_device(linear).ops == 1


def test_events_of_the_device_are_time_of_what_launched_them_and_no_rows() -> None:
    product = Event("aten::mm", (Event("cudaLaunchKernel"),), self_device_time_total=30.0)
    again = Event("aten::mm", self_device_time_total=10.0)
    kernel = Event("ampere_sgemm_128x64_tn", device_type=DeviceType.CUDA, self_device_time_total=40.0)
    rows = {row.name: row for row in on_device(product, again, kernel, steps=2).operators}
    assert set(rows) == {"aten::mm", "cudaLaunchKernel"}
    assert rows["aten::mm"].calls == 1
    assert rows["aten::mm"].host == pytest.approx(2e-6)
    assert rows["aten::mm"].device == pytest.approx(20e-6)


def test_time_for_which_the_processor_was_taken_away_is_nobodys() -> None:
    """In the second step from one operator, in the third from the other, in the last between them."""
    spans = [(0.0, 20.0), (20.0, 500.0), (500.0, 900.0)]
    took = [(5, 9), (465, 10), (7, 380)]
    events = [
        Event(name, start=start + 1, self_cpu_time_total=each)
        for (start, _), both in zip(spans, took, strict=True)
        for name, each in zip(("aten::mm", "aten::add"), both, strict=True)
    ]
    decode = operators._phase(events, spans, False)
    assert [(row.name, row.calls, row.host) for row in decode.operators] == [
        ("aten::add", 1, pytest.approx(9e-6)),
        ("aten::mm", 1, pytest.approx(5e-6)),
    ]
    assert decode.seconds == pytest.approx((9 + 5 + 5) * 1e-6), "and the least of what lies between them"


def test_an_operator_of_every_other_step_has_half_of_its_time_in_each() -> None:
    [row] = operators._phase([Event("aten::mm", self_cpu_time_total=8)], [(0.0, 20.0), (20.0, 40.0)], False).operators
    assert (row.calls, row.host) == (0.5, pytest.approx(4e-6))


def test_a_phase_lasts_as_long_as_the_device_works_on_it() -> None:
    """The host has launched all of a long prefill before the device is done with it."""
    launched = Event("aten::mm", self_cpu_time_total=2.0, self_device_time_total=900.0)
    assert operators._phase([launched], [(0.0, 100.0)], True).seconds == pytest.approx(900e-6)


def test_what_begins_outside_of_a_phase_is_not_of_it() -> None:
    early, late = Event("aten::mm", start=-1.0), Event("aten::mm", start=100.0)
    assert on_device(early, late, Event("aten::mm")).ops == 1


@pytest.mark.gpu
def test_a_real_gpu_counts_kernels_and_waits_the_same_every_time() -> None:
    target = resolve(TINY).load(LoadOptions(device="cuda"))
    target.run(target.request(WORKLOAD, 1), lambda: 0.0)
    one, other = profiled(target), profiled(target)
    assert one.decode.kernels > 0
    assert one.decode.syncs >= 1
    assert counts(one.decode) == counts(other.decode)
    assert sum(row.device for row in one.decode.operators) > 0
