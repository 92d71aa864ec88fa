"""A server as a target: it is asked, and its answers are read when they are whole."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.model import Failure, Memory, Round, Trace, Unknown, Workload
from pytest_llmperf.servers import serving
from pytest_llmperf.servers.tree import none_of
from pytest_llmperf.targets.endpoint import Endpoint
from pytest_llmperf.targets.endpoint.client import Client
from pytest_llmperf.targets.endpoint.dialects import DIALECTS, Prompt, read
from pytest_llmperf.targets.endpoint.probe import Manner, probe, prompts_for
from pytest_llmperf.targets.endpoint.prompts import Prompts, counter
from pytest_llmperf.targets.endpoint.remote import Remote
from pytest_llmperf.targets.endpoint.replies import Reply
from pytest_llmperf.targets.endpoint.schedule import Sent, load_of, play, round_of
from pytest_llmperf.targets.endpoint.service import Service, card
from pytest_llmperf.targets.plain import thawed
from pytest_llmperf.targets.protocol import Clock, Request, Rest, no_rest
from pytest_llmperf.workloads import lengths, timed


def load(reference: Endpoint) -> EndpointTarget:
    """The server, once it has answered.

    Raises:
        TargetError: it does not serve, naming what to do; of one that was started for the tests, what it printed.
    """
    started = serving(reference.url)
    try:
        return _load(reference)
    except TargetError as error:
        if started is None:
            raise
        started.check()
        raise TargetError(f"{error}\nwhat the server printed is in {started.log}") from error


def _load(reference: Endpoint) -> EndpointTarget:
    client = Client(reference.url, _headers(reference), reference.timeout)
    try:
        fields = {name: thawed(value) for name, value in reference.body}
        service = Service(reference, client, DIALECTS[reference.api], card(reference, client), fields)
        manner = probe(service)
        tokenizer = None if reference.tokenizer is None else _tokenizer(reference.tokenizer)
        return EndpointTarget(service, manner, prompts_for(service, manner, tokenizer), tokenizer)
    except BaseException:
        client.close()
        raise


@dataclass(frozen=True)
class Question:
    """A prompt, and the request that it is sent in.

    Args:
        prompt_tokens: None where the server's usage says it.
        output_tokens: that `body` asks for.
    """

    prompt: Prompt
    prompt_tokens: int | None
    output_tokens: int
    body: bytes


class EndpointTarget:
    dtype = "unknown"
    model = None

    def __init__(self, service: Service, manner: Manner, prompts: Prompts, tokenizer: Any) -> None:
        reference = service.reference
        self.id = service.id
        self.tokenizer = tokenizer
        self.device = Remote(reference.hardware or reference.host)
        self.positions = None if service.card.positions is None else service.card.positions - 1
        self.versions = service.card.versions
        self.notes = manner.notes
        self._service = service
        self._manner = manner
        self._prompts = prompts
        self._started = serving(reference.url)
        self._usual = 0.0
        self._rounds = 0

    def begin(self) -> None:
        """Of an earlier workload only the pace of its requests was kept.

        Raises:
            TargetError: a server that was started for the tests has ended.
        """
        self._usual, self._rounds = 0.0, 0
        if self._started is not None:
            self._started.begin()

    def request(self, workload: Workload, seed: int) -> Request:
        if workload.batch_size != 1:
            raise UsageError(
                f"batch_size={workload.batch_size}: {self.id} makes its own batches; use concurrency="
                f"{workload.batch_size}"
            )
        shape = lengths(workload, seed)
        own = dataclasses.replace(workload, prompt_tokens=shape.prompt_tokens, output_tokens=shape.output_tokens)
        text = workload.prompt
        prompt: Prompt = self._prompts.prompt(own, seed) if text is None else text
        tokens = own.prompt_tokens if text is None else self._length(text)
        total = (tokens or 0) + own.output_tokens
        if self.positions is not None and total - 1 > self.positions:
            asked = f"prompt_tokens={tokens or 0} + output_tokens={own.output_tokens}"
            raise UsageError(f"{asked} = {total}: {self.id} has room for {self.positions + 1} tokens")
        return Request(own, self._question(prompt, tokens, own.output_tokens), shape.due)

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        service = self._service
        asked = self._asked(request)
        reply = service.client.run(service.client.post(service.path, asked.body, clock, asked.output_tokens))
        seen = self._read(reply, request)
        if isinstance(seen, Failure):
            raise MeasurementError(f"{self.id}: {seen}")
        return seen

    def serve(self, workload: Workload, upcoming: Iterator[Request], clock: Clock) -> Round:
        service = self._service
        load = load_of(workload, self._usual, self._rounds, timed=timed(workload))
        # What is left of them is let go: every round of a load takes as many, and base and head of a duet ask the same.
        ahead = list(itertools.islice(upcoming, load.enough))

        def send(request: Request) -> Awaitable[Reply]:
            asked = self._asked(request)
            return service.client.post(service.path, asked.body, clock, asked.output_tokens)

        service.client.watch.forget()
        sent = service.client.run(play(load, itertools.chain(ahead, upcoming), send, clock))
        seen = round_of(sent, self._read_sent, service.client.watch.lag())
        if not seen.traces:
            if self._started is not None:
                self._started.check()
            failed = f"{len(seen.failures)} of {len(sent)} requests failed"
            raise MeasurementError(f"{self.id}: {failed}: {Failure.counted(seen.failures)}")
        self._rounds += 1
        self._usual = statistics.median(trace.ended - trace.sent for trace in seen.traces)
        return seen

    def step_through(self, request: Request, mark: Callable[[], object]) -> Unknown:
        return _OUT_OF_SIGHT

    def weights_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def kv_cache_bytes(self, request: Request) -> Unknown:
        return _OUT_OF_SIGHT

    def memory(self) -> Memory:
        if self._started is not None:
            return self._started.memory()
        return none_of("the server's processes are out of sight")

    def close(self) -> None:
        self._service.client.close()

    def _length(self, text: str) -> int | None:
        """Of a text in tokens, as far as it is ours to say."""
        if self._manner.counts:
            return None
        if self.tokenizer is None:
            raise UsageError(
                f"prompt=: {self.id} does not say how many tokens a prompt has; name its tokenizer as "
                f"endpoint(…, tokenizer=)"
            )
        return counter(self.tokenizer, self._service.reference.api == "chat")([text])[0]

    def _question(self, prompt: Prompt, prompt_tokens: int | None, output_tokens: int) -> Question:
        body = self._service.body(prompt, output_tokens, self._manner.granted)
        return Question(prompt, prompt_tokens, output_tokens, body)

    def _asked(self, request: Request) -> Question:
        """What a request asks; prepared anew where it was made shorter since."""
        question: Question = request.prompt
        if question.output_tokens == request.workload.output_tokens:
            return question
        return self._question(question.prompt, question.prompt_tokens, request.workload.output_tokens)

    def _read_sent(self, one: Sent) -> Trace | Failure:
        assert one.reply is not None  # all of them have been waited for
        return self._read(one.reply, one.request)

    def _read(self, reply: Reply, request: Request) -> Trace | Failure:
        asked: Question = request.prompt
        return read(self._service.dialect, reply, asked.prompt_tokens, request.workload.output_tokens)


_OUT_OF_SIGHT = Unknown("a server's model is out of sight")


def _headers(reference: Endpoint) -> dict[str, str]:
    headers = dict(reference.headers)
    name = reference.api_key_env
    if name is not None:
        key = os.environ.get(name, "").strip()
        if not key:
            raise TargetError(f"{reference.id}: api_key_env={name!r}: this environment variable is not set")
        if not (key.isascii() and key.isprintable()):
            raise TargetError(f"{reference.id}: api_key_env={name!r}: what it holds cannot be sent in a header")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from pytest_llmperf.targets.pretrained import quiet_transformers

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise TargetError(
            f"tokenizer={name!r}: transformers finds none there, neither on the Hub nor in a folder "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from error
