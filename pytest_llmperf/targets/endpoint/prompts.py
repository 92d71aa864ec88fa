"""Prompts of an exact number of tokens: as ids where the server takes them, else in words of one token each.

Whether a word is one token, and how many a server adds to every prompt, is found by counting alone: by a tokenizer,
or by the server itself, which says in its usage how many tokens a prompt had. A text then has the overhead and a
token for each of its words, whatever the tokenizer or the chat template is like.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_llmperf.errors import TargetError, UsageError
from pytest_llmperf.model import Workload
from pytest_llmperf.workloads import prompt_ids

Count = Callable[[Sequence[str]], list[int]]
"""How many tokens each of these texts is, with what is added to every prompt."""

COMMON = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who now find long down day did get come made may part over new sound take only little
work know place year live me back give most very after thing our just name good man think say great where help
through much before line right too mean old any same tell boy follow came want show also around form three small set
put end does another well large must big even such because turn
"""
"""English words that nearly every tokenizer has as single tokens."""
ORDINARY = range(1_000, 30_000)
"""Ids that the vocabularies in use all have, and that are special in none: those of Mistral end at 999, and the
smallest, Llama's first, has 32,000."""
FEWEST = 8
_MOST_STARTS = 32
_GROUP = 32
"""Words counted at a time."""
_ANCHOR = "Hello"
_SAMPLED = 4_096
"""Of a vocabulary; its words are far more than are needed."""


class Prompts(Protocol):
    """Makes prompts of an exact length."""

    def prompt(self, workload: Workload, seed: int) -> str | list[int]:
        """One that differs for every seed, from the first token on or after what is shared.

        Raises:
            UsageError: none is that short.
        """
        ...


@dataclass(frozen=True)
class Ids:
    """Random token ids.

    Args:
        vocabulary: they are below it.
        special: those left out.
    """

    vocabulary: int = ORDINARY.stop
    special: Collection[int] = range(ORDINARY.start)

    def prompt(self, workload: Workload, seed: int) -> list[int]:
        return prompt_ids(workload, self.vocabulary, self.special, seed)[0]


@dataclass(frozen=True)
class Words:
    """Random words of one token each.

    Args:
        starts: those that are one token at the start of a text too.
        words: those that are one token within it.
        overhead: tokens that the server adds to every prompt.
    """

    starts: tuple[str, ...]
    words: tuple[str, ...]
    overhead: int

    def prompt(self, workload: Workload, seed: int) -> str:
        words = workload.prompt_tokens - self.overhead
        if words < 1:
            raise UsageError(
                f"prompt_tokens={workload.prompt_tokens}: the server adds {self.overhead} to every prompt, so ask for "
                f"at least {self.overhead + 1}"
            )
        return self.text(words, seed, min(workload.shared_prefix_tokens or 0, words - 1))

    def text(self, words: int, seed: int, shared: int = 0) -> str:
        """So many words, the first of them shared by all seeds."""
        own, alike = random.Random(seed), random.Random("shared")
        first = (alike if shared else own).choice(self.starts)
        following = alike.choices(self.words, k=max(shared - 1, 0))
        return " ".join((first, *following, *own.choices(self.words, k=words - 1 - len(following))))


def find_words(candidates: Sequence[str], count: Count) -> Words:
    """Those of the candidates that count as one token, and what is added to them.

    A group of words that adds as many tokens as it has words has nothing but single tokens; any other is halved.

    Raises:
        TargetError: too few of them are.
    """
    (alone,) = count([_ANCHOR])
    single: list[str] = []
    pending = [candidates[first : first + _GROUP] for first in range(0, len(candidates), _GROUP)]
    while pending:
        counted = count([" ".join((_ANCHOR, *group)) for group in pending])
        halves: list[Sequence[str]] = []
        for group, tokens in zip(pending, counted, strict=True):
            if tokens - alone == len(group):
                single += group
            elif len(group) > 1:
                halves += [group[: len(group) // 2], group[len(group) // 2 :]]
        pending = halves
    if len(single) < FEWEST:
        raise TargetError(f"of {len(candidates)} words only {len(single)} count as one token each")
    starts = single[:_MOST_STARTS]
    counted = count([f"{word} {single[0]}" for word in starts])
    least = min(counted)
    alike = tuple(word for word, tokens in zip(starts, counted, strict=True) if tokens == least)
    return Words(alike, tuple(single), least - 2)


def counter(tokenizer: Any, chat: bool) -> Count:
    """Counts as a server with this tokenizer would, as far as the tokenizer says."""

    def tokens(text: str) -> int:
        if chat and tokenizer.chat_template:
            messages = [{"role": "user", "content": text}]
            encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        else:
            encoded = tokenizer(text)
        return len(encoded["input_ids"])

    return lambda texts: [tokens(text) for text in texts]


def words_of(tokenizer: Any) -> list[str]:
    """Words among a tokenizer's tokens; not all of them are tokens in a text as well."""
    ids = random.Random(0).sample(range(len(tokenizer)), min(_SAMPLED, len(tokenizer)))
    texts = (tokenizer.decode([token]).strip() for token in sorted(set(ids) - set(tokenizer.all_special_ids)))
    return list(dict.fromkeys(text for text in texts if len(text) > 1 and text.isalpha()))
