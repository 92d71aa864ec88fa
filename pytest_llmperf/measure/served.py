"""What a target that is asked over a network is known by: its processes at most, and how its client did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_llmperf.model import Counts, Memory, Round, Unknown
from pytest_llmperf.profiling.counters import unseen
from pytest_llmperf.targets import Served
from pytest_llmperf.units import milliseconds, short_number

CLIENT_LAG_S = 0.001
"""From here on the client's own lateness is told: times of the server may be no longer than that."""
_OUT_OF_SIGHT = Unknown("a server's operators are out of sight")


def passes(target: Served) -> tuple[Memory, Counts]:
    """Its memory, as far as its processes are in sight, and no counts."""
    memory = target.memory()
    return memory, unseen(_OUT_OF_SIGHT, memory.kv_cache)


def notes(target: Served, rounds: Sequence[Round]) -> tuple[str, ...]:
    """What was asked otherwise than meant, and whether the client held the server up."""
    lag = statistics.median(taken.client_lag for taken in rounds)
    late = [trace.lag for taken in rounds for trace in taken.traces if trace.lag > CLIENT_LAG_S]
    said = [*target.notes]
    if lag > CLIENT_LAG_S:
        said.append(
            f"the client, not the server, may be the bottleneck: it got round to one token in a hundred only after "
            f"{_ms(lag)}; send less from one process"
        )
    if late:
        said.append(
            f"the client sent {len(late)} request{'s' * (len(late) != 1)} later than due, by up to {_ms(max(late))}"
        )
    return tuple(said)


def _ms(seconds: float) -> str:
    return f"{short_number(milliseconds(seconds))} ms"
