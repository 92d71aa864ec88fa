"""What is asked of a target: prompts of exact length, named shapes, grids."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean
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

    Different seeds give different prompts, so that no prefix cache answers one with another.
    """
    draw = random.Random(seed)
    ordinary = _Ordinary(vocabulary, special)
    return [[ordinary.draw(draw) for _ in range(workload.prompt_tokens)] for _ in range(workload.batch_size)]


class _Ordinary:
    """Draws ids below `vocabulary` that are not special."""

    def __init__(self, vocabulary: int, special: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._special = frozenset(special)
        if not set(range(min(vocabulary, len(self._special) + 1))) - self._special:
            raise UsageError(f"a vocabulary of {vocabulary} tokens holds nothing but special ones")

    def draw(self, source: random.Random) -> int:
        while (token := int(source.random() * self._vocabulary)) in self._special:
            pass
        return token


def grid(sizes: Mapping[str, Sequence[int]], prompt: str | None = None) -> list[Workload]:
    """Every combination of the sizes given by workload field, the last named varying fastest."""
    combined: Iterator[dict[str, Any]]
    combined = (dict(zip(sizes, values, strict=True)) for values in itertools.product(*sizes.values()))
    return [Workload(**named, prompt=prompt) for named in combined]
