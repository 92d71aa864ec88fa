"""From calibrations to noise levels: what is taken off, what is pooled, and what is still assumed."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.baselines.noise import LEAST, days_of, is_bimodal, noise, noise_of, process_noise
from pytest_llmperf.baselines.schema import Calibration, NoiseFile, Pairs
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.model import Environment
from pytest_llmperf.verdict.comparison import PRIORS, Noise

PRIOR = Noise(0.02, 0.05)
HERE = Environment(device="cpu", dtype="float32", threads=1)


def calibration(
    day: int = 1,
    hour: int = 12,
    *,
    level: float = 2.0,
    spread: float = 0.01,
    error: float = 0.0,
    pairs: int = 10,
    **fields: Any,
) -> Calibration:
    """Pairs whose differences lie ± `spread` apart, at one level."""
    differences = [spread * (-1) ** k for k in range(pairs)]
    measured = Pairs(differences=differences, errors=[error] * pairs, levels=[level] * 2 * pairs, rounds=0.05)
    known = {"target": "a", "dtype": "float32", "threads": 1, "metrics": {"tpot_ms": measured}}
    return Calibration(recorded=f"2026-01-{day:02}T{hour:02}:00:00+00:00", **{**known, **fields})


def noise_here(*calibrations: Calibration, target: str = "", environment: Environment = HERE) -> Noise | None:
    return noise_of(NoiseFile(calibrations=list(calibrations)), environment, target).get("tpot_ms")


# Between processes


@pytest.mark.parametrize(
    ("spread", "error", "expected"),
    [
        (0.01, 0.0, (0.01 / math.sqrt(2), 10.0)),  # worth more than the prior: alone
        (0.10, 0.10, (math.sqrt((LEAST**2 + 3 * 0.02**2) / 4), 4.0)),  # worth next to nothing
        (0.05, 0.04, (math.sqrt((1.296 * 0.03**2 / 2 + 2.704 * 0.02**2) / 4), 4.0)),  # 10 * (9/25)**2 = 1.296
    ],
)
def test_a_calibration_worth_less_than_the_prior_is_filled_up_with_it(
    spread: float, error: float, expected: tuple[float, float]
) -> None:
    found = noise([calibration(spread=spread, error=error)], "tpot_ms", PRIOR)
    assert (found.process, found.df) == (pytest.approx(expected[0], rel=1e-3), pytest.approx(expected[1]))


def test_the_spread_of_processes_is_a_root_of_two_below_that_of_their_differences() -> None:
    deviation, df = process_noise([0.02, -0.02, 0.02, -0.02], [0.0] * 4)
    assert deviation == pytest.approx(0.02 / math.sqrt(2))
    assert df == 4


def test_the_pairs_own_error_is_taken_off() -> None:
    deviation, df = process_noise([0.05, -0.05] * 5, [0.03] * 10)
    assert deviation == pytest.approx(0.04 / math.sqrt(2))
    assert df == pytest.approx(10 * (16 / 25) ** 2)


def test_the_loudest_pairs_do_not_drown_the_rest() -> None:
    precise, loud = ([0.01, -0.01] * 5, [0.001] * 10), ([0.5, -0.1] * 2, [0.3] * 4)
    deviation, df = process_noise(precise[0] + loud[0], precise[1] + loud[1])
    assert deviation == pytest.approx(0.01 / math.sqrt(2), rel=0.02)
    assert df == pytest.approx(10, rel=0.03)


def test_what_the_pairs_own_error_hides_is_worth_next_to_nothing() -> None:
    assert process_noise([0.01, -0.01] * 5, [0.03] * 10) == (LEAST, 1.0)


def test_pairs_that_agree_to_the_last_digit_are_no_proof_of_silence() -> None:
    assert process_noise([0.0] * 10, [0.0] * 10) == (LEAST, 10.0)


def test_the_estimate_is_right_on_average() -> None:
    draw = random.Random(1)
    found = []
    for _ in range(400):
        differences = [draw.gauss(0, math.hypot(math.sqrt(2) * 0.01, 0.008)) for _ in range(20)]
        found.append(process_noise(differences, [0.008] * 20)[0] ** 2)
    assert math.sqrt(statistics.fmean(found)) == pytest.approx(0.01, rel=0.03)


# Between sessions


def test_one_calibration_says_nothing_of_other_days() -> None:
    found = noise([calibration()], "tpot_ms", PRIOR)
    assert (found.session, found.session_df) == (PRIOR.session, PRIOR.session_df)
    assert found.calibrated
    assert found.process == pytest.approx(0.01 / math.sqrt(2))
    assert found.df == 10


def test_three_days_replace_the_prior() -> None:
    days = [calibration(day, level=2 + 0.03 * day) for day in (1, 2, 3)]
    found = noise(days, "tpot_ms", PRIOR)
    assert (found.session, found.session_df) == (pytest.approx(0.03), 2)
    assert found.df == 30


def test_calibrations_of_one_day_are_one_session() -> None:
    found = noise([calibration(1, hour, level=2 + 0.001 * hour) for hour in range(10)], "tpot_ms", PRIOR)
    assert (found.session, found.session_df) == (PRIOR.session, PRIOR.session_df)
    assert days_of([calibration(1, hour) for hour in range(10)], "tpot_ms") == 1


def test_what_is_seen_on_two_days_raises_the_prior_and_never_lowers_it() -> None:
    far = noise([calibration(1), calibration(2, level=2.4)], "tpot_ms", PRIOR)
    near = noise([calibration(1), calibration(2)], "tpot_ms", PRIOR)
    assert far.session == pytest.approx(0.4 / math.sqrt(2))
    assert near.session == PRIOR.session


def test_levels_of_different_work_are_not_compared() -> None:
    short = [calibration(day, workload={"prompt_tokens": 8}) for day in (1, 2, 3)]
    long = [calibration(day, level=6.0, workload={"prompt_tokens": 512}) for day in (4, 5, 6)]
    assert noise([*short, *long], "tpot_ms", PRIOR).session == pytest.approx(0.01 / math.sqrt(2))
    assert days_of([*short, *long], "tpot_ms") == 3


def test_one_work_that_is_known_over_days_is_not_forgotten_for_another_that_is_new() -> None:
    days = [calibration(day, level=2 + 0.01 * day) for day in range(1, 6)]
    found = noise([*days, calibration(5, 13, target="b")], "tpot_ms", PRIOR)
    assert (found.session, found.session_df) == (pytest.approx(0.01 * math.sqrt(2.5)), 4)


# Which calibrations count


def test_only_calibrations_with_as_many_threads_count() -> None:
    assert noise_here(calibration(threads=2)) is None
    assert noise_of(None, HERE) == {}
    both = noise_here(calibration(threads=2, spread=0.5), calibration())
    assert both is not None
    assert both.process == pytest.approx(0.01 / math.sqrt(2))


def test_a_target_that_was_calibrated_itself_knows_its_own_noise() -> None:
    loud, calm = calibration(target="loud", spread=0.04), calibration(target="calm", spread=0.01)
    found = {name: noise_here(loud, calm, target=name) for name in ("loud", "calm", "another")}
    levels = {name: each.process * math.sqrt(2) for name, each in found.items() if each}
    assert levels == pytest.approx({"loud": 0.04, "calm": 0.01, "another": 0.04})


def test_a_target_of_another_dtype_is_another() -> None:
    wide, narrow = calibration(spread=0.01), calibration(spread=0.04, dtype="bfloat16")
    found = noise_here(wide, narrow, target="a", environment=dataclasses.replace(HERE, dtype="bfloat16"))
    assert found is not None
    assert found.process == pytest.approx(0.04 / math.sqrt(2))


def test_the_prior_is_that_of_the_device() -> None:
    found = noise_here(calibration(), environment=dataclasses.replace(HERE, device="cuda:0"))
    assert found is not None
    assert found.session == PRIORS["cuda"].session


# Two kinds of processes


def normal(draw: random.Random) -> float:
    return draw.gauss(0, 1)


def heavy(draw: random.Random) -> float:
    """Student's t of three degrees of freedom."""
    return draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2) / 3)


def two_kinds(distance: float, share: float) -> Callable[[random.Random], float]:
    return lambda draw: draw.gauss(0, 1) + distance * (draw.random() < share)


def share_called_bimodal(process: Callable[[random.Random], float], pairs: int, trials: int = 300) -> float:
    draw = random.Random(7)
    calibrated = ([process(draw) - process(draw) for _ in range(pairs)] for _ in range(trials))
    return sum(is_bimodal(differences, [0.0] * pairs) for differences in calibrated) / trials


@pytest.mark.parametrize("pairs", [8, 10, 20])
@pytest.mark.parametrize("process", [normal, heavy])
def test_processes_of_one_kind_are_seldom_called_two(process: Callable[[random.Random], float], pairs: int) -> None:
    # 5 % is claimed; 7.5 % is beyond what 300 trials show of that by chance, once in 40 times
    assert share_called_bimodal(process, pairs) < 0.075


@pytest.mark.parametrize(
    ("distance", "share", "pairs", "seen"),
    [(8, 0.5, 8, 0.3), (8, 0.5, 10, 0.5), (8, 0.5, 20, 0.9), (8, 0.2, 10, 0.4), (8, 0.2, 20, 0.85), (5, 0.5, 20, 0.2)],
)
def test_two_kinds_of_processes_that_lie_far_apart_are_seen(
    distance: float, share: float, pairs: int, seen: float
) -> None:
    assert share_called_bimodal(two_kinds(distance, share), pairs) > seen


def test_few_pairs_and_pairs_without_any_difference_are_of_one_kind() -> None:
    assert not is_bimodal([0.0, 1.0] * 3, [0.0] * 6)
    assert not is_bimodal([0.0] * 20, [0.0] * 20)
    assert is_bimodal([0.0, 1.0, -1.0, 0.01] * 4, [0.0] * 16)


def test_pairs_that_are_no_farther_apart_than_their_own_errors_are_of_one_kind() -> None:
    apart = [0.0, 1.0, -1.0, 0.01] * 4
    assert is_bimodal(apart, [0.3] * 16)
    assert not is_bimodal(apart, [0.35] * 16)


def test_two_kinds_in_any_work_are_two_kinds() -> None:
    two = [0.0, 0.001, -0.001, 0.0, 0.002, -0.002, 0.001, 0.002, -0.001, 0.0]
    pairs = Pairs(differences=[each * 5 for each in two], errors=[0.0] * 10, levels=[2.0] * 20, rounds=0.05)
    calm = calibration(target="b", metrics={"tpot_ms": pairs.model_copy(update={"differences": [0.0, 0.01] * 5})})
    assert noise([calibration(spread=0.1), calm], "tpot_ms", PRIOR).bimodal
    assert not noise([calibration(spread=0.1)], "tpot_ms", PRIOR).bimodal


# Files that are none


def stored(folder: Path, **fields: Any) -> Store:
    content = json.loads(NoiseFile(calibrations=[calibration(pairs=2)]).model_dump_json(by_alias=True))
    [known] = content["calibrations"]
    pairs = known["metrics"]["tpot_ms"]
    for name, value in fields.items():
        (pairs if name in pairs else known)[name] = value
    (folder / "cpu").mkdir()
    (folder / "cpu" / "noise.json").write_text(json.dumps({**content, "schema": 1}))
    return Store(folder)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"differences": []}, "differences"),
        ({"errors": [0.1]}, "metrics.tpot_ms: expected as many errors as differences"),
        ({"levels": []}, "metrics.tpot_ms.levels"),
        ({"errors": [0.1, -0.1]}, "errors.1"),
        ({"rounds": -1.0}, "rounds"),
        ({"threads": 0}, "calibrations.0.threads"),
        ({"recorded": "yesterday"}, "calibrations.0.recorded: expected a time like 2026-01-31T12:00:00"),
        ({"metrics": {}}, "calibrations.0.metrics"),
    ],
)
def test_a_noise_file_that_contradicts_itself_is_an_error_that_names_it(
    tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(BaselineError) as error:
        stored(tmp_path, **fields).noise("cpu")
    assert f"{tmp_path.name}/cpu/noise.json: calibrations.0" in str(error.value)
    assert told in str(error.value)


def test_a_calibration_that_stands_there_twice_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = stored(tmp_path)
    path = tmp_path / "cpu" / "noise.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "calibrations": content["calibrations"] * 2}))
    with pytest.raises(
        BaselineError, match=r"noise\.json: calibrations: expected each calibration once, .* a at 2026-01-01T12"
    ):
        store.noise("cpu")


def test_a_noise_file_is_read_as_it_was_written_and_added_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    added = [calibration(1, workload={"prompt_tokens": 8}), calibration(2)]
    for each in added:
        store.add_noise("cpu", each)
    assert Store(tmp_path).noise("cpu") == NoiseFile(calibrations=added)
