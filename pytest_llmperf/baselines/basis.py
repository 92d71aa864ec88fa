"""What the verdicts on a measurement rest on: all that it takes to judge it again, elsewhere and later."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from pytest_llmperf.baselines.compare import Baseline, Rules
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.model import Limit, Measurement


@dataclass(frozen=True)
class Basis:
    """One measurement, and what it was judged by.

    Args:
        test: the node id.
        limits: of the test.
        rules: by which it was compared; None where nothing was judged (smoke runs).
        baseline: what was stored of it.
        elsewhere: hardware of which a baseline of the test is stored.
        head: what its process measured, as baselines keep it, then what fresh processes did.
        pairs: what each pair of processes of a duet measured.
        unconfirmed: why no fresh process measured it again.
        against: the base of a duet.
        absent: why base did not measure it.
        confirming: the base of a duet that settles what the baseline makes suspect.
        undecided: why no more pairs were measured.
        strict: what fails beside BROKEN and REGRESSED.
        recording: it was to become the baseline.
        force: also if it is BROKEN or was disturbed.
        processes: of which a recorded session is made.
    """

    test: str
    measurement: Measurement
    label: str = ""
    limits: tuple[Limit, ...] = ()
    rules: Rules | None = None
    baseline: Baseline = field(default_factory=Baseline)
    elsewhere: tuple[str, ...] = ()
    head: tuple[Session, ...] = ()
    pairs: tuple[Mapping[str, Any], ...] = ()
    unconfirmed: str = ""
    against: str = ""
    absent: str = ""
    confirming: str = ""
    undecided: str = ""
    strict: frozenset[str] = frozenset()
    recording: bool = False
    force: bool = False
    processes: int = 1

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold; `from_plain` makes an equal one of it."""
        record: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return record

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Basis:
        return _adapter().validate_python(record)


@functools.cache
def _adapter() -> TypeAdapter[Basis]:
    return TypeAdapter(Basis)
