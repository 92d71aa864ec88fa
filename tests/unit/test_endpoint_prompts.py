"""Prompts of an exact length, whatever counts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import TargetError, UsageError
from pytest_llmperf.model import Workload
from pytest_llmperf.targets.endpoint.prompts import COMMON, ORDINARY, Ids, Words, counter, find_words, words_of


class Counter:
    """Counts as a tokenizer whose words are of so many tokens, and others at the start of a text.

    Args:
        overhead: added to every text.
        within: tokens of a word that are not one.
        first: tokens of a word at the start that are not one.
    """

    def __init__(self, overhead: int = 0, within: dict[str, int] | None = None, first: dict[str, int] | None = None):
        self.overhead, self.within, self.first = overhead, within or {}, first or {}
        self.asked: list[str] = []

    def __call__(self, texts):
        self.asked += texts
        return [self.tokens(text) for text in texts]

    def tokens(self, text: str) -> int:
        start, *rest = text.split(" ")
        return self.overhead + self.first.get(start, 1) + sum(self.within.get(word, 1) for word in rest)


WORDS = [f"word{number}" for number in range(100)]


@given(
    overhead=st.integers(0, 40),
    within=st.dictionaries(st.sampled_from(WORDS), st.integers(2, 5), max_size=60),
    first=st.dictionaries(st.sampled_from([*WORDS, "Hello"]), st.integers(2, 5), max_size=60),
    tokens=st.integers(1, 200),
    shared=st.none() | st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_a_prompt_has_exactly_the_tokens_asked_for_by_any_count(overhead, within, first, tokens, shared, seed):
    count = Counter(overhead, within, first)
    words = find_words(WORDS, count)
    workload = Workload(words.overhead + tokens, shared_prefix_tokens=shared, mix="uniform:1,1")
    assert count.tokens(words.prompt(workload, seed)) == workload.prompt_tokens


def test_every_word_that_is_one_token_is_found_and_no_other():
    count = Counter(3, within={"word7": 2, "word40": 3, "word41": 2})
    words = find_words(WORDS, count)
    assert set(WORDS) - set(words.words) == {"word7", "word40", "word41"}
    assert words.overhead == 3


def test_what_is_all_single_tokens_is_counted_in_groups():
    count = Counter()
    words = find_words(WORDS, count)
    assert len(count.asked) == 1 + 4 + 32, "the anchor, four groups, and each start"
    assert len(words.starts) == 32


def test_words_that_begin_a_text_with_more_tokens_do_not_begin_one():
    words = find_words(WORDS, Counter(first={"word0": 2, "word5": 3}))
    assert "word0" not in words.starts
    assert "word0" in words.words
    assert words.overhead == 0


def test_where_every_start_takes_more_it_is_part_of_the_overhead():
    words = find_words(WORDS, Counter(1, first=dict.fromkeys(WORDS, 2)))
    assert words.overhead == 2


def test_too_few_single_tokens_are_an_error():
    with pytest.raises(TargetError, match="of 100 words only 5 count as one token each"):
        find_words(WORDS, Counter(within=dict.fromkeys(WORDS[5:], 2)))


def test_a_prompt_shorter_than_what_is_added_is_refused():
    words = Words(("a",), ("b",), overhead=14)
    with pytest.raises(UsageError, match=r"prompt_tokens=14: the server adds 14 to every prompt.*at least 15"):
        words.prompt(Workload(14), 1)
    assert words.prompt(Workload(15), 1) == "a"


@pytest.mark.parametrize("prompts", [Words(tuple(WORDS[:32]), tuple(WORDS), 2), Ids()])
def test_every_seed_has_a_prompt_of_its_own_and_always_the_same(prompts):
    made = [prompts.prompt(Workload(30), seed) for seed in range(200)]
    assert made == [prompts.prompt(Workload(30), seed) for seed in range(200)]
    assert len(set(map(str, made))) == 200
    starts = [prompt.split(" ")[0] if isinstance(prompt, str) else prompt[0] for prompt in made]
    assert len(set(starts)) > 25, "they differ from the first token on"


def test_a_shared_prefix_is_alike_in_all_prompts_and_the_rest_is_not():
    words = Words(tuple(WORDS[:32]), tuple(WORDS), 2)
    made = [words.prompt(Workload(42, shared_prefix_tokens=10), seed).split(" ") for seed in range(50)]
    assert len({tuple(prompt[:10]) for prompt in made}) == 1
    assert len({tuple(prompt[10:]) for prompt in made}) == 50
    assert {len(prompt) for prompt in made} == {40}


def test_a_prefix_as_long_as_the_prompt_leaves_it_a_word_of_its_own():
    words = Words(tuple(WORDS[:32]), tuple(WORDS), 0)
    made = {
        words.prompt(Workload(mix="uniform:6,1", prompt_tokens=6, shared_prefix_tokens=64), seed) for seed in range(50)
    }
    assert len({prompt.rpartition(" ")[0] for prompt in made}) == 1
    assert len(made) > 20


def test_ids_are_ordinary_in_every_vocabulary():
    ids = Ids().prompt(Workload(5000), 1)
    assert min(ids) >= ORDINARY.start
    assert max(ids) < ORDINARY.stop


def test_ids_of_a_known_vocabulary_leave_out_its_special_ones():
    assert set(Ids(6, frozenset({0, 3})).prompt(Workload(200), 1)) == {1, 2, 4, 5}


def test_the_common_words_are_distinct_and_plain():
    words = COMMON.split()
    assert len(words) == len(set(words)) > 128
    assert all(word.isalpha() and word.islower() for word in words)


# A tokenizer


@pytest.fixture(scope="module")
def tokenizer(saved_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(saved_model)


@pytest.mark.parametrize("tokens", [1, 2, 17, 300])
def test_texts_by_a_real_tokenizer_are_exact(tokenizer, tokens):
    words = find_words(words_of(tokenizer), counter(tokenizer, chat=False))
    for seed in range(20):
        text = words.prompt(Workload(tokens + words.overhead), seed)
        assert len(tokenizer(text)["input_ids"]) == tokens + words.overhead


def test_words_of_a_tokenizer_are_words_and_nothing_special(tokenizer):
    words = words_of(tokenizer)
    assert "fox" in words
    assert all(word.isalpha() for word in words)
    assert not set(words) & set(tokenizer.all_special_tokens)


def test_a_chat_is_counted_with_its_template(tokenizer, monkeypatch):
    plain = counter(tokenizer, chat=True)(["the fox"])
    assert plain == counter(tokenizer, chat=False)(["the fox"]), "it has no template"
    monkeypatch.setattr(tokenizer, "chat_template", "<s>{{ messages[0]['content'] }}<s>")
    assert counter(tokenizer, chat=True)(["the fox"]) == [plain[0] + 2]
    assert counter(tokenizer, chat=False)(["the fox"]) == plain
