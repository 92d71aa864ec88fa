"""`llmperf show`, `compare` and `merge`: what they print, what they write, and their exit status."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pytest_llmperf.baselines import versus as versus_module
from pytest_llmperf.baselines.schema import MOST_SESSIONS
from pytest_llmperf.baselines.store import Store
from tests.stored import CPU, KEY, calibration, day, record, recording, session

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
OTHER = "cpu-intel-xeon-4c"
LONG = f"tests/{'deeply/' * 6}test_long.py::{'test_with_a_name_that_nobody_would_write' * 2}[gpt2]"
LONG_HARDWARE = "cuda-nvidia-h200-mig-1g.18gb-x4-nvidia-rtx-pro-6000-blackwell-server-edition-x2"
SMALL = "random:gpt2?n_embd=16&n_head=2&n_layer=1&n_positions=64&vocab_size=50"


@pytest.fixture
def run(llmperf_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    return llmperf_command


def report(path: Path, *recordings) -> Path:
    path.write_text(json.dumps([{"target": "gpt2", "recording": each.model_dump()} for each in recordings]))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Show


def test_show_prints_each_test_with_its_figures(run, tmp_path):
    record(tmp_path / "baselines", recording(KEY, session(day(1), 8.25), session(day(1), 8.25), session(day(2), 8.25)))
    status, out, err = run("show")
    assert (status, err) == (0, "")
    assert out.startswith(f"tests/test_chat.py\n  {CPU}\n")
    row = next(line for line in out.splitlines() if "test_turn" in line)
    assert row.split() == ["test_turn", "128→32", "2", "(3)", "2026-11-02", "abcdef012", "24.8", "8.25", "100", "50"]
    assert out.endswith(f"baselines: 1 test on {CPU}, 2 sessions\n")


def test_show_has_a_table_for_each_module_on_each_hardware(run, tmp_path):
    keys = ["a.py::test_1", "b.py::test_2", "a.py::test_3"]
    record(tmp_path / "here", *map(recording, keys), recording(keys[0], hardware=OTHER))
    _, out, _ = run("show", "here")
    titles = re.findall(r"^(\S+\.py)\n  (\S+)$", out, re.MULTILINE)
    assert titles == [("a.py", CPU), ("b.py", CPU), ("a.py", OTHER)]
    assert "3 tests on 2 kinds of hardware, 4 sessions" in out


def test_show_of_counted_metrics_alone_names_their_folder(run, tmp_path):
    record(tmp_path / "here")
    shutil.rmtree(tmp_path / "here" / CPU)
    _, out, _ = run("show", "here")
    assert "exact-cpu" in out
    assert "weights" in out
    assert "tpot_ms" not in out


def test_show_verbose_tells_how_each_figure_was_had(run, tmp_path):
    folder = record(tmp_path / "here", recording(KEY, session(day(1), 8.0), session(day(2), 9.0)))
    record(folder, recording(KEY, session(day(3), 8.0, peak=100.0), session(day(4), 9.0, peak=104.0)), append=False)
    _, out, _ = run("show", "here", "-v")
    rows = {name: rest.rstrip() for name, rest in re.findall(r"^  (\w+) +(.*)$", out, re.MULTILINE)}
    assert rows["tpot_ms"] == "8.49   ms            2     ± 8.3 %   8.3 % (1 df)"
    assert rows["peak_memory_mib"] == "102   MiB           2   100 – 104"
    assert "2 sessions of 2 processes · recorded 2026-11-04 at abcdef012" in out
    assert "versions: python 3.12.1, torch 2.12.0, transformers 5.1.0" in out
    assert "options: dtype float32, threads 1" in out


def test_show_prints_what_is_known_of_the_noise(run, tmp_path):
    store = Store(record(tmp_path / "here"))
    store.add_noise(CPU, calibration(day(3)))
    for path in ("here", f"here/{CPU}", f"here/{CPU}/noise.json"):
        _, out, _ = run("show", path)
        assert f"noise of {CPU}\n  1 calibration, the last 2026-11-03\n" in out
        assert re.search(r"tpot_ms +1 +\S+ % +5 % +4$", out, re.MULTILINE), path


def test_every_form_of_a_path_shows_the_same_test(run, tmp_path):
    record(tmp_path / "here")
    report(tmp_path / "report.json", recording())
    shown = set()
    for path in ("here", f"here/{CPU}", f"here/{CPU}/tests/test_chat.json", "report.json"):
        status, out, err = run("show", path)
        assert (status, err) == (0, "")
        shown.add(out.partition(f"\n{path}:")[0])
    assert len(shown) == 1
    assert "weights" in shown.pop(), "what is counted lies elsewhere, and comes along"


def test_one_file_shows_nothing_of_another_and_needs_nothing_of_it(run, tmp_path):
    record(tmp_path / "here", recording("a.py::test_1"), recording("b.py::test_2"))
    (tmp_path / "here" / CPU / "b.json").write_text("{")
    status, out, _ = run("show", f"here/{CPU}/a.json")
    assert status == 0
    assert "test_1" in out
    assert "test_2" not in out


def test_a_module_below_a_folder_that_is_named_like_hardware_is_of_the_real_one(run, tmp_path):
    record(tmp_path / "here", recording("cpu-only/test_a.py::test_1"))
    _, out, _ = run("show", f"here/{CPU}/cpu-only/test_a.json")
    assert out.startswith(f"cpu-only/test_a.py\n  {CPU}\n")


def test_a_folder_of_baselines_may_be_named_like_hardware(run, tmp_path):
    record(tmp_path / "cpu-baselines")
    (tmp_path / "cpu-baselines" / ".gitattributes").unlink()
    _, out, _ = run("show", "cpu-baselines")
    assert out.startswith(f"tests/test_chat.py\n  {CPU}\n")


def test_several_paths_are_shown_one_after_the_other(run, tmp_path):
    record(tmp_path / "one")
    record(tmp_path / "two")
    _, out, _ = run("show", "one", "two")
    assert [line.partition(":")[0] for line in out.splitlines() if " on " in line] == ["one", "two"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    "command", [["show", "a"], ["show", "-v", "a"], ["compare", "a", "b"], ["compare", "a", "b", "-v"]]
)
def test_no_line_is_wider_than_the_terminal(run, tmp_path, monkeypatch, width, colour, command):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR" if colour else "NO_COLOR", "1")
    keys = (KEY, LONG, "tests/test_chat.py::test_gone")
    record(tmp_path / "a", *(recording(key, hardware=hardware) for key in keys for hardware in (CPU, LONG_HARDWARE)))
    Store(tmp_path / "a").add_noise(LONG_HARDWARE, calibration())
    slower = [session(day(2), 12.0, versions={}, target="random:gpt2?" + "x=1&" * 60) for _ in range(2)]
    record(tmp_path / "b", *(recording(key, *slower, hardware=LONG_HARDWARE) for key in (KEY, LONG, f"{LONG}::label")))
    status, out, err = run(*command)
    assert (status, err) == (int(command[0] == "compare"), "")
    assert bool(ESCAPE.search(out)) is colour
    assert max(map(len, ESCAPE.sub("", out).splitlines())) <= width
    assert "test_turn" in out


# What a path may not be


def test_a_path_that_does_not_exist_is_exit_status_4(run):
    for command in (["show"], ["show", "there/x.json"], ["compare", "there", "baselines"]):
        status, out, err = run(*command)
        path = (["baselines", *command[1:]])[-1 if command[0] == "show" else 1]
        assert (status, out) == (4, "")
        assert err.startswith(f"llmperf: {path} does not exist: expected a folder of baselines")
        assert err.count("\n") == 1


def _copied_out(folder: Path) -> Path:
    record(folder / "here")
    return Path(shutil.copy(folder / "here" / CPU / "tests/test_chat.json", folder / "copy.json"))


def _written(text: str, name: str = "report.json"):
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def _folder(name: str):
    def make(folder: Path) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    return make


def _changed(change) -> object:
    def write(folder: Path) -> Path:
        plain = recording().model_dump()
        change(plain)
        (folder / "report.json").write_text(json.dumps([{"recording": recording().model_dump()}, {"recording": plain}]))
        return folder / "report.json"

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_folder("nothing"), "nothing holds no baselines: expected a folder of baselines"),
        (_folder(f"here/{CPU}"), f"{CPU} holds no baselines: expected a folder of baselines"),
        (_written("[]"), "report.json holds no baselines: expected a folder of baselines"),
        (_written("tpot_ms 8\n"), "report.json: Expecting value: line 1 column 1 (char 0): expected a folder"),
        (_written(""), "report.json: Expecting value: line 1 column 1 (char 0): expected a folder"),
        (_written("[" * 100_000), "report.json: "),
        (_written('{"benchmarks": []}'), "report.json: expected a folder of baselines"),
        (_written("8"), "report.json: expected a folder of baselines"),
        (_written("[8]"), "report.json: record 1: recording is missing"),
        (_written('[{"target": "gpt2"}]'), "report.json: record 1: recording is missing"),
        (_changed(lambda it: it.update(sessions=[])), "report.json: record 2: recording.sessions: "),
        (_changed(lambda it: it.update(hardware=8)), "report.json: record 2: recording.hardware: "),
        (_changed(lambda it: it.update(workload={})), f"report.json: {KEY} stands there with two workloads"),
        (_copied_out, "copy.json lies in no hardware folder (cpu-…, cuda-…)"),
        (_written('{"schema": 1, "te', f"here/{CPU}/a.json"), f"here/{CPU}/a.json: line 1, column"),
        (_written("<<<<<<< HEAD\n", f"here/{CPU}/a.json"), f"here/{CPU}/a.json: line 1: a merge conflict"),
        (_written('{"schema": 9}', f"here/{CPU}/a.json"), f"here/{CPU}/a.json: schema 9 is of a newer"),
        (_written('{"schema": 1, "tests": {"t": 8}}', f"here/{CPU}/a.json"), f'here/{CPU}/a.json: tests."t": expected'),
    ],
)
def test_broken_content_is_exit_status_1_and_one_line_that_names_the_path(run, tmp_path, make, message):
    path = make(tmp_path).relative_to(tmp_path)
    whole = record(tmp_path / "whole")
    for command in (["show", path], ["compare", path, whole], ["compare", whole, path]):
        status, out, err = run(*command)
        assert (status, out) == (1, "")
        assert err.startswith("llmperf: ")
        assert message in err
        assert err.count("\n") == 1


def test_a_file_that_is_no_text_is_exit_status_1(run, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\xff\x00\x81")
    status, out, err = run("show", "model.bin")
    assert (status, out) == (1, "")
    assert err.startswith("llmperf: model.bin: 'utf-8' codec")


def test_a_broken_file_of_a_folder_is_named_from_where_the_command_was_called(run, tmp_path):
    record(tmp_path / "shard-1" / "baselines")
    (tmp_path / "shard-1" / "baselines" / CPU / "tests" / "test_chat.json").write_text("{")
    for path in ("shard-1/baselines", f"shard-1/baselines/{CPU}", tmp_path / "shard-1" / "baselines"):
        _, _, err = run("show", path)
        shown = tmp_path / "shard-1" if isinstance(path, Path) else "shard-1"
        assert err.startswith(f"llmperf: {shown}/baselines/{CPU}/tests/test_chat.json: line 1"), path


# Compare


def test_a_slower_test_is_regressed_and_exit_status_1(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), 16.0), session(day(2), 16.0)))
    status, out, err = run("compare", "a", "b")
    assert (status, err) == (1, "")
    assert out.startswith(f"{KEY}\n  gpt2 · 128→32 · {CPU} · 1 session against 1\n")
    row = next(line for line in out.splitlines() if "tpot_ms" in line)
    assert re.fullmatch(r"  tpot_ms +8\.?0* +16\.?0* +ms +\+100 % ± [\d.]+ +REGRESSED +tolerance 5 %; 2 processes", row)
    assert "weights_mib" not in out, "what is OK is not shown"
    assert "1 compared: 1 regressed\n" in out


def test_base_and_head_the_other_way_round_improve(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), 16.0), session(day(2), 16.0)))
    status, out, _ = run("compare", "b", "a")
    assert status == 0
    assert "1 compared: 1 improved\n" in out


def test_one_process_is_not_enough_for_a_time_and_that_is_said(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), 16.0)))
    status, out, _ = run("compare", "a", "b")
    assert status == 0
    assert "tolerance 5 %; REGRESSED takes 2 processes, and head has 1" in " ".join(out.split())
    assert "not enough processes in b to say REGRESSED: record more of them" in out


@pytest.mark.parametrize(("metric", "shown"), [("weights", "weights_mib"), ("peak", "peak_memory_mib")])
def test_one_process_is_enough_where_there_is_no_noise(run, tmp_path, metric, shown):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), **{metric: 110.0})))
    status, out, _ = run("compare", "a", "b")
    assert status == 1
    assert re.search(rf"{shown} .* REGRESSED", out)


def test_what_is_counted_with_other_versions_is_shown_and_not_judged(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), weights=60.0, versions={"torch": "2.13.0"})))
    status, out, _ = run("compare", "a", "b")
    assert status == 0
    assert re.search(r"weights_mib: counted with torch 2.12.0", out)
    assert "since base: python 3.12.1 → none, torch 2.12.0 → 2.13.0" in out


def test_of_what_is_counted_the_versions_installed_last_are_compared(run, tmp_path):
    newer = {"versions": {"torch": "2.13.0"}}
    record(tmp_path / "a", recording(KEY, session(day(1)), session(day(2), weights=40.0, **newer)))
    record(tmp_path / "b", recording(KEY, session(day(1)), session(day(3), weights=44.0, **newer)))
    status, out, _ = run("compare", "a", "b")
    assert status == 1
    assert re.search(r"weights_mib +40 +44 .* REGRESSED", out)


def test_verbose_shows_what_is_ok(run, tmp_path):
    record(tmp_path / "a")
    _, quiet, _ = run("compare", "a", "a")
    _, verbose, _ = run("compare", "a", "a", "-v")
    assert "weights_mib" not in quiet
    assert re.search(r"weights_mib +50 +50 .* OK +exact", verbose)


def test_the_tolerance_is_the_one_given(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), 16.0), session(day(2), 16.0)))
    assert run("compare", "a", "b", "--tolerance", "90%")[0] == 0
    status, _, err = run("compare", "a", "b", "--tolerance", "5")
    assert status == 4
    assert "'5'" in err


def test_tests_that_only_one_of_them_has_are_named(run, tmp_path):
    record(tmp_path / "a", recording(KEY), recording("t.py::test_old"), recording("t.py::test_x", output_tokens=16))
    record(tmp_path / "b", recording(KEY), recording("t.py::test_young"), recording("t.py::test_x"))
    status, out, _ = run("compare", "a", "b")
    assert status == 0
    assert f"NEW t.py::test_young ({CPU}): only in b\n" in out
    assert f"gone t.py::test_old ({CPU}): only in a\n" in out
    assert f"NEW t.py::test_x ({CPU}): the workload is another\n" in out
    assert "2 compared: 1 inconclusive, 1 new\n" in out


def test_a_hundred_tests_that_are_gone_do_not_hide_the_rest(run, tmp_path):
    record(tmp_path / "a", recording(KEY), *(recording(f"t.py::test_{k}") for k in range(100)))
    record(tmp_path / "b")
    _, out, _ = run("compare", "a", "b")
    assert out.count("gone t.py") == 10
    assert f"gone and 90 more ({CPU}): only in a; -v names them" in out
    assert run("compare", "a", "b", "-v")[1].count("gone t.py") == 100


def test_a_metric_that_head_lacks_is_no_longer_measured(run, tmp_path):
    record(tmp_path / "a")
    short = session(day(2))
    record(tmp_path / "b", recording(KEY, short.model_copy(update={"metrics": {"ttft_ms": short.metrics["ttft_ms"]}})))
    record(tmp_path / "b", recording("t.py::test_other"))
    status, out, _ = run("compare", "a", "b")
    assert status == 1
    assert re.search(r"tpot_ms: no longer measured: head lacks it", out)
    assert re.search(r"peak_memory_mib: no longer measured: head lacks it", out)


def test_a_hardware_folder_that_was_copied_alone_has_lost_nothing(run, tmp_path):
    record(tmp_path / "a")
    shutil.copytree(tmp_path / "a" / CPU, tmp_path / "elsewhere" / CPU)
    for arguments in (["a", f"elsewhere/{CPU}"], [f"elsewhere/{CPU}", "a"]):
        status, out, _ = run("compare", *arguments, "-v")
        assert status == 0
        assert "weights_mib" not in out
        assert "tpot_ms" in out


def test_all_hardware_in_common_is_compared_and_one_can_be_chosen(run, tmp_path):
    slower = [session(day(2), 16.0), session(day(2), 16.0)]
    record(tmp_path / "a", recording(), recording(hardware=OTHER))
    record(tmp_path / "b", recording(), recording(KEY, *slower, hardware=OTHER), recording(hardware="cuda-a-x1"))
    status, out, _ = run("compare", "a", "b")
    assert status == 1
    assert "2 compared: 1 regressed, 1 inconclusive" in out
    assert f"NEW {KEY} (cuda-a-x1): only in b" in out
    status, out, _ = run("compare", "a", "b", "--hardware", CPU)
    assert status == 0
    assert "1 compared: 1 inconclusive" in out
    assert "only in" not in out


def test_nothing_in_common_is_exit_status_4_and_names_both(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(hardware="cuda-nvidia-h200-x1"))
    status, out, err = run("compare", "a", "b")
    assert (status, out) == (4, "")
    assert f"no hardware in common: a has {CPU}, exact-cpu, b has cuda-nvidia-h200-x1, exact-cuda\n" in err
    status, _, err = run("compare", "a", "b", "--hardware", CPU)
    assert status == 4
    assert f"--hardware {CPU}: not in both: a has {CPU}" in err


def test_what_is_counted_can_be_compared_between_kinds_of_hardware(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(weights=60.0), hardware=OTHER))
    status, _, err = run("compare", "a", "b")
    assert status == 4
    assert "--hardware exact-cpu compares what is counted, which no hardware changes" in err
    for arguments in (["a", "b", "--hardware", "exact-cpu"], ["a/exact-cpu", "b/exact-cpu"]):
        status, out, _ = run("compare", *arguments)
        assert status == 1
        assert re.search(r"weights_mib +50 +60 .* REGRESSED +exact", out)


def test_the_noise_calibrated_for_base_decides(run, tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b", recording(KEY, session(day(2), 10.0), session(day(2), 10.0)))
    quiet = [calibration(day(k), 0.003) for k in (1, 2, 3, 4)]
    for noise in quiet:
        Store(tmp_path / "a").add_noise(CPU, noise)
    assert run("compare", "a", "b")[0] == 1
    shutil.rmtree(tmp_path / "a")
    record(tmp_path / "a")
    Store(tmp_path / "a").add_noise(CPU, calibration(scale=0.3))
    assert run("compare", "a", "b")[0] == 0


def test_the_error_is_divided_among_all_timed_comparisons(run, tmp_path, monkeypatch):
    record(tmp_path / "a", *(recording(f"t.py::test_{k}") for k in range(10)), recording(output_tokens=16))
    record(tmp_path / "b", *(recording(f"t.py::test_{k}") for k in range(10)), recording())
    seen = set()
    compare = versus_module.compare
    monkeypatch.setattr(
        versus_module,
        "compare",
        lambda *given: seen.add((given[3].alpha, given[3].device_type)) or compare(*given),
    )
    run("compare", "a", "b")
    assert seen == {(0.02 / 20, "cpu")}


def test_sessions_that_base_has_too_do_not_dilute_the_change(run, tmp_path):
    record(tmp_path / "a", recording(KEY, *(session(day(k), 8.0 + k / 1000) for k in range(1, 6))))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    record(tmp_path / "b", recording(KEY, session(day(9), 12.0), session(day(9), 12.1)))
    status, out, _ = run("compare", "a", "b")
    assert status == 1
    assert "5 sessions of head are base's own, and tell of no change" in out


def test_reports_compare_and_several_runs_in_one_are_several_sessions(run, tmp_path):
    report(tmp_path / "a.json", recording())
    report(tmp_path / "b.json", recording(KEY, session(day(2), 12.0)), recording(KEY, session(day(3), 12.0)))
    status, out, _ = run("compare", "a.json", "b.json")
    assert status == 1
    assert "1 session against 2" in out
    record(tmp_path / "baselines")
    assert run("compare", "baselines", "b.json")[0] == 1


def test_what_measure_writes_can_be_shown_and_compared(run, tmp_path):
    quick = ["--device", "cpu", "--rounds", "3", "--max-time", "0.02", "--prompt-tokens", "6", "--output-tokens", "3,4"]
    assert run("measure", SMALL, *quick, "--json", "run.json")[0] == 0
    for measured in json.loads((tmp_path / "run.json").read_text()):
        [stored] = measured["recording"]["sessions"]
        assert stored["metrics"]["tpot_ms"]["median"] == pytest.approx(
            measured["metrics"]["tpot_ms"]["median"], rel=1e-5
        )
        assert stored["metrics"]["tpot_ms"]["error"] > 0
        assert stored["options"]["threads"] == 1
        assert measured["recording"]["hardware"] == measured["environment"]["hardware"]
    status, out, _ = run("show", "run.json")
    assert status == 0
    assert re.search(r"^  6→3 +6→3 +1 ", out, re.MULTILINE)
    status, out, _ = run("compare", "run.json", "run.json", "-v")
    assert status == 0
    assert "REGRESSED" not in out
    assert f"{SMALL}::6→4" in out


# Merge


def test_merge_joins_what_several_runners_recorded(run, tmp_path):
    record(tmp_path / "one", recording(KEY, session(day(2), 9.0)), recording("a.py::test_1"))
    record(tmp_path / "two", recording(KEY, session(day(1), 8.0)), recording("b.py::test_2", hardware=OTHER))
    Store(tmp_path / "two").add_noise(CPU, calibration())
    status, out, err = run("merge", "one", "two", "--into", "all")
    assert (status, err) == (0, "")
    assert out == "3 tests of 2 shards, 4 sessions; 7 files written in all\n"
    known = Store(tmp_path / "all").contents()
    assert [each.metrics["tpot_ms"].median for each in known.entries[CPU][KEY].sessions] == [8.0, 9.0]
    assert set(known.entries[CPU]) == {KEY, "a.py::test_1"}
    assert set(known.entries[OTHER]) == {"b.py::test_2"}
    assert len(known.entries["exact-cpu"][KEY].sessions) == 1, "what is counted says the same in both"
    assert known.noise[CPU].calibrations == [calibration()]
    found = Store(tmp_path / "all").find(KEY, CPU, "cpu", recording().workload)
    assert len(found.sessions) == 2
    assert found.exact


def test_the_same_session_in_two_shards_is_one(run, tmp_path):
    record(tmp_path / "one", recording(KEY, session(day(1), 8.0), session(day(1), 8.1)))
    record(tmp_path / "two", recording(KEY, session(day(1), 8.0), session(day(1), 8.1), session(day(2), 8.0)))
    _, out, _ = run("merge", "one", "two", "--into", "all")
    assert out.startswith("1 test of 2 shards, 2 sessions")
    assert len(Store(tmp_path / "all").contents().entries[CPU][KEY].sessions) == 3


def test_at_most_the_latest_sessions_are_kept(run, tmp_path):
    record(tmp_path / "one", recording(KEY, *(session(day(k)) for k in range(1, 21))))
    record(tmp_path / "two", recording(KEY, *(session(day(k)) for k in range(11, 29))))
    assert run("merge", "one", "two", "--into", "all")[0] == 0
    sessions = Store(tmp_path / "all").contents().entries[CPU][KEY].sessions
    assert [each.recorded for each in sessions] == [day(k) for k in range(9, 29)]
    assert len(sessions) == MOST_SESSIONS


def test_a_folder_that_exists_is_one_shard_more(run, tmp_path):
    record(tmp_path / "baselines", recording(KEY, session(day(1))), recording("a.py::test_1"))
    record(tmp_path / "shard", recording(KEY, session(day(2))))
    untouched = tmp_path / "baselines" / CPU / "a.json"
    before = untouched.stat().st_ino
    for shards in (["shard"], ["shard", "baselines"], ["shard"]):
        assert run("merge", *shards, "--into", "baselines")[0] == 0
    known = Store(tmp_path / "baselines").contents().entries[CPU]
    assert [each.recorded for each in known[KEY].sessions] == [day(1), day(2)]
    assert "a.py::test_1" in known
    assert untouched.stat().st_ino == before, "a file in which nothing changed is not written"


def test_merging_again_writes_nothing(run, tmp_path):
    record(tmp_path / "one", recording(KEY, session(day(1))))
    record(tmp_path / "two", recording(KEY, session(day(2))))
    run("merge", "one", "two", "--into", "all")
    before = everything(tmp_path / "all")
    _, out, _ = run("merge", "two", "one", "--into", "all")
    assert out == "1 test of 2 shards, 2 sessions; nothing new written in all\n"
    assert everything(tmp_path / "all") == before


def test_one_shard_is_copied_byte_for_byte(run, tmp_path):
    record(
        tmp_path / "one", recording("../t.py::test_1"), recording("noise.py::test_2"), recording("a/b.py::T::test_3")
    )
    run("merge", "one", "--into", "all")
    assert everything(tmp_path / "all") == everything(tmp_path / "one")


def _learned(folder: Path, *levels: float) -> None:
    record(folder, recording(KEY, *(session(day(k + 1), level) for k, level in enumerate(levels))))
    record(folder, recording(KEY, session(day(9), 8.0)), append=False)


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (
            lambda it: record(it),
            lambda it: record(it, recording(output_tokens=64)),
            f"{CPU} {KEY}: another workload, output_tokens 32 and output_tokens 64, in one and two",
        ),
        (
            lambda it: record(it),
            lambda it: record(it, recording(KEY, session(day(1), 8.4))),
            f"{CPU} {KEY}: the session of {day(1)} at abcdef012 has other figures, tpot_ms 8 and 8.40, in one and two",
        ),
        (
            lambda it: record(it),
            lambda it: record(it, recording(KEY, session(day(1), dirty=True))),
            f"{CPU} {KEY}: the session of {day(1)} at abcdef012 has other dirty, in one and two",
        ),
        (
            lambda it: record(it),
            lambda it: record(it, recording(KEY, session(day(2), weights=51.0))),
            f"exact-cpu {KEY}: weights_mib is another for torch 2.12.0, transformers 5.1.0, 50 and 51, in one and two",
        ),
        (
            lambda it: _learned(it, 8.0, 9.0),
            lambda it: _learned(it, 8.0, 10.0),
            f"{CPU} {KEY}: the spread learned of ttft_ms is another, 0.0833 and 0.158, in one and two",
        ),
        (
            lambda it: Store(record(it)).add_noise(CPU, calibration()),
            lambda it: Store(record(it)).add_noise(CPU, calibration(scale=0.02)),
            f"{CPU} noise: the calibration of {day(1)} with gpt2 has other figures, in one and two",
        ),
    ],
)
def test_a_contradiction_is_refused_before_anything_is_written(run, tmp_path, one, two, message):
    one(tmp_path / "one")
    two(tmp_path / "two")
    for shards, into in ((["one", "two"], "all"), (["two", "one"], "all"), (["two"], "one")):
        before = everything(tmp_path)
        status, out, err = run("merge", *shards, "--into", into)
        assert (status, out) == (1, "")
        assert message in err
        assert everything(tmp_path) == before


def test_all_contradictions_are_listed_at_once(run, tmp_path):
    keys = [f"t.py::test_{k}" for k in range(3)]
    record(tmp_path / "one", *(recording(key) for key in keys))
    record(tmp_path / "two", *(recording(key, session(day(1), 9.0)) for key in keys), recording("t.py::test_9"))
    _, _, err = run("merge", "one", "two", "--into", "all")
    first, *rest = err.splitlines()
    assert first == "llmperf: nothing was merged, for 3 contradictions; leave out what is wrong:"
    assert [line.split()[1].rstrip(":") for line in rest] == keys


def test_what_only_one_shard_learned_is_kept(run, tmp_path):
    _learned(tmp_path / "one", 8.0, 9.0)
    record(tmp_path / "two", recording(KEY, session(day(20), 8.0)))
    assert run("merge", "two", "--into", "one")[0] == 0
    entry = Store(tmp_path / "one").contents().entries[CPU][KEY]
    assert set(entry.learned) == {"ttft_ms", "tpot_ms"}
    assert len(entry.sessions) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["there", "--into", "all"], 4, "there does not exist"),
        ([f"one/{CPU}", "--into", "all"], 4, f"one/{CPU} is one hardware's folder: expected a folder of baselines"),
        ([f"one/{CPU}/tests/test_chat.json", "--into", "all"], 4, "test_chat.json is a file: expected a folder"),
        (["report.json", "--into", "all"], 4, "report.json is a file: expected a folder of baselines"),
        (["one", "--into", "report.json"], 4, "--into report.json is no folder"),
        (["one"], 4, "--into"),
        (["--into", "all"], 4, "SHARD"),
        (["empty", "--into", "all"], 1, "empty holds no baselines"),
        (["one", "broken", "--into", "all"], 1, f"broken/{CPU}/tests/test_chat.json: line 1"),
        (["one", "--into", "broken"], 1, f"broken/{CPU}/tests/test_chat.json: line 1"),
    ],
)
def test_shards_that_cannot_be_merged(run, tmp_path, arguments, status, message):
    record(tmp_path / "one")
    report(tmp_path / "report.json", recording())
    (tmp_path / "empty").mkdir()
    (record(tmp_path / "broken") / CPU / "tests" / "test_chat.json").write_text("{")
    before = everything(tmp_path)
    seen, out, err = run("merge", *arguments)
    assert (seen, out) == (status, "")
    assert message in err
    assert everything(tmp_path) == before


def test_what_is_recorded_while_shards_are_read_is_not_lost(tmp_path):
    folder = record(tmp_path / "baselines", recording("a.py::test_1"))
    store = Store(folder)
    store.contents()
    record(folder, recording("a.py::test_2"))
    seen = []
    store.rewrite(lambda before: seen.append(before) or before)
    assert set(seen[0].entries[CPU]) == set(Store(folder).contents().entries[CPU]) == {"a.py::test_1", "a.py::test_2"}


# What none of this may cost


def test_help_of_each_command_is_exit_status_0(run):
    for command in ("show", "compare", "merge"):
        status, out, err = run(command, "--help")
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: llmperf {command}")
