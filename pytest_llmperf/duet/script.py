"""What both sides do in one paired round, turn by turn: the same for both, so that they compare like with like."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Side = Literal["base", "head"]
SIDES: tuple[Side, Side] = ("base", "head")

TURN_S = 0.05
"""Shorter turns are no better: what disturbs the machine comes and goes more slowly, and each switch costs tokens."""
COLD_S = 0.004
"""For so long after a switch a side works on caches that the other has filled: these tokens do not count."""
FEWEST_TOKENS = 4
"""Of a turn, so that the tokens after a switch are never most of it."""
MOST_PREFILLS = 10


def other(side: Side) -> Side:
    return "head" if side == "base" else "base"


@dataclass(frozen=True)
class Pace:
    """How fast a warm side is, in seconds.

    Args:
        gap: between tokens; 0 where there is only one.
        ttft: to the first token.
        rests: whether it can be made to wait between tokens.
    """

    gap: float
    ttft: float
    rests: bool


@dataclass(frozen=True)
class Script:
    """One paired round.

    Args:
        order: which side has each turn.
        prefills: requests of a side's first turn whose first token counts; the last of them goes on to its last token.
            With 0 there is one such request all the same, of which only the rest counts.
        warm: one more before them, which does not count.
        blocks: gaps of each turn of decoding after the first; empty where the first turn is the whole round.
        decodes: False leaves out everything after the first tokens.
    """

    order: tuple[Side, ...]
    prefills: int = 1
    warm: bool = False
    blocks: tuple[int, ...] = ()
    cold: int = 0
    decodes: bool = True

    @property
    def requests(self) -> int:
        """Of a side in its first turn."""
        return max(1, self.prefills) + self.warm

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens after which a turn ends, within a generation."""
        return tuple(itertools.accumulate((1, *self.blocks)))[:-1] if self.blocks else ()

    @property
    def unsteady(self) -> tuple[int, ...]:
        """Gaps, counted from 0, that come right after a switch."""
        starts = itertools.accumulate((0, *self.blocks[:-1])) if self.blocks else ()
        return tuple(
            start + index
            for start, size in zip(starts, self.blocks, strict=False)
            for index in range(min(self.cold, size // FEWEST_TOKENS))
        )

    @classmethod
    def from_plain(cls, record: dict[str, Any]) -> Script:
        return cls(**{**record, "order": tuple(record["order"]), "blocks": tuple(record["blocks"])})


@dataclass(frozen=True)
class Scripts:
    """Endlessly many rounds of each kind; the order of turns is drawn anew for each.

    Args:
        whole: prefills and decoding.
        prefills: the former alone.
        decoding: the latter alone, as far as a generation lets itself be had without a prefill.
    """

    whole: Iterator[Script]
    prefills: Iterator[Script]
    decoding: Iterator[Script]


def scripts(paces: Sequence[Pace], output_tokens: int, seed: int) -> Scripts:
    """The rounds of two sides at these paces.

    Args:
        paces: of both sides.
    """
    draw = random.Random(seed)
    ttft, gap = max(pace.ttft for pace in paces), max(pace.gap for pace in paces)
    prefills = max(1, min(MOST_PREFILLS, round(TURN_S / ttft))) if ttft > 0 else MOST_PREFILLS
    blocks: tuple[int, ...] = ()
    if output_tokens > 1 and gap > 0 and all(pace.rests for pace in paces):
        blocks = _blocks(output_tokens - 1, max(FEWEST_TOKENS, round(TURN_S / gap)))
    whole = Script((), prefills, prefills > 1, blocks, math.ceil(COLD_S / gap) if gap > 0 else 0)
    alone = replace(whole, blocks=(), decodes=False)
    bare = replace(whole, prefills=0)
    return Scripts(_drawn(whole, draw), _drawn(alone, draw), _drawn(bare, draw))


def _blocks(gaps: int, usual: int) -> tuple[int, ...]:
    """`gaps` in turns of about the usual size, as equal as can be, and none too short where there is more than one."""
    count = max(1, min(round(gaps / usual), gaps // FEWEST_TOKENS))
    return tuple(gaps * (index + 1) // count - gaps * index // count for index in range(count))


def _drawn(script: Script, draw: random.Random) -> Iterator[Script]:
    while True:
        firsts: list[Side] = [draw.choice(SIDES) for _ in range(1 + len(script.blocks))]
        yield replace(script, order=tuple(side for first in firsts for side in (first, other(first))))
