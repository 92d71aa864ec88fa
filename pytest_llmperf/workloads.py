"""What is asked of a target: prompts of exact length, named shapes, grids."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.mixes import Shape, mix_of
from pytest_llmperf.model import Workload

PRESETS: Mapping[str, Workload] = MappingProxyType(
    {
        "short-short": Workload(prompt_tokens=32, output_tokens=16),
        "short-long": Workload(prompt_tokens=32, output_tokens=128),
        "long-short": Workload(prompt_tokens=512, output_tokens=16),
        "long-long": Workload(prompt_tokens=512, output_tokens=128),
    }
)
"""The four request shapes: overhead, decode, prefill, everything."""


def preset(name: str) -> Workload:
    """The preset of that name.

    Raises:
        UsageError: naming the nearest preset.
    """
    if name not in PRESETS:
        raise UsageError(f"workload={name!r} is no preset{did_you_mean(name, PRESETS)} (known: {', '.join(PRESETS)})")
    return PRESETS[name]


def prompt_ids(workload: Workload, vocabulary: int, special: Collection[int], seed: int) -> list[list[int]]:
    """Seeded random token ids, `batch_size` × `prompt_tokens`, without the special ones.

    Different seeds give different prompts, so that no prefix cache answers one with another, but for what they are to
    share: never a whole prompt, however short a mix makes it.
    """
    draw = random.Random(seed)
    ordinary = _Ordinary(vocabulary, special)
    shared = ordinary.ids(random.Random("shared"), min(workload.shared_prefix_tokens or 0, workload.prompt_tokens - 1))
    own = workload.prompt_tokens - len(shared)
    return [[*shared, *ordinary.ids(draw, own)] for _ in range(workload.batch_size)]


def lengths(workload: Workload, seed: int) -> Shape:
    """Those of one request.

    Raises:
        UsageError: the workload's mix is none, or cannot be read.
    """
    return mix_of(workload.mix).shape(seed) if workload.mix else Shape(workload.prompt_tokens, workload.output_tokens)


def timed(workload: Workload) -> int | None:
    """How many requests of a replay are sent at their own times; None where the workload sets the pace itself."""
    paced = workload.request_rate is not None or workload.concurrency > 1
    return None if workload.mix is None or paced else mix_of(workload.mix).timed


class _Ordinary:
    """Draws ids below `vocabulary` that are not special."""

    def __init__(self, vocabulary: int, special: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._special = frozenset(special)
        if not set(range(min(vocabulary, len(self._special) + 1))) - self._special:
            raise UsageError(f"a vocabulary of {vocabulary} tokens holds nothing but special ones")

    def ids(self, source: random.Random, count: int) -> list[int]:
        return [self._draw(source) for _ in range(count)]

    def _draw(self, source: random.Random) -> int:
        while (token := int(source.random() * self._vocabulary)) in self._special:
            pass
        return token


def grid(sizes: Mapping[str, Sequence[int]], prompt: str | None = None) -> list[Workload]:
    """Every combination of the sizes given by workload field, the last named varying fastest."""
    combined: Iterator[dict[str, Any]]
    combined = (dict(zip(sizes, values, strict=True)) for values in itertools.product(*sizes.values()))
    return [Workload(**named, prompt=prompt) for named in combined]
