"""One model of a server: what it is called, what the server says of it, and short questions to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.errors import TargetError
from pytest_llmperf.model import Failure, Outcome
from pytest_llmperf.targets.endpoint import Endpoint
from pytest_llmperf.targets.endpoint.client import Client, Page
from pytest_llmperf.targets.endpoint.dialects import Dialect, Prompt, body
from pytest_llmperf.targets.endpoint.replies import Reply, in_a_line

_AT_ONCE = 8
"""Short questions in flight."""
_NAMED = 8
"""Models of a server that a message names."""


@dataclass(frozen=True)
class Card:
    """What a server says of a model and of itself.

    Args:
        positions: tokens of a prompt and its answer together, at most.
        versions: of the server's software.
        listed: the models that it has.
    """

    model: str
    positions: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """A model of a server, and how to speak with it.

    Args:
        fields: of every request, by the user's wish.
    """

    reference: Endpoint
    client: Client
    dialect: Dialect
    card: Card
    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.reference.named(self.card.model)

    @property
    def path(self) -> str:
        return self.dialect.path(self.card.model)

    def body(self, prompt: Prompt, output_tokens: int, granted: Collection[str]) -> bytes:
        """What to post, ready to be sent."""
        asked = body(self.dialect, self.card.model, prompt, output_tokens, granted)
        return json.dumps({**asked, **self.fields}).encode()

    def ask(self, prompts: Sequence[Prompt], output_tokens: int, granted: Collection[str]) -> list[Reply]:
        """What it answers to each of them, whenever it does."""
        bodies = [self.body(prompt, output_tokens, granted) for prompt in prompts]
        return self.client.run(self._ask(bodies, output_tokens))

    async def _ask(self, bodies: Sequence[bytes], output_tokens: int) -> list[Reply]:
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(asked: bytes) -> Reply:
            async with free:
                return await self.client.post(self.path, asked, time.perf_counter, output_tokens)

        return await asyncio.gather(*map(one, bodies))

    def error(self, failure: Failure) -> TargetError:
        """That the server does not serve at all, with what to do."""
        return error(self.reference, failure, self.card)


def card(reference: Endpoint, client: Client) -> Card:
    """The model that is asked for, or the only one that the server has.

    Raises:
        TargetError: there is none, or more than one to choose from.
    """
    if reference.api == "triton":
        if reference.model is None:
            raise TargetError(f"{reference.id}: name the model of {reference.url} as model=")
        return Card(reference.model, versions=_versions(client.run(client.get("/v2")), "triton"))
    page = client.run(client.get("models"))
    cards = {} if isinstance(page, Failure) else _cards(page.json)
    listed = tuple(cards)
    if reference.model is None and isinstance(page, Failure):
        advice = _advice(reference, page.outcome, None) or "; name the model as model="
        raise TargetError(f"{reference.id}: {reference.url}/models: {page}{advice}")
    if reference.model is None and len(listed) != 1:
        raise TargetError(f"{reference.id}: {reference.url} has {_some(listed)}; name one as model=")
    model = reference.model or listed[0]
    said = cards.get(model, {})
    most = said.get("max_model_len")
    software = said.get("owned_by")
    software = in_a_line(software) if isinstance(software, str) else "server"
    versions = _versions(client.run(client.get("/version")), software)
    if not versions and isinstance(page, Page) and page.server:
        versions = {"server": in_a_line(page.server)}
    return Card(model, most if type(most) is int and most > 0 else None, versions, listed)


def error(reference: Endpoint, failure: Failure, card: Card | None) -> TargetError:
    """A failure as an error that says what to do."""
    return TargetError(f"{reference.id}: {reference.url}: {failure}{_advice(reference, failure.outcome, card)}")


def _advice(reference: Endpoint, outcome: Outcome, card: Card | None) -> str:
    if outcome is Outcome.UNREACHABLE:
        return "; is the server running, and is this its address?"
    if outcome is Outcome.UNAUTHORIZED:
        if reference.api_key_env is None:
            return "; name the environment variable that holds its key as api_key_env="
        return f"; is the key in {reference.api_key_env} one of this server's?"
    if outcome is Outcome.NOT_FOUND:
        known = f"; it has {_some(card.listed)}" if card is not None and card.listed else ""
        return f"{known}; a url ends with the version (…/v1), and model= and api= are what the server has"
    if outcome is Outcome.TIMED_OUT:
        return "; endpoint(…, timeout=) gives it more time"
    return ""


def _some(models: Sequence[str]) -> str:
    more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
    return ", ".join(models[:_NAMED]) + more if models else "no model by its own account"


def _cards(said: Any) -> dict[str, Mapping[str, Any]]:
    """What `/models` lists, by name; without names that cannot be shown in a line."""
    cards = said.get("data") if isinstance(said, dict) else None
    found = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
    return {card["id"]: card for card in found if _is_name(card.get("id"))}


def _is_name(said: object) -> bool:
    return isinstance(said, str) and said.isprintable()


def _versions(page: Page | Failure, software: str) -> dict[str, str]:
    said = page.json if isinstance(page, Page) else None
    version = said.get("version") if isinstance(said, dict) else None
    return {software: in_a_line(version)} if isinstance(version, str) else {}
