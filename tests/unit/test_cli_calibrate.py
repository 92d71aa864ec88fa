"""`llmperf calibrate`: real processes, what is stored and printed, and every way in which it ends early."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_llmperf.baselines.noise import noise_of
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.cli import calibrate as cli_calibrate
from pytest_llmperf.cli import main
from pytest_llmperf.duet.calibrate import TakenPair
from pytest_llmperf.duet.pairs import PairedRound
from pytest_llmperf.duet.script import Pace
from pytest_llmperf.duet.worker import Ready
from pytest_llmperf.model import Environment, Workload
from tests.fakes import TINY

SMALL = ["--device", "cpu", "--prompt-tokens", "8", "--output-tokens", "4", "--pairs", "2", "--rounds", "8"]
ENVIRONMENT = Environment(
    device="cpu", device_name="a processor", hardware="cpu-x", dtype="float32", threads=1, versions={}
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be measured, in place of measuring it."""
    asked: list[Any] = []

    def take_pairs(job: Any, count: int, rounds: int | None, *, begun: Any, progress: Any) -> Any:
        asked.append((job, count, rounds))
        ready = Ready(job.reference.id, job.workload, ENVIRONMENT, Pace(0.002, 0.01, rests=True))
        begun(ready, 150.0)
        taken = [PairedRound({"tpot_ms": 2.0 + k % 3 / 10}, {"tpot_ms": 2.0 + k % 2 / 10}) for k in range(8)]
        return ready, [TakenPair("base", taken)] * count

    monkeypatch.setattr(cli_calibrate, "take_pairs", take_pairs)
    return asked


def calibrate(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main(["calibrate", *map(str, arguments)])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    return status, *capfd.readouterr()


def test_pairs_of_real_processes_become_the_noise_of_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = calibrate(capfd, TINY, *SMALL, "--traces", "pairs.json.gz")
    assert status == 0
    content = json.loads(gzip.decompress(Path("pairs.json.gz").read_bytes()))
    assert [len(each["rounds"]) for each in content["pairs"]] == [8, 8]
    assert [each["first"] for each in content["pairs"]] == ["base", "head"]
    assert content["threads"] == 1
    assert set(content["pairs"][0]["rounds"][0]["head"]) == {"ttft_ms", "tpot_ms"}
    file = Store(Path("baselines")).noise(content["hardware"])
    assert file is not None
    [stored] = file.calibrations
    assert (stored.target, stored.threads, stored.recorded) == (content["target"], 1, content["recorded"])
    environment = Environment(device="cpu", dtype="float32", threads=1)
    assert set(noise_of(file, environment)) == {"ttft_ms", "tpot_ms"}
    assert "ttft_ms" in out
    assert f"stored in baselines/{content['hardware']}/noise.json" in out
    assert "2 pairs of processes" in err
    assert "takes at most" in err
    assert not psutil.Process().children(recursive=True)


def test_calibrating_again_adds_to_what_is_known(capfd: pytest.CaptureFixture[str], told: list[Any]) -> None:
    for tokens in (2, 3):  # two of one second must differ in something
        assert calibrate(capfd, TINY, "--output-tokens", tokens)[0] == 0
    file = Store(Path("baselines")).noise("cpu-x")
    assert file is not None
    assert [each.workload["output_tokens"] for each in file.calibrations] == [2, 3]


def test_without_a_target_a_small_model_is_taken_that_is_nowhere_to_be_downloaded(
    capfd: pytest.CaptureFixture[str], told: list[Any]
) -> None:
    assert calibrate(capfd)[0] == 0
    [(job, pairs, rounds)] = told
    assert job.reference.id.startswith("random:gpt2?")
    assert (pairs, rounds, job.workload, job.effort.threads) == (10, None, Workload(), 1)


def test_every_option_reaches_the_measurement(capfd: pytest.CaptureFixture[str], told: list[Any]) -> None:
    more = ["--dtype", "bf16", "--threads", "all", "--baselines", "kept", "--traces", "t.json"]
    assert calibrate(capfd, TINY, *SMALL, *more)[0] == 0
    [(job, pairs, rounds)] = told
    assert (pairs, rounds) == (2, 8)
    assert (job.options.device, job.options.dtype, job.effort.threads) == ("cpu", "bfloat16", None)
    assert (job.workload.prompt_tokens, job.workload.output_tokens) == (8, 4)
    assert Path("kept/cpu-x/noise.json").exists()
    assert json.loads(Path("t.json").read_text())["hardware"] == "cpu-x"


def test_what_it_will_cost_is_told_on_standard_error_before_it_is_spent(
    capfd: pytest.CaptureFixture[str], told: list[Any]
) -> None:
    _, out, err = calibrate(capfd)
    assert err.splitlines()[:2] == [
        "llmperf calibrate: 10 pairs of processes of random:gpt2?n_embd=256&n_head=4&n_layer=2&vocab_size=1000, "
        "8 to 40 rounds of each",
        "llmperf calibrate: takes at most 2 min",
    ]
    assert "pairs of processes" not in out


def test_a_broken_noise_file_ends_it_before_any_more_time_goes_into_it(
    capfd: pytest.CaptureFixture[str], told: list[Any]
) -> None:
    path = Path("baselines/cpu-x/noise.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "calibrations": 7}')
    status, out, err = calibrate(capfd)
    assert (status, out) == (1, "")
    assert "baselines/cpu-x/noise.json: calibrations: expected" in err
    assert "takes at most" not in err
    assert path.read_text() == '{"schema": 1, "calibrations": 7}'


def test_what_only_the_processes_find_to_be_misuse_is_exit_status_4_as_well(
    capfd: pytest.CaptureFixture[str],
) -> None:
    status, out, err = calibrate(capfd, "random:gpt2?n_layr=2", *SMALL)
    assert (status, out) == (4, "")
    assert "n_layr" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not psutil.Process().children(recursive=True)


def test_a_target_that_cannot_be_loaded_is_one_sentence_and_exit_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = calibrate(capfd, "./missing", *SMALL)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("llmperf: model='./missing': this path does not exist")
    assert "Traceback" not in err
    assert not Path("baselines").exists()
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    ("arguments", "told_"),
    [
        (["--pairs", "1"], "--pairs 1: expected at least 2"),
        (["--rounds", "7"], "--rounds 7: expected at least 8"),
        (["--pairs", "0"], "'0': expected"),
        (["--pairs", "2,3"], "'2,3': expected a whole number of at least 1"),
        (["--device", "gpu"], "device='gpu' is no device"),
        (["--traces", "nowhere/t.json"], "--traces nowhere/t.json: there is no folder nowhere"),
        (["random:gpt2?n_layer"], "'n_layer' is no option"),
        ([""], "is empty"),
    ],
)
def test_misuse_is_exit_status_4(
    capfd: pytest.CaptureFixture[str], told: list[Any], arguments: list[str], told_: str
) -> None:
    status, out, err = calibrate(capfd, *arguments)
    assert (status, out) == (4, "")
    assert told_ in err
    assert not told


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_it_and_its_processes_and_stores_nothing(folder: Path) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from pytest_llmperf.cli import main; sys.exit(main())"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "calibrate", TINY, *SMALL, "--pairs", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    said = [running.stderr.readline(), running.stderr.readline()]
    assert "takes at most" in said[1]
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) == 2
    assert not {os.getpgid(child.pid) for child in children} & {running.pid}, "each is to be ended with all it started"
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to every process
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "llmperf: interrupted\n")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not Path("baselines").exists()
