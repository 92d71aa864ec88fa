"""What a server can be asked, found with a few short requests when it is first used.

Of the fields that are good for the same, the first that the server does not refuse is asked for. All are tried at once;
those that its refusal names give way to the next of their kind. Where it names none, they are tried one by one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_llmperf.errors import TargetError
from pytest_llmperf.model import Failure, Outcome
from pytest_llmperf.targets.endpoint.dialects import Prompt, Wish, answer, read
from pytest_llmperf.targets.endpoint.prompts import (
    COMMON,
    ORDINARY,
    Count,
    Ids,
    Prompts,
    Words,
    counter,
    find_words,
    words_of,
)
from pytest_llmperf.targets.endpoint.replies import complaint
from pytest_llmperf.targets.endpoint.service import Service

TOKENS = 4
"""Asked for in a probe."""
_TEXT = "Hello there"
_IDS = list(ORDINARY[:: len(ORDINARY) // 8])
_AS_IDS = Wish("prompt_ids", "prompt", lambda tokens: _IDS, "prompts of token ids", ("prompt",))
"""Not a field of its own, but refused like one."""
_REFUSALS = (Outcome.BAD_REQUEST, Outcome.SERVER_ERROR, Outcome.STREAM_ERROR)
"""How servers answer what they do not know: some fail over it."""


@dataclass(frozen=True)
class Manner:
    """How a server is asked.

    Args:
        granted: names of the wishes that it does not refuse.
        ids: whether prompts are token ids.
        counts: whether it says how many tokens a prompt had.
        notes: what was left out, or put otherwise.
    """

    granted: tuple[str, ...]
    ids: bool
    counts: bool
    notes: tuple[str, ...]


def probe(service: Service) -> Manner:
    """How this server is to be asked.

    Raises:
        TargetError: it refuses whatever is left out, or does not answer with the tokens asked for.
    """
    groups = _groups(service)
    granted, refused = _settle(service, groups)
    names, ids = _names(granted), _AS_IDS in granted
    (reply,) = service.ask([_IDS if ids else _TEXT], TOKENS, names)
    had = answer(service.dialect, reply)
    if isinstance(had, Failure):
        raise service.error(had)
    counts = had.prompt_tokens is not None
    told = read(service.dialect, reply, had.prompt_tokens or len(_IDS), TOKENS)
    if isinstance(told, Failure):
        raise service.error(told)
    return Manner(names, ids, counts, _notes(groups, granted, refused))


def _groups(service: Service) -> list[list[Wish]]:
    """What can be wished, by what it is good for; without what the user decides."""
    groups: dict[str, list[Wish]] = {_AS_IDS.good_for: [_AS_IDS]} if service.dialect.takes_ids else {}
    for wish in service.dialect.wishes:
        groups.setdefault(wish.good_for, []).append(wish)
    return [group for group in groups.values() if not any(wish.field in service.fields for wish in group)]


def _settle(service: Service, groups: Sequence[Sequence[Wish]]) -> tuple[list[Wish], list[Wish]]:
    """What the server grants, one of each group, and what it refuses."""
    refused: list[Wish] = []
    while True:
        wishes = [left[0] for group in groups if (left := [wish for wish in group if wish not in refused])]
        words = _refusal(service, wishes)
        if words is None:
            return wishes, refused
        named = [wish for wish in wishes if _is_named(wish, words)]
        if not named:
            break
        refused += named
    _refusal(service, [])  # which is an error: then it is not the wishes
    granted: list[Wish] = []
    for group in groups:
        for wish in group:
            if wish in refused:
                continue
            if _refusal(service, [*granted, wish]) is None:
                granted.append(wish)
                break
            refused.append(wish)
    return granted, refused


def _refusal(service: Service, wishes: Collection[Wish]) -> str | None:
    """The words in which a request with these wishes is refused; None if it is not.

    Raises:
        TargetError: it is not for these wishes that it failed.
    """
    ids = _AS_IDS in wishes
    prompt: Prompt = _IDS if ids else _TEXT
    (reply,) = service.ask([prompt], TOKENS, _names(wishes))
    had = answer(service.dialect, reply)
    if not isinstance(had, Failure):
        understood = not ids or had.prompt_tokens in (None, len(_IDS))
        return None if understood else "prompt"
    if had.outcome not in _REFUSALS or not wishes:
        raise service.error(had)
    return complaint(reply.body.decode(errors="replace"))


def _names(wishes: Collection[Wish]) -> tuple[str, ...]:
    return tuple(wish.name for wish in wishes if wish is not _AS_IDS)


def _is_named(wish: Wish, words: str) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", words) for word in wish.words)


def _notes(groups: Sequence[Sequence[Wish]], granted: Collection[Wish], refused: Collection[Wish]) -> tuple[str, ...]:
    notes = []
    for group in groups:
        missing = " and ".join(wish.name for wish in group if wish in refused)
        instead = [wish.name for wish in group if wish in granted]
        if missing and instead:
            notes.append(f"the server refuses {missing}; {instead[0]} asks for the same")
        elif missing and group[0] is _AS_IDS:
            notes.append("the server takes no token ids: prompts are words of one token each")
        elif missing:
            notes.append(f"the server refuses {missing}, and nothing else gives {group[0].good_for}")
    return tuple(notes)


def prompts_for(service: Service, manner: Manner, tokenizer: Any) -> Prompts:
    """What makes prompts of an exact length for this server.

    Args:
        tokenizer: the one that was named; None asks the server how long texts are.

    Raises:
        TargetError: nothing says how long a text is in tokens.
    """
    if manner.ids:
        return Ids() if tokenizer is None else Ids(len(tokenizer), frozenset(tokenizer.all_special_ids))
    if tokenizer is None and not manner.counts:
        raise TargetError(
            f"{service.id}: the server takes text only, and does not say how many tokens a text has; name its "
            f"tokenizer as endpoint(…, tokenizer=)"
        )
    candidates = COMMON.split() if tokenizer is None else words_of(tokenizer)
    by_server = _counted_by(service, manner)
    count = by_server if tokenizer is None else counter(tokenizer, service.dialect.name == "chat")
    try:
        words = find_words(candidates, count)
    except TargetError as error:
        raise TargetError(f"{service.id}: {error}; name the server's tokenizer as endpoint(…, tokenizer=)") from error
    return words if tokenizer is None or not manner.counts else _as_counted(words, by_server, service)


def _counted_by(service: Service, manner: Manner) -> Count:
    """Counts as the server says in its usage."""

    def count(texts: Sequence[str]) -> list[int]:
        counted = []
        for reply in service.ask(texts, 1, manner.granted):
            had = answer(service.dialect, reply)
            if isinstance(had, Failure):
                raise service.error(had)
            if had.prompt_tokens is None:
                raise service.error(Failure(Outcome.UNCOUNTED, "an answer without the usage that others had"))
            counted.append(had.prompt_tokens)
        return counted

    return count


def _as_counted(words: Words, by_server: Count, service: Service) -> Words:
    """With the overhead that the server adds, which need not be the tokenizer's.

    Raises:
        TargetError: it counts the words themselves otherwise.
    """
    short, long = by_server([words.text(length, seed=0) for length in _LENGTHS])
    if long - short != _LENGTHS[1] - _LENGTHS[0]:
        raise TargetError(
            f"{service.id}: tokenizer={service.reference.tokenizer!r} is not the server's: what it makes of "
            f"{_LENGTHS[1] - _LENGTHS[0]} tokens are {long - short} to the server"
        )
    return replace(words, overhead=short - _LENGTHS[0])


_LENGTHS = (8, 24)
