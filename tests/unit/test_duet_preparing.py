"""Who prepares when, before a round of a duet begins."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.duet.script import Pace, other
from pytest_llmperf.duet.sides import Lead
from pytest_llmperf.model import Workload
from pytest_llmperf.targets import Request
from tests.fakes import FakeClock, FakeTarget, serving

WORKLOAD = Workload(8, 6)
PACE = Pace(0.01, 0.1, rests=True)


class Rounds(FakeTarget):
    """Head's target and base's end in one, which note by round which side begins and who prepares, in order."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.noted: list[list[str]] = [[]]

    def request(self, workload: Workload, seed: int) -> Request:
        self.noted[-1].append("head")
        return super().request(workload, seed)

    def tell(self, say: str, **content: Any) -> None:
        if say == "round":
            self.noted[-1].append("base")
            self.noted[-1].insert(0, content["script"]["order"][0])
        if say == "report":
            self.noted.append([])

    def hear(self, *expected: str, patience: float | None = None) -> Any:
        return {"say": expected[0], "values": {"ttft_ms": 50.0, "tpot_ms": 5.0}}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_the_side_that_begins_has_prepared_last() -> None:
    both = Rounds()
    warm = serving(both, WORKLOAD, rounds=20)
    player_asks = len(both.noted[0]) + 1  # for its pace
    Lead(both, PACE, lambda name, pair: True, seed=1)(warm)
    del both.noted[0][1 : 1 + player_asks]
    rounds = both.noted[:-1]
    assert {begins for begins, *_ in rounds} == {"base", "head"}
    assert all(prepared == [other(begins), begins] for begins, *prepared in rounds)
