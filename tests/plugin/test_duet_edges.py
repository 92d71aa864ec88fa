"""Repositories of every kind, options that do not go together, and what is left when a duet ends, however it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plugin.duets import ENGINE, FAST, HEAD, SLOW, TURN, Project
from tests.repositories import commit, git, repository, write

OK, FAILED, MISUSE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR
COMPARED = ("INCONCLUSIVE", "OK", "IMPROVED")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")

# Repositories


def test_a_detached_head_with_changes_in_a_part_of_a_repository_whose_path_has_spaces(tmp_path: Path) -> None:
    parts = {f"the part/{name}": text for name, text in {"engine.py": SLOW, "test_chat.py": HEAD + TURN}.items()}
    project = Project(tmp_path / "a project", {"the part/pytest.ini": "[pytest]\nllmperf_rounds = 3\n", **parts}, {})
    git(project.folder, "checkout", "--quiet", "--detach")
    write(project.folder, {"the part/engine.py": SLOW.replace("paced(6)", "paced(2)")})
    run = project.against(folder=project.folder / "the part")
    assert run.status == OK
    assert run.verdicts["test_turn"] in COMPARED
    run.has(
        f"rootdir: {project.folder / 'the part'}",
        f"llmperf: base {project.short()} (merge base with base), head {project.short('HEAD')} with changes",
        "test_chat.py::test_turn: tpot_ms * → * ms (−*",
    )
    assert project.left() == []


def test_a_linked_worktree_with_a_submodule_that_holds_the_code(tmp_path: Path) -> None:
    engine = repository(tmp_path / "engine", {"engine.py": SLOW})
    project = Project(tmp_path / "project", {"conftest.py": "import sys\nsys.path.insert(0, 'sub')\n", "sub.txt": ""})
    project.commit({"test_chat.py": HEAD + TURN})
    git(project.folder, "rm", "--quiet", "engine.py")
    git(project.folder, "submodule", "--quiet", "add", str(engine), "sub")
    project.commit({}, "base")
    commit(engine, {"engine.py": SLOW.replace("paced(6)", "paced(2)")})
    git(project.folder / "sub", "pull", "--quiet", "origin", "main")
    project.commit({}, "head")
    linked = tmp_path / "linked"
    git(project.folder, "worktree", "add", "--quiet", str(linked), "head")
    git(linked, "submodule", "--quiet", "update", "--init")
    run = project.against(folder=linked)
    assert run.status == OK
    assert run.verdicts["test_turn"] in COMPARED
    run.has("test_chat.py::test_turn: tpot_ms * → * ms (−*")
    assert [line.split()[0] for line in project.left()] == [str(linked)]


def test_a_shallow_clone_says_fetch_depth_and_another_unknown_ref_what_is_near(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", {"test_chat.py": HEAD + TURN}, {})
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", project.folder.as_uri(), str(shallow))
    run = project.against(ref="base", folder=shallow)
    assert run.status == MISUSE
    run.has("ERROR: --llmperf-against=base: no commit here has that name; *`fetch-depth: 0`*")
    run = project.against(ref="bass")
    assert run.status == MISUSE
    run.has("ERROR: --llmperf-against=bass: no commit here has that name* 'base'?*")


def test_outside_a_repository_it_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", {"test_chat.py": HEAD + TURN})
    (project.folder / ".git").rename(tmp_path / "gone")
    run = project.run("--llmperf-against=base", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert run.status == MISUSE
    run.has(f"ERROR: --llmperf-against: {project.folder} is no checkout of a git repository *")


@pytest.mark.parametrize(
    ("arguments", "ini", "error"),
    [
        (["-n2"], "", "with -n: base and head take turns, which other workers would disturb; add -n0"),
        (["--llmperf-update"], "", "with --llmperf-update: a duet consults no baselines; record them in another run"),
        (["--llmperf-append"], "", "with --llmperf-append: a duet consults no baselines; record them in another run"),
        (["--llmperf=smoke"], "", "with --llmperf=smoke: nothing is measured that could be compared"),
        (["--llmperf=off"], "", "with --llmperf=off: nothing is measured that could be compared"),
        ([], "addopts = --llmperf-against=base", "stands in addopts, and would compare every run with it: *"),
    ],
)
def test_what_it_does_not_go_with_is_told_before_anything_runs(
    suite: pytest.Pytester, arguments: list[str], ini: str, error: str
) -> None:
    if "-n2" in arguments:
        pytest.importorskip("xdist")
    suite.makeini(f"[pytest]\n{ini}\n")
    suite.makepyfile(test_plain="def test_plain():\n    pass\n")
    result = suite.runpytest(*([] if ini else ["--llmperf-against=base"]), *arguments)
    assert result.ret == MISUSE
    result.stderr.fnmatch_lines([f"ERROR: --llmperf-against=base {error}"])


def test_a_run_that_measures_nothing_is_no_comparison(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_plain="def test_plain():\n    pass\n")
    result = suite.runpytest("--llmperf-against=base")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["llmperf: nothing was measured, where something was to be compared with a base"])


CALLED = f"""{HEAD}
@pytest.mark.parametrize("name", ["x::y", "[é] 'q'", "a/b.py"])
@llm_perf(model=stream(engine.slower), output_tokens=10)
def test_turn(llm, name, size):
    llm.measure(prompt_tokens=size)

TRIED = []

@pytest.mark.flaky(reruns=1)
@llm_perf(**TURN)
def test_again(llm):
    llm.measure("first")
    if not TRIED and not engine.BASE:
        TRIED.append(1)
        raise ValueError
    llm.measure("second")
"""
OPTION = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--size", type=int)

@pytest.fixture(scope="session")
def size(request):
    return request.config.getoption("--size") + 0
"""


def test_a_call_from_below_with_options_of_a_conftest_odd_parameters_and_a_rerun(tmp_path: Path) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project = Project(
        tmp_path / "project",
        {
            "engine.py": f"{FAST}slower, BASE = paced(2), True\n",
            "tests/conftest.py": OPTION,
            "tests/test_chat.py": CALLED,
        },
        {"engine.py": f"{FAST}slower, BASE = paced(6), False\n"},
    )
    arguments = ("--size=8", "--deselect=tests/test_chat.py::test_turn[a/b.py]", "test_chat.py")
    run = project.against(*arguments, folder=project.folder / "tests", PYTHONPATH=os.pathsep.join(["..", *sys.path]))
    assert run.status == FAILED
    run.has(
        "  test_turn[[]x::y[]] * REGRESSED",
        "  test_turn[[][[]\\xe9[]] 'q'[]] * REGRESSED",
        "*2 failed, 1 passed, 1 deselected, 1 rerun in *",
    )
    assert {run.verdicts["test_again::first"], run.verdicts["test_again::second"]} <= set(COMPARED)
    assert project.left() == []


# Fixtures of base

FIXTURES = f"""{HEAD}
import engine as code

@pytest.fixture(scope="module", autouse=True)
def module():
    code.log("module up")
    yield
    code.log("module down")

@pytest.fixture(scope="class")
def shared():
    code.log("shared up")
    yield
    code.log("shared down")

class TestShared:
    @llm_perf(**TURN)
    def test_first(self, llm, shared):
        llm.measure()

    def test_unmeasured(self, shared):
        pass

    @llm_perf(**TURN)
    def test_fails_first(self, llm, shared):
        assert code.WHOSE == "base"
        llm.measure()

    @llm_perf(**TURN)
    def test_left_out(self, llm, shared):
        llm.measure()

    @llm_perf(**TURN)
    def test_last(self, llm, shared):
        llm.measure()

@llm_perf(**TURN)
def test_alone(llm):
    llm.measure()
"""


def test_fixtures_of_base_live_as_long_as_in_any_run_whatever_head_leaves_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine = f"""{ENGINE}
turn = paced(2)
WHOSE = {{whose!r}}

def log(line):
    with open({str(log)!r}, "a") as file:
        print(WHOSE, line, file=file)
"""
    project = Project(
        tmp_path / "project",
        {"engine.py": engine.format(whose="base"), "test_chat.py": FIXTURES},
        {"engine.py": engine.format(whose="head")},
    )
    run = project.against("-k", "not left_out", "--llmperf-budget=0.001")  # no further pairs, whose fixtures are others
    assert run.status == FAILED
    assert set(run.verdicts) == {"TestShared::test_first", "TestShared::test_last", "test_alone"}
    assert set(run.verdicts.values()) <= set(COMPARED)
    once = ["module up", "shared up", "shared down", "module down"]
    lines = log.read_text().splitlines()
    assert [line.removeprefix("base ") for line in lines if line.startswith("base ")] == once
    assert [line.removeprefix("head ") for line in lines if line.startswith("head ")] == once


# How it ends

WAITING = """
@llm_perf(model=stream(engine.waiting), **SIZES)
def test_waiting(llm):
    llm.measure()
"""


def waiting(whose: str, folder: Path) -> str:
    """An engine that waits for minutes in head or in base, and leaves a file once it does."""
    return f"""{ENGINE}
import os

turn = paced(2)

def waiting(prompt_ids, output_tokens):
    if {whose!r} == "waits":
        with open({str(folder / "begun")!r}, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    yield from turn(prompt_ids, output_tokens)
"""


@contextmanager
def waiting_head(project: Project) -> Iterator[subprocess.Popen[str]]:
    """A run whose head has begun to measure, and does not go on."""
    begun = project.folder.parent / "begun"
    with subprocess.Popen(
        project.command("--llmperf-against=base"),
        cwd=project.folder,
        env=project.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        while not (begun.exists() and begun.read_text()) and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
        yield process


def soon_gone(project: Project) -> list[str]:
    """Processes that do not end by themselves."""
    deadline = time.monotonic() + 60
    while (processes := project.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


@needs_signals
def test_ctrl_c_ends_base_and_removes_its_worktree_and_what_a_killed_run_left_goes_with_the_next(
    tmp_path: Path,
) -> None:
    project = Project(
        tmp_path / "project",
        {"engine.py": waiting("goes on", tmp_path), "test_chat.py": HEAD + WAITING},
        {"engine.py": waiting("waits", tmp_path)},
    )
    with waiting_head(project) as process:
        assert len(project.processes()) == 2
        assert len(project.worktrees()) == 1
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert project.left() == []

    (tmp_path / "begun").unlink()
    with waiting_head(project) as process:
        process.kill()
        process.communicate(timeout=60)
    assert soon_gone(project) == [], "base hears that head has ended"
    [left] = project.worktrees()
    write(project.folder, {"engine.py": waiting("goes on", tmp_path)})
    run = project.against()
    assert run.status == OK
    assert project.worktrees() == []
    assert not any(path.name.startswith("llmperf-base-") for path in project.temporary.iterdir())
    assert not Path(left.split()[0]).exists()


@needs_signals
def test_ctrl_c_in_a_fresh_pair_ends_both_of_its_processes(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    again = f"""{ENGINE}
import os
import pathlib

def waiting(prompt_ids, output_tokens):
    file = pathlib.Path({str(pids)!r})
    known = set(file.read_text().split()) if file.exists() else set()
    file.write_text(" ".join(known | {{str(os.getpid())}}))
    if known - {{str(os.getpid())}}:
        pathlib.Path({str(tmp_path / "begun")!r}).write_text("begun")
        time.sleep(600)
    yield from paced(6)(prompt_ids, output_tokens)

turn = waiting
"""
    project = Project(tmp_path / "project", {"test_chat.py": HEAD + TURN}, {"engine.py": again})
    with waiting_head(project) as process:
        assert len(pids.read_text().split()) == 2
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert soon_gone(project) == []
    assert project.worktrees() == []


@needs_signals
def test_a_base_that_hangs_is_given_up_and_the_next_test_is_compared(tmp_path: Path) -> None:
    conftest = "from pytest_llmperf.duet import partner\n\npartner.PATIENCE_S = 5.0\n"
    project = Project(
        tmp_path / "project",
        {"engine.py": waiting("waits", tmp_path), "conftest.py": conftest, "test_chat.py": HEAD + WAITING + TURN},
        {"engine.py": waiting("goes on", tmp_path)},
    )
    run = project.against()
    assert run.status == OK
    assert run.verdicts["test_waiting"] == "NEW"
    assert f"base {project.short()} (merge base with base): the base process said nothing for 5 s" in run.text
    assert run.verdicts["test_turn"] in COMPARED
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)
    assert project.left() == []


@needs_signals
def test_a_base_that_is_killed_while_it_measures_is_named(tmp_path: Path) -> None:
    killed = f"""{ENGINE}
import os

turn = paced(2)
calls = []

def waiting(prompt_ids, output_tokens):
    calls.append(1)
    for number, token in enumerate(turn(prompt_ids, output_tokens)):
        if {{kills}} and len(calls) > 3 and number == 5:
            os.kill(os.getpid(), 9)
        yield token
"""
    project = Project(
        tmp_path / "project",
        {"engine.py": killed.format(kills=True), "test_chat.py": HEAD + WAITING + TURN},
        {"engine.py": killed.format(kills=False)},
    )
    run = project.against()
    assert run.status == OK
    assert run.verdicts["test_waiting"] == "NEW"
    assert "process ended by SIGKILL (memory may have run out)" in run.text
    assert run.verdicts["test_turn"] in COMPARED
    assert project.left() == []
