"""Joining shards: the same in whatever order, and again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.baselines.compare import is_exact
from pytest_llmperf.baselines.entries import timeless
from pytest_llmperf.baselines.merge import merge
from pytest_llmperf.baselines.schema import MOST_SESSIONS, Entry, Learned, NoiseFile, Session
from pytest_llmperf.baselines.store import Contents
from pytest_llmperf.baselines.versus import versus
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.results import Verdict
from tests.stored import CPU, KEY, calibration, recording, session

WORKLOAD = recording().workload
TORCH = ("2.11.0", "2.12.0", "2.13.0")


def _process(sitting: int, number: int) -> Session:
    """The same figures whoever tells of them, so that nothing is contradicted."""
    told = session(f"2026-{1 + sitting // 28:02}-{1 + sitting % 28:02}", 8 + sitting / 100 + number / 1000)
    return told.model_copy(update={"metrics": {k: v for k, v in told.metrics.items() if not is_exact(k)}})


@st.composite
def _timed(draw: st.DrawFn) -> Entry:
    """Sittings of which a shard may know the first processes only, in order, at most as many as are kept."""
    sittings = draw(st.dictionaries(st.integers(0, 40), st.integers(1, 3), min_size=1, max_size=MOST_SESSIONS))
    sessions = [_process(sitting, number) for sitting in sorted(sittings) for number in range(sittings[sitting])]
    learned = draw(st.sets(st.sampled_from(["ttft_ms", "tpot_ms"])))
    known = {name: Learned(deviation=0.01, df=2.0) for name in learned}
    if draw(st.booleans()):  # operators' times of the latest session, which is a middle one for other shards
        taken = {"aten::mm": {"decode": [sessions[-1].metrics["tpot_ms"].median]}}
        sessions[-1] = sessions[-1].model_copy(update={"times": taken})
    return Entry(workload=WORKLOAD, learned=known, sessions=sessions[-MOST_SESSIONS:])


@st.composite
def _exact(draw: st.DrawFn) -> Entry:
    told = draw(st.dictionaries(st.sampled_from(TORCH), st.integers(0, 5), min_size=1))
    sessions = [session(f"2026-02-0{1 + told[torch]}", versions={"torch": torch}) for torch in sorted(told)]
    return Entry(workload=WORKLOAD, sessions=sessions)


KEYS = st.sampled_from([KEY, "t.py::test_2"])
CONTENTS = st.builds(
    lambda timed, exact, days: Contents(
        {folder: entries for folder, entries in ((CPU, timed), ("exact-cpu", exact)) if entries},
        {CPU: NoiseFile(calibrations=[calibration(f"2026-03-0{day}") for day in sorted(days)])} if days else {},
    ),
    st.dictionaries(KEYS, _timed()),
    st.dictionaries(KEYS, _exact()),
    st.sets(st.integers(1, 4)),
)


def _named(shards: Sequence[Contents]) -> dict[str, Contents]:
    return {f"shard-{number}": shard for number, shard in enumerate(shards)}


@settings(deadline=None)  # the first to need scipy imports it
@given(st.lists(CONTENTS, min_size=2, max_size=3))
def test_the_order_of_shards_does_not_matter(shards):
    assert merge(_named(shards)) == merge(_named(shards[::-1]))


@settings(deadline=None)  # the first to need scipy imports it
@given(st.lists(CONTENTS, min_size=1, max_size=3))
def test_merging_again_changes_nothing(shards):
    once = merge(_named(shards))
    assert merge({**_named(shards), "once": once}) == once
    assert merge({"once": once, "twice": once}) == once


@settings(deadline=None)  # the first to need scipy imports it
@given(CONTENTS)
def test_a_shard_with_itself_is_that_shard(shard):
    assert merge({"one": shard, "two": shard}) == shard


@settings(deadline=None)  # the first to need scipy imports it
@given(CONTENTS, CONTENTS)
def test_no_session_is_lost_but_the_oldest_and_none_is_invented(one, two):
    for folder, entries in merge({"one": one, "two": two}).entries.items():
        for key, entry in entries.items():
            told = [each.entries[folder][key].sessions for each in (one, two) if key in each.entries.get(folder, {})]
            said = [timeless(held) for sessions in told for held in sessions]
            kept = [timeless(held) for held in entry.sessions]
            assert all(held in said for held in kept)
            if folder == CPU:
                assert entry.sessions == sorted(entry.sessions, key=lambda held: held.recorded)
            if folder == CPU and len(entry.sessions) < MOST_SESSIONS:
                assert all(held in kept for held in said)


@settings(deadline=None)  # the first to need scipy imports it
@given(CONTENTS.filter(lambda contents: contents.entries.get(CPU)))
def test_nothing_is_regressed_against_itself(contents):
    found = versus(contents, contents, ("a", "b"), 0.05)
    assert found.compared
    assert not found.fails
    assert not found.gone
    assert not found.new
    assert all(row.verdict is not Verdict.NEW for each in found.compared for row in each.rows)


def test_a_sitting_of_which_a_full_baseline_dropped_processes_contradicts_nobody():
    first = [session("2026-01-01", 8 + number / 10) for number in range(3)]
    later = [session("2026-02-01", 9 + number / 100) for number in range(MOST_SESSIONS - 1)]
    full = Entry(workload=WORKLOAD, sessions=[first[2], *later])
    shard = Entry(workload=WORKLOAD, sessions=first[:2])
    joined = merge({"full": Contents({CPU: {KEY: full}}), "shard": Contents({CPU: {KEY: shard}})})
    assert joined.entries[CPU][KEY].sessions == [first[2], *later]


def test_only_the_latest_session_keeps_the_times_of_operators():
    times = {"aten::mm": {"decode": [0.5]}}
    first, second = (session(f"2026-01-0{day}", times=times) for day in (1, 2))
    one, other, both = (
        Contents({CPU: {KEY: Entry(workload=WORKLOAD, sessions=sessions)}})
        for sessions in ([first], [session("2026-01-01"), second], [second])
    )
    for shards in ([one, other], [other, one], [one, both]):
        merged = merge({str(number): shard for number, shard in enumerate(shards)})
        assert [each.times for each in merged.entries[CPU][KEY].sessions] == [{}, times]


def test_processes_of_one_sitting_that_two_shards_tell_otherwise_contradict_each_other():
    shards = {
        name: Contents(
            {CPU: {KEY: Entry(workload=WORKLOAD, sessions=[session("2026-01-01", tpot), session("2026-01-01")])}}
        )
        for name, tpot in (("one", 8.1), ("two", 8.2))
    }
    with pytest.raises(BaselineError, match="the session of 2026-01-01 at abcdef012 has other figures"):
        merge(shards)


def test_a_counted_metric_known_to_be_unstable_contradicts_no_shard_that_saw_one_of_its_values():
    seen = [session("2026-01-01", weights=50.0), session("2026-01-02", weights=51.0)]
    unstable, single = (
        Contents({"exact-cpu": {KEY: Entry(workload=WORKLOAD, sessions=each)}}) for each in (seen, seen[1:])
    )
    assert merge({"one": unstable, "two": single}) == unstable
