"""Prompts of exact length that no cache can answer, named shapes, grids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.errors import UsageError
from pytest_llmperf.mixes import Shape
from pytest_llmperf.model import Workload
from pytest_llmperf.workloads import PRESETS, grid, lengths, preset, prompt_ids, timed


def test_the_presets_are_the_four_combinations_of_long_and_short() -> None:
    shapes = {name: (shape.prompt_tokens, shape.output_tokens) for name, shape in PRESETS.items()}
    assert shapes == {
        "short-short": (32, 16),
        "short-long": (32, 128),
        "long-short": (512, 16),
        "long-long": (512, 128),
    }


def test_a_preset_is_found_by_its_name() -> None:
    assert preset("long-short") == Workload(prompt_tokens=512, output_tokens=16)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"workload='long-shrt' is no preset; did you mean 'long-short'\? \(known: sh"):
        preset("long-shrt")


def test_an_unknown_preset_like_no_other_is_refused_with_all_there_are() -> None:
    with pytest.raises(UsageError) as error:
        preset("zebra")
    assert str(error.value) == ("workload='zebra' is no preset (known: short-short, short-long, long-short, long-long)")


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(2, 500), st.integers(0, 2**31), st.data())
def test_prompts_are_of_exact_size_and_of_ordinary_tokens(
    tokens: int, batch: int, vocabulary: int, seed: int, data: st.DataObject
) -> None:
    special = data.draw(st.sets(st.integers(0, vocabulary - 1), max_size=min(10, vocabulary - 1)))
    ids = prompt_ids(Workload(tokens, 1, batch), vocabulary, special, seed)
    assert [len(prompt) for prompt in ids] == [tokens] * batch
    assert {token for prompt in ids for token in prompt} <= set(range(vocabulary)) - special


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    workload = Workload(prompt_tokens=16, batch_size=2)
    assert prompt_ids(workload, 32_000, (), 1) == prompt_ids(workload, 32_000, (), 1)
    assert prompt_ids(workload, 32_000, (), 1) != prompt_ids(workload, 32_000, (), 2)


def test_no_two_of_many_prompts_are_alike() -> None:
    workload = Workload(prompt_tokens=16, batch_size=4)
    prompts = [tuple(ids) for seed in range(50) for ids in prompt_ids(workload, 32_000, (), seed)]
    assert len(set(prompts)) == 200


def test_no_prompt_begins_as_another_does() -> None:
    """A prefix cache works on blocks of tokens: eight alike would be enough for some."""
    starts = [tuple(prompt_ids(Workload(16), 32_000, (), seed)[0][:8]) for seed in range(100)]
    assert len(set(starts)) == 100


def test_prompts_share_as_much_as_they_are_to_and_no_more() -> None:
    shared = Workload(20, 1, shared_prefix_tokens=8)
    one, other = (prompt_ids(shared, 32_000, (), seed)[0] for seed in (1, 2))
    assert one[:8] == other[:8]
    assert one[8] != other[8]
    assert len(one) == len(other) == 20


def test_a_prompt_of_a_mix_that_is_shorter_than_what_is_shared_ends_in_a_token_of_its_own() -> None:
    def prompts(tokens: int) -> list[list[int]]:
        short = Workload(tokens, 1, shared_prefix_tokens=64, mix="uniform:1-4,2")
        return [prompt_ids(short, 32_000, (), seed)[0] for seed in (1, 2)]

    one, other = prompts(4)
    assert (len(one), one[:3]) == (4, other[:3])
    assert one[3] != other[3]
    assert prompts(1)[0] != prompts(1)[1]


def test_requests_are_as_long_as_the_workload_says_or_its_mix() -> None:
    assert lengths(Workload(20, 5), seed=3) == Shape(20, 5)
    assert lengths(Workload(mix="uniform:7,2"), seed=3) == Shape(7, 2)


def test_a_replay_is_sent_at_its_own_times_unless_the_workload_sets_the_pace(tmp_path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"prompt_tokens": 3, "output_tokens": 2, "arrival": 1}\n' * 4)
    assert timed(Workload(mix=f"replay:{file}")) == 4
    assert timed(Workload(mix=f"replay:{file}", concurrency=2)) is None
    assert timed(Workload(mix=f"replay:{file}", request_rate=2)) is None
    assert timed(Workload()) is None


def test_every_ordinary_token_is_drawn_sooner_or_later() -> None:
    ids = prompt_ids(Workload(prompt_tokens=500), 8, (0, 7), 1)[0]
    assert set(ids) == {1, 2, 3, 4, 5, 6}


def test_special_tokens_beyond_the_vocabulary_do_no_harm() -> None:
    assert prompt_ids(Workload(prompt_tokens=3), 2, (0, 50_256), 1) == [[1, 1, 1]]


@pytest.mark.parametrize(("vocabulary", "special"), [(3, (0, 1, 2)), (1, (0,)), (0, ())])
def test_a_vocabulary_without_ordinary_tokens_is_refused(vocabulary: int, special: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"a vocabulary of {vocabulary} tokens holds nothing but special ones"):
        prompt_ids(Workload(), vocabulary, special, 1)


def test_a_grid_is_every_combination_with_the_last_varying_fastest() -> None:
    made = grid({"prompt_tokens": [8, 16], "batch_size": [1, 2, 4]})
    assert [(w.prompt_tokens, w.batch_size) for w in made] == [(8, 1), (8, 2), (8, 4), (16, 1), (16, 2), (16, 4)]
    assert {w.output_tokens for w in made} == {Workload().output_tokens}


def test_a_grid_sends_its_prompt_in_every_workload() -> None:
    assert grid({"output_tokens": [4, 8]}, "hello") == [
        Workload(output_tokens=4, prompt="hello"),
        Workload(output_tokens=8, prompt="hello"),
    ]


def test_a_grid_without_sizes_is_the_one_default_workload() -> None:
    assert grid({}) == [Workload()]


def test_a_grid_refuses_a_size_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="batch_size=0: expected a whole number of at least 1"):
        grid({"batch_size": [1, 0]})
