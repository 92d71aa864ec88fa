"""Two sets of baselines against each other, test by test, by the rules that a run is compared with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.baselines.compare import Rules, compare, since
from pytest_llmperf.baselines.entries import timeless
from pytest_llmperf.baselines.exact import counted_with, device_type, exact_folder, is_exact, is_exact_folder
from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.schema import NoiseFile, Session
from pytest_llmperf.baselines.store import Contents
from pytest_llmperf.baselines.stored import Stored, tests
from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.metrics import CATALOGUE, Kind, Metric
from pytest_llmperf.model import Environment, Unknown
from pytest_llmperf.results import Comparison, Row, Verdict
from pytest_llmperf.verdict.comparison import alpha


@dataclass(frozen=True)
class Compared:
    """One test that both hold.

    Args:
        shared: sessions of head that base holds too: they tell of no change, and are left out.
        new: why it could not be compared.
        since: what changed around the code.
    """

    key: str
    hardware: str
    base: Stored
    head: Stored
    rows: Sequence[Row] = ()
    shared: int = 0
    new: str = ""
    since: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict | None:
        return Verdict.NEW if self.new else Verdict.worst([row.verdict for row in self.rows if row.verdict])


@dataclass(frozen=True)
class Versus:
    """What head comes to against base; tests that only one of them holds, by hardware."""

    compared: Sequence[Compared]
    gone: Mapping[str, Sequence[str]] = field(default_factory=dict)
    new: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        return any(each.verdict is Verdict.REGRESSED for each in self.compared)


def versus(base: Contents, head: Contents, names: tuple[str, str], tolerance: float, hardware: str = "") -> Versus:
    """Head against base, on all hardware that both know.

    Args:
        names: of base and head, for messages.
        hardware: on this one alone.

    Raises:
        UsageError: they have no hardware in common, or not this one.
    """
    common = _common(base, head, names, hardware)
    pairs = {name: (tests(base, name), tests(head, name)) for name in common}
    comparisons = sum(
        _timed(before[key], after[key]) for before, after in pairs.values() for key in before.keys() & after.keys()
    )
    rules = Rules(tolerance=tolerance, alpha=alpha(comparisons))
    compared = []
    for name, (before, after) in pairs.items():
        counts = exact_known(base, name) and exact_known(head, name)
        for key in sorted(before.keys() & after.keys()):
            one, other = (each if counts else dataclasses.replace(each, exact=()) for each in (before[key], after[key]))
            compared.append(_compared(key, name, one, other, rules, base.noise.get(name)))
    only = [] if hardware else [name for name in (*base.entries, *head.entries) if _is_apart(name, common)]
    gone, new = (
        {
            name: left
            for name in [*common, *dict.fromkeys(only)]
            if (left := sorted(_keys(ours, name) - _keys(theirs, name)))
        }
        for ours, theirs in ((base, head), (head, base))
    )
    return Versus(compared, gone, new)


def _is_apart(name: str, common: Sequence[str]) -> bool:
    return name not in common and not is_exact_folder(name)


def _keys(contents: Contents, hardware: str) -> set[str]:
    return set(contents.entries.get(hardware, {}))


def exact_known(contents: Contents, hardware: str) -> bool:
    """Whether what is counted came along; a lone hardware folder, copied elsewhere, lacks it, and has lost nothing."""
    return is_exact_folder(hardware) or bool(contents.entries.get(exact_folder(device_type(hardware))))


def _common(base: Contents, head: Contents, names: tuple[str, str], hardware: str) -> list[str]:
    ours, theirs = (sorted(name for name, entries in c.entries.items() if entries) for c in (base, head))
    told = f"{names[0]} has {', '.join(ours) or 'none'}, {names[1]} has {', '.join(theirs) or 'none'}"
    both = [name for name in ours if name in theirs]
    if hardware:
        if hardware not in both:
            raise UsageError(f"--hardware {hardware}: not in both: {told}{did_you_mean(hardware, both)}")
        return [hardware]
    common = [name for name in both if not is_exact_folder(name)]
    if common:
        return common
    if all(is_exact_folder(name) for name in (*ours, *theirs)) and both:
        return both
    counted = f"; --hardware {both[0]} compares what is counted, which no hardware changes" if both else ""
    raise UsageError(f"no hardware in common: {told}{counted}")


def _timed(base: Stored, head: Stored) -> int:
    if base.workload != head.workload:
        return 0
    return sum(CATALOGUE[name].kind is Kind.TIMED for name in base.metrics if name in head.metrics)


def _compared(key: str, hardware: str, base: Stored, head: Stored, rules: Rules, noise: NoiseFile | None) -> Compared:
    known = Compared(key, hardware, base, head)
    if base.workload != head.workload:
        return dataclasses.replace(known, new="the workload is another")
    own, counted = _fresh(head.sessions, base.sessions), _of_latest_versions(head.exact)
    kind = device_type(hardware)
    threads: Any = head.latest.options.get("threads")
    environment = Environment(device=kind, hardware=hardware, threads=threads)
    rules = dataclasses.replace(rules, device_type=kind, noise=noise_of(noise, environment))
    rows = [_row(metric, base, [*own, *counted], rules) for metric in CATALOGUE.values()]
    return dataclasses.replace(
        known,
        rows=[row for row in rows if row is not None],
        shared=len(head.sessions) - len(own),
        since=since(base.baseline, head.latest),
    )


def _fresh(head: Sequence[Session], base: Sequence[Session]) -> list[Session]:
    """Newest first, without those that base holds too, unless nothing were left."""
    newest = sorted(head, key=lambda session: session.recorded, reverse=True)
    known = [timeless(session) for session in base]
    return [session for session in newest if timeless(session) not in known] or newest


def _of_latest_versions(exact: Sequence[Session]) -> list[Session]:
    """Of what is counted, what holds for the versions that were installed last."""
    newest = sorted(exact, key=lambda session: session.recorded, reverse=True)
    return [session for session in newest if counted_with(session) == counted_with(newest[0])]


def _row(metric: Metric, base: Stored, head: Sequence[Session], rules: Rules) -> Row | None:
    found = compare(metric, base.baseline, head, rules, Unknown("head lacks it"))
    if found is None:
        return None
    measured = [session for session in head if metric.name in session.metrics]
    if found.suspect:
        found = _alone(metric, found, len(measured), rules)
    value = measured[0].metrics[metric.name].median if measured else None
    if metric.kind is Kind.TIMED and value is not None and found.base is not None and found.change is not None:
        value = found.base * (1 + found.change)
    return Row(metric.name, "median", metric.unit, value, verdict=found.verdict, comparison=found)


def _alone(metric: Metric, found: Comparison, processes: int, rules: Rules) -> Comparison:
    """What too few processes say: enough where there is no noise, as nothing can be measured again here."""
    if metric.kind is not Kind.TIMED:
        return found.with_note("one process" * (not is_exact(metric.name)), verdict=Verdict.REGRESSED, suspect=False)
    return found.with_note(f"REGRESSED takes {rules.fewest(metric)} processes, and head has {processes}")
