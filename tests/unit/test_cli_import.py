"""`llmperf import`: what it prints, what it records, and its exit status."""

from __future__ import annotations

import json
import re

import pytest

from pytest_llmperf.cli import main
from tests.foreign import AIPERF, GUIDELLM, aiperf, guidellm, vllm

TEST = "tests/test_serving.py::test_load"


@pytest.fixture
def run(llmperf_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    return lambda *arguments: llmperf_command("import", "--test", TEST, *arguments)


def stored(folder, hardware="served-unknown"):
    return json.loads((folder / "baselines" / hardware / "tests" / "test_serving.json").read_text())["tests"]


def two(folder, name, scale):
    """Two runs of the same load."""
    return [vllm(folder / f"{name}{number}.json", 40, scale=scale * (1 + number / 1000)) for number in (1, 2)]


# Limits


@pytest.mark.parametrize("file", [AIPERF, GUIDELLM], ids=["aiperf", "guidellm"])
def test_a_file_is_judged_as_if_it_had_been_measured_here(run, file):
    status, out, err = run(file, "--limit", "ttft_ms < 500", "--limit", "tpot_ms < 50")
    assert (status, err) == (0, "")
    assert out.startswith(f"{TEST}\n  endpoint:localhost/paced · 32 → 16 tokens")
    assert re.search(r"ttft_ms +[\d.]+ ± [\d.]+ +ms +< 500 +OK +12", out)
    assert re.search(r"tpot_ms +9\.\d+ ± [\d.]+ +ms +< 50 +OK +12", out)
    assert "served-localhost (llmperf import --update records what is measured)" in out


def test_a_broken_limit_is_exit_status_1(run, tmp_path):
    status, out, _ = run(vllm(tmp_path / "run.json"), "--limit", "ttft_ms < 50", "--limit", "tpot_ms < 5")
    assert status == 1
    assert "1 measured: 1 broken" in out


def test_a_limit_on_what_the_file_does_not_say_is_broken_with_the_reason(run):
    status, out, _ = run(GUIDELLM, "--limit", "itl_ms.p95 < 50")
    assert status == 1
    assert "itl_ms.p95: not measured: GuideLLM keeps no single gaps" in out


def test_notes_stand_below_the_table(run, tmp_path):
    path = aiperf(tmp_path / "run")
    path.with_name("profile_export_aiperf.json").unlink()
    status, out, _ = run(path)
    assert status == 0
    said = " ".join(out.split())
    assert f"{TEST}: profile_export_aiperf.json is not beside the file: model, address and load are not known" in said


# Baselines


def test_what_is_recorded_is_compared_with(run, tmp_path):
    status, out, _ = run(*two(tmp_path, "base", 1.0), "--update")
    assert status == 0
    assert "baselines: 0 updated, 1 new, 0 unchanged" in out
    status, out, _ = run(*two(tmp_path, "head", 1.0))
    assert status == 0
    assert len(re.findall("no change seen", out)) == 2
    status, out, _ = run(*two(tmp_path, "slow", 2.0))
    assert status == 1
    assert "1 measured: 1 regressed" in out


def test_one_run_alone_proves_no_regression(run, tmp_path):
    run(*two(tmp_path, "base", 1.0), "--update")
    slow, _ = two(tmp_path, "slow", 2.0)
    status, out, _ = run(slow)
    assert status == 0
    assert "1 measured: 1 inconclusive" in out
    assert "not measured again: one run proves nothing, and a second file of the same load may" in out
    status, _, _ = run(slow, "--strict", "inconclusive")
    assert status == 1


def test_a_session_says_which_tool_measured_it_on_what(run, tmp_path):
    run(AIPERF, "--update")
    (entry,) = stored(tmp_path, "served-localhost").values()
    (session,) = entry["sessions"]
    assert entry["workload"]["concurrency"] == 4
    assert session["target"] == "endpoint:localhost/paced"
    assert session["versions"] == {"load generator": "AIPerf 0.13.0"}
    assert {"ttft_ms", "tpot_ms"} <= set(session["metrics"])


def test_append_adds_a_session_and_update_takes_its_place(run, tmp_path):
    file = vllm(tmp_path / "run.json")
    for option, sessions in (("--update", 1), ("--append", 2), ("--append", 3), ("--update", 1)):
        assert run(file, option)[0] == 0
        assert len(stored(tmp_path)["test_load"]["sessions"]) == sessions


def test_what_breaks_a_limit_is_not_recorded_unless_forced(run, tmp_path):
    file = vllm(tmp_path / "run.json")
    status, out, _ = run(file, "--limit", "ttft_ms < 5", "--update")
    assert status == 1
    assert f"not recorded: {TEST}: it breaks a limit (--force records it all the same)" in out
    assert not (tmp_path / "baselines" / "served-unknown").exists()
    run(file, "--limit", "ttft_ms < 5", "--update", "--force")
    assert stored(tmp_path)


def test_hardware_and_folder_are_those_that_were_named(run, tmp_path):
    run(AIPERF, "--update", "--hardware", "served-h200", "--baselines", tmp_path / "own")
    assert (tmp_path / "own" / "served-h200" / "tests" / "test_serving.json").is_file()


def test_another_load_is_new(run, tmp_path):
    run(vllm(tmp_path / "run.json"), "--update")
    _, out, _ = run(vllm(tmp_path / "other.json", max_concurrency=8))
    assert "NEW: the baseline is of another workload" in out
    status, _, _ = run(vllm(tmp_path / "other.json", max_concurrency=8), "--strict", "new")
    assert status == 1


def test_the_tolerance_is_the_one_that_was_named(run, tmp_path):
    run(*two(tmp_path, "base", 1.0), "--update")
    status, out, _ = run(*two(tmp_path, "slow", 2.0), "--tolerance", "90%", "--limit", "tpot_ms.within(95%)")
    assert status == 0, out


def test_what_is_stored_and_what_is_reported_can_be_shown_and_compared(run, tmp_path, capsys):
    base, head = tmp_path / "base.report", tmp_path / "head.report"
    run(*two(tmp_path, "base", 1.0), "--update", "--json", base)
    run(*two(tmp_path, "head", 2.0), "--json", head)
    capsys.readouterr()
    assert main(["show", str(tmp_path / "baselines" / "served-unknown")]) == 0
    assert "test_load" in capsys.readouterr().out
    assert main(["compare", str(base), str(head)]) == 1
    assert "REGRESSED" in capsys.readouterr().out


# Several loads


def several(folder):
    def change(report):
        first = report["benchmarks"][0]
        second = json.loads(json.dumps(first))
        second["config"]["strategy"]["streams"] = 8
        report["benchmarks"].append(second)

    return guidellm(folder / "benchmarks.json", change)


def test_each_load_of_a_file_is_a_measurement_with_its_label(run, tmp_path):
    status, out, _ = run(several(tmp_path), "--update")
    assert status == 0
    assert "2 measured: 2 new" in out
    assert set(stored(tmp_path, "served-localhost")) == {"test_load::concurrent@4", "test_load::concurrent@8"}


def test_one_of_them_is_selected_and_needs_no_label(run, tmp_path):
    run(several(tmp_path), "--update", "--select", "concurrent@8")
    assert set(stored(tmp_path, "served-localhost")) == {"test_load"}
    assert stored(tmp_path, "served-localhost")["test_load"]["workload"]["concurrency"] == 8


def test_a_load_that_is_not_there_is_told_with_those_that_are(run, tmp_path):
    status, _, err = run(several(tmp_path), "--select", "concurrent@9")
    assert status == 4
    assert "holds concurrent@4, concurrent@8; did you mean 'concurrent@" in err


def test_runs_of_one_load_and_other_lengths_are_no_second_run(run, tmp_path):
    files = [vllm(tmp_path / "short.json"), vllm(tmp_path / "long.json", input_lens=[64] * 12)]
    status, _, err = run(*files)
    assert status == 4
    assert "not of one workload" in err


# JSON


def test_json_to_standard_output_is_nothing_but_json(run):
    status, out, err = run(AIPERF, "--json", "-", "--limit", "ttft_ms < 5")
    assert (status, err) == (1, "")
    [record] = json.loads(out)
    assert len(record["rounds"]) == 3
    assert record["metrics"]["tpot_ms"]["median"] == pytest.approx(9.41, abs=0.01)
    assert record["recording"]["key"] == TEST


# What is refused


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.json"], 1, "missing.json: No such file"),
        (["empty.json"], 1, "empty.json is empty"),
        (["totals.json"], 1, "run vllm bench serve with --save-detailed"),
        (
            ["run.json", "--format", "aiperf"],
            1,
            "run.json is not what it has to be: expected AIPerf's profile_export.jsonl",
        ),
        (["run.json", "--format", "wrk"], 4, "invalid choice: 'wrk'"),
        (["run.json", "--limit", "ttft < 5"], 4, "did you mean 'ttft_ms'"),
        (
            ["run.json", "--test", "test_load"],
            4,
            "--test test_load: expected a name like tests/test_serving.py::test_load",
        ),
        (["run.json", "--hardware", "../h200"], 4, "--hardware ../h200: expected a key like served-h200"),
        (["run.json", "--strict", "newest"], 4, "expected some of new, inconclusive"),
        (["run.json", "--tolerance", "5"], 4, "'5'"),
        (["run.json", "--update", "--append"], 4, "not allowed with argument"),
        (["run.json", "--json", "nowhere/run.json"], 4, "there is no folder nowhere"),
        (["failed.json"], 1, "no request was answered (12 × server error (Internal Server Error))"),
        ([], 4, "usage: llmperf import"),
    ],
)
def test_what_cannot_be_is_told_in_one_message(run, tmp_path, arguments, status, message):
    vllm(tmp_path / "run.json")
    vllm(tmp_path / "totals.json", ttfts=None, itls=None, input_lens=None, output_lens=None, errors=None)
    vllm(tmp_path / "failed.json", errors=["Internal Server Error"] * 12, output_lens=[0] * 12)
    (tmp_path / "empty.json").touch()
    seen, out, err = run(*arguments)
    assert (seen, out) == (status, "")
    assert message in err
    assert "Traceback" not in err
