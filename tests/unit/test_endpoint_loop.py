"""A loop that knows how late it is."""

from __future__ import annotations

import asyncio
import os

import pytest

from pytest_llmperf.targets.endpoint.loop import Watch, watched_loop
from tests.fakes import FakeClock


def _watch(clock: FakeClock, *batches: tuple[int, float]) -> Watch:
    """After batches of so many events, each taking so many seconds to be handled."""
    watch = Watch(clock)
    ends = []
    for events, seconds in batches:
        for _ in range(events):
            read, write = os.pipe()
            os.write(write, b"!")
            watch.register(read, 1)
            ends += [read, write]
        assert len(watch.select(0)) == events
        clock.advance(seconds)
        for read in ends[::2]:
            if read in watch.get_map():
                watch.unregister(read)
    watch.select(0)
    for end in ends:
        os.close(end)
    return watch


def test_the_lag_is_the_time_in_which_almost_all_events_were_handled() -> None:
    watch = _watch(FakeClock(), (1, 0.001), (1, 0.002), (8, 0.050))
    assert watch.lag(0.1) == pytest.approx(0.001)
    assert watch.lag(0.2) == pytest.approx(0.002)
    assert watch.lag() == pytest.approx(0.050)
    watch.close()


def test_waiting_for_events_is_no_lag() -> None:
    watch = _watch(FakeClock())
    assert watch.lag() == 0.0
    watch.close()


def test_it_begins_anew() -> None:
    watch = _watch(FakeClock(), (1, 0.5))
    watch.forget()
    assert watch.lag() == 0.0
    watch.close()


def test_a_loop_is_watched() -> None:
    clock = FakeClock()
    loop, watch = watched_loop(clock)
    loop.call_soon(loop.call_soon_threadsafe, lambda: None)  # wakes the loop by an event of its own
    loop.run_until_complete(asyncio.sleep(0.001))
    assert watch.lag() == 0.0
    loop.call_soon_threadsafe(clock.advance, 0.25)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert watch.lag() == 0.25
    loop.close()
