"""A commit checked out beside head: what it holds, how it is set up, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from pytest_llmperf.duet.worktree import Worktree, check_out, set_up
from pytest_llmperf.errors import LlmperfError, UsageError
from tests.repositories import commit, git, repository, write

posix = pytest.mark.skipif(os.name != "posix", reason="signals and modes of POSIX")


@pytest.fixture(autouse=True)
def temporary(git_settings, tmp_path, monkeypatch):
    """Where worktrees are made; its name has a space, and letters outside ASCII."""
    folder = tmp_path / "temporäry földer"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def head(tmp_path):
    """A repository whose head differs from its first commit."""
    folder = repository(tmp_path / "a projëct", {"code.txt": "old", "sub/more.txt": "old"})
    commit(folder, {"code.txt": "new"})
    return folder


@pytest.fixture
def check(head, request):
    """Checks the commit before head's out, and removes it after the test."""

    def check(folder=head, what="HEAD~1", tell=lambda stage: None):
        worktree = check_out(folder, git(folder, "rev-parse", what), tell)
        request.addfinalizer(worktree.remove)
        return worktree

    return check


def records(folder):
    """The worktrees that git knows, the first being the repository's own."""
    lines = git(folder, "worktree", "list", "--porcelain").splitlines()
    return [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")][1:]


def test_a_commit_is_checked_out_beside_head_and_leaves_nothing_behind(head, check, temporary):
    said = []
    write(head, {"code.txt": "not committed"})
    worktree = check(head / "sub", tell=said.append)
    assert (worktree.head, worktree.root.name) == (head, head.name)
    assert worktree.root.is_relative_to(temporary)
    assert (worktree.root / "code.txt").read_text() == "old"
    assert git(worktree.root, "rev-parse", "HEAD") == worktree.commit
    assert said == [f"checking out {worktree.commit[:10]}"]
    worktree.remove()
    worktree.remove()
    assert list(temporary.iterdir()) == records(head) == []
    assert (head / "code.txt").read_text() == "not committed"
    assert git(head, "branch", "--format=%(refname:short)") == "main"


def test_hooks_do_not_run(head, check):
    hook = head / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    assert not (check().root / "hooked").exists()


def test_a_commit_is_checked_out_from_inside_a_linked_worktree(head, check, tmp_path):
    linked = tmp_path / "linked"
    git(head, "worktree", "add", "--quiet", "--detach", str(linked), "HEAD~1")
    worktree = check(linked, "main")
    assert worktree.head == linked
    assert (worktree.root / "code.txt").read_text() == "new"
    worktree.remove()
    assert records(head) == [linked]


def test_what_git_tells_a_hook_does_not_mislead(head, check, tmp_path, monkeypatch):
    other = repository(tmp_path / "other", {"code.txt": "another's"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    worktree = check()
    assert (worktree.root / "code.txt").read_text() == "old"
    set_up(worktree, "git rev-parse HEAD > told", worktree.root)
    assert (worktree.root / "told").read_text().strip() == worktree.commit
    worktree.remove()
    assert records(head) == records(other) == []


def test_what_git_cannot_do_is_told_in_its_words_and_leaves_nothing(head, temporary):
    with pytest.raises(LlmperfError, match=r"^base, 0000000000, could not be checked out in .*: fatal: .*0{40}"):
        check_out(head, "0" * 40)
    assert list(temporary.iterdir()) == records(head) == []


def test_without_a_place_for_temporary_files_the_error_names_tmpdir(head, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(head / "nowhere"))
    with pytest.raises(LlmperfError, match=r"^no folder for base could be made: .*nowhere.*TMPDIR"):
        check_out(head, "HEAD")


def test_an_interrupt_while_checking_out_leaves_nothing(head, temporary):
    def interrupt(stage):
        raise KeyboardInterrupt

    write(head, {".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = ../x\n'})
    git(head, "update-index", "--add", "--cacheinfo", f"160000,{git(head, 'rev-parse', 'HEAD')},x")
    write(head, {"x/.git": "gitdir: nowhere"})
    git(head, "add", ".gitmodules")
    git(head, "commit", "--quiet", "--message=x")
    stages = iter([lambda: None, lambda: interrupt("x")])
    with pytest.raises(KeyboardInterrupt):
        check_out(head, git(head, "rev-parse", "HEAD"), lambda stage: next(stages)())
    assert list(temporary.iterdir()) == records(head) == []


@posix
def test_what_is_read_only_is_removed_and_what_a_link_leads_to_is_not(check, temporary, tmp_path):
    kept = tmp_path / "kept"
    write(kept, {"file.txt": "kept"})
    kept.chmod(0o500)
    worktree = check()
    write(worktree.root, {"locked/deep/file.txt": "x"})
    (worktree.root / "link").symlink_to(kept)
    for path in ("locked/deep/file.txt", "locked/deep", "locked", "."):
        (worktree.root / path).chmod(0o000)
    worktree.remove()
    assert list(temporary.iterdir()) == []
    assert (kept / "file.txt").read_text() == "kept"
    assert kept.stat().st_mode & 0o777 == 0o500


# Processes

PROGRAM = """
    import os, sys, tempfile, time
    from pathlib import Path
    from pytest_llmperf.duet.worktree import check_out
    worktree = check_out(Path.cwd(), {commit!r})
    print(worktree.root, flush=True)
    {then}
"""


@pytest.fixture
def start(head, temporary, request):
    """Starts a process that checks out the commit before head's; it and its worktree."""

    def start(then="time.sleep(600)"):
        program = textwrap.dedent(PROGRAM).format(commit=git(head, "rev-parse", "HEAD~1"), then=then)
        here = Path(__file__).parents[2]
        environ = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(here), "PYTHONUTF8": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=head, env=environ, stdout=subprocess.PIPE, encoding="utf-8"
        )
        request.addfinalizer(process.stdout.close)
        request.addfinalizer(process.wait)
        request.addfinalizer(process.kill)
        return process, Path(process.stdout.readline().removesuffix("\n"))

    return start


@pytest.mark.parametrize("then", ["pass", "1 / 0", "raise KeyboardInterrupt"])
def test_a_process_that_ends_removes_its_worktree(head, start, temporary, then):
    process, root = start(f"sys.stderr.close(); {then}")
    process.wait()
    assert root.parent.parent == temporary
    assert list(temporary.iterdir()) == records(head) == []


@posix
def test_what_a_killed_process_left_goes_with_the_next_run_and_what_a_living_one_uses_stays(head, start, check):
    killed, left = start()
    _, used = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (left / "code.txt").exists()
    assert set(records(head)) == {left, used}
    said = []
    worktree = check(tell=said.append)
    assert said[0] == f"removing {left.parent}, left by a run that was killed"
    assert len(said) == 2
    assert not left.parent.exists()
    assert (used / "code.txt").exists()
    assert set(records(head)) == {used, worktree.root}


@posix
def test_a_record_whose_folder_the_machine_removed_goes_too(head, start, check, temporary):
    killed, left = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left.parent.rename(temporary / "elsewhere")
    assert records(head) == [left]
    worktree = check()
    assert records(head) == [worktree.root]


def test_worktrees_of_people_stay_whatever_their_names(head, check, temporary):
    theirs = temporary / "llmperf-base-mine" / "x"
    git(head, "worktree", "add", "--quiet", "--detach", str(theirs), "HEAD")
    worktree = check()
    assert set(records(head)) == {theirs, worktree.root}
    assert (theirs / "code.txt").exists()


@posix
def test_a_fork_that_exits_does_not_remove_what_its_parent_uses(head, start):
    process, root = start(
        "pid = os.fork() or sys.exit(); os.waitpid(pid, 0); print('forked', flush=True); time.sleep(9)"
    )
    assert process.stdout.readline() == "forked\n"
    assert (root / "code.txt").exists()


# Submodules


@pytest.fixture
def with_submodules(tmp_path):
    """Head with a submodule that has one of its own, whose origins are gone; base wants other commits of both."""
    inner = repository(tmp_path / "inner")
    outer = repository(tmp_path / "outer")
    folder = repository(tmp_path / "with submodules")
    allowed = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    git(outer, *allowed, str(inner), "in ner")
    commit(outer, {})
    git(folder, *allowed, "--name", "named otherwise", str(outer), "libs/out er")
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
    commit(folder, {})
    commit(folder / "libs" / "out er" / "in ner", {"code.txt": "new"})
    commit(folder / "libs" / "out er", {"code.txt": "new"})
    commit(folder, {"code.txt": "new"})
    return folder, outer, inner


def away(*folders):
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name} is away"))


@pytest.mark.parametrize("what", ["HEAD", "HEAD~1"])
def test_submodules_come_from_heads_own_without_their_origins(with_submodules, check, what):
    folder, *origins = with_submodules
    away(*origins)
    settings = (folder / ".git" / "config").read_text()
    worktree = check(folder, what)
    text = {"HEAD": "new", "HEAD~1": "old"}[what]
    outer = worktree.root / "libs" / "out er"
    assert [(each / "code.txt").read_text() for each in (worktree.root, outer, outer / "in ner")] == [text] * 3
    worktree.remove()
    assert records(folder) == []
    assert (folder / ".git" / "config").read_text() == settings
    assert git(folder, "submodule", "status", "--recursive").count("\n") == 1, "head's are as they were"


def test_a_submodule_that_head_dropped_comes_from_its_origin(with_submodules, check):
    folder, outer, _ = with_submodules
    git(folder, "reset", "--quiet", "--hard", "HEAD~1")
    git(folder, "rm", "--quiet", "--force", "libs/out er")
    commit(folder, {})
    worktree = check(folder)
    assert (worktree.root / "libs" / "out er" / "code.txt").read_text() == "old"
    worktree.remove()
    away(outer)
    with pytest.raises(UsageError, match=r"^base needs submodule libs/out er at \w{10}, .*fatal: .*; fetch it in head"):
        check(folder)
    assert records(folder) == []


def test_a_submodule_that_head_does_without_is_none_of_bases(with_submodules, check):
    folder, *origins = with_submodules
    git(folder, "submodule", "--quiet", "deinit", "--all", "--force")
    away(*origins)
    assert list((check(folder).root / "libs" / "out er").iterdir()) == []


# Paths


def test_a_path_has_a_counterpart_in_base_and_back(tmp_path):
    head, root = tmp_path / "head", tmp_path / "base" / "head"
    worktree = Worktree("0" * 40, head, root)
    assert worktree.counterpart(head / "a" / "b.py") == root / "a" / "b.py"
    assert worktree.counterpart(head) == root
    assert worktree.counterpart(head / ".." / "x") == head / ".." / "x"
    assert worktree.counterpart(tmp_path / "header") == tmp_path / "header"
    assert worktree.counterpart(root / "a") == root / "a"
    assert worktree.in_head(root / "a") == head / "a"
    assert worktree.in_head(head / "a") is None


def test_paths_are_told_through_links_and_a_link_in_head_is_a_link_in_base(tmp_path):
    head, root = tmp_path / "head", tmp_path / "base"
    head.mkdir()
    (tmp_path / "way").symlink_to(head)
    (head / "link").symlink_to(tmp_path)
    worktree = Worktree("0" * 40, head, root)
    assert worktree.counterpart(tmp_path / "way" / "a") == root / "a"
    assert worktree.counterpart(tmp_path / "way") == root
    assert worktree.counterpart(head / "link") == root / "link"
    assert worktree.counterpart(head / "link" / "x") == head / "link" / "x", "which is elsewhere"


def test_base_inside_head_is_not_taken_for_head(tmp_path):
    worktree = Worktree("0" * 40, tmp_path, tmp_path / "tmp" / "base")
    assert worktree.counterpart(worktree.root / "a") == worktree.root / "a"
    assert worktree.counterpart(tmp_path / "tmp" / "a") == worktree.root / "tmp" / "a"


# Setting up


@posix
def test_base_is_set_up_by_a_line_for_the_shell(check):
    worktree = check()
    set_up(worktree, 'echo "$LLMPERF_HEAD" > told && echo "$LLMPERF_BASE" >> told', worktree.root / "sub")
    assert (worktree.root / "sub" / "told").read_text().splitlines() == [str(worktree.head), str(worktree.root)]


@posix
def test_a_setup_that_fails_is_named_with_its_status_and_last_lines(check):
    worktree = check()
    command = "for i in 1 2 3 4 5 6 7; do echo line $i; done; echo out of paper >&2; exit 3"
    with pytest.raises(UsageError) as error:
        set_up(worktree, command, worktree.root)
    first, *lines = str(error.value).splitlines()
    assert first == f"llmperf_base_setup = {command}: ended with status 3 in {worktree.root}"
    assert lines == ["line 4", "line 5", "line 6", "line 7", "out of paper"]


@posix
def test_an_interrupt_ends_all_that_the_setup_started(check, monkeypatch):
    worktree = check()
    os.mkfifo(worktree.root / "told")
    started = []

    def interrupt():
        started.append(int((worktree.root / "told").read_text()))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        set_up(worktree, "sh -c 'echo $$ > told; exec sleep 600' & wait", worktree.root)
    assert started
    assert all(ended(pid) for pid in started)


def ended(pid):
    """Whether a process, no child of ours, has been killed, or is in a moment; its own parent may not ask at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            process.wait(timeout=20)
    return True
