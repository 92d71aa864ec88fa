"""Pairs of processes that take turns, and what a calibration makes of them."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import signal
import statistics

import pytest

from pytest_llmperf import cli
from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.duet import pairs as pairs_module
from pytest_llmperf.duet.calibrate import calibration, noise_levels, raw, take_pairs, visible_by_duet, visible_stored
from pytest_llmperf.duet.pairs import PairedRound, PairTrace, take_pair
from pytest_llmperf.duet.process import Job, serving
from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.model import Environment, Round, Trace, Verdict, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS, PRIORS, Level, Noise, alpha, decide, stored_estimate
from tests.fakes import TINY

CPU = LoadOptions(device="cpu")
QUIET = Noise(0.01, 0.03, df=10, calibrated=True)


def job(target=TINY, **sizes):
    return Job(resolve(target), CPU, Workload(**{"prompt_tokens": 8, "output_tokens": 4, **sizes}), warm_up_time=0.05)


# Real processes


def test_a_pair_takes_turns_round_by_round_and_says_who_was_first():
    noise = dict.fromkeys(pairs_module.TIMED, QUIET)
    trace = take_pair(job(), job(), first="head", draw=random.Random(1), noise=noise, rounds=6)
    assert trace.first == "head"
    assert len(trace.rounds) == 6
    assert {taken.first for taken in trace.rounds} == {"base", "head"}
    assert trace.environment.hardware == hardware("cpu")
    assert trace.environment.threads == 1
    for metric in ("ttft_ms", "tpot_ms"):
        assert len(trace.differences(metric)) == 6
        assert all(value > 0 for arm in ("base", "head") for value in trace.values(metric, arm))


def test_a_process_that_dies_is_told_of_by_its_exit_code():
    with serving(job()) as process:
        process.environment()
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(MeasurementError, match=r"ended by itself, with exit code -9"):
            process.round()


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("/nowhere/at/all", TargetError, "/nowhere/at/all"),
        ("random:gpt2?n_layer=2&n_positions=16", UsageError, "positions for 16 tokens"),
    ],
)
def test_what_goes_wrong_in_a_process_is_raised_here_as_it_was_there(target, error, message):
    with pytest.raises(error, match=message), serving(job(target, prompt_tokens=20)) as process:
        process.environment()


def test_no_process_outlives_its_stretch_of_work():
    with serving(job()) as process:
        process.environment()
        alive = process._process.is_alive()
    assert (alive, process._process.is_alive()) == (True, False)


def test_ctrl_c_is_left_to_the_one_that_started_the_process():
    with serving(job()) as process:
        process.environment()
        os.kill(process._process.pid, signal.SIGINT)
        assert len(process.round().traces) == 1


# How many rounds


class Scripted:
    """Serves rounds of given factors without a process."""

    started = 0

    def __init__(self, spread):
        Scripted.started += 1
        self.draw = random.Random(Scripted.started)
        self.spread = spread

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def environment(self):
        return Environment(hardware="fake", threads=1)

    def round(self):
        factor = math.exp(self.draw.gauss(0, self.spread))
        arrivals = tuple(0.1 * factor + 0.01 * factor * k for k in range(5))
        return Round((Trace(0.0, arrivals, prompt_tokens=8),))


def taken_with(monkeypatch, spread, **options):
    monkeypatch.setattr(pairs_module, "serving", lambda job: Scripted(spread))
    noise = dict.fromkeys(pairs_module.TIMED, QUIET)
    return take_pair(job(), job(), draw=random.Random(0), noise=noise, **options)


def test_rounds_end_at_the_first_look_that_is_precise(monkeypatch):
    assert len(taken_with(monkeypatch, 0.001).rounds) == PAIRED_ROUNDS[0]


def test_rounds_go_on_to_the_last_look_where_none_is(monkeypatch):
    assert len(taken_with(monkeypatch, 2.0).rounds) == PAIRED_ROUNDS[-1]


def test_a_number_of_rounds_is_exactly_that(monkeypatch):
    assert len(taken_with(monkeypatch, 0.001, rounds=3).rounds) == 3


def test_the_launch_order_changes_from_pair_to_pair(monkeypatch):
    monkeypatch.setattr(pairs_module, "serving", lambda job: Scripted(0.01))
    stages = []
    traces = take_pairs(job(), 3, rounds=2, progress=stages.append)
    assert [trace.first for trace in traces] == ["base", "head", "base"]
    assert stages[0] == "pair 1 of 3: starting two processes"
    assert stages[-1] == "pair 3 of 3: round 2 of 2"


# What a calibration stores


def trace_of(base, head):
    taken = [PairedRound("base", {"tpot_ms": b}, {"tpot_ms": h}) for b, h in zip(base, head, strict=True)]
    return PairTrace("base", tuple(taken), Environment(device="cpu", hardware="cpu-test-2c", threads=1))


def test_a_calibration_holds_differences_errors_and_levels_of_each_pair():
    traces = [trace_of([2.0] * 8, [3.0] * 8), trace_of([4.0] * 8, [4.0] * 8)]
    stored = calibration(traces, job(), "2026-01-01").metrics
    assert list(stored) == ["tpot_ms"]  # no ttft was seen
    pairs = stored["tpot_ms"]
    assert pairs.differences == pytest.approx([math.log(1.5), 0.0], rel=1e-3)
    assert pairs.errors == [0.0, 0.0]
    assert pairs.levels == pytest.approx([(math.log(2) + math.log(3)) / 2, math.log(4)], rel=1e-3)
    assert pairs.rounds == 0.0


def test_the_spread_of_rounds_is_that_within_processes():
    up_and_down = [1.0, math.e] * 4
    pairs = calibration([trace_of(up_and_down, up_and_down)], job(), "2026-01-01").metrics["tpot_ms"]
    assert pairs.rounds == pytest.approx(0.5)


def test_noise_between_processes_is_found_again():
    draw = random.Random(3)
    traces = []
    for _ in range(200):
        base, head = (math.exp(draw.gauss(0, 0.03)) for _ in range(2))
        noisy = [[level * math.exp(draw.gauss(0, 0.01)) for _ in range(12)] for level in (base, head)]
        traces.append(trace_of(*noisy))
    found = noise_levels([calibration(traces, job(), "2026-01-01")], "tpot_ms", "cpu")
    assert found.process == pytest.approx(0.03, rel=0.15)
    assert found.df == 200
    assert found.calibrated
    assert found.session >= PRIORS["cpu"].session  # one sitting cannot tell what lies between sessions


def test_raw_traces_hold_every_round():
    content = raw([trace_of([2.0, 2.5], [3.0, 3.5])], job(), "2026-01-01")
    assert json.loads(json.dumps(content)) == content
    assert content["hardware"] == "cpu-test-2c"
    assert content["workload"]["output_tokens"] == 4
    assert content["pairs"][0]["rounds"][1] == {"first": "base", "base": {"tpot_ms": 2.5}, "head": {"tpot_ms": 3.5}}


# What shows through the noise


@pytest.mark.parametrize("sessions", [1, 5, 20])
def test_the_visible_change_is_where_the_rule_begins_to_say_regressed(sessions):
    visible = math.log1p(visible_stored(QUIET, sessions))
    base = [Level(0.0)] * sessions

    def verdict(change):
        estimate = stored_estimate(base, [Level(change, QUIET.fewest)], QUIET)
        return decide(estimate, 0.05, alpha=alpha(1))

    assert verdict(visible * 1.01) is Verdict.REGRESSED
    assert verdict(visible * 0.99) is not Verdict.REGRESSED


def test_more_sessions_and_a_duet_show_smaller_changes():
    shown = [visible_stored(QUIET, sessions) for sessions in (1, 5, 20)]
    assert shown == sorted(shown, reverse=True)
    assert visible_by_duet(QUIET, "cpu") < shown[-1]


# The command


def test_calibrating_stores_noise_beside_the_baselines_and_again_adds_to_it(tmp_path, capsys):
    folder, traces = tmp_path / "baselines", tmp_path / "traces.json.gz"
    command = ["calibrate", TINY, "--pairs=2", "--rounds=3", "--prompt-tokens=8", "--output-tokens=4", "--device=cpu"]
    assert cli.main([*command, f"--baselines={folder}", f"--traces={traces}"]) == 0
    shown = capsys.readouterr()
    assert "ttft_ms" in shown.out
    assert "vs 20" in shown.out
    assert len(json.loads(gzip.decompress(traces.read_bytes()))["pairs"]) == 2
    assert cli.main([*command, f"--baselines={folder}"]) == 0
    stored = json.loads((folder / hardware("cpu") / "noise.json").read_text())
    assert [len(each["metrics"]["tpot_ms"]["differences"]) for each in stored["calibrations"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["/nowhere/at/all", "--pairs=1"], 1, "/nowhere/at/all"),
        (["--traces=/nowhere/t.json"], 4, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_a_sentence(tmp_path, capsys, arguments, status, message):
    assert cli.main(["calibrate", *arguments, f"--baselines={tmp_path}"]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("noise.json"))


@pytest.mark.parametrize("arguments", [["--pairs=0"], ["--rounds=x"], ["--threads=none"]])
def test_wrong_numbers_are_misuse(arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["calibrate", *arguments])
    assert ended.value.code == 4


def test_the_median_difference_is_not_moved_by_one_wild_round():
    wild = trace_of([1.0] * 11 + [9.0], [1.02] * 12)
    pair = wild.pair("tpot_ms")
    assert pair is not None
    assert pair.difference == pytest.approx(math.log(1.02), abs=1e-9)
    assert statistics.fmean(wild.differences("tpot_ms")) < -0.1
