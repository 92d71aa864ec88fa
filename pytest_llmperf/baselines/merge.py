"""Joining baselines that several runners recorded: the same in whatever order, and nothing that contradicts itself.

Sessions of one test are joined in order of `recorded`; one that several shards hold is one. Of what was learned
each metric may be told by any shard, if all that tell it agree.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pytest_llmperf.baselines.entries import times_once
from pytest_llmperf.baselines.exact import GATING_VERSIONS, counted_with, is_exact_folder, said
from pytest_llmperf.baselines.schema import MOST_SESSIONS, Calibration, Entry, NoiseFile, Session
from pytest_llmperf.baselines.store import Contents
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.units import short_number


def merge(shards: Mapping[str, Contents]) -> Contents:
    """All of the shards, which are given by name.

    Raises:
        BaselineError: naming everything in which two of them contradict each other.
    """
    faults = list(_contradictions(shards))
    if faults:
        count = f"{len(faults)} contradiction{'s' * (len(faults) != 1)}"
        raise BaselineError("\n  ".join([f"nothing was merged, for {count}; leave out what is wrong:", *faults]))
    entries = {
        folder: {key: _joined(having, exact=is_exact_folder(folder)) for key, having in tests.items()}
        for folder, tests in _entries(shards).items()
    }
    return Contents(entries, {hardware: _all(having) for hardware, having in _noise(shards).items()})


def _entries(shards: Mapping[str, Contents]) -> dict[str, dict[str, dict[str, Entry]]]:
    """Folder → key → shard → entry."""
    found: dict[str, dict[str, dict[str, Entry]]] = {}
    for shard, contents in shards.items():
        for folder, tests in contents.entries.items():
            for key, entry in tests.items():
                found.setdefault(folder, {}).setdefault(key, {})[shard] = entry
    return found


def _noise(shards: Mapping[str, Contents]) -> dict[str, dict[str, NoiseFile]]:
    found: dict[str, dict[str, NoiseFile]] = {}
    for shard, contents in shards.items():
        for hardware, noise in contents.noise.items():
            found.setdefault(hardware, {})[shard] = noise
    return found


# Joining what does not contradict


def _joined(having: Mapping[str, Entry], *, exact: bool) -> Entry:
    first, *others = having.values()
    if all(entry == first for entry in others):
        return first
    most: Counter[str] = Counter()
    by_text: dict[str, Session] = {}
    for entry in having.values():
        by_text.update((_text(each), each) for each in entry.sessions if each.times or _text(each) not in by_text)
        most |= Counter(map(_text, entry.sessions))
    sessions = [by_text[text] for text in most.elements()]
    sessions.sort(key=lambda session: (session.recorded, session.commit, _text(session)))
    learned = {name: spread for entry in having.values() for name, spread in sorted(entry.learned.items())}
    kept = _once_said(sessions) if exact else times_once(sessions)
    return Entry(workload=first.workload, learned=learned, sessions=kept[-MOST_SESSIONS:])


def _once_said(sessions: Sequence[Session]) -> list[Session]:
    """Of counted metrics the first session to say something: later ones that say the same add nothing."""
    kept: list[Session] = []
    for session in sessions:
        if said(session) not in map(said, kept):
            kept.append(session)
    return kept


def _all(having: Mapping[str, NoiseFile]) -> NoiseFile:
    known = {_calibration(each): each for noise in having.values() for each in noise.calibrations}
    return NoiseFile(calibrations=[known[identity] for identity in sorted(known)])


# What contradicts


def _contradictions(shards: Mapping[str, Contents]) -> Iterator[str]:
    for folder, tests in sorted(_entries(shards).items()):
        for key, having in sorted(tests.items()):
            for (name, one), (other_name, other) in itertools.combinations(sorted(having.items()), 2):
                for fault in _between(one, other, exact=is_exact_folder(folder)):
                    yield f"{folder} {key}: {fault}, in {name} and {other_name}"
    for hardware, noises in sorted(_noise(shards).items()):
        for (name, noise), (other_name, other_noise) in itertools.combinations(sorted(noises.items()), 2):
            known = {_calibration(each): each for each in noise.calibrations}
            for each in other_noise.calibrations:
                if known.get(_calibration(each), each) != each:
                    what = f"the calibration of {each.recorded} with {each.target} has other figures"
                    yield f"{hardware} noise: {what}, in {name} and {other_name}"


def _between(one: Entry, other: Entry, *, exact: bool) -> Iterator[str]:
    if one.workload != other.workload:
        names = sorted({*one.workload, *other.workload})
        differing = [name for name in names if one.workload.get(name) != other.workload.get(name)]
        values = (", ".join(f"{n} {entry.workload.get(n)}" for n in differing) for entry in (one, other))
        yield f"another workload, {' and '.join(values)}"
        return
    yield from _counted(one, other) if exact else _sittings(one, other)
    for name in sorted(one.learned.keys() & other.learned.keys()):
        if one.learned[name] != other.learned[name]:
            values = (short_number(entry.learned[name].deviation) for entry in (one, other))
            yield f"the spread learned of {name} is another, {' and '.join(values)}"


def _sittings(one: Entry, other: Entry) -> Iterator[str]:
    """Sittings that both hold, of which each has processes that the other lacks; one may have forgotten some."""
    ours, theirs = _by_sitting(one), _by_sitting(other)
    for sitting in sorted(ours.keys() & theirs.keys()):
        missing, more = ours[sitting] - theirs[sitting], theirs[sitting] - ours[sitting]
        if missing and more:
            recorded, commit = sitting
            figures = _first_difference(next(iter(missing)), next(iter(more)))
            yield f"the session of {recorded}{f' at {commit[:9]}' * bool(commit)} has other {figures}"


def _by_sitting(entry: Entry) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for session in entry.sessions:
        found[session.recorded, session.commit][_text(session)] += 1
    if len(entry.sessions) == MOST_SESSIONS:  # of the oldest sitting some may have been dropped
        del found[min(found)]
    return found


def _first_difference(one: str, other: str) -> str:
    ours, theirs = (json.loads(text) for text in (one, other))
    for name in sorted(ours["metrics"].keys() & theirs["metrics"].keys()):
        if (values := [each["metrics"][name]["median"] for each in (ours, theirs)])[0] != values[1]:
            return f"figures, {name} {' and '.join(map(short_number, values))}"
    return ", ".join(name for name in ours if ours[name] != theirs[name])


def _counted(one: Entry, other: Entry) -> Iterator[str]:
    """Counted metrics of which each has values, for the same versions, that the other lacks."""
    ours, theirs = _by_versions(one), _by_versions(other)
    for (name, versions), values in sorted(ours.items()):
        others = theirs.get((name, versions), set())
        if values - others and others - values:
            shown = " and ".join(short_number(value) for value in (min(values - others), min(others - values)))
            yield f"{name} is another for {_named(versions)}, {shown}"


def _by_versions(entry: Entry) -> dict[tuple[str, tuple[str, ...]], set[float]]:
    found: dict[tuple[str, tuple[str, ...]], set[float]] = defaultdict(set)
    for session in entry.sessions:
        for name, reading in session.metrics.items():
            found[name, counted_with(session)].add(reading.median)
    return found


def _named(versions: tuple[str, ...]) -> str:
    known = [f"{name} {version}" for name, version in zip(GATING_VERSIONS, versions, strict=True) if version]
    return ", ".join(known) or "unknown versions"


def _calibration(each: Calibration) -> tuple[str, str]:
    return each.recorded, json.dumps(each.of)


def _text(session: Session) -> str:
    """All that two of them must agree in to be the same one; whether it is the latest depends on the shard."""
    return json.dumps(session.model_dump(exclude={"times"}), sort_keys=True)
