"""From process pairs to what is stored of them, and to the file of traces."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet import calibrate
from pytest_llmperf.duet.alternation import PairedRound, Side
from pytest_llmperf.duet.calibrate import TakenPair, calibration, take_pairs, write_traces
from pytest_llmperf.duet.worker import Job, Ready
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.model import Environment, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.verdict.comparison import pair_of
from tests.fakes import TINY

READY = Ready("tiny", Workload(8, 3), Environment(device="cpu", hardware="cpu-x", dtype="float32", threads=1))
JOB = Job(resolve(TINY), LoadOptions("cpu"), Workload(8, 3))


def paired(base: float, head: float, first: Side = "base", **more: float) -> PairedRound:
    return PairedRound(first, {"tpot_ms": base, **more}, {"tpot_ms": head, **more})


class FakePair:
    """Serves rounds of which head is 1 % slower, give or take up to twice `spread`."""

    opened: list[Mapping[str, Any]]
    spread = 0.0

    def __init__(self) -> None:
        self.served = 0

    def ready(self, side: Side) -> Ready:
        return READY

    def round(self) -> PairedRound:
        self.served += 1
        self.opened[-1]["served"] = self.served
        return paired(10.0, 10.0 * math.exp(0.01 + self.spread * (self.served % 5 - 2)))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    @contextmanager
    def pair(base: Job, head: Job, **how: Any) -> Iterator[FakePair]:
        assert base is head
        FakePair.opened.append(how)
        yield FakePair()

    monkeypatch.setattr(FakePair, "opened", [], raising=False)
    monkeypatch.setattr(calibrate, "pair", pair)
    return FakePair.opened


def test_each_side_is_started_first_in_every_other_pair_and_no_order_comes_twice(opened: list[Any]) -> None:
    _, taken = take_pairs(JOB, 4)
    assert [each.first for each in taken] == [how["first"] for how in opened] == ["base", "head", "base", "head"]
    assert len({how["seed"] for how in opened}) == 4


@pytest.mark.parametrize(("spread", "rounds", "served"), [(0.0, None, 8), (0.3, None, 40), (0.0, 11, 11), (0.3, 9, 9)])
def test_a_pair_ends_when_it_is_as_precise_as_can_be_asked(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch, spread: float, rounds: int | None, served: int
) -> None:
    monkeypatch.setattr(FakePair, "spread", spread)
    _, taken = take_pairs(JOB, 2, rounds)
    assert [len(each.rounds) for each in taken] == [how["served"] for how in opened] == [served, served]


def test_it_is_told_what_all_will_take_when_the_first_round_is_over(opened: list[Any]) -> None:
    told: list[tuple[Ready, int]] = []
    take_pairs(JOB, 3, begun=lambda ready, most: told.append((ready, opened[0]["served"])))
    assert told == [(READY, 1)]


PAIRS = [
    TakenPair("base", [paired(10 + k % 3, 11 + k % 2) for k in range(8)]),
    TakenPair("head", [paired(20 + k % 3, 20 + k % 2, "head") for k in range(12)]),
]


def test_what_is_stored_are_the_pairs_estimates_and_the_levels_of_their_processes() -> None:
    found = calibration(READY, PAIRS, "2026-01-01T00:00:00+00:00")
    assert (found.target, found.dtype, found.threads) == ("tiny", "float32", 1)
    assert found.workload == {"prompt_tokens": 8, "output_tokens": 3, "batch_size": 1, "concurrency": 1}
    assert set(found.metrics) == {"tpot_ms"}
    stored = found.metrics["tpot_ms"]
    logs = [[math.log(r.head["tpot_ms"] / r.base["tpot_ms"]) for r in each.rounds] for each in PAIRS]
    assert stored.differences == pytest.approx([pair_of(each).difference for each in logs], rel=1e-4)
    assert stored.errors == pytest.approx([pair_of(each).error for each in logs], rel=1e-4)
    assert stored.levels == pytest.approx([math.log(x) for x in (11, 11.5, 21, 20.5)], rel=1e-3)
    assert 0.03 < stored.rounds < 0.08


def test_a_metric_that_a_round_lacks_is_left_out() -> None:
    rounds = [paired(10.0, 10.0, ttft_ms=5.0)] * 7 + [paired(10.0, 10.0)]
    assert set(calibration(READY, [TakenPair("base", rounds)], "2026-01-01").metrics) == {"tpot_ms"}
    with pytest.raises(MeasurementError, match="tiny shows no time"):
        calibration(READY, [TakenPair("base", [PairedRound("base", {}, {})] * 8)], "2026-01-01")


@pytest.mark.parametrize("name", ["pairs.json", "pairs.json.gz"])
def test_traces_hold_every_round_as_it_was_taken(tmp_path: Path, name: str) -> None:
    write_traces(tmp_path / name, READY, PAIRS, "2026-01-01T00:00:00+00:00")
    raw = (tmp_path / name).read_bytes()
    content = json.loads(gzip.decompress(raw) if name.endswith(".gz") else raw)
    assert {key: content[key] for key in ("hardware", "target", "threads", "recorded")} == {
        "hardware": "cpu-x",
        "target": "tiny",
        "threads": 1,
        "recorded": "2026-01-01T00:00:00+00:00",
    }
    assert [each["first"] for each in content["pairs"]] == ["base", "head"]
    assert content["pairs"][1]["rounds"][1] == {"first": "head", "base": {"tpot_ms": 21}, "head": {"tpot_ms": 21}}
    assert [len(each["rounds"]) for each in content["pairs"]] == [8, 12]


def test_traces_hold_five_digits(tmp_path: Path) -> None:
    taken = [TakenPair("base", [paired(1.23456789, 0.00123456789)])]
    write_traces(tmp_path / "t.json", READY, taken, "2026-01-01")
    [pair] = json.loads((tmp_path / "t.json").read_text())["pairs"]
    assert pair["rounds"][0]["base"] == {"tpot_ms": 1.2346}
    assert pair["rounds"][0]["head"] == {"tpot_ms": 0.0012346}
