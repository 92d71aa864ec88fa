"""What measurements come to: rows, verdicts and reasons. Plain data that travels between processes, silent itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pytest_llmperf.model import Profile, Workload


class Verdict(str, Enum):
    """What a row, and by its worst row a test, comes to. Declared from worst to best."""

    BROKEN = "BROKEN"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NEW = "NEW"
    IMPROVED = "IMPROVED"
    OK = "OK"

    @property
    def fails(self) -> bool:
        return self in (Verdict.BROKEN, Verdict.REGRESSED)

    @staticmethod
    def worst(verdicts: Sequence[Verdict]) -> Verdict | None:
        """None where nothing was judged."""
        order = list(Verdict)
        return min(verdicts, key=order.index, default=None)


@dataclass(frozen=True)
class Comparison:
    """One metric of a measurement against its baseline or base.

    Args:
        base: what it was there, in the metric's unit.
        change: head/base − 1.
        spread: half the 95 % interval of `change`.
        quiet: INCONCLUSIVE, and nothing was seen that anyone should look at.
        suspect: it would be REGRESSED if more processes agreed.
        unfinished: more pairs of processes might decide it.
        cause: what else than the code may be the reason, in the words of `--llmperf-strict`.
    """

    verdict: Verdict
    base: float | None = None
    change: float | None = None
    spread: float | None = None
    note: str = ""
    quiet: bool = False
    suspect: bool = False
    unfinished: bool = False
    cause: str = ""

    @property
    def head(self) -> float | None:
        """What a change with a spread is taken to: all processes of head, where it had several."""
        if self.base is None or self.change is None or self.spread is None:
            return None
        return self.base * (1 + self.change)

    def with_note(self, note: str, **changes: Any) -> Comparison:
        """The same with one more remark."""
        return dataclasses.replace(self, note="; ".join(filter(None, [self.note, note])), **changes)

    def after(self, processes: int, fewest: int) -> Comparison:
        """The same, seen in so many processes: below the fewest, what would be REGRESSED is a suspect."""
        if self.verdict is not Verdict.REGRESSED:
            return self
        if processes < fewest:
            return dataclasses.replace(self, verdict=Verdict.INCONCLUSIVE, suspect=True)
        return self.with_note(f"{processes} processes")


@dataclass(frozen=True)
class Row:
    """One metric of one measurement, with the limit it was held to and what it was compared with, if any."""

    metric: str
    statistic: str
    unit: str
    value: float | None
    low: float | None = None
    """95 % confidence interval of `value`, where more than one round was taken."""
    high: float | None = None
    limit: str | None = None
    """The bound alone, `< 50`."""
    verdict: Verdict | None = None
    note: str = ""
    values: tuple[float, ...] = ()
    """The samples behind `value`."""
    comparison: Comparison | None = None
    outcome: bool | None = None
    """Whether it makes the test fail, where the options of the run say other than its verdict does."""

    @property
    def fails(self) -> bool:
        return self.verdict is not None and (self.verdict.fails if self.outcome is None else self.outcome)


@dataclass(frozen=True)
class Grown:
    """An operator of which there is more than before, per step.

    Args:
        calls: before and now; None of time that no operator took.
        milliseconds: on host and device, before and now; None where base's were taken on other hardware.
    """

    operator: str
    calls: tuple[float, float] | None = None
    milliseconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a measurement is REGRESSED, by what torch did.

    Args:
        grown: by phase, in order of their growth.
        hints: known causes that look like this.
        missing: why there are no operators to compare.
    """

    grown: Mapping[str, tuple[Grown, ...]] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    missing: str = ""

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Explanation:
        grown = {phase: tuple(map(_grown_from_plain, rows)) for phase, rows in record["grown"].items()}
        return cls(grown, tuple(record["hints"]), record["missing"])


def _grown_from_plain(record: Mapping[str, Any]) -> Grown:
    pairs = {name: tuple(record[name]) for name in ("calls", "milliseconds") if record[name] is not None}
    return Grown(record["operator"], **pairs)


@dataclass(frozen=True)
class Result:
    """One call of `measure()`, as reports show it: plain data that travels between processes."""

    key: str
    """`nodeid[::label]`."""
    target: str
    workload: Workload
    device: str
    rounds: int
    rows: tuple[Row, ...]
    label: str = ""
    new: str = ""
    """Why there was nothing to compare with."""
    new_fails: bool = False
    since: tuple[str, ...] = ()
    """What changed around the code since the baseline."""
    recording: Mapping[str, Any] | None = None
    """What a baseline stores of it."""
    unfit: str = ""
    """Why it should not be recorded."""
    disturbed: str = ""
    """What kept the machine busy meanwhile, so that its times decide nothing."""
    unconfirmed: str = ""
    """Why no fresh process measured it again."""
    against: str = ""
    """The base of a duet: its commit, and what it is to head."""
    pairs: tuple[Mapping[str, Any], ...] = ()
    """What each pair of processes of a duet measured."""
    undecided: str = ""
    """Why no more pairs were measured."""
    notes: tuple[str, ...] = ()
    """What a reader of its figures should know of how they came about."""
    impossible: str = ""
    """Which times are below what the device can do: an error of ours."""
    explanation: Explanation | None = None
    """Of what is REGRESSED."""
    expected_to_fail: bool = False
    """The test is marked xfail."""
    variant: str = ""
    """Which of the variants of its test it is, if it is one."""
    variant_number: int = 0
    """Where it stands among them."""
    profile: Profile | None = None
    """Its operators, where they are to be shown."""
    parameters: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """What its test is parametrized by."""

    @property
    def test(self) -> str:
        """The node id."""
        return self.key.removesuffix(f"::{self.label}") if self.label else self.key

    @property
    def verdict(self) -> Verdict | None:
        new = [Verdict.NEW] if self.new else []
        return Verdict.worst([*new, *(row.verdict for row in self.rows if row.verdict)])

    @property
    def fails(self) -> bool:
        return self.new_fails or any(row.fails for row in self.rows)

    @property
    def is_red(self) -> bool:
        """Whether it fails and was not expected to."""
        return self.fails and not self.expected_to_fail

    @property
    def rank(self) -> int:
        """Where its verdict stands from worst to best; last, where nothing was judged."""
        return [*Verdict, None].index(self.verdict)

    @property
    def medians(self) -> dict[str, Row]:
        """By metric its row, where its value is known; one, however many limits it has."""
        rows: dict[str, Row] = {}
        for row in self.rows:
            if row.statistic == "median" and row.value is not None:
                rows.setdefault(row.metric, row)
        return rows

    @property
    def quiet(self) -> bool:
        """INCONCLUSIVE, with nothing seen that anyone should look at."""
        unsure = [row for row in self.rows if row.verdict is Verdict.INCONCLUSIVE]
        return self.verdict is Verdict.INCONCLUSIVE and all(row.comparison and row.comparison.quiet for row in unsure)

    @classmethod
    def from_plain(cls, record: dict[str, Any]) -> Result:
        rows = tuple(map(_row_from_plain, record["rows"]))
        lists = {name: tuple(record[name]) for name in ("since", "pairs", "notes")}
        profile = record["profile"] and Profile.from_plain(record["profile"])
        told = record["explanation"]
        known = {
            **record,
            **lists,
            "rows": rows,
            "workload": Workload(**record["workload"]),
            "profile": profile,
            "explanation": told and Explanation.from_plain(told),
        }
        return cls(**known)


def _row_from_plain(record: dict[str, Any]) -> Row:
    compared = record["comparison"]
    comparison = compared and Comparison(**{**compared, "verdict": Verdict(compared["verdict"])})
    verdict = record["verdict"] and Verdict(record["verdict"])
    return Row(**{**record, "verdict": verdict, "values": tuple(record["values"]), "comparison": comparison})
