"""A measurement in turns with base, where base can take part; and by itself where it cannot, saying why."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import ValidationError

from pytest_llmperf.baselines.compare import Rules
from pytest_llmperf.baselines.entries import stored_workload
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.duet.channel import FaultError
from pytest_llmperf.duet.compare import PairTaken
from pytest_llmperf.duet.pairs import metrics_of
from pytest_llmperf.duet.partner import Absent, BaseError, Partner, Reached
from pytest_llmperf.duet.script import Pace
from pytest_llmperf.duet.sides import Lead, Line, follow, pairs_of
from pytest_llmperf.errors import NoRoomError
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.measure import Serving
from pytest_llmperf.measure.rounds import Need
from pytest_llmperf.metrics import CATALOGUE, Kind, Metric
from pytest_llmperf.model import Measurement, Round
from pytest_llmperf.verdict.comparison import Pair, precise

Rounds = Callable[[Serving], list[Round]]
Measured = Callable[[Rounds], Measurement]
"""Measures, with its rounds taken in the given way."""


def compared(metric: Metric) -> bool:
    """Whether a pair keeps the metric: what gates is head's to say, later."""
    return metric.kind is not Kind.REPORT


class Opposite(Protocol):
    """Base, wherever its processes come from."""

    @property
    def said(self) -> str:
        """What it is called, for people: `a1b2c3d4e (merge base with origin/main)`."""
        ...

    @property
    def line(self) -> Partner:
        """To the process that was reached."""
        ...

    def reach(self, test: str, key: str) -> Reached | Absent:
        """Let base run a test up to where it measures `key`."""
        ...

    def release(self) -> None:
        """Let base forget its targets."""
        ...


class Against:
    """What head is measured against."""

    def __init__(self, opposite: Opposite) -> None:
        self._opposite = opposite

    def measure(
        self,
        evidence: Evidence,
        gate: Gate,
        rules: Rules,
        measured: Measured,
        look: Callable[[Sequence[Round]], Need],
        by_itself: Rounds,
    ) -> Measurement:
        """In turns with base, adding the pair to the evidence; else by itself, with the reason added.

        Args:
            look: what head's rounds lack for its limits.
            by_itself: how rounds are taken without base.
        """
        evidence.against = self._opposite.said
        try:
            pace = self._reach(evidence)
            if pace is not None:

                def enough(name: str, pair: Pair) -> bool:
                    return not rules.gates(CATALOGUE[name]) or precise(pair, rules.noise_of(name))

                line = self._opposite.line
                seed = secrets.randbits(32)  # tests may have seeded what others draw from
                lead = Lead(line, pace, enough, look, seed)
                measurement = measured(lead)
                base = Session(**line.measured().get("session", {}))
                head = gate.session(measurement, evidence.settings, compared)
                differences = pairs_of(lead.rounds, metrics_of(lead.rounds))
                evidence.pairs.append(PairTaken(base, head, differences, len(lead.rounds)))
                return measurement
        except BaseError as error:
            evidence.absent, evidence.apart = str(error), error.no_room
        except ValidationError as error:
            evidence.absent = f"it says what nobody can read: {error.errors()[0]['msg']}"
        except NoRoomError as error:
            evidence.absent, evidence.apart = f"head has no room beside it: {error}", True
            self.release()  # outside of which head has it, or says that it does not fit even alone
        return measured(by_itself)

    def _reach(self, evidence: Evidence) -> Pace | None:
        """Base's pace, once it stands where the same is measured; None, with the reason, where it does not."""
        reached = self._opposite.reach(evidence.test, evidence.key)
        if isinstance(reached, Absent):
            evidence.absent, evidence.apart = reached.reason, reached.no_room
            return None
        if dict(reached.workload) != stored_workload(evidence.settings.workload):
            sizes = ", ".join(f"{name}={value}" for name, value in reached.workload.items())
            evidence.absent = f"it measures another workload ({sizes})"
            self._opposite.line.pass_by()
            return None
        return reached.pace

    def leave(self) -> None:
        """Let base come to the end of its test: head's is over."""
        with contextlib.suppress(BaseError, FaultError):  # what has ended stands nowhere
            self._opposite.line.leave()

    def release(self) -> None:
        """Let base forget its targets, so that other processes have room."""
        with contextlib.suppress(BaseError):  # what has ended holds nothing
            self._opposite.release()


def as_base(line: Line, evidence: Evidence, gate: Gate, measured: Measured) -> Measurement:
    """As head tells, which then gets the figures."""
    measurement = measured(follow(line, key=evidence.key, workload=stored_workload(evidence.settings.workload)))
    line.tell("measured", session=gate.session(measurement, evidence.settings, compared).model_dump())
    return measurement
