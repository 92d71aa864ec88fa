"""Ranks exchange what they decide by, fail together, and are at the end of a test together."""

from __future__ import annotations

import time
from typing import Any

import pytest
from torch.distributed import HashStore

from pytest_llmperf import meeting as module
from pytest_llmperf import ranks
from pytest_llmperf.errors import MeasurementError, NoRoomError
from pytest_llmperf.meeting import Meeting
from tests.ranks import acting, together

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def test_a_process_by_itself_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "meeting", lambda: pytest.fail("it has nobody to meet"))
    clock = object()
    assert (ranks.world(), ranks.rank(), ranks.local_rank()) == (1, 0, 0)
    assert (ranks.gathered(3), ranks.agreed(3), ranks.together(lambda: 3)) == ([3], 3, 3)
    assert ranks.shared(clock) is clock  # type: ignore[arg-type]


@pytest.mark.parametrize(("environ", "world"), [({}, 2), ({"RANK": ""}, 1), ({"WORLD_SIZE": "1"}, 1)])
def test_ranks_are_what_torchrun_says(environ: dict[str, str], world: int) -> None:
    assert ranks.world({**TORCHRUN, **environ}) == world


def test_who_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "5", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert (ranks.world(), ranks.rank(), ranks.local_rank()) == (8, 5, 1)


def test_what_each_says_is_heard_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = [iter([3.0, 4.0]), iter([70.0, 80.0])]

    def work(rank: int) -> Any:
        clock = ranks.shared(lambda: next(clocks[rank]))
        return ranks.gathered(rank), ranks.agreed(f"rank {rank}"), clock(), clock(), ranks.together(lambda: rank)

    assert acting(monkeypatch, 2, work) == [([0, 1], "rank 0", 3.0, 4.0, rank) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoRoomError("it does not fit"), NoRoomError("rank 1: it does not fit")),
        (ValueError("no luck\nat all"), MeasurementError("rank 1: ValueError: no luck")),
    ],
)
def test_what_fails_in_one_fails_in_all(error: Exception, told: Exception) -> None:
    def work(meeting: Meeting) -> list[int]:
        def serve() -> None:
            if meeting.rank == 1:
                raise error

        with pytest.raises(type(error) if meeting.rank == 1 else type(told)) as caught:
            meeting.together(serve)
        assert str(caught.value) == str(error if meeting.rank == 1 else told)
        return meeting.gathered(meeting.rank)

    assert together(3, work) == [[0, 1, 2]] * 3


def test_whoever_leaves_a_test_is_awaited_at_its_end() -> None:
    def work(meeting: Meeting) -> list[int]:
        why = "a fixture failed" if meeting.rank == 0 else ""
        if meeting.rank:
            with pytest.raises(MeasurementError, match=r"^rank 0 has left the test: a fixture failed$"):
                meeting.gathered(None)
        meeting.regroup("test_chat.py::test_turn", why)
        return meeting.gathered(meeting.rank)

    assert together(3, work) == [[0, 1, 2]] * 3


def test_ranks_that_run_different_tests_do_not_go_on() -> None:
    def work(meeting: Meeting) -> str:
        meeting.regroup(f"test_{meeting.rank}")
        with pytest.raises(MeasurementError):
            meeting.gathered(None)
        meeting.regroup("test_next")
        return meeting.lost

    assert together(2, work) == ["the ranks run different tests: test_0, test_1"] * 2


def test_a_rank_that_failed_does_not_wait_for_those_who_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in a collective of the model, which ends when this process does."""
    monkeypatch.setattr(module, "AFTER_FAILURE_S", 0.01)
    meeting = Meeting(HashStore(), 1, 2)

    def fail() -> None:
        raise MeasurementError("a kernel failed")

    with pytest.raises(MeasurementError, match=r"^a kernel failed; rank 1 waited 0\.01 s in vain for the other ranks$"):
        meeting.together(fail)
    with pytest.raises(MeasurementError, match="a kernel failed"):
        meeting.gathered(None)
    meeting.part()


@pytest.mark.parametrize("lost", ["", "they are out of step"])
def test_rank_0_ends_its_run_before_the_others(lost: str) -> None:
    ended: list[int] = []

    def work(meeting: Meeting) -> None:
        meeting.lost = lost
        if meeting.rank == 0:
            time.sleep(0.05)  # reports are written
            ended.append(0)
        meeting.part()
        if meeting.rank:
            ended.append(meeting.rank)

    together(2, work)
    assert ended == [0, 1]


def test_the_store_does_not_grow() -> None:
    store = HashStore()

    def work(meeting: Meeting) -> None:
        meeting.store = store
        for _ in range(20):
            meeting.gathered("something")

    together(2, work)
    assert store.num_keys() <= 4
