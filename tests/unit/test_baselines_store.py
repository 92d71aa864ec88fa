"""Where baselines lie and how they change: whatever happens, nothing that was stored is lost."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_llmperf.baselines import store as store_module
from pytest_llmperf.baselines.compare import learned
from pytest_llmperf.baselines.schema import (
    LEAST,
    MOST,
    MOST_SESSIONS,
    Calibration,
    Entry,
    File,
    Learned,
    Pairs,
    Reading,
    Recording,
    Session,
    read,
)
from pytest_llmperf.baselines.store import Store, _file_of, _module_of
from pytest_llmperf.errors import BaselineError

CPU = "cpu-x-2c"
WORKLOAD = {"prompt_tokens": 128}
KEY = "tests/test_chat.py::test_turn"
CHAT = Path(CPU, "tests", "test_chat.json")
EXACT = Path("exact-cpu", "tests", "test_chat.json")

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def session(tpot=8.0, weights=7.0, *, recorded="2026-11-21", torch="2.13.0", **metrics):
    readings = {"tpot_ms": tpot, "weights_mib": weights, **metrics}
    return Session(
        recorded=recorded,
        target="gpt2",
        versions={"torch": torch, "transformers": "5.0.0"},
        metrics={name: Reading(median=value) for name, value in readings.items() if value is not None},
    )


def recording(key=KEY, *sessions, workload=WORKLOAD, hardware=CPU):
    return Recording(
        key=key, hardware=hardware, device_type="cpu", workload=workload, sessions=list(sessions or [session()])
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "baselines"


@pytest.fixture
def store(folder):
    return Store(folder)


def record(folder, *recordings, append=False):
    return Store(folder).record(recordings or [recording()], append=append)


def found(folder, key=KEY, workload=WORKLOAD):
    return Store(folder).find(key, CPU, "cpu", workload)


def tpots(folder, key=KEY):
    return [session.metrics["tpot_ms"].median for session in found(folder, key).sessions]


def files(folder):
    """Every file of ours in a folder of baselines, by its text."""
    return {path.relative_to(folder): path.read_text() for path in sorted(folder.rglob("*.json"))}


def left_over(folder):
    return list(folder.rglob("*.tmp"))


# Recording and finding


def test_what_was_recorded_is_found_counted_metrics_apart(folder):
    (change,) = record(folder, recording(KEY, session(8.0, 7.0)))
    assert (change.key, change.kind, change.medians) == (
        KEY,
        "new",
        {"tpot_ms": (None, 8.0), "weights_mib": (None, 7.0)},
    )
    baseline = found(folder)
    assert [list(each.metrics) for each in baseline.sessions] == [["tpot_ms"]]
    assert [list(each.metrics) for each in baseline.exact] == [["weights_mib"]]
    assert set(files(folder)) == {CHAT, EXACT}


@pytest.mark.parametrize(
    ("key", "hardware", "workload"),
    [
        ("tests/test_chat.py::test_other", CPU, WORKLOAD),
        ("tests/test_other.py::test_turn", CPU, WORKLOAD),
        (KEY, "cpu-y", WORKLOAD),
        (KEY, CPU, {"prompt_tokens": 256}),
    ],
)
def test_another_test_hardware_or_workload_has_no_baseline(folder, key, hardware, workload):
    record(folder)
    assert Store(folder).find(key, hardware, "cpu", workload).sessions == ()


def test_a_baseline_of_other_hardware_is_named_even_beside_one_that_is_damaged(folder):
    record(folder, recording(hardware="cpu-y"), recording(hardware="cpu-z"), recording(hardware="cpu-w"))
    (folder / "cpu-z" / "tests" / "test_chat.json").write_text("damaged")
    assert Store(folder).hardware_with(KEY) == ["cpu-w", "cpu-y"]


def test_without_a_folder_nothing_is_found_and_recording_nothing_makes_none(folder):
    assert found(folder).sessions == ()
    assert Store(folder).hardware_with(KEY) == []
    assert Store(folder).names(CPU) == {}
    assert Store(folder).record([], append=False) == []
    assert not folder.exists()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
modules = st.lists(st.sampled_from(["tests", "..", "_up", "__up", "_root", "noise", "[a]", "é b"]), max_size=3).flatmap(
    lambda parts: st.sampled_from(["test_a.py", "noise.py", "a.b.py", "a.yaml"]).map(lambda m: "/".join([*parts, m]))
)
readings = st.builds(
    Reading,
    median=st.just(0.0) | st.floats(LEAST, MOST),
    error=st.floats(0, 1e300),
    samples=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
)
plain_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)
sessions = st.builds(
    Session,
    recorded=st.sampled_from(["2026-11-20", "2026-11-21", "2026-11-22"]),
    commit=texts,
    dirty=st.booleans(),
    target=texts,
    options=st.dictionaries(texts, plain_values, max_size=3),
    versions=st.dictionaries(st.sampled_from(["torch", "transformers", "numpy"]), texts, max_size=3),
    machine=st.dictionaries(texts, texts, max_size=2),
    metrics=st.dictionaries(st.sampled_from(["tpot_ms", "ttft_ms", "peak_memory_mib"]), readings, min_size=1),
)


@given(modules, texts, st.dictionaries(texts, plain_values, max_size=3), st.lists(sessions, min_size=1, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_recorded_is_found_as_it_was(tmp_path_factory, module, name, workload, measured):
    folder = tmp_path_factory.mktemp("any")
    key = f"{module}::{name}"
    record(folder, recording(key, *measured, workload=workload))
    assert list(found(folder, key, workload).sessions) == measured[-MOST_SESSIONS:]
    before = files(folder)
    record(folder, recording("tests/test_other.py::test_other"))
    assert before.items() <= files(folder).items()


# Names of files


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("tests/test_chat.py", "tests/test_chat.json"),
        ("noise.py", "noise.py.json"),
        ("tests/noise.py", "tests/noise.json"),
        ("../other/test_a.py", "_up/other/test_a.json"),
        ("_up/other/test_a.py", "__up/other/test_a.json"),
        ("/abs/test_a.py", "_root/abs/test_a.json"),
        ("//host/test_a.py", "_root/host/test_a.json"),
        ("tests/chat.yaml", "tests/chat.yaml.json"),
        ("tests/test_a.b.py", "tests/test_a.b.py.json"),
        ("tests\\test_a.py", "tests\\test_a.json"),
        ("tests/[x]/test_a.py", "tests/[x]/test_a.json"),
    ],
)
def test_a_module_has_a_file_of_its_own(module, file):
    assert _file_of(module) == file


@given(modules)
def test_the_file_tells_its_module(module):
    assert _module_of(Path(_file_of(module))) == module


@pytest.mark.parametrize(
    "key",
    [
        "../../outside.py::test",
        "/etc/test.py::test",
        "..\\..\\outside.py::test",
        "C:\\outside.py::test",
        "a/../../../outside.py::test",
        "noise.py::test",
    ],
)
def test_whatever_a_module_is_called_its_file_is_in_the_folder_of_its_hardware(folder, key):
    record(folder, recording(key))
    assert tpots(folder, key) == [8.0]
    everything = {path for path in folder.parent.rglob("*") if path.is_file()}
    beside = {folder / name for name in (".gitattributes", ".gitignore", ".lock")}
    assert all(path.is_relative_to(folder / CPU) or "exact-cpu" in path.parts for path in everything - beside)
    assert Store(folder).noise(CPU) is None


@pytest.mark.parametrize(
    "name",
    ["test[a::b]", "test['\"\\]", "test[line\nend]", "Class::test[é-😀]::label", "test[" + "x" * 5000 + "]", "..", ""],
)
def test_whatever_a_test_is_called_it_is_found_again(folder, name):
    key = f"tests/test_chat.py::{name}"
    record(folder, recording(key), recording("tests/test_chat.py::another", session(9.0)))
    assert tpots(folder, key) == [8.0]


# Update and append


def test_an_update_replaces_the_sessions(folder):
    record(folder, recording(KEY, session(8.0)))
    (change,) = record(folder, recording(KEY, session(9.0)))
    assert (change.kind, change.medians["tpot_ms"]) == ("updated", (8.0, 9.0))
    assert tpots(folder) == [9.0]


def test_appending_keeps_the_latest_twenty_sessions(folder):
    for number in range(MOST_SESSIONS + 3):
        record(folder, recording(KEY, session(number + 1.0)), append=True)
    assert tpots(folder) == [number + 1.0 for number in range(3, MOST_SESSIONS + 3)]
    assert len(found(folder).exact) == 1


def with_operators(number=0, **given):
    kept = {"calls": {"aten::mm": {"decode": 4}}, "times": {"aten::mm": {"decode": [number / 10]}}}
    return session(**given).model_copy(update={**kept, "decode_flops": [7, 9]})


def test_calls_of_operators_lie_with_counts_and_their_times_with_the_hardware(folder):
    record(folder, recording(KEY, with_operators(5)))
    found = Store(folder).find(KEY, CPU, "cpu", WORKLOAD)
    kept = [[(each.calls, each.times, each.decode_flops) for each in part] for part in (found.sessions, found.exact)]
    assert kept == [[({}, {"aten::mm": {"decode": [0.5]}}, [])], [({"aten::mm": {"decode": 4}}, {}, [7, 9])]]
    assert '      "aten::mm": {"decode": 4}\n' in (folder / EXACT).read_text()  # a line of its own


def test_only_the_latest_session_keeps_the_times_of_operators(folder):
    def times():
        return [each.times for each in Store(folder).find(KEY, CPU, "cpu", WORKLOAD).sessions]

    record(folder, recording(KEY, with_operators(1), with_operators(2)))
    assert times() == [{}, {"aten::mm": {"decode": [0.2]}}]
    record(folder, recording(KEY, with_operators(3)), append=True)
    assert times() == [{}, {}, {"aten::mm": {"decode": [0.3]}}]


def test_an_update_keeps_operators_that_an_older_version_did_not(folder):
    record(folder, recording(KEY, session()))
    record(folder, recording(KEY, with_operators()))
    exact = Store(folder).find(KEY, CPU, "cpu", WORKLOAD).exact
    assert [each.calls for each in exact] == [{"aten::mm": {"decode": 4}}]


def test_appending_to_another_workload_begins_anew_and_is_called_new(folder):
    record(folder)
    (change,) = record(folder, recording(KEY, session(9.0), workload={"prompt_tokens": 1}), append=True)
    assert (change.kind, change.medians["tpot_ms"]) == ("new", (None, 9.0))
    assert [each.metrics["tpot_ms"].median for each in found(folder, workload={"prompt_tokens": 1}).sessions] == [9.0]


def test_an_update_keeps_the_spread_that_sessions_taught(folder):
    for day, tpot in enumerate([8.0, 8.8, 8.4]):
        record(folder, recording(KEY, session(tpot, recorded=f"2026-11-0{day + 1}")), append=True)
    for repeated in range(3):
        record(folder, recording(KEY, session(9.0 + repeated)))
        taught = found(folder).learned["tpot_ms"]
        assert taught.df == 2
        assert taught.deviation == pytest.approx(0.0477, rel=0.01)


def test_what_was_learned_of_a_metric_outlives_a_session_without_it():
    entry = Entry(
        workload={},
        learned={"ttft_ms": Learned(deviation=0.04, df=5), "peak_memory_mib": Learned(deviation=0.1, df=2)},
        sessions=[session(8.0, recorded="1"), session(8.8, recorded="2"), session(None, recorded="3")],
    )
    taught = learned(entry)
    assert taught["ttft_ms"] == Learned(deviation=0.04, df=5)
    assert taught["tpot_ms"].df == 1
    assert set(taught) == {"ttft_ms", "tpot_ms"}, "memory has no spread to learn"


def test_a_time_of_nothing_teaches_nothing_and_keeps_what_was_learned():
    before = {"tpot_ms": Learned(deviation=0.04, df=5)}
    entry = Entry(workload={}, learned=before, sessions=[session(0.0, recorded="1"), session(8.0, recorded="2")])
    assert learned(entry) == before


@given(
    st.lists(sessions, min_size=1, max_size=20),
    st.dictionaries(
        st.sampled_from(["tpot_ms", "ttft_ms"]), st.builds(Learned, deviation=st.floats(0, 1e4), df=st.floats(1, 1e3))
    ),
)
@settings(deadline=None)
def test_whatever_is_stored_something_finite_is_learned(measured, before):
    entry = Entry(workload={}, learned=before, sessions=measured)
    taught = learned(entry)
    assert before.keys() <= taught.keys()
    assert all(
        math.isfinite(each.deviation) and each.df <= max(19, before[name].df if name in before else 0)
        for name, each in taught.items()
    )


# Counted metrics


def test_an_unchanged_count_leaves_its_file_alone(folder):
    record(folder, recording(KEY, session(8.0)))
    path = folder / EXACT
    before, inode = path.read_bytes(), path.stat()
    for append in (False, True):
        record(folder, recording(KEY, session(9.0, recorded="2027-01-01")), append=append)
    assert path.read_bytes() == before
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (inode.st_ino, inode.st_mtime_ns)


def test_several_processes_that_counted_the_same_are_one_session(folder):
    record(folder, recording(KEY, session(), session(), session()))
    assert len(found(folder).exact) == 1
    assert len(found(folder).sessions) == 3


def counts(folder):
    return [(each.versions["torch"], each.metrics["weights_mib"].median) for each in found(folder).exact]


def test_counts_are_kept_for_each_set_of_versions(folder):
    record(folder, recording(KEY, session(weights=7.0, torch="2.12")))
    record(folder, recording(KEY, session(weights=8.0, torch="2.13")))
    assert counts(folder) == [("2.12", 7.0), ("2.13", 8.0)]
    (change,) = record(folder, recording(KEY, session(weights=6.0, torch="2.12")))
    assert change.medians["weights_mib"] == (7.0, 6.0)
    assert counts(folder) == [("2.13", 8.0), ("2.12", 6.0)]


def test_a_count_that_contradicts_another_is_appended_and_an_update_settles_it(folder):
    record(folder, recording(KEY, session(weights=7.0)))
    record(folder, recording(KEY, session(weights=8.0)), append=True)
    assert counts(folder) == [("2.13.0", 7.0), ("2.13.0", 8.0)]
    record(folder, recording(KEY, session(weights=8.0)))
    assert counts(folder) == [("2.13.0", 8.0)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_updated_counts_are_one_session_for_each_set_of_versions(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("counts")
    expected: dict[str, float] = {}
    for torch, count, twice in runs:
        record(folder, recording(KEY, *[session(weights=float(count), torch=torch)] * (1 + twice)))
        expected[torch] = float(count)
    assert dict(counts(folder)) == expected
    assert len(counts(folder)) == len(expected)


# Small diffs


def test_an_update_of_one_test_leaves_all_other_lines_and_files_alone(folder):
    names = [f"tests/test_{module}.py::test_{number}" for module in "ab" for number in range(5)]
    record(folder, *(recording(name, session(random.Random(name).random())) for name in names))
    other = [folder / CPU / "tests" / "test_b.json", *(folder / "exact-cpu" / "tests").iterdir()]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in other]
    path = folder / CPU / "tests" / "test_a.json"
    old = path.read_text().splitlines()
    record(folder, recording("tests/test_a.py::test_2", session(5.25)))
    new = path.read_text().splitlines()
    assert len(old) == len(new)
    assert [line.strip() for line, was in zip(new, old, strict=True) if line != was] == ['"tpot_ms": {"median": 5.25}']
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in other] == before


def test_a_changed_file_keeps_its_permissions_and_a_new_one_has_the_usual(folder):
    record(folder)
    path = folder / CHAT
    usual = folder.parent / "usual"
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    path.chmod(0o640)
    record(folder, recording(KEY, session(9.0)))
    assert tpots(folder) == [9.0]
    assert stat.S_IMODE(path.stat().st_mode) == (
        0o640 if sys.platform != "win32" else stat.S_IMODE(path.stat().st_mode)
    )


# Pruning


def test_stale_tests_are_dropped_with_the_file_and_folders_they_leave_empty(folder):
    record(folder, recording("a/b/test_a.py::x"), recording("a/test_b.py::x"), recording("a/test_b.py::y"))
    store = Store(folder)
    assert store.names(CPU) == {"a/b/test_a.py": ["x"], "a/test_b.py": ["x", "y"]}
    store.prune(CPU, {"a/b/test_a.py": ["x"], "a/test_b.py": ["x", "none"], "a/none.py": ["x"]})
    assert store.names(CPU) == {"a/test_b.py": ["y"]}
    assert not (folder / CPU / "a" / "b").exists()
    store.prune(CPU, {"a/test_b.py": ["y"]})
    assert not (folder / CPU).exists()
    assert folder.exists()


def test_pruning_leaves_noise_and_a_test_that_another_process_stored_since(folder):
    record(folder)
    store = Store(folder)
    store.add_noise(CPU, CALIBRATION)
    assert store.names(CPU) == {"tests/test_chat.py": ["test_turn"]}
    record(folder, recording("tests/test_chat.py::since"))
    store.prune(CPU, {"tests/test_chat.py": ["test_turn"]})
    assert Store(folder).names(CPU) == {"tests/test_chat.py": ["since"]}
    store.prune(CPU, {"tests/test_chat.py": ["since"]})
    assert store.noise(CPU).calibrations == [CALIBRATION]


def test_pruning_what_is_not_there_touches_no_file(folder):
    record(folder)
    before = (folder / CHAT).stat().st_ino
    Store(folder).prune(CPU, {"tests/test_chat.py": ["gone"]})
    assert (folder / CHAT).stat().st_ino == before


def test_a_file_that_cannot_be_pruned_is_an_error_of_ours(folder, monkeypatch):
    record(folder)
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
    with pytest.raises(BaselineError, match="Read-only file system: not recorded, and what was stored is as it was"):
        Store(folder).prune(CPU, {"tests/test_chat.py": ["test_turn"]})
    assert tpots(folder) == [8.0]


def test_names_come_from_files_of_ours_that_can_be_read(folder):
    record(folder)
    home = folder / CPU / "tests"
    (home / ".123.tmp").write_text("left over")
    (home / "test_damaged.json").write_text("damaged")
    (home / "notes.txt").write_text("")
    assert Store(folder).names(CPU) == {"tests/test_chat.py": ["test_turn"]}


# What may happen to a file: it is refused, stays as it is, and the rest is recorded

DAMAGED = {
    "torn": ('{"schema": 1, "tests": {"test_turn": {"sess', "the file ends too early; restore"),
    "empty": ("", "the file ends too early; restore"),
    "conflict": ("{\n<<<<<<< HEAD\n", "line 2: a merge conflict; take one side whole"),
    "newer": ('{"schema": 99, "tests": {}}', "schema 99 is of a newer pytest-llmperf.* upgrade it"),
    "foreign": ('{"name": "package"}', "schema: expected a whole number from 1 to 1, not null; restore"),
    "twice": ('{"schema": 1, "tests": {}, "tests": {}}', '"tests" stands there twice, as after an automatic merge'),
}


@pytest.mark.parametrize(("text", "told"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_refused_and_never_overwritten(folder, text, told):
    record(folder)
    (folder / CHAT).write_text(text)
    with pytest.raises(BaselineError, match=f"^baselines/{CHAT.as_posix()}: .*{told}"):
        found(folder)
    for append in (False, True):
        with pytest.raises(BaselineError, match=told):
            record(folder, recording(KEY, session(9.0)), append=append)
    with pytest.raises(BaselineError, match=told):
        Store(folder).prune(CPU, {"tests/test_chat.py": ["test_turn"]})
    assert (folder / CHAT).read_text() == text
    assert not left_over(folder)


def test_when_one_file_cannot_be_changed_the_others_are_and_that_is_said(folder):
    keys = [f"tests/test_{name}.py::test" for name in "abcd"]
    record(folder, *map(recording, keys))
    for name in "bc":
        (folder / CPU / "tests" / f"test_{name}.json").write_text("damaged")
    with pytest.raises(BaselineError) as refused:
        record(folder, *(recording(key, session(9.0)) for key in keys))
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        f"baselines/{CPU}/tests/test_{name}.json" for name in "bc"
    ]
    assert lines[2:] == ["what else was measured is recorded (6 files)"]
    assert (tpots(folder, keys[0]), tpots(folder, keys[3])) == ([9.0], [9.0])


def test_of_many_files_that_cannot_be_changed_some_are_named(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    folder.mkdir()
    (folder / ".gitattributes").touch()
    (folder / ".gitignore").touch()
    with pytest.raises(BaselineError) as refused:
        record(folder, *(recording(f"test_{number}.py::x", session(weights=None)) for number in range(10)))
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "and 7 more files like that"


# Disks


def failing(code):
    def fail(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(params=["write", "sync", "rename", "close"])
def full_disk(request, monkeypatch):
    """Space runs out at one of the steps of writing, once it is called."""

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *arguments):
            self.file.close()
            if request.param == "close":
                failing(errno.ENOSPC)()

        def write(self, text):
            self.file.write(text[: len(text) // 2])
            if request.param == "write":
                self.file.flush()
                failing(errno.ENOSPC)()

        def __getattr__(self, name):
            return getattr(self.file, name)

    def fill():
        real = Path.open

        def opened(self, mode="r", *arguments, **keywords):
            file = real(self, mode, *arguments, **keywords)
            return file if mode == "r" else Full(file)

        if request.param == "sync":
            monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
        elif request.param == "rename":
            monkeypatch.setattr(Path, "replace", failing(errno.ENOSPC))
        else:
            monkeypatch.setattr(Path, "open", opened)

    return fill


def test_a_full_disk_loses_nothing_and_leaves_nothing(folder, full_disk):
    record(folder)
    before = files(folder)
    full_disk()
    with pytest.raises(BaselineError) as refused:
        record(folder, recording(KEY, session(9.0, 8.0)))
    for line, path in zip(str(refused.value).splitlines(), (CHAT, EXACT), strict=True):
        assert line == (
            f"baselines/{path.as_posix()}: No space left on device: not recorded, and what was stored is as it was; "
            "mend that, or name another folder by --llmperf-baselines"
        )
    assert files(folder) == before
    assert not left_over(folder)


@posix
def test_a_file_that_the_system_cuts_short_is_not_put_in_place(folder):
    """As a full disk, but by the system itself: no file of this process may grow beyond 100 bytes."""
    record(folder)
    before = files(folder)
    code = f"""
import resource
from tests.unit.test_baselines_store import *
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    record(Path({str(folder)!r}), recording(KEY, session(9.0, 8.0)))
except BaselineError as error:
    print(error)
"""
    output = python(code).communicate(timeout=60)[0]
    assert output.count("File too large: not recorded, and what was stored is as it was") == 2
    assert files(folder) == before
    assert not left_over(folder)


def test_a_folder_that_is_read_only_is_named(folder, monkeypatch):
    record(folder)
    before = files(folder)
    monkeypatch.setattr(filelock.FileLock, "acquire", failing(errno.EROFS))
    with pytest.raises(BaselineError, match=r"^baselines: Read-only file system: not recorded, and what was stored is"):
        record(folder, recording(KEY, session(9.0)))
    assert files(folder) == before
    assert tpots(folder) == [8.0], "reading needs no lock"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaselineError, match=r"^baselines: Not a directory: not recorded"):
        record(tmp_path / "file" / "baselines")


def test_a_file_in_place_of_the_folder_is_named(folder):
    folder.write_text("a file")
    with pytest.raises(
        BaselineError, match=r"baselines is a file, where baselines need a folder: not recorded; move it"
    ):
        record(folder)
    with pytest.raises(BaselineError, match="Not a directory"):
        found(folder)
    assert Store(folder).hardware_with(KEY) == []
    assert folder.read_text() == "a file"


@pytest.mark.parametrize("place", [CPU, f"{CPU}/tests"])
def test_a_file_in_place_of_a_folder_within_is_named(folder, place):
    (folder / place).parent.mkdir(parents=True)
    (folder / place).write_text("a file")
    for attempt in (found, record):
        with pytest.raises(BaselineError, match=f"^baselines/{CHAT.as_posix()}: Not a directory"):
            attempt(folder)
    assert (folder / place).read_text() == "a file"


def test_a_folder_in_place_of_a_file_is_named(folder):
    (folder / CHAT).mkdir(parents=True)
    for attempt in (found, record):
        with pytest.raises(BaselineError, match=f"^baselines/{CHAT.as_posix()} is no file: move what stands there"):
            attempt(folder)


def test_a_name_that_no_file_can_have_is_an_error_of_ours(folder):
    record(folder)
    key = f"tests/{'x' * 300}.py::test"
    for attempt in (lambda: found(folder, key), lambda: record(folder, recording(key))):
        with pytest.raises(BaselineError, match="File name too long"):
            attempt()


def test_a_name_that_cannot_be_written_is_an_error_of_ours(folder):
    record(folder)
    before = files(folder)
    with pytest.raises(BaselineError, match="in the name of a test or target, is half a character: not recorded"):
        record(folder, recording("tests/test_chat.py::test[\udcff]"))
    assert files(folder) == before
    assert not left_over(folder)


# Links


@needs_links
@pytest.mark.parametrize("place", [CHAT, CHAT.parent, Path(CPU)], ids=["file", "folder", "hardware"])
def test_a_link_out_of_the_folder_is_neither_read_nor_written(folder, tmp_path, place):
    outside = tmp_path / "outside"
    record(outside, recording(KEY, session(1.0)))
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    record(folder)
    link = folder / place
    link.rename(tmp_path / "away")
    link.symlink_to(outside / place)
    told = f"^baselines/{CHAT.as_posix()} is a link that leads out of .*, to .*outside.*: replace it by a file"
    with pytest.raises(BaselineError, match=told):
        found(folder)
    with pytest.raises(BaselineError, match=told):
        record(folder, recording(KEY, session(9.0)))
    with pytest.raises(BaselineError, match=told):
        Store(folder).prune(CPU, {"tests/test_chat.py": ["test_turn"]})
    assert Store(folder).names(CPU) == {}
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


@needs_links
@pytest.mark.parametrize("name", [".gitattributes", ".gitignore", ".lock"])
def test_nothing_is_written_through_a_link_where_none_is_expected(folder, tmp_path, name):
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(BaselineError, match=f"baselines/{name} is a link that leads out"):
        record(folder)
    assert not (tmp_path / "victim").exists()


@needs_links
def test_a_temporary_file_is_never_written_through_a_link(folder, tmp_path):
    record(folder)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / CHAT.parent / f".{os.getpid()}.tmp").symlink_to(victim)
    record(folder, recording(KEY, session(9.0)))
    assert victim.read_text() == "precious"
    assert tpots(folder) == [9.0]


@needs_links
def test_a_link_within_the_folder_is_read_and_written_through(folder):
    record(folder)
    twin = folder / CPU / "tests" / "test_twin.json"
    twin.symlink_to("test_chat.json")
    (folder / "cpu-alias").symlink_to(CPU)
    assert tpots(folder, "tests/test_twin.py::test_turn") == [8.0]
    record(folder, recording("tests/test_twin.py::test_turn", session(9.0)))
    assert twin.is_symlink()
    assert tpots(folder) == [9.0]
    record(folder, recording(KEY, session(10.0), hardware="cpu-alias"))
    assert (folder / "cpu-alias").is_symlink()
    assert tpots(folder) == [10.0]


@needs_links
def test_a_link_to_itself_is_an_error_of_ours(folder):
    record(folder)
    (folder / CHAT).unlink()
    (folder / CHAT).symlink_to(folder / CHAT)
    for attempt in (found, record):
        with pytest.raises(BaselineError, match=f"^baselines/{CHAT.as_posix()}"):
            attempt(folder)


@needs_links
def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "real").mkdir()
    folder.symlink_to(tmp_path / "real")
    record(folder)
    assert tpots(tmp_path / "real") == [8.0]


# Processes


def python(code):
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_processes_that_record_at_once_lose_nothing(folder):
    """Entries of the same files, from processes that see other temporary folders, as in other containers."""
    code = """
import os, sys, tempfile
from tests.unit.test_baselines_store import *
who, folder = {who!r}, Path({folder!r})
tempfile.tempdir = os.environ["TMPDIR"] = str(folder.parent)
for number in range(15):
    record(folder, recording(f"tests/test_chat.py::test_{{who}}_{{number}}"))
    record(folder, recording("tests/test_chat.py::test_shared", session(float({offset} + number + 1))), append=True)
"""
    folder.parent.joinpath("0").mkdir()
    running = [python(code.format(who=who, folder=str(folder), offset=100 * who)) for who in range(2)]
    for process in running:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    stored = read((folder / CHAT).read_text(), File, "it").tests
    assert set(stored) == {f"test_{who}_{number}" for who in range(2) for number in range(15)} | {"test_shared"}
    shared = [each.metrics["tpot_ms"].median for each in stored["test_shared"].sessions]
    assert len(shared) == MOST_SESSIONS
    for who in range(2):
        own = [value for value in shared if value // 100 == who]
        assert own == [100.0 * who + number for number in range(16 - len(own), 16)]
    assert not left_over(folder)


def test_a_writer_that_does_not_end_is_named(folder, monkeypatch):
    record(folder)
    monkeypatch.setattr(store_module, "PATIENCE_S", 0.05)
    other = filelock.FileLock(folder / ".lock")
    with (
        other,
        pytest.raises(
            BaselineError, match=r"^baselines: not recorded: another process has been writing there for 0 s; let"
        ),
    ):
        record(folder, recording(KEY, session(9.0)))
    assert tpots(folder) == [8.0]
    record(folder, recording(KEY, session(9.0)))
    assert tpots(folder) == [9.0]


@posix
@pytest.mark.parametrize("key", [KEY, "tests/test_[x].py::test"])
def test_a_process_killed_between_write_and_rename_loses_nothing_that_was_stored(folder, key):
    record(folder, recording(key))
    before = files(folder)
    code = f"""
import os, signal
from tests.unit.test_baselines_store import *
Path.replace = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
record(Path({str(folder)!r}), recording({key!r}, session(9.0)))
"""
    process = python(code)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGKILL, output
    assert len(left_over(folder)) == 1
    assert files(folder) == before
    record(folder, recording("tests/test_other.py::test"))
    assert not left_over(folder)
    assert before.items() <= files(folder).items()


def test_an_interrupt_while_writing_leaves_nothing(folder, monkeypatch):
    record(folder)
    before = files(folder)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(folder, recording(KEY, session(9.0)))
    monkeypatch.undo()
    assert files(folder) == before
    assert not left_over(folder)
    record(folder, recording(KEY, session(9.0)))


# Git


def test_git_does_not_merge_two_changes_of_one_file_and_sees_no_lock(folder, tmp_path):
    def git(*arguments, check=True):
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    tests = [f"tests/test_chat.py::test_{number}" for number in range(20)]
    git("init")
    record(folder, *map(recording, tests))
    (folder / CHAT.parent / ".123.tmp").write_text("of a process that was killed")
    git("add", ".")
    git("commit", "-m", "base")
    kept = {f"baselines/{path.as_posix()}" for path in (CHAT, EXACT)}
    assert set(git("ls-files").stdout.split()) == kept | {"baselines/.gitattributes", "baselines/.gitignore"}
    for branch, test in (("ours", tests[0]), ("theirs", tests[-1])):
        git("checkout", "-q", "-b", branch, "main")
        record(folder, recording(test, session(9.0)))
        git("commit", "-qam", branch)
    merged = git("merge", "ours", check=False)
    assert merged.returncode == 1
    assert f"CONFLICT (content): Merge conflict in baselines/{CHAT.as_posix()}" in merged.stdout
    assert tpots(folder, tests[-1]) == [9.0], "what lies there is one side whole"
    assert tpots(folder, tests[0]) == [8.0]
    git("checkout", "--theirs", str(folder / CHAT))
    assert tpots(folder, tests[0]) == [9.0]


def test_attributes_of_ones_own_are_left_alone(folder):
    folder.mkdir()
    (folder / ".gitattributes").write_text("# mine\n")
    record(folder)
    assert (folder / ".gitattributes").read_text() == "# mine\n"


# Noise

CALIBRATION = Calibration(
    recorded="2026-11-21",
    target="gpt2",
    threads=1,
    metrics={"tpot_ms": Pairs(differences=[0.01], errors=[0.002], levels=[2.1], rounds=0.03)},
)


def test_calibrations_are_added_to_those_before(folder):
    later = CALIBRATION.model_copy(update={"recorded": "2026-11-22"})
    for calibration in (CALIBRATION, later):
        path = Store(folder).add_noise(CPU, calibration)
    assert path == folder / CPU / "noise.json"
    assert Store(folder).noise(CPU).calibrations == [CALIBRATION, later]
    assert Store(folder).noise("cpu-none") is None


def test_a_damaged_noise_file_is_refused_and_never_overwritten(folder):
    path = Store(folder).add_noise(CPU, CALIBRATION)
    path.write_text('{"schema": 1, "calibrations": []}')
    with pytest.raises(
        BaselineError, match=r"noise.json: calibrations: expected at least 1 .* anew with llmperf calibrate"
    ):
        Store(folder).add_noise(CPU, CALIBRATION)
    assert json.loads(path.read_text())["calibrations"] == []


def test_a_file_is_read_once_for_a_run_and_anew_before_it_is_changed(folder, monkeypatch):
    record(folder)
    store = Store(folder)
    assert len(store.find(KEY, CPU, "cpu", WORKLOAD).sessions) == 1
    record(folder, recording("tests/test_chat.py::since"))
    counted = itertools.count()
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: (next(counted), real(self, *a, **k))[1])
    store.find(KEY, CPU, "cpu", WORKLOAD)
    assert next(counted) == 0
    store.record([recording(KEY, session(9.0))], append=False)
    assert tpots(folder, "tests/test_chat.py::since") == [8.0]


def test_an_update_without_times_keeps_those_that_are_stored(store: Store) -> None:
    store.record([recording(KEY, session(tpot=8.0, peak_memory_mib=4.0, recorded="1"))], append=False)
    store.record([recording(KEY, session(tpot=None, peak_memory_mib=5.0, recorded="2"))], append=False)
    found = store.find(KEY, CPU, "cpu", WORKLOAD)
    assert [(each.recorded, list(each.metrics)) for each in found.sessions] == [
        ("1", ["tpot_ms"]),
        ("2", ["peak_memory_mib"]),
    ]
    store.record([recording(KEY, session(tpot=None, peak_memory_mib=6.0, recorded="3"))], append=False)
    found = store.find(KEY, CPU, "cpu", WORKLOAD)
    assert [each.recorded for each in found.sessions] == ["1", "3"]
    store.record([recording(KEY, session(tpot=9.0, peak_memory_mib=6.0, recorded="4"))], append=False)
    assert [each.recorded for each in store.find(KEY, CPU, "cpu", WORKLOAD).sessions] == ["4"]
