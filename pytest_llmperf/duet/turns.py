"""One side at its turns: while the other works it waits, and its clock stands still."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.duet.script import Pace, Script, Side
from pytest_llmperf.measure import Serving
from pytest_llmperf.metrics import CATALOGUE, Kind, summarize
from pytest_llmperf.model import Measurement, Round, Sample, Trace, Workload
from pytest_llmperf.targets import Clock, Request, Served

Values = Mapping[str, float]
"""Of one round, by metric: its median."""
OF_PREFILL = ("ttft_ms", "prefill_ms", "tokenize_ms")
"""The timed metrics that a request for a single token has as well."""


class TurnClock:
    """A clock that does not see how long its side waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waited = 0.0

    def __call__(self) -> float:
        return self._clock() - self._waited

    def still(self, wait: Callable[[], object]) -> None:
        began = self._clock()
        wait()
        self._waited += self._clock() - began


class Turns:
    """Whose turn it is, as one side sees it: who has just had one passes on, unless the next is its own too.

    Args:
        give: tells the other side that it may go on.
        wait: returns when the other side has said so.
    """

    def __init__(self, script: Script, side: Side, give: Callable[[], object], wait: Callable[[], object]) -> None:
        self._left = list(script.order)
        self._side = side
        self._give = give
        self._wait = wait

    def begin(self) -> None:
        """Wait for this side's next turn, if it has one."""
        self._skip_the_others()

    def pass_on(self) -> None:
        """End this side's turn, and wait for its next."""
        self._left.pop(0)
        if self._left and self._left[0] != self._side:
            self._give()
        self._skip_the_others()

    def end(self) -> None:
        """Have this side's last turn, and those that it had no tokens for."""
        while self._side in self._left:
            self.pass_on()

    def _skip_the_others(self) -> None:
        if self._side in self._left and self._left[0] != self._side:
            self._wait()
            del self._left[: self._left.index(self._side)]


@dataclass(frozen=True)
class Played:
    """What one side did in a paired round.

    Args:
        whole: the request served to its last token, where there was one; of a server a round of its load.
        prefills: those of which only the first token was asked for.
        first_counts: whether the first token of the whole one tells of prefill.
    """

    whole: Round | None
    prefills: tuple[Trace, ...]
    first_counts: bool = True

    @property
    def values(self) -> Values:
        """Medians of the timed metrics, in their units; of those that there are."""
        first = [self.whole] if self.whole and self.first_counts else []
        of_prefill = _medians(*(Round((trace,)) for trace in self.prefills), *first)
        of_whole = _medians(self.whole) if self.whole else {}
        after = {name: value for name, value in of_whole.items() if name not in OF_PREFILL}
        return {**after, **{name: of_prefill[name] for name in OF_PREFILL if name in of_prefill}}


def _medians(*rounds: Round) -> dict[str, float]:
    samples = summarize(Measurement(target="", workload=Workload(), rounds=rounds)).samples
    timed = [name for name, metric in CATALOGUE.items() if metric.kind is Kind.TIMED]
    known = {name: sample.median for name in timed if isinstance(sample := samples[name], Sample)}
    return {name: value for name, value in known.items() if value > 0}


class Player:
    """One side with a warm target, ready for rounds.

    Args:
        pace: unless given it is found out, which takes one more request.
    """

    def __init__(self, serving: Serving, side: Side, sleep: Callable[[float], None] = time.sleep) -> None:
        self._serving = serving
        self._side = side
        self._script: Script | None = None
        self.pace = pace_of(serving, sleep)

    def prepare(self, script: Script) -> None:
        """Make the requests of a round."""
        self._script = script
        if isinstance(self._serving.target, Served):
            return
        self._short = [next(self._serving.prefills) for _ in range(script.requests - script.decodes)]
        self._whole = next(self._serving.upcoming) if script.decodes else None

    def play(self, give: Callable[[], object], wait: Callable[[], object]) -> Played:
        """The round that was prepared, in turns with the other side."""
        script, target = self._script, self._serving.target
        assert script is not None
        turns = Turns(script, self._side, give, wait)
        if isinstance(target, Served):
            turns.begin()
            taken = self._serving.serve()
            turns.end()
            return Played(taken, ())
        target.device.synchronize()
        with collector_quiet():
            turns.begin()
            prefills = [target.run(request, self._serving.clock) for request in self._short]
            whole = self._generate(self._whole, script, turns) if self._whole else None
            turns.end()
        generated = None if whole is None else Round((whole,), held=target.device.held_bytes())
        return Played(generated, tuple(prefills[script.warm :]), first_counts=script.prefills > 0)

    def _generate(self, request: Request, script: Script, turns: Turns) -> Trace:
        clock = TurnClock(self._serving.clock)
        ends = frozenset(script.ends)  # looked up at every token
        arrived = 0

        def rest() -> None:
            nonlocal arrived
            arrived += 1
            if arrived in ends:
                clock.still(turns.pass_on)

        trace = self._serving.target.run(request, clock, rest)
        # A device's own clock has not stood still.
        return dataclasses.replace(trace, unsteady=script.unsteady, device_arrivals=()) if script.blocks else trace


def pace_of(serving: Serving, sleep: Callable[[float], None] = time.sleep) -> Pace:
    """How fast a warm target is, and whether it waits when it is told to.

    An engine that goes on by itself in the background has its next token ready after a pause.
    """
    if isinstance(serving.target, Served):  # its load goes on by itself: whole rounds take turns
        return Pace(0.0, statistics.median(round_.wall for round_ in serving.warm), rests=False)
    usual = min((round_.traces[0] for round_ in serving.warm), key=lambda trace: trace.ended - trace.sent)
    gap = statistics.median(usual.gaps) if usual.gaps else 0.0
    if gap <= 0:
        return Pace(0.0, usual.ttft, rests=False)
    clock = TurnClock(serving.clock)
    paused_after = (len(usual.gaps) + 1) // 2
    arrived = 0

    def rest() -> None:
        nonlocal arrived
        arrived += 1
        if arrived == paused_after:
            clock.still(lambda: sleep(_PAUSE * gap))

    trace = serving.target.run(next(serving.upcoming), clock, rest)
    waited = arrived >= paused_after and len(trace.gaps) >= paused_after
    if usual.counts or trace.counts:  # several tokens at a time, as it comes: both sides would not switch at the same
        waited = False
    usual_gap = min(gap, statistics.median(trace.gaps)) if waited else gap
    return Pace(gap, usual.ttft, rests=waited and trace.gaps[paused_after - 1] > _READY * usual_gap)


_PAUSE = 3.0
"""Gaps of a trial pause."""
_READY = 0.25
"""Of a usual gap: a token that comes sooner after a pause was made during it. On a busy machine gaps of one kind vary
by a factor of two."""
