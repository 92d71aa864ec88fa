"""What a run records, what it leaves alone, and what it says is stored in vain."""

from __future__ import annotations

import json
import re

import pytest

from tests.plugin.conftest import Again
from tests.plugin.stored import MODEL, TURN, Stored
from tests.plugin.test_verdicts import FAILED, FASTER, OK, SLOWER, counted, text

EMPTY, MISUSE = pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR
TWO = TURN + TURN.replace("test_turn", "test_other")
BROKEN = TURN.replace("model=", "NEVER, model=")


# What is recorded


def test_update_records_and_a_second_run_has_something_to_compare_with(stored: Stored) -> None:
    result = stored.record(TURN)
    result.stdout.fnmatch_lines(["baselines: 0 updated, 1 new, 0 unchanged"])
    assert counted(stored.run()) == "1 inconclusive"


def test_a_run_without_update_writes_nothing(stored: Stored) -> None:
    stored.write(TURN)
    stored.run()
    assert not stored.folder.exists()


@pytest.mark.parametrize("factors", [FASTER, {"weights_mib": 0.5}, {"peak_memory_mib": 0.5}])
def test_update_records_what_is_regressed_and_shows_old_and_new(
    stored: Stored, again: Again, factors: dict[str, float]
) -> None:
    stored.record(MODEL)
    stored.change(**factors)
    asked = again()
    result = stored.run("--llmperf-update")
    assert result.ret == OK
    assert asked == []
    result.stdout.fnmatch_lines(["baselines: 1 updated, 0 new, 0 unchanged"])
    [line] = [line for line in result.stdout.lines if list(factors)[-1] in line and " +" in line]
    assert line.split()[-1] == "%"
    again()
    assert stored.run().ret == OK


def test_what_breaks_a_limit_is_not_recorded_unless_forced(stored: Stored) -> None:
    stored.write(BROKEN)
    result = stored.run("--llmperf-update")
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["not recorded: test_chat.py::test_turn: it breaks a limit (--llmperf-force *"])
    assert stored.files() == {}
    assert stored.run("--llmperf-update", "--llmperf-force").ret == FAILED
    assert stored.names() == {"test_turn"}


def test_disturbed_times_are_not_recorded_unless_forced(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTURBED", "others were busy")
    stored.write(TURN)
    result = stored.run("--llmperf-update")
    assert result.ret == OK
    told = "times not recorded, counts and memory only: test_chat.py::test_turn: others were busy"
    result.stdout.fnmatch_lines([f"{told} (--llmperf-force *"])
    assert stored.files() == {}
    forced = stored.run("--llmperf-update", "-o", "llmperf_force=true")
    assert stored.names() == {"test_turn"}
    assert told not in forced.stdout.str()


def test_of_a_disturbed_measurement_counts_and_memory_are_recorded(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.record(MODEL)
    [before] = stored.sessions("test_model")
    stored.change(weights_mib=0.5, peak_memory_mib=0.5)
    monkeypatch.setenv("DISTURBED", "others were busy")
    result = stored.run("--llmperf-update")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["baselines: 1 updated, *", "times not recorded, counts and memory only: *"])
    kept, new = stored.sessions("test_model")
    assert kept["metrics"] == {name: before["metrics"][name] for name in ("ttft_ms", "tpot_ms")}
    assert new["metrics"] == {name: r for name, r in before["metrics"].items() if name not in kept["metrics"]}
    result = stored.run("-v")
    assert result.ret == OK
    assert re.search(r"weights_mib .* OK", result.stdout.str())
    assert re.search(r"peak_memory_mib .* OK", result.stdout.str())
    monkeypatch.delenv("DISTURBED")
    stored.run("--llmperf-update")
    assert len(stored.sessions("test_model")) == 1


@pytest.mark.parametrize("mark", ["", "@pytest.mark.xfail"])
@pytest.mark.parametrize("end", ["assert False", "pytest.skip()"])
def test_a_test_whose_own_body_did_not_pass_is_not_recorded(stored: Stored, mark: str, end: str) -> None:
    stored.write(mark + TURN + f"    {end}\n")
    result = stored.run("--llmperf-update", "--llmperf-force")
    assert result.ret == (FAILED if not mark and "assert" in end else OK)
    result.stdout.fnmatch_lines(["not recorded: test_chat.py::test_turn: its test did not pass*"])
    assert stored.files() == {}


def test_of_reruns_the_last_is_recorded(stored: Stored) -> None:
    pytest.importorskip("pytest_rerunfailures")
    stored.write("TRIES = []\n" + TURN + "    TRIES.append(1)\n    assert len(TRIES) > 1\n")
    stored.run("--llmperf-update", "--reruns=2").assert_outcomes(passed=1)
    assert len(stored.sessions()) == 1


def test_append_adds_a_session_and_update_replaces_them(stored: Stored) -> None:
    stored.record(TURN)
    stored.run("--llmperf-append")
    assert len(stored.sessions()) == 2
    stored.run("--llmperf-update")
    assert len(stored.sessions()) == 1


@pytest.mark.parametrize("option", ["--llmperf-update", "--llmperf-append"])
def test_sessions_are_processes_of_one_sitting(stored: Stored, again: Again, option: str) -> None:
    asked = again()
    stored.write(TURN)
    stored.run(option, "--llmperf-sessions=3")
    assert asked == ["test_chat.py::test_turn"] * 2
    assert len(stored.sessions()) == 3
    assert len({session["recorded"] for session in stored.sessions()}) == 1


def test_fewer_processes_than_asked_for_are_not_recorded(stored: Stored, again: Again) -> None:
    again(fails="it is broken")
    stored.write(TURN)
    result = stored.run("--llmperf-update", "--llmperf-sessions=3")
    result.stdout.fnmatch_lines(["not recorded: *: measured in 1 of 3 processes: it is broken (--llmperf-force *"])
    assert stored.files() == {}


def test_an_unchanged_test_leaves_its_row_as_it_was(stored: Stored) -> None:
    stored.record(TWO)
    before = stored.sessions("test_other")
    stored.run("--llmperf-update", "-k", "test_turn")
    assert stored.sessions("test_other") == before
    assert stored.names() == {"test_turn", "test_other"}


def test_what_was_complete_before_an_interrupt_is_recorded(stored: Stored) -> None:
    stored.write(TURN + TURN.replace("test_turn", "test_two").replace("llm.measure()", "raise KeyboardInterrupt"))
    result = stored.alone("--llmperf-update")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert stored.names() == {"test_turn"}


def test_after_x_what_was_complete_is_recorded(stored: Stored) -> None:
    stored.write(TURN + "def test_bad():\n    assert False\n" + TURN.replace("test_turn", "test_late"))
    assert stored.run("--llmperf-update", "-x").ret == FAILED
    assert "test_turn" in stored.names()


@pytest.mark.parametrize("plugin", ["terminal", "cacheprovider"])
def test_recording_works_without_the_plugin(stored: Stored, plugin: str) -> None:
    stored.write(TURN)
    assert stored.alone("-p", f"no:{plugin}", "--llmperf-update").ret == OK
    assert stored.names() == {"test_turn"}


def test_quietly_recording_still_says_what_it_did(stored: Stored) -> None:
    stored.write(TURN)
    stored.run("-q", "--llmperf-update").stdout.fnmatch_lines(["llmperf: 1 measured: 1 new", "baselines: *, 1 new, *"])


def test_another_folder_may_be_named(stored: Stored) -> None:
    stored.write(TURN)
    stored.run("--llmperf-update", "--llmperf-baselines=elsewhere")
    assert not stored.folder.exists()
    assert list((stored.pytester.path / "elsewhere").rglob("test_chat.json"))


# Exit codes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--llmperf-update --llmperf-append", "--llmperf-append"),
        ("--llmperf-update --llmperf=smoke", "--llmperf=smoke"),
        ("--llmperf-append --llmperf=off", "--llmperf=off"),
        ("--llmperf-prune --llmperf=off", "--llmperf=off"),
        ("--llmperf-sessions=2", "--llmperf-update or --llmperf-append"),
        ("--llmperf-force", "--llmperf-update or --llmperf-append"),
        ("--llmperf-update --llmperf-sessions=0", "--llmperf-sessions=0"),
        ("--llmperf-strict=nwe", "did you mean 'new'"),
        ("--llmperf-strict=", "expected some of"),
        ("--llmperf-tolerance=5", "write '5%' or 0.05"),
        ("--llmperf-baselines=", "expected a folder"),
        ("-o llmperf_gate=tpot", "did you mean 'tpot_ms'"),
        ("-o llmperf_gate=load_s", "never compared"),
        ("-o addopts=--llmperf-update", "stands in addopts"),
        ("-o addopts=--llmperf-append", "stands in addopts"),
        ("-o addopts=--llmperf-prune", "stands in addopts"),
        ("--llmperf-prune -k turn", "with -k"),
        ("--llmperf-prune -m slow", "with -m"),
        ("--llmperf-prune --deselect=test_chat.py::test_x", "with --deselect"),
        ("--llmperf-prune --ignore=x", "with --ignore"),
        ("--llmperf-prune --ignore-glob=x", "with --ignore-glob"),
        ("--llmperf-prune --lf -p cacheprovider", "with --lf"),
        ("--llmperf-prune --sw -p cacheprovider", "with --stepwise"),
        ("--llmperf-prune -x", "with -x"),
        ("--llmperf-prune test_chat.py", "a choice of paths"),
    ],
)
def test_misuse_exits_with_four_names_itself_and_changes_nothing(stored: Stored, arguments: str, named: str) -> None:
    stored.record(TURN)
    before = stored.files()
    stored.pytester.makeini("[pytest]\n")
    result = stored.run(*arguments.split())
    assert result.ret == MISUSE
    assert named in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert stored.files() == before


def test_prune_in_a_folder_below_rootdir_is_misuse(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.write(TURN)
    monkeypatch.chdir(stored.pytester.mkdir("below"))
    result = stored.run("--llmperf-prune")
    assert result.ret == MISUSE
    assert "a call in a folder below rootdir" in result.stderr.str()


@pytest.mark.parametrize("name", ["update", "append", "prune"])
def test_no_ini_may_ask_for_recording(stored: Stored, name: str) -> None:
    stored.pytester.makeini(f"[pytest]\nllmperf_{name} = true\n")
    stored.write(TURN)
    result = stored.run("--strict-config")
    assert result.ret == MISUSE
    assert f"llmperf_{name}" in result.stderr.str()


@pytest.mark.parametrize("option", ["--llmperf-update", "--llmperf-append", "--llmperf-prune", "--llmperf-strict=new"])
@pytest.mark.parametrize(
    "module", ["def test_plain(): pass\n", "@pytest.mark.skip" + TURN, "pytest.skip(allow_module_level=True)\n" + TURN]
)
def test_a_run_that_was_to_record_or_judge_and_measured_nothing_exits_with_five(
    stored: Stored, option: str, module: str
) -> None:
    stored.write(module)
    result = stored.run(option)
    assert result.ret == EMPTY
    if "module_level" not in module:  # of which pytest itself says that nothing ran
        result.stdout.fnmatch_lines(["llmperf: nothing was measured, where something was to be *"])


def test_a_strict_run_that_is_off_exits_with_zero(stored: Stored) -> None:
    stored.write(TURN)
    assert stored.run("--llmperf=off", "--llmperf-strict=all").ret == OK


def test_a_failed_run_that_measured_nothing_exits_with_one(stored: Stored) -> None:
    stored.write("def test_bad():\n    assert False\n")
    assert stored.run("--llmperf-update").ret == FAILED


# Stale


def stale(result: pytest.RunResult) -> str:
    return next((line for line in result.stdout.lines if " stale: " in line), "")


def test_a_test_that_is_gone_is_stale_and_stays_until_pruned(stored: Stored) -> None:
    stored.record(TWO)
    stored.write(TURN)
    result = stored.run()
    assert result.ret == OK
    assert stale(result).startswith("1 stale: test_chat.py::test_other: no such tests (pytest --llmperf-prune drops")
    assert "1 stale" in counted(result)
    assert stored.run("--llmperf-update").ret == OK
    assert stored.names() == {"test_turn", "test_other"}
    assert "(dropped)" in stale(stored.run("--llmperf-prune"))
    assert stored.names() == {"test_turn"}
    assert stale(stored.run()) == ""


def test_a_renamed_test_is_one_new_and_one_stale_with_a_hint(stored: Stored) -> None:
    stored.record(TURN)
    stored.write(TURN.replace("test_turn", "test_chat_turn"))
    result = stored.run("--llmperf-update")
    result.stdout.fnmatch_lines(["baselines: 0 updated, 1 new, 0 unchanged"])
    assert stale(result).endswith("renamed, if they are the new ones)")


def test_a_module_that_is_gone_is_stale(stored: Stored) -> None:
    stored.record(TURN)
    stored.record(TURN, name="test_more")
    (stored.pytester.path / "test_more.py").unlink()
    assert "test_more.py::test_turn" in stale(stored.run())
    stored.run("--llmperf-prune")
    assert not [name for name in stored.files() if "test_more" in name]


def test_prune_drops_counted_metrics_too(stored: Stored) -> None:
    stored.record(MODEL + MODEL.replace("test_model", "test_other"))
    stored.write(MODEL)
    stored.run("--llmperf-prune")
    assert [set(json.loads(content)["tests"]) for content in stored.files().values()] == [{"test_model"}] * 2


def test_a_parameter_that_is_gone_is_stale(stored: Stored) -> None:
    parametrized = '@pytest.mark.parametrize("n", [1, 2])' + TURN.replace("(llm)", "(llm, n)")
    stored.record(parametrized)
    stored.write(parametrized.replace("[1, 2]", "[1]"))
    assert "test_turn[2]:" in stale(stored.run())


def test_a_label_that_is_gone_is_stale_only_when_the_test_ran_to_its_end(stored: Stored) -> None:
    labels = TURN.replace("llm.measure()", "llm.measure('a')\n    llm.measure('b')")
    stored.record(labels)
    stored.write(labels.replace("llm.measure('b')", "pytest.skip()"))
    assert stale(stored.run()) == ""
    stored.write(labels.replace("llm.measure('b')", "pass"))
    assert "test_turn::b:" in stale(stored.run())


SURE = TURN.replace("test_turn", "test_kept")
"""Something that measures, or there is nothing to compare with what is stored."""


@pytest.mark.parametrize(
    "changed",
    [
        TURN.replace("@llm", "@pytest.mark.skip\n@llm"),
        TURN.replace("llm.measure()", "pytest.skip()"),
        TURN.replace("@llm", "@pytest.mark.xfail(run=False)\n@llm"),
        '@pytest.mark.parametrize("n", [])' + TURN.replace("(llm)", "(llm, n)"),
    ],
    ids=["skip", "skipping itself", "not run", "without parameters"],
)
def test_a_test_that_exists_and_does_not_measure_is_not_stale(stored: Stored, changed: str) -> None:
    parametrized = "parametrize" in changed
    stored.record((changed.replace("[]", "[1]") if parametrized else TURN) + SURE)
    stored.write(changed + SURE)
    assert stale(stored.run()) == ""


@pytest.mark.parametrize("broken", ["import nothing_of_that_name\n", "pytest.skip(allow_module_level=True)\n"])
def test_tests_of_a_module_that_cannot_be_collected_are_not_stale(stored: Stored, broken: str) -> None:
    stored.record(TURN)
    stored.record(TURN, name="test_more")
    stored.write(broken + TURN, name="test_more")
    result = stored.run("--continue-on-collection-errors")
    assert "1 inconclusive" in counted(result)
    assert stale(result) == ""


@pytest.mark.parametrize(
    "chosen",
    [
        "-k test_turn",
        "test_chat.py::test_turn",
        "--deselect=test_chat.py::test_other",
        "-m mine",
        "--lf",
        "-x",
        "test_more.py",
    ],
)
def test_what_was_not_chosen_is_not_stale(stored: Stored, chosen: str) -> None:
    stored.pytester.makeini("[pytest]\nllmperf_rounds = 3\nllmperf_max_time = 0.05\nmarkers = mine\n")
    marked = "@pytest.mark.mine" + TWO
    stored.record(marked)
    stored.record(TURN, name="test_more")
    stored.write(marked.replace("    llm.measure()\n", "    llm.measure()\n    assert False\n", 1))
    stored.run()
    stored.write(marked)
    result = stored.run(*chosen.split())
    assert "measured" in text(result)
    assert stale(result) == ""


def test_tests_of_a_class_that_cannot_be_collected_are_not_stale(stored: Stored) -> None:
    of_class = "\nclass TestMore:\n    @llm_perf(model=PACED)\n    def test_more(self, llm):\n        llm.measure()\n"
    stored.record(TURN + of_class)
    stored.write(TURN + of_class.replace("    @llm", "    @pytest.mark.parametrize('missing', [1])\n    @llm"))
    result = stored.run("--continue-on-collection-errors")
    assert counted(result) == "1 inconclusive"
    assert stale(result) == ""


def test_what_a_plugin_takes_out_of_the_run_is_not_stale(stored: Stored) -> None:
    stored.record(TWO)
    conftest = stored.pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text() + "\ndef pytest_collection_modifyitems(items):\n    del items[1:]\n")
    result = stored.run()
    assert counted(result) == "1 inconclusive"
    assert stale(result) == ""


# Files that cannot be read


def test_a_file_that_cannot_be_read_is_an_error_of_its_module_and_is_never_overwritten(stored: Stored) -> None:
    stored.record(TWO)
    stored.record(TURN, name="test_more")
    [path] = stored.folder.glob("cpu-*/test_chat.json")
    path.write_text("<<<<<<< HEAD\n{")
    for option in ([], ["--llmperf-update"], ["--llmperf-update", "--llmperf-force"]):
        result = stored.run(*option)
        result.assert_outcomes(errors=2, passed=1)
        assert result.ret == FAILED
        result.stdout.fnmatch_lines(["baselines/cpu-*/test_chat.json: line 1: a merge conflict*"])
        assert path.read_text() == "<<<<<<< HEAD\n{"


def test_a_file_that_cannot_be_read_does_not_concern_the_tests_of_other_modules(stored: Stored) -> None:
    stored.record(TURN)
    stored.record(TURN, name="test_more")
    [path] = stored.folder.glob("cpu-*/test_more.json")
    path.write_text("{")
    result = stored.run("test_chat.py")
    assert result.ret == OK
    assert "test_more" not in text(result)


def test_prune_says_so_when_it_cannot_read_a_file(stored: Stored) -> None:
    stored.record(TWO)
    stored.record(TURN, name="test_more")
    [path] = stored.folder.glob("cpu-*/test_more.json")
    path.write_text("{")
    (stored.pytester.path / "test_more.py").unlink()
    result = stored.run("--llmperf-prune")
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["llmperf: baselines/cpu-*/test_more.json: *"])
    assert path.read_text() == "{"


def test_improvements_are_recorded_too(stored: Stored) -> None:
    stored.record(TURN)
    stored.change(**SLOWER)
    assert counted(stored.run()) == "1 improved"
    stored.run("--llmperf-update")
    assert counted(stored.run()) == "1 inconclusive"
