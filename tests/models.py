"""What a server with a model would answer, as OpenAI's APIs and Triton's have it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers import DONE, Received, Script, Server, answers, delta, event, streams, text, usage


@dataclass
class Model:
    """Answers as many tokens as it is asked for, each of them in an event of its own.

    Args:
        refused: fields that it does not take.
        saying: the words of its refusal of some fields.
        takes_ids: whether prompts may be token ids.
        shows_usage: whether it says how long prompt and answer were.
        overhead: tokens that it adds to every text.
        tokens: of a word.
        answered: how many tokens it makes of those asked for.
        pages: by path.
        instead: what it answers to a question, if it answers nothing else.
    """

    refused: Collection[str] = ()
    saying: Callable[[Sequence[str]], str] = lambda names: f"Unexpected fields: {', '.join(names)}"
    takes_ids: bool = True
    shows_usage: bool = True
    overhead: int = 0
    tokens: Callable[[str], int] = lambda word: 1
    answered: Callable[[int], int] = lambda asked: asked
    pages: Mapping[str, Any] = field(default_factory=lambda: {"/v1/models": {"data": [{"id": "tiny"}]}})
    instead: Script | None = None
    status: int = 422
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, received: Received) -> Script:
        if received.method == "GET":
            page = self.pages.get(received.path)
            return answers({"detail": "Not Found"}, 404) if page is None else answers(page)
        asked = received.json
        self.asked.append(asked)
        if self.instead is not None:
            return self.instead
        wrong = [name for name in self.refused if name in asked]
        prompt = asked.get("prompt", asked.get("text_input")) or asked["messages"][0]["content"]
        if not isinstance(prompt, str) and not self.takes_ids:
            wrong.append("prompt")
        if wrong:
            return answers({"detail": self.saying(wrong)}, self.status)
        return streams(b"".join(self.events(received.path, prompt, self.answered(asked["max_tokens"]))))

    def events(self, path: str, prompt: str | list[int], made: int) -> Iterator[bytes]:
        if path.endswith("generate_stream"):
            yield from (event({"text_output": " word"}) for _ in range(made))
            return
        yield from (delta(content=" word") if "chat" in path else text(" word") for _ in range(made))
        if self.shows_usage:
            yield usage(self.length(prompt), made)
        yield DONE

    def length(self, prompt: str | list[int]) -> int:
        if not isinstance(prompt, str):
            return len(prompt)
        return self.overhead + sum(map(self.tokens, re.split(" ", prompt)))


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """The url of a server of it."""
    with Server(model) as server:
        yield server.url
