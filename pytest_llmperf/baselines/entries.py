"""What recording makes of a test's entry. Knows no files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.baselines.compare import learned
from pytest_llmperf.baselines.exact import counted_with, exact_folder, is_exact, said
from pytest_llmperf.baselines.schema import MOST_SESSIONS, Entry, Recording, Session
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.mixes import identity
from pytest_llmperf.model import Workload, plain


@dataclass(frozen=True)
class Change:
    """What recording did to one test's baseline.

    Args:
        kind: `new`, `updated` or `unchanged`.
        medians: metric → stored before (None where it was not) and now.
    """

    key: str
    kind: str
    medians: Mapping[str, tuple[float | None, float]]


def parts_of(recording: Recording) -> dict[str, Entry]:
    """A recording by the folder that its parts belong in: what is counted lies apart from the rest."""
    parts = {}
    for counted, folder in ((False, recording.hardware), (True, exact_folder(recording.device_type))):
        left: dict[str, Any] = {"times": {}} if counted else {"calls": {}, "decode_flops": []}
        sessions = [
            session.model_copy(update={"metrics": metrics, **left})
            for session in recording.sessions
            if (metrics := {name: r for name, r in session.metrics.items() if is_exact(name) is counted})
        ]
        if sessions:
            parts[folder] = Entry(workload=recording.workload, sessions=times_once(sessions)[-MOST_SESSIONS:])
    return parts


def times_once(sessions: Sequence[Session]) -> list[Session]:
    """The same, with operators' times only of the last that has them: they explain, and decide nothing."""
    latest = next((session for session in reversed(sessions) if session.times), None)
    return [session if session is latest or not session.times else timeless(session) for session in sessions]


def timeless(session: Session) -> Session:
    """The same without operators' times."""
    return session.model_copy(update={"times": {}})


def is_timed(session: Session) -> bool:
    """Whether it tells of time."""
    return any(map(_is_time, session.metrics))


def untimed(session: Session) -> Session:
    """The same without times: the rest does not depend on how busy the machine was."""
    return timeless(_only(session, lambda name: not _is_time(name)))


def _only(session: Session, wanted: Callable[[str], bool]) -> Session:
    return session.model_copy(update={"metrics": {name: r for name, r in session.metrics.items() if wanted(name)}})


def _is_time(metric: str) -> bool:
    return metric in CATALOGUE and CATALOGUE[metric].kind is Kind.TIMED


def merged(old: Entry | None, new: Entry, *, append: bool, exact: bool) -> Entry:
    """The entry that is stored from now on. Where the new one tells of no time, the times of the old one stay.

    Args:
        old: what was stored of the same workload.
        exact: both hold counted metrics.
    """
    if exact:
        return _merged_exact(old, new, append=append)
    if old is None:
        return new
    if append:
        return old.model_copy(update={"sessions": times_once([*old.sessions, *new.sessions])[-MOST_SESSIONS:]})
    if not any(map(is_timed, new.sessions)):
        times = [_only(session, _is_time) for session in old.sessions if is_timed(session)]
        return old.model_copy(update={"sessions": [*times, *new.sessions][-MOST_SESSIONS:]})
    return new.model_copy(update={"learned": learned(old)})


def _merged_exact(old: Entry | None, new: Entry, *, append: bool) -> Entry:
    """One session for each set of versions, and more only where they contradict each other.

    What stands there for other versions stays: runs with those may still be compared with it.
    """
    now = [said(session) for session in new.sessions]
    measured = [counted_with(session) for session in new.sessions]
    earlier = old.sessions if old else []
    kept = [each for each in earlier if append or said(each) in now or counted_with(each) not in measured]
    for session in new.sessions:
        if said(session) not in map(said, kept):
            kept.append(session)
    return (old or new).model_copy(update={"sessions": kept[-MOST_SESSIONS:]})


def change_of(key: str, pairs: Sequence[tuple[Entry | None, Entry]]) -> Change:
    """From a test's entries before and now, in each of its folders."""
    medians = {
        name: (_latest(old, like=new).get(name) if old else None, median)
        for old, new in pairs
        for name, median in _latest(new, like=new).items()
    }
    if all(old is None for old, _ in pairs):
        return Change(key, "new", medians)
    return Change(key, "unchanged" if all(old == new for old, new in pairs) else "updated", medians)


def _latest(entry: Entry, like: Entry) -> dict[str, float]:
    """The last medians; those of the versions that another entry has last, where there are."""
    versions = counted_with(like.sessions[-1])
    sessions = sorted(entry.sessions, key=lambda session: counted_with(session) == versions)
    return {name: reading.median for session in sessions for name, reading in session.metrics.items()}


def stored_workload(workload: Workload) -> dict[str, Any]:
    """A workload as it is stored and compared; of a text and of a recorded mix only its digest."""
    sizes: dict[str, Any] = {name: value for name, value in plain(workload).items() if value is not None}
    if workload.mix is not None:
        sizes["mix"] = identity(workload.mix)
        del sizes["prompt_tokens"], sizes["output_tokens"]
    if workload.prompt is not None:
        sizes["prompt"] = f"sha256:{hashlib.sha256(workload.prompt.encode()).hexdigest()[:16]}"
    return sizes
