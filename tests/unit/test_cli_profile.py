"""`llmperf profile` on a real, tiny model: its tables, its files, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.cli import main
from pytest_llmperf.cli.profile import fitting

SMALL = "random:gpt2?n_embd=16&n_head=2&n_layer=1&n_positions=64&vocab_size=50"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run_with(*arguments: Any) -> tuple[int, str, str]:
        try:
            status = main(["profile", *map(str, arguments)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return run_with


def test_the_mission_table_is_followed_by_splits_operators_and_findings(run) -> None:
    status, out, err = run(SMALL, "--prompt-tokens", "16,8", "--output-tokens", "4")
    assert (status, err) == (0, "")
    for row in ("8→4 cold", "8→4 warm", "16→4 cold", "16→4 warm"):
        assert re.search(rf"^  {row}\s+–(\s+[\d.,]+){{5}}\s+([\d.]+|–)$", out, re.MULTILINE), row
    assert out.index("8→4 cold") < out.index("16→4 cold"), "shortest first"
    for row in ("prefill 8", "prefill 16", "decode after 8", "decode after 16"):
        assert re.search(rf"^{row}\s+[\d.]+(\s+\d+ %){{2,4}}$", out, re.MULTILINE), row
    assert re.search(r"^aten::addmm\s+compute\s+4\s+[\d.]+", out, re.MULTILINE)
    assert "decode after 16, per token" in out
    assert "• with a prompt of 16 tokens, one scalar is read per token" in out
    assert max(map(len, out.splitlines())) <= 80


def test_prompts_beyond_the_positions_are_clipped_and_it_is_said(run) -> None:
    status, out, _ = run(SMALL, "--output-tokens", "4")
    assert status == 0
    assert "32→4 cold" in out
    assert "61→4 cold" in out
    assert "128, 512 clipped to 61: the model has 64 positions" in out


@pytest.mark.parametrize(
    ("positions", "lengths", "notes"),
    [
        (None, [8, 16, 100], []),
        (103, [8, 16, 100], []),
        (102, [8, 16, 99], ["100 clipped to 99: the model has 102 positions"]),
        (18, [8, 15], ["16, 100 clipped to 15: the model has 18 positions"]),
        (3, [8, 16, 100], []),
    ],
)
def test_prompts_are_clipped_to_what_leaves_room_for_the_answer(positions, lengths, notes) -> None:
    assert fitting([8, 16, 100], 4, positions) == (lengths, notes)


def test_an_answer_that_no_prompt_leaves_room_for_is_refused(run) -> None:
    status, out, err = run(SMALL, "--output-tokens", "65")
    assert status == 4
    assert out == ""
    assert "has positions for 64 tokens" in err


def test_a_tokenizer_is_timed_where_there_is_one(run, saved_model) -> None:
    status, out, _ = run(saved_model, "--prompt-tokens", "8", "--output-tokens", "2")
    assert status == 0
    for state in ("cold", "warm"):
        assert re.search(rf"^  8→2 {state}\s+0\.\d+\s", out, re.MULTILINE)


def test_json_holds_what_is_shown(run, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    status, out, _ = run(SMALL, "--prompt-tokens", "8,16", "--output-tokens", "4", "--json", file)
    assert status == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["target"] == SMALL
    assert record["environment"]["threads"] == 1
    assert [mission["prompt_tokens"] for mission in record["missions"]] == [8, 16]
    for mission in record["missions"]:
        assert mission["cold"]["tokenize"] is None
        assert mission["warm"]["tokens"] == 4
        assert sum(mission["split"]["decode"].values()) == pytest.approx(1.0)
    for sentence in record["findings"]:
        assert sentence[:40] in out


def test_json_to_standard_output_is_nothing_but_json(run) -> None:
    status, out, err = run(SMALL, "--prompt-tokens", "8", "--output-tokens", "2", "--json", "-")
    assert (status, err) == (0, "")
    assert json.loads(out)["missions"]


def test_traces_are_written_one_for_each_length(run, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "traces"
    status, _, err = run(SMALL, "--prompt-tokens", "8,16", "--output-tokens", "2", "--traces", folder)
    assert status == 0
    assert str(folder) in err
    traces = sorted(folder.glob("*/*.pt.trace.json"))
    assert len(traces) == 2
    for trace in traces:
        assert "aten::addmm" in {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-tokens", "0"], "expected whole numbers of at least 1"),
        (["--output-tokens", "none"], "expected a whole number of at least 1"),
        (["--json", "missing/run.json"], "there is no folder missing"),
        (["--json", "."], "--json .: this is a folder, expected a file"),
        (["--json", ""], "--json .: this is a folder, expected a file"),
        (["--traces", ""], "expected a folder"),
        (["--threads", "99999999999"], "--threads: '99999999999': expected a whole number from 1 to 4096, or all"),
        (["--traces", "taken"], "--traces taken: this is a file, expected a folder"),
        (["--device", "gpu"], "device='gpu' is no device"),
    ],
)
def test_misuse_is_exit_status_4_before_anything_is_loaded(
    run, arguments, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    monkeypatch.setattr("pytest_llmperf.session.Session.load", None)
    status, out, err = run(SMALL, *arguments)
    assert (status, out) == (4, "")
    assert message in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_file_that_cannot_be_written_costs_no_more_than_the_file(run) -> None:
    status, out, err = run(SMALL, "--prompt-tokens", "8", "--output-tokens", "2", "--json", "/dev/full")
    assert (status, err) == (1, "llmperf: --json /dev/full: No space left on device\n")
    assert "8→2 warm" in out


def test_a_reader_who_has_seen_enough_costs_no_file(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: object) -> str:
        raise BrokenPipeError

    file = tmp_path / "profile.json"
    monkeypatch.setattr("os.dup2", lambda *descriptors: None)
    monkeypatch.setattr("pytest_llmperf.cli.profile.tables_text", closed)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr("sys.stdout", out)
        status, _, _ = run(SMALL, "--prompt-tokens", "8", "--output-tokens", "2", "--json", file)
    assert status == 1
    assert json.loads(file.read_text(encoding="utf-8"))["missions"]


def test_a_trace_that_is_not_written_is_told(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.profiler.profile.export_chrome_trace", lambda self, path: None)
    status, out, _ = run(SMALL, "--prompt-tokens", "8", "--output-tokens", "2", "--traces", tmp_path)
    assert status == 0
    assert "it could not be written (is the disk full?)" in " ".join(out.split())
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_had_is_exit_status_1(run) -> None:
    status, _, err = run("./missing")
    assert status == 1
    assert "this path does not exist" in err
