"""What memory is made of and what else fits: an estimate, held against the real thing."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Counts, Measurement, Memory, Unknown, Workload
from pytest_llmperf.profiling.room import MOST, memory_picture, positions_of, predicted_growth, sentences
from pytest_llmperf.targets import LoadOptions, Target, resolve
from tests.fakes import TINY, FakeClock, FakeDevice, FakeTarget

KIB, MIB = 2**10, 2**20
SEEN = Measurement(
    "fake",
    Workload(prompt_tokens=100, output_tokens=11, batch_size=2),
    (),
    memory=Memory(weights=100 * MIB, kv_cache=220 * KIB, peak_growth=(200 + 800) * KIB, peak_rss=400 * MIB),
    counts=Counts(cache_growth=1024.0),
)
"""A KiB of cache per token and sequence, and four times as much beside it while prefill goes on."""


def with_room(count: int, seen: Measurement = SEEN, positions: int | None = None):
    return memory_picture(seen, FakeDevice(available=count), positions)


# The estimate


def test_a_measured_size_needs_what_was_measured() -> None:
    assert predicted_growth(SEEN, SEEN.workload) == 1000 * KIB


@pytest.mark.parametrize("changed", [{"prompt_tokens": 200}, {"batch_size": 4}])
def test_twice_the_tokens_need_twice_as_much(changed: dict[str, int]) -> None:
    assert predicted_growth(SEEN, dataclasses.replace(SEEN.workload, **changed)) == 2000 * KIB


def test_an_answer_needs_room_only_once_it_outgrows_what_prefill_left() -> None:
    longer = dataclasses.replace(SEEN.workload, output_tokens=401)
    assert predicted_growth(SEEN, longer) == 1000 * KIB
    longest = dataclasses.replace(SEEN.workload, output_tokens=501)
    assert predicted_growth(SEEN, longest) == (200 + 2 * 500) * KIB


def test_a_state_grows_with_the_batch_and_not_with_the_prompt() -> None:
    state = dataclasses.replace(
        SEEN, memory=dataclasses.replace(SEEN.memory, kv_cache=200 * KIB), counts=Counts(cache_growth=0.0)
    )
    assert predicted_growth(state, dataclasses.replace(SEEN.workload, prompt_tokens=200)) == (200 + 1600) * KIB
    assert predicted_growth(state, dataclasses.replace(SEEN.workload, batch_size=4)) == (400 + 1600) * KIB


@pytest.mark.parametrize(
    "name",
    [
        "random:llama?num_hidden_layers=4&hidden_size=128&intermediate_size=344&num_attention_heads=8"
        "&num_key_value_heads=2&vocab_size=1000",
        TINY.replace("n_positions=256", "n_positions=512"),
        "random:mamba?num_hidden_layers=1&hidden_size=32&vocab_size=500",
    ],
    ids=["llama", "gpt2", "mamba"],
)
@pytest.mark.parametrize("larger", [Workload(128, 4, 2), Workload(256, 24, 2)], ids=str)
def test_a_real_model_needs_what_was_said(name: str, larger: Workload) -> None:
    target = resolve(name).load(LoadOptions(device="cpu"))
    small, large = (served(target, workload).memory for workload in (Workload(128, 4), larger))
    said = predicted_growth(served(target, Workload(128, 4)), larger)
    assert said == pytest.approx(large.peak_growth, rel=0.15)
    assert large.peak_growth > 1.4 * small.peak_growth


def served(target: Target, workload: Workload) -> Measurement:
    return measure(target, workload, Effort(rounds=1, max_time=0.2))


# What fits


def test_the_picture_is_split_without_remainder() -> None:
    picture = with_room(2**30)
    assert (picture.weights, picture.kv_cache, picture.activations) == (100 * MIB, 220 * KIB, 780 * KIB)
    held = picture.weights + picture.kv_cache + picture.activations + picture.rest
    assert held == SEEN.memory.peak_rss
    assert picture.available == 2**30


@pytest.mark.parametrize("megabytes", [2, 3, 50, 5000])
def test_the_longest_context_fits_and_one_token_more_does_not(megabytes: int) -> None:
    room = megabytes * 10**6
    context = with_room(room).longest_context
    needs = [
        predicted_growth(SEEN, dataclasses.replace(SEEN.workload, prompt_tokens=context - 11 + more)) for more in (0, 1)
    ]
    assert 1.1 * needs[0] <= room < 1.1 * needs[1]


@pytest.mark.parametrize("megabytes", [2, 3, 50, 5000])
def test_the_largest_batch_fits_and_one_sequence_more_does_not(megabytes: int) -> None:
    room = megabytes * 10**6
    batch = with_room(room).largest_batch
    needs = [predicted_growth(SEEN, dataclasses.replace(SEEN.workload, batch_size=batch + more)) for more in (0, 1)]
    assert 1.1 * needs[0] <= room < 1.1 * needs[1]


def test_positions_end_every_context() -> None:
    assert with_room(2**40, positions=512).longest_context == 512
    assert with_room(2**20, positions=512).longest_context < 512


def test_nothing_fits_into_nothing() -> None:
    picture = with_room(1000)
    assert (picture.longest_context, picture.largest_batch) == (0, 0)
    assert sentences(picture)[1:] == [
        "at batch 2, no context fits into what is left now",
        "at 100 + 11 tokens, no batch fits into what is left now",
    ]


def test_what_needs_nothing_has_no_end() -> None:
    nothing = dataclasses.replace(SEEN, memory=Memory(1, 0, 0), counts=Counts(cache_growth=0.0))
    picture = with_room(2**30, nothing)
    assert picture.longest_context >= MOST
    assert "at batch 2, contexts of any length fit" in sentences(picture)


@pytest.mark.parametrize("part", ["kv_cache", "peak_growth"])
def test_without_a_part_nothing_is_said_of_what_fits(part: str) -> None:
    unseen = dataclasses.replace(SEEN, memory=dataclasses.replace(SEEN.memory, **{part: Unknown("out of sight")}))
    picture = with_room(2**30, unseen)
    assert picture.longest_context == picture.largest_batch == Unknown("out of sight")
    assert [line for line in sentences(picture) if "fit" in line] == []


def test_a_device_that_shows_no_free_memory_says_so() -> None:
    assert with_room(Unknown("mps offers no free memory")).largest_batch == Unknown("mps offers no free memory")


def test_the_picture_in_words() -> None:
    assert sentences(with_room(2**30)) == [
        "memory at 100 + 11 tokens: weights 100.0 MiB, KV cache 220.0 KiB, activations 780.0 KiB, "
        "everything else of the process 299.0 MiB",
        "at batch 2, contexts up to 95,000 tokens fit",
        "at 100 + 11 tokens, batches up to 1,900 fit",
    ]
    assert "at batch 2, contexts up to the model's 512 positions fit" in sentences(with_room(2**30, positions=512))


def test_positions_are_those_the_model_says() -> None:
    assert positions_of(resolve(TINY).load(LoadOptions(device="cpu"))) == 256
    assert positions_of(FakeTarget(FakeClock())) is None
