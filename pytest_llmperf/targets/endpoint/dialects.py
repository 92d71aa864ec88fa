"""How servers are asked for tokens, and how their answers are read.

A dialect is an API: `/completions`, `/chat/completions`, Triton's `generate_stream`. All answer with server-sent events
of JSON. An event may bring one token, several, or none (a role, the usage, text held back), so that events are not
simply counted: the ids in an event say how many tokens it brings, else usage that grows from event to event, and both
are believed only if they add up to the total that the server names. Where nothing but the total is known, it stays one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import quote

from pytest_llmperf.model import Failure, Outcome, Trace, Unknown
from pytest_llmperf.targets.endpoint.events import Event, events
from pytest_llmperf.targets.endpoint.replies import Reply, complaint, in_a_line, parsed

Prompt = str | Sequence[int]
"""Text; or token ids, where the dialect takes them."""


@dataclass(frozen=True)
class Wish:
    """A field of a request that makes its measurement better, and that a server may refuse.

    Args:
        field: of the body; wishes that share one are put into it together.
        value: for an answer of so many tokens.
        good_for: what is had by it.
        words: by any of which a refusal names it.
    """

    name: str
    field: str
    value: Callable[[int], Any]
    good_for: str
    words: tuple[str, ...]


_LENGTH = "answers of exactly the tokens asked for"
_CHUNKS = "the number of tokens in each chunk"
_NO_TOKEN = -1
"""Of `transformers serve`: null is filled in from the model, and min_new_tokens is ignored when it batches."""

USAGE = Wish(
    "usage",
    "stream_options",
    lambda tokens: {"include_usage": True},
    "the server's own count of tokens",
    ("stream_options", "include_usage"),
)
CONTINUOUS_USAGE = Wish(
    "continuous_usage",
    "stream_options",
    lambda tokens: {"continuous_usage_stats": True},
    _CHUNKS,
    ("continuous_usage_stats",),
)
TOKEN_IDS = Wish("token_ids", "return_token_ids", lambda tokens: True, _CHUNKS, ("return_token_ids",))
IGNORE_EOS = Wish("ignore_eos", "ignore_eos", lambda tokens: True, _LENGTH, ("ignore_eos",))
MIN_TOKENS = Wish("min_tokens", "min_tokens", lambda tokens: tokens, _LENGTH, ("min_tokens",))
GENERATION_CONFIG = Wish(
    "generation_config",
    "generation_config",
    lambda tokens: json.dumps({"do_sample": False, "eos_token_id": _NO_TOKEN, "max_new_tokens": tokens}),
    _LENGTH,
    ("generation_config",),
)
TEMPERATURE = Wish("temperature", "temperature", lambda tokens: 0, "the same answer every time", ("temperature",))


@dataclass(frozen=True)
class Chunk:
    """What one event says of tokens.

    Args:
        answers: whether it is part of the answer, rather than of what is said about it.
        text: whether it brings text, of whatever kind.
        ids: the number of token ids in it; None where it has no list of them.
        used: output tokens so far, or in all, by its usage.
        prompt: prompt tokens by its usage.
        finish: why the answer ends, in the server's word.
    """

    answers: bool = False
    text: bool = False
    ids: int | None = None
    used: int | None = None
    prompt: int | None = None
    finish: str = ""


@dataclass(frozen=True)
class Answer:
    """What a server answered, before it is held against what was asked.

    Args:
        arrivals: when each event with tokens came.
        shown: events with text.
        counts: tokens in each arrival, where the server shows it.
        tokens: in all, where the server shows it.
        prompt_tokens: by the server's usage; None where it sends none.
        finish: why it ended, in the server's word: `length`, `stop`.
        ended: whether the server said that this was all.
    """

    sent: float
    arrivals: tuple[float, ...]
    shown: int
    counts: tuple[int, ...] = ()
    tokens: int | None = None
    prompt_tokens: int | None = None
    finish: str = ""
    ended: bool = False


class Dialect(Protocol):
    """What is particular to one API."""

    name: str
    takes_ids: bool
    """Whether a prompt may be token ids, if the server agrees."""
    says_its_end: bool
    """Whether a stream that simply ends may be one that was cut off."""
    wishes: tuple[Wish, ...]
    """That may be asked of it, what matters most first."""

    def path(self, model: str) -> str:
        """Where to post, relative to the url."""
        ...

    def question(self, model: str, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
        """What every request says, no wish granted."""
        ...

    def chunk(self, record: Mapping[str, Any]) -> Chunk:
        """What an event says, read from its JSON."""
        ...


def body(
    dialect: Dialect, model: str, prompt: Prompt, output_tokens: int, granted: Collection[str] = ()
) -> dict[str, Any]:
    """What to post.

    Args:
        granted: names of the wishes to be put into it.
    """
    posted = dialect.question(model, prompt, output_tokens)
    for wish in dialect.wishes:
        if wish.name in granted:
            value, before = wish.value(output_tokens), posted.get(wish.field)
            posted[wish.field] = {**before, **value} if isinstance(before, dict) else value
    return posted


def answer(dialect: Dialect, reply: Reply) -> Answer | Failure:
    """What the server answered, whatever it was asked; a failure where that is no answer at all."""
    if reply.failure is not None and reply.failure.outcome not in _AFTER_A_BEGINNING:
        return reply.failure
    found = events(reply.pieces)
    if not found and reply.failure is None:
        return _no_stream(reply)
    chunks: list[tuple[float, Chunk]] = []
    ended = not dialect.says_its_end
    for event in found:
        if event.data.strip() == _DONE:
            ended = True
        if event.data.strip() in ("", _DONE):
            continue
        chunk = _chunk(dialect, event, reply)
        if isinstance(chunk, Chunk):
            chunks.append((event.time, chunk))
        elif chunk.outcome is Outcome.MALFORMED and event is found[-1] and not reply.body.endswith((b"\n", b"\r")):
            return _cut_off(reply, "in the middle of an event")
        else:
            return chunk
    if reply.failure is not None:
        return _cut_off(reply, f"events with text so far: {sum(chunk.text for _, chunk in chunks)}")
    return _answer(reply, chunks, ended)


def read(dialect: Dialect, reply: Reply, prompt_tokens: int | None, output_tokens: int) -> Trace | Failure:
    """The trace of a request that was answered as it was asked, or how it failed.

    Args:
        prompt_tokens: that it was asked with; None takes the server's word for it.
        output_tokens: that it asked for.
    """
    had = answer(dialect, reply)
    if isinstance(had, Failure):
        return had
    return _fault(had, prompt_tokens, output_tokens) or _trace(had, prompt_tokens)


_DONE = "[DONE]"
_AFTER_A_BEGINNING = (Outcome.CLOSED, Outcome.TIMED_OUT)


def _chunk(dialect: Dialect, event: Event, reply: Reply) -> Chunk | Failure:
    record = parsed(event.data)
    if not isinstance(record, dict):
        # `transformers serve` puts its message between quotes as it is
        wrong = event.name == "error" or event.data.startswith('{"error"')
        outcome = Outcome.STREAM_ERROR if wrong and record is None else Outcome.MALFORMED
        return reply.failed(outcome, event.data)
    if record.get("error") or record.get("object") == "error" or event.name == "error":
        return reply.failed(Outcome.STREAM_ERROR, complaint(event.data))
    return dialect.chunk(record)


def _cut_off(reply: Reply, where: str) -> Failure:
    if reply.failure is None:
        return Failure(Outcome.CLOSED, where)
    return Failure(reply.failure.outcome, f"{reply.failure.detail}, {where}")


def _no_stream(reply: Reply) -> Failure:
    text = reply.body.decode(errors="replace")
    if not text.strip():
        return reply.failed(Outcome.CLOSED, "an empty answer")
    record = parsed(text)
    if isinstance(record, dict) and record.get("error"):
        return reply.failed(Outcome.STREAM_ERROR, complaint(text))
    if isinstance(record, dict) and ("choices" in record or "text_output" in record):
        return reply.failed(Outcome.MALFORMED, f"the answer is whole and no stream: {text}")
    return reply.failed(Outcome.MALFORMED, f"no stream of events: {complaint(text)}")


def _answer(reply: Reply, chunks: Sequence[tuple[float, Chunk]], ended: bool) -> Answer:
    total = next((chunk.used for _, chunk in reversed(chunks) if chunk.used), None)
    counted = _counted(chunks, total)
    shown = [time for time, chunk in chunks if chunk.text]
    last = chunks[-1][1] if chunks else Chunk()
    finish = in_a_line(next((chunk.finish for _, chunk in chunks if chunk.finish), ""), reply.secrets)
    return Answer(
        reply.sent,
        tuple(time for time, _ in counted) or tuple(shown),
        len(shown),
        tuple(count for _, count in counted),
        total if total is not None or not counted else sum(count for _, count in counted),
        next((chunk.prompt for _, chunk in reversed(chunks) if chunk.prompt is not None), None),
        finish,
        ended or bool(finish) or (last.used is not None and not last.answers),
    )


def _counted(chunks: Sequence[tuple[float, Chunk]], total: int | None) -> list[tuple[float, int]]:
    """When how many tokens came; empty where the events do not say it."""
    for count in (_by_ids, _by_usage):
        counted = [(time, tokens) for time, tokens in count(chunks) if tokens > 0]
        if counted and total in (None, sum(tokens for _, tokens in counted)):
            return counted
    return []


def _by_ids(chunks: Sequence[tuple[float, Chunk]]) -> list[tuple[float, int]]:
    if any(chunk.text and not chunk.ids for _, chunk in chunks):
        return []
    return [(time, chunk.ids or 0) for time, chunk in chunks]


def _by_usage(chunks: Sequence[tuple[float, Chunk]]) -> list[tuple[float, int]]:
    if any(chunk.text and chunk.used is None for _, chunk in chunks):
        return []
    told = [(time, chunk.text, chunk.used) for time, chunk in chunks if chunk.answers and chunk.used is not None]
    before = [0, *(used for _, _, used in told)]
    grown = [(time, text, used - earlier) for (time, text, used), earlier in zip(told, before, strict=False)]
    return [] if any(text and more < 1 for _, text, more in grown) else [(time, more) for time, _, more in grown]


def _fault(had: Answer, prompt_tokens: int | None, output_tokens: int) -> Failure | None:
    """How it is not what was asked."""
    tokens = len(had.arrivals) if had.tokens is None else had.tokens
    of = f"{tokens} of {output_tokens} tokens"
    why = f", finish_reason {had.finish!r}" if had.finish else ""
    if tokens < output_tokens and not had.ended:
        return Failure(Outcome.CLOSED, f"the stream ended after {of}")
    if tokens < had.shown:  # one token over several events, or text that is not in the usage: no gap is a token's
        return Failure(Outcome.UNCOUNTED, f"{had.shown} events with text, {tokens} tokens by the server")
    if tokens and not had.arrivals:
        return Failure(Outcome.UNCOUNTED, f"the server counts {tokens} tokens and shows none of them")
    if had.tokens is None and tokens != output_tokens and had.finish in ("", "length"):
        return Failure(
            Outcome.UNCOUNTED,
            f"events with text: {tokens}, tokens asked for: {output_tokens}; no usage and no token ids to count by",
        )
    if tokens < output_tokens:
        return Failure(Outcome.STOPPED_EARLY, f"{of}{why}")
    if tokens > output_tokens:
        return Failure(Outcome.TOO_LONG, f"{tokens} tokens, {output_tokens} asked for{why}")
    if prompt_tokens is None and had.prompt_tokens is None:
        return Failure(Outcome.UNCOUNTED, "the server sends no usage that would tell the length of the prompt")
    if prompt_tokens is not None and had.prompt_tokens not in (None, prompt_tokens):
        return Failure(Outcome.OTHER_PROMPT, f"{had.prompt_tokens} tokens by the server, {prompt_tokens} asked for")
    return None


def _trace(had: Answer, prompt_tokens: int | None) -> Trace:
    each = set(had.counts) == {1} or had.tokens in (None, len(had.arrivals))
    return Trace(
        had.sent,
        had.arrivals,
        prompt_tokens or had.prompt_tokens or 0,
        counts=() if each else had.counts,
        prefill=Unknown("a server does not show where its prefill ends"),
        tokenize=_INSIDE,
        detokenize=_INSIDE,
        tokens=None if each or had.counts else had.tokens,
    )


_INSIDE = Unknown("a server does it on its side, within the times of its tokens")


class _OpenAi:
    """What the two APIs of OpenAI have in common."""

    says_its_end = True
    wishes: tuple[Wish, ...] = (
        USAGE,
        CONTINUOUS_USAGE,
        TOKEN_IDS,
        IGNORE_EOS,
        MIN_TOKENS,
        GENERATION_CONFIG,
        TEMPERATURE,
    )

    def chunk(self, record: Mapping[str, Any]) -> Chunk:
        choices = record.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        usage = record.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        return Chunk(
            answers=bool(choice),
            text=self._brings_text(choice),
            ids=len(ids) if isinstance(ids, list) else None,
            used=_count(usage.get("completion_tokens")),
            prompt=_count(usage.get("prompt_tokens")),
            finish=finish if isinstance(finish, str) else "",
        )

    def _brings_text(self, choice: Mapping[str, Any]) -> bool:
        raise NotImplementedError


class Completions(_OpenAi):
    """`/completions`: takes text as it is, and token ids at most servers."""

    name = "completions"
    takes_ids = True

    def path(self, model: str) -> str:
        return "completions"

    def question(self, model: str, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
        asked = prompt if isinstance(prompt, str) else list(prompt)
        return {"model": model, "prompt": asked, "max_tokens": output_tokens, "stream": True}

    def _brings_text(self, choice: Mapping[str, Any]) -> bool:
        return bool(choice.get("text"))


class Chat(_OpenAi):
    """`/chat/completions`: takes text, and puts the model's template around it."""

    name = "chat"
    takes_ids = False

    def path(self, model: str) -> str:
        return "chat/completions"

    def question(self, model: str, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": model, "messages": messages, "max_tokens": output_tokens, "stream": True}

    def _brings_text(self, choice: Mapping[str, Any]) -> bool:
        delta = choice.get("delta")
        return isinstance(delta, dict) and any(delta.get(name) for name in _MADE_OF_TOKENS)


_MADE_OF_TOKENS = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")
"""Parts of a message that a model writes."""


class Triton:
    """`generate_stream` of NVIDIA's Triton: text in and out, and no usage."""

    name = "triton"
    takes_ids = False
    says_its_end = False
    wishes: tuple[Wish, ...] = (IGNORE_EOS, MIN_TOKENS, TEMPERATURE)

    def path(self, model: str) -> str:
        return f"v2/models/{quote(model, safe='')}/generate_stream"

    def question(self, model: str, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
        return {"text_input": prompt, "max_tokens": output_tokens, "stream": True}

    def chunk(self, record: Mapping[str, Any]) -> Chunk:
        return Chunk(answers=True, text=bool(record.get("text_output")))


def _count(value: object) -> int | None:
    """A number of tokens that can be one."""
    return value if type(value) is int and 0 <= value < _TOO_MANY else None


_TOO_MANY = 10**12


DIALECTS: Mapping[str, Dialect] = MappingProxyType({it.name: it for it in (Completions(), Chat(), Triton())})
"""By the name that `api=` takes."""
