"""From process pairs to what is stored of them, and to the file of traces."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf.duet import calibrate
from pytest_llmperf.duet.calibrate import TakenPair, calibration, take_pairs, write_traces
from pytest_llmperf.duet.pairs import PairedRound
from pytest_llmperf.duet.script import Pace, Script, Side, other
from pytest_llmperf.duet.sides import Conductor
from pytest_llmperf.duet.worker import Job, Ready
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.model import Environment, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.verdict.comparison import pair_of
from tests.fakes import TINY

ENVIRONMENT = Environment(device="cpu", hardware="cpu-x", dtype="float32", threads=1)
READY = Ready("tiny", Workload(8, 3), ENVIRONMENT, Pace(0.01, 0.02, rests=True))
JOB = Job(resolve(TINY), LoadOptions("cpu"), Workload(8, 3))


def paired(base: float, head: float, **more: float) -> PairedRound:
    return PairedRound({"tpot_ms": base, **more}, {"tpot_ms": head, **more})


class FakeConductor(Conductor):
    """Takes rounds of which head is 1 % slower, give or take up to twice `spread`; `opened` notes them."""

    opened: list[dict[str, Any]]
    spread = 0.0
    prefills = 0.0
    """Spread of the time to the first token, which does not depend on the rounds of whole requests."""

    def round(self, script: Script) -> PairedRound:
        noted = self.opened[-1]
        noted["orders"].append(script.order)
        noted["whole" if script.decodes else "alone"] += 1
        step = len(noted["orders"]) % 5 - 2
        tpot = {"tpot_ms": math.exp(0.01 + self.spread * step), "latency_ms": math.exp(step)} if script.decodes else {}
        ttft = math.exp(self.prefills * step)
        return PairedRound({"ttft_ms": 1.0, **dict.fromkeys(tpot, 1.0)}, {"ttft_ms": ttft, **tpot})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    @contextmanager
    def pair(job: Job, first: Side) -> Iterator[dict[Side, Any]]:
        assert job is JOB
        FakeConductor.opened.append({"first": first, "orders": [], "whole": 0, "alone": 0})
        yield {side: SimpleNamespace(ready=READY) for side in (first, other(first))}

    monkeypatch.setattr(FakeConductor, "opened", [], raising=False)
    monkeypatch.setattr(calibrate, "Conductor", FakeConductor)
    monkeypatch.setattr(calibrate, "pair", pair)
    return FakeConductor.opened


def test_each_side_is_started_first_in_every_other_pair_and_no_order_comes_twice(opened: list[Any]) -> None:
    _, taken = take_pairs(JOB, 4, 20)
    assert [each.first for each in taken] == [how["first"] for how in opened] == ["base", "head", "base", "head"]
    assert len({tuple(how["orders"]) for how in opened}) == 4


@pytest.mark.parametrize(
    ("spread", "rounds", "served"), [(0.0, None, 8), (0.3, None, 40), (0.0, 11, 11), (0.3, 90, 90)]
)
def test_a_pair_ends_when_it_is_as_precise_as_can_be_asked(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch, spread: float, rounds: int | None, served: int
) -> None:
    monkeypatch.setattr(FakeConductor, "spread", spread)
    _, taken = take_pairs(JOB, 2, rounds)
    assert [len(each.rounds) for each in taken] == [how["whole"] for how in opened] == [served, served]


def test_prefills_alone_go_on_where_only_they_are_not_precise_yet(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeConductor, "prefills", 0.3)
    _, taken = take_pairs(JOB, 2)
    assert [(how["whole"], how["alone"]) for how in opened] == [(8, 32), (8, 32)]
    assert [sum("tpot_ms" in each.head for each in pair.rounds) for pair in taken] == [8, 8]
    stored = calibration(READY, taken, "2026-01-01").metrics
    assert stored["ttft_ms"].rounds > 0.2
    assert stored["tpot_ms"].levels == pytest.approx([0.0, 0.01, 0.0, 0.01])


def test_only_what_is_compared_by_default_is_kept_of_a_round(opened: list[Any]) -> None:
    _, taken = take_pairs(JOB, 1)
    assert {name for each in taken[0].rounds for name in (*each.base, *each.head)} == {"ttft_ms", "tpot_ms"}


def test_what_all_will_take_is_told_once_before_the_first_round(opened: list[Any]) -> None:
    told: list[tuple[Ready, int]] = []
    take_pairs(JOB, 3, begun=lambda ready, most: told.append((ready, opened[0]["whole"])))
    assert told == [(READY, 0)]


def test_what_all_will_take_follows_from_the_pace_of_the_first_two_processes(opened: list[Any]) -> None:
    told: list[float] = []
    take_pairs(JOB, 3, 10, begun=lambda ready, most: told.append(most))
    prefills, gaps = 2 + 1, 3  # 50 ms of prefills, one to warm up, and a gap for each token
    assert told[0] == pytest.approx(3 * 10 * 2 * (prefills * 0.02 + gaps * 0.01), abs=0.5)


PAIRS = [
    TakenPair("base", [paired(10 + k % 3, 11 + k % 2) for k in range(8)]),
    TakenPair("head", [paired(20 + k % 3, 20 + k % 2) for k in range(12)]),
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


def test_a_metric_that_a_pair_lacks_is_left_out() -> None:
    having, lacking = [paired(10.0, 10.0, ttft_ms=5.0)] * 8, [paired(10.0, 10.0)] * 8
    taken = [TakenPair("base", having), TakenPair("head", lacking)]
    assert set(calibration(READY, taken, "2026-01-01").metrics) == {"tpot_ms"}
    with pytest.raises(MeasurementError, match="tiny shows no time"):
        calibration(READY, [TakenPair("base", [PairedRound({}, {})] * 8)], "2026-01-01")


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
    assert content["pairs"][1]["rounds"][1] == {"base": {"tpot_ms": 21}, "head": {"tpot_ms": 21}}
    assert [len(each["rounds"]) for each in content["pairs"]] == [8, 12]


def test_traces_hold_five_digits(tmp_path: Path) -> None:
    taken = [TakenPair("base", [paired(1.23456789, 0.00123456789)])]
    write_traces(tmp_path / "t.json", READY, taken, "2026-01-01")
    [pair] = json.loads((tmp_path / "t.json").read_text())["pairs"]
    assert pair["rounds"][0]["base"] == {"tpot_ms": 1.2346}
    assert pair["rounds"][0]["head"] == {"tpot_ms": 0.0012346}
