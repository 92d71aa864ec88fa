"""The whole counting pass: the same in every process, and never in the way of what was measured."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from pytest_llmperf.errors import MeasurementError, OutOfMemoryTargetError
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Counts, Measurement, Unknown, Workload
from pytest_llmperf.profiling import counters
from pytest_llmperf.profiling.counters import compilations, count
from pytest_llmperf.targets import LoadOptions, Request, Target, resolve, stream
from tests.fakes import FakeClock, FakeTarget
from tests.profiles import loaded

WORKLOAD = Workload(8, 5)
SIZES = "num_hidden_layers=2&hidden_size=64&intermediate_size=128&num_attention_heads=4&vocab_size=500"
LLAMA = f"random:llama?{SIZES}&num_key_value_heads=2"
FLOAT = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def counted(target: Target, workload: Workload = WORKLOAD, *, timely: int = 1_000) -> Counts:
    request = target.request(workload, 0)
    return count(target, request, target.kv_cache_bytes(request), timely=lambda tokens: tokens <= timely)


def exact(counts: Counts) -> tuple:
    """All of it that is not time."""
    phases = [(phase.ops, phase.syncs, phase.kernels) for phase in (counts.prefill, counts.decode)]
    return *phases, counts.prefill_work, counts.decode_work, counts.flops_by_step, counts.cache_growth


# The cache


@pytest.mark.parametrize("load", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_the_cache_grows_by_keys_and_values_of_each_layer(load: dict[str, str]) -> None:
    layers, kv_heads, head_dim = 2, 2, 64 // 4
    assert counted(loaded(LLAMA, **load)).cache_growth == 2 * layers * kv_heads * head_dim * FLOAT


def test_growth_is_of_one_sequence_and_of_the_caches_own_precision() -> None:
    target = resolve(LLAMA).load(LoadOptions(device="cpu", dtype="bfloat16"))
    assert counted(target, Workload(8, 5, batch_size=2)).cache_growth == 2 * 2 * 2 * 16 * 2


def test_a_full_window_and_a_state_do_not_grow() -> None:
    window = f"random:mistral?{SIZES}&num_key_value_heads=2&sliding_window=4"
    assert counted(loaded(window)).cache_growth == 0
    assert counted(loaded("random:mamba?num_hidden_layers=2&hidden_size=64&vocab_size=500")).cache_growth == 0


def test_two_tokens_show_the_growth_of_one() -> None:
    assert counted(loaded(LLAMA), Workload(8, 2)).cache_growth == 2 * 2 * 2 * 16 * FLOAT


def test_without_a_cache_there_is_no_growth_and_that_is_not_zero() -> None:
    target = loaded(LLAMA)
    target.model.generation_config.use_cache = False
    growth = counted(target).cache_growth
    assert isinstance(growth, Unknown)
    assert growth.reason.endswith("returned no cache")


def test_assisted_decoding_grows_its_cache_by_other_steps_than_tokens() -> None:
    target = loaded(LLAMA, prompt_lookup_num_tokens=3)
    assert counted(target, Workload(8, 12)).cache_growth.reason.startswith("the model's steps are not one per token")


def test_one_token_grows_no_cache_that_one_could_see() -> None:
    assert (
        counted(loaded(LLAMA), Workload(8, 1)).cache_growth.reason == "a step of decode needs at least 2 output tokens"
    )


# Equal


@pytest.mark.parametrize("load", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_two_counts_are_equal(load: dict[str, str]) -> None:
    target = loaded(LLAMA, **load)
    assert exact(counted(target)) == exact(counted(target))


def test_fresh_processes_and_other_numbers_of_threads_count_the_same() -> None:
    code = (
        "import sys, torch\n"
        "from tests.unit.test_profiling_counters import LLAMA, counted, exact, loaded\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"
        "print(exact(counted(loaded(LLAMA))))"
    )
    here = exact(counted(loaded(LLAMA)))
    for threads in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code, threads], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1:] == [str(here)], done.stderr


def test_a_compiled_model_is_counted_like_the_eager_one_and_stays_compiled() -> None:
    torch._dynamo.reset()
    target = loaded("random:gpt2?n_layer=1&n_embd=64&n_head=4&vocab_size=500&n_positions=256")
    eager = counted(target)
    target.model.forward = torch.compile(target.model.forward, backend="aot_eager", dynamic=True)
    target.run(target.request(WORKLOAD, 1), time.perf_counter)
    target.run(target.request(WORKLOAD, 2), time.perf_counter)
    graphs = compilations()
    one, two = counted(target), counted(target)
    assert (one.prefill_work, one.decode_work, one.cache_growth) == (
        eager.prefill_work,
        eager.decode_work,
        eager.cache_growth,
    )
    assert exact(one) == exact(two)
    assert one.decode.ops != eager.decode.ops, "what is profiled is what runs: the compiled model"
    target.run(target.request(WORKLOAD, 3), time.perf_counter)
    assert compilations() == graphs


# How much is served


@dataclasses.dataclass
class Stepping(FakeTarget):
    """Runs one product per token, on request fails, and notes how many tokens it was asked for."""

    fails: BaseException | None = None
    asked: list[int] = dataclasses.field(default_factory=list)

    def step_through(self, request: Request, mark) -> None:
        self.asked.append(request.workload.output_tokens)
        if self.fails is not None:
            raise self.fails
        for _ in range(request.workload.output_tokens):
            torch.ones(2, 2) @ torch.ones(2, 2)
            mark()


def test_all_tokens_are_counted_and_the_first_ten_profiled() -> None:
    target = Stepping(FakeClock())
    seen = counted(target, Workload(8, 30))
    assert target.asked == [30, counters.PROFILED_TOKENS, 1], "and prefill once more"
    assert len(seen.flops_by_step) == 29


def test_where_time_is_short_only_the_first_tokens_are_served() -> None:
    target = Stepping(FakeClock())
    seen = counted(target, Workload(8, 30), timely=counters.PROFILED_TOKENS)
    assert target.asked == [counters.PROFILED_TOKENS, 1]
    assert seen.decode_work.flops.by_chance, "another time there may be time"
    assert seen.decode.ops > 0


def test_a_shorter_request_has_the_same_prompt_and_never_more_tokens() -> None:
    request = Request(Workload(8, 5, batch_size=2), "prompt")
    assert request.shorter(3) == Request(Workload(8, 3, batch_size=2), "prompt")
    assert request.shorter(10) == request


def test_a_stream_without_torch_is_not_served_once_more_for_nothing() -> None:
    served = []

    def tokens(prompt, output_tokens):
        served.append(output_tokens)
        yield from range(output_tokens)

    seen = counted(stream(tokens).load(LoadOptions()), Workload(4, 30))
    assert served == [30]
    unknown = [seen.decode.ops, seen.decode.syncs, seen.prefill.ops, seen.prefill_work.flops, seen.decode_work.flops]
    assert {why.reason for why in unknown} == {"no operator of torch was seen in this thread"}
    assert seen.cache_growth.reason == "a stream's model is out of sight"


@pytest.mark.parametrize("here", [lambda: None, lambda: torch.zeros(2) + 1], ids=["nothing", "an addition"])
def test_of_a_model_in_another_thread_nothing_is_counted_and_nothing_is_zero(here: Any) -> None:
    def threaded(prompt, output_tokens):
        torch.tensor(prompt)
        with ThreadPoolExecutor(1) as worker:
            for _ in range(output_tokens):
                here()
                yield worker.submit(lambda: torch.ones(2, 2) @ torch.ones(2, 2)).result()

    seen = counted(stream(threaded).load(LoadOptions()))
    figures = [seen.decode.ops, seen.decode.syncs, seen.prefill_work.flops, seen.decode_work.flops, seen.compiles]
    assert figures == 5 * [Unknown("no matrix product was seen in this thread")]


def test_under_a_profiler_of_the_users_own_memory_and_counts_are_unknown_and_it_keeps_what_it_sees() -> None:
    target = loaded(LLAMA)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        torch.zeros(2).exp()
        seen = measure(target, WORKLOAD, Effort(rounds=1))
    running = "a profiler of torch is running already"
    for name in ("peak_memory_mib", "leak_mib", "ops_per_token", "flops_per_token", "kv_bytes_per_token", "compiles"):
        assert seen.unknown[name] == running
    assert all(getattr(seen, name) for name in ("weights_mib", "kv_cache_mib", "tpot_ms"))
    assert seen.notes == (f"times are slower than without it: {running}",)
    assert "aten::exp" in {event.name for event in own.events()}


def test_under_a_dispatch_mode_of_the_users_own_nothing_is_counted_and_times_are_told_to_be_slower() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    target = loaded(LLAMA)
    with FlopCounterMode(display=False):
        seen = measure(target, WORKLOAD, Effort(rounds=1))
    for name in ("ops_per_token", "flops_per_token", "prefill_flops", "mbu", "mfu"):
        assert "FlopCounterMode is active" in seen.unknown[name]
    assert seen.tpot_ms
    assert "FlopCounterMode is active" in seen.notes[0]
    assert measure(target, WORKLOAD, Effort(rounds=1)).notes == ()


def test_torch_is_not_imported_to_count_what_runs_without_it() -> None:
    code = (
        "import sys\n"
        "from pytest_llmperf.measure import Effort, measure\n"
        "from pytest_llmperf.model import Workload\n"
        "from pytest_llmperf.targets import LoadOptions, stream\n"
        "target = stream(lambda prompt, tokens: range(tokens)).load(LoadOptions())\n"
        "seen = measure(target, Workload(4, 3), Effort(rounds=1, threads=None))\n"
        "print('torch' in sys.modules, seen.flops_per_token, seen.compiles, seen.unknown['compiles'][:11])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "None", "None", "no", "operator"], done.stderr


# What goes wrong


def test_an_error_of_counting_alone_leaves_counts_unknown_and_says_why() -> None:
    seen = counted(Stepping(FakeClock(), fails=RuntimeError("no modes here\nand more")))
    why = Unknown("counting failed: RuntimeError: no modes here")
    assert (seen.decode_work.flops, seen.prefill.ops) == (why, why)
    assert seen.cache_growth == 0, "known all the same"


@pytest.mark.parametrize(
    "error", [MeasurementError("stopped early"), OutOfMemoryTargetError("full"), KeyboardInterrupt()]
)
def test_errors_that_mean_something_keep_their_meaning(error: BaseException) -> None:
    with pytest.raises(type(error)):
        counted(Stepping(FakeClock(), fails=error))


def test_a_model_that_cannot_be_watched_is_measured_all_the_same() -> None:
    target = loaded(LLAMA)
    generate = target.model.generate

    def unwatched(*args, logits_processor=None, **kwargs):
        if logits_processor:
            raise ValueError("no processors, please")
        return generate(*args, **kwargs)

    target.model.generate = unwatched
    seen = _measured(target)
    assert seen.tpot_ms > 0
    assert seen.flops_per_token is None
    assert seen.unknown["ops_per_token"] == "counting failed: ValueError: no processors, please"
    assert seen.kv_bytes_per_token == 512


# Compilations


def _measured(target: Target, rounds: int = 3) -> Measurement:
    return measure(target, WORKLOAD, Effort(rounds=rounds))


def _compiled_stream(step: Any) -> Target:
    def tokens(prompt, output_tokens):
        for number in range(output_tokens):
            step(number)
            yield number

    return stream(tokens).load(LoadOptions())


@pytest.fixture
def _forgetting():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forgetting")
def test_what_is_compiled_before_the_rounds_is_no_compilation_of_theirs() -> None:
    doubled = torch.compile(lambda x: x @ x, backend="eager")
    assert _measured(_compiled_stream(lambda number: doubled(torch.ones(2, 2)))).compiles == 0


@pytest.mark.usefixtures("_forgetting")
def test_a_graph_compiled_anew_in_each_round_is_counted() -> None:
    calls = iter(range(10_000))
    times = torch.compile(lambda x, number: x * number, backend="eager", dynamic=False)

    def step(number: int) -> None:
        if number == 0:  # once in a round, with a number that was never seen
            times(torch.ones(2, 2), next(calls))

    assert _measured(_compiled_stream(step), rounds=4).compiles == 4


@pytest.mark.usefixtures("_forgetting")
def test_a_break_in_a_graph_is_counted() -> None:
    sizes = iter(range(2, 10_000))

    @functools.partial(torch.compile, backend="eager", dynamic=False)
    def broken(x):
        x = x * 2
        torch._dynamo.graph_break()
        return x + x

    def step(number: int) -> None:
        if number == 0:
            broken(torch.ones(next(sizes)))

    assert _measured(_compiled_stream(step), rounds=3).compiles == 3 * (2 + 1), "two graphs, and a break between"


def test_a_process_that_compiles_nothing_does_not_load_the_compiler() -> None:
    code = (
        "import sys\n"
        "from pytest_llmperf.profiling.counters import compilations\n"
        "print(compilations(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "False"], done.stderr


def test_where_not_even_the_first_tokens_come_in_time_nothing_is_served() -> None:
    target = Stepping(FakeClock())
    seen = counted(target, Workload(8, 30), timely=1)
    assert target.asked == []
    assert seen.decode.ops.by_chance
    assert seen.cache_growth.by_chance


def test_a_cache_that_cannot_be_sized_once_more_leaves_the_other_counts() -> None:
    class Once(Stepping):
        def kv_cache_bytes(self, request: Request) -> int:
            if request.workload.output_tokens < 5:
                raise RuntimeError("no cache as short as that")
            return 100

    seen = counted(Once(FakeClock()), Workload(8, 5))
    assert seen.cache_growth == Unknown("counting failed: RuntimeError: no cache as short as that")
    assert seen.decode.ops > 0
