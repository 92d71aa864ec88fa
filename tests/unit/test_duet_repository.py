"""Which commit head is compared with, in real repositories."""

from __future__ import annotations

import re

import pytest

from pytest_llmperf.duet.repository import Base, base_of, commit_here, toplevel
from pytest_llmperf.errors import UsageError
from pytest_llmperf.git import outside_hooks
from tests.repositories import commit, git, repository

pytestmark = pytest.mark.usefixtures("git_settings")

PULL_REQUEST = {"GITHUB_EVENT_NAME": "pull_request"}


@pytest.fixture
def forked(tmp_path):
    """A branch of one commit from a main that went on; the commits they fork at, of main and of the branch."""
    folder = repository(tmp_path / "forked")
    fork = git(folder, "rev-parse", "HEAD")
    main = commit(folder, {"code.txt": "new"})
    git(folder, "switch", "--quiet", "--create", "feature", fork)
    return folder, fork, main, commit(folder, {"feature.txt": "new"})


def test_a_ref_means_the_merge_base_and_with_a_mark_itself(forked):
    folder, fork, main, _ = forked
    assert base_of(folder, "main") == Base(fork, "merge base with main")
    assert base_of(folder, "main!") == Base(main, "main")
    assert base_of(folder, main[:9]) == Base(fork, f"merge base with {main[:9]}")
    assert base_of(folder, "HEAD~1!") == Base(fork, "HEAD~1")


def test_an_annotated_tag_means_its_commit(forked):
    folder, _, main, _ = forked
    git(folder, "tag", "--annotate", "--message=x", "v1", "main")
    assert base_of(folder, "v1!").commit == main


@pytest.mark.parametrize("name", ["a folder of täsks", "pläin/ünder"])
def test_base_is_found_from_below_in_a_detached_head_and_in_a_linked_worktree(tmp_path, name):
    folder = repository(tmp_path / name, {"packages/one/code.txt": "old"})
    fork = commit(folder, {})
    head = commit(folder, {"code.txt": "new"})
    git(folder, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked tree"), head)
    git(folder, "switch", "--quiet", "--detach", "HEAD")
    for place in (folder / "packages" / "one", tmp_path / "linked tree" / "packages"):
        assert base_of(place, "HEAD~1").commit == fork
    assert toplevel(folder / "packages" / "one") == folder
    assert toplevel(tmp_path / "linked tree" / "packages") == tmp_path / "linked tree"


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"])
def test_what_git_tells_a_hook_of_another_repository_does_not_mislead(forked, tmp_path, monkeypatch, name):
    other = repository(tmp_path / "other")
    monkeypatch.setenv(name, str(other / ".git"))
    assert base_of(forked[0], "main").commit == forked[1]
    assert toplevel(forked[0]) == forked[0]


def test_settings_that_the_environment_gives_git_stay():
    assert outside_hooks({"GIT_DIR": "x", "GIT_INDEX_FILE": "y", "GIT_CONFIG_COUNT": "1", "PATH": "z"}) == {
        "GIT_CONFIG_COUNT": "1",
        "PATH": "z",
    }


# Nothing named


def test_on_a_pull_request_nothing_named_means_the_first_parent_of_the_merge(forked):
    folder, _, main, feature = forked
    git(folder, "switch", "--quiet", "--detach", "main")
    git(folder, "merge", "--quiet", "--no-edit", feature)
    merge = git(folder, "rev-parse", "HEAD")
    base = Base(main, "first parent of HEAD")
    assert base_of(folder, "", PULL_REQUEST) == base
    assert base_of(folder, "", {**PULL_REQUEST, "GITHUB_SHA": merge, "GITHUB_BASE_REF": "main"}) == base
    assert base_of(folder, "", {"GITHUB_EVENT_NAME": "pull_request_target"}) == base


@pytest.mark.parametrize("event", ["pull_request", "pull_request_target"])
def test_on_a_pull_request_whose_own_commit_is_checked_out_it_means_the_merge_base(forked, tmp_path, event):
    folder, fork, main, _ = forked
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", folder.as_uri(), str(clone))
    commit(clone, {"more.txt": "its parent is no base"})
    environ = {"GITHUB_EVENT_NAME": event, "GITHUB_SHA": main, "GITHUB_BASE_REF": "main"}
    assert base_of(clone, "", environ) == Base(fork, "merge base with origin/main")


def test_where_the_base_branch_itself_is_checked_out_its_own_history_is_not_compared(forked, tmp_path):
    folder, _, main, _ = forked
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--branch=main", folder.as_uri(), str(clone))
    environ = {"GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_SHA": main, "GITHUB_BASE_REF": "main"}
    assert base_of(clone, "", environ) == Base(main, "merge base with origin/main")


@pytest.mark.parametrize("environ", [{}, {"GITHUB_EVENT_NAME": "push"}])
def test_elsewhere_nothing_named_is_an_error_that_says_what_to_write(forked, environ):
    with pytest.raises(UsageError, match=r"names no ref.*write --llmperf-against=origin/main$"):
        base_of(forked[0], "", environ)


# Errors


def test_an_unknown_ref_names_the_nearest_and_how_to_fetch_it(forked):
    with pytest.raises(UsageError, match=r"=featrue: no commit here .*'feature'\?; .* git fetch origin featrue$"):
        base_of(forked[0], "featrue")
    with pytest.raises(UsageError, match=r"=origin/trunk!?: .*git fetch origin trunk$"):
        base_of(forked[0], "origin/trunk!")


@pytest.mark.parametrize("ref", ["--all", "-h", "--output=x", "^main", "main..feature", "!", " ", "HEAD:code.txt"])
def test_what_is_no_ref_is_never_an_option_of_git(forked, ref):
    with pytest.raises(UsageError, match=rf"^--llmperf-against={re.escape(ref.removesuffix('!'))}: no commit here"):
        base_of(forked[0], ref)


def test_in_a_shallow_clone_a_missing_ref_or_merge_base_says_fetch_depth(forked, tmp_path):
    folder, _, _, feature = forked
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", folder.as_uri(), str(clone))
    unshallow = r"this clone is shallow: .*fetch-depth: 0.*git fetch --unshallow$"
    with pytest.raises(UsageError, match=rf"no commit here has that name.*; {unshallow}"):
        base_of(clone, "origin/main")
    with pytest.raises(UsageError, match=rf"HEAD has no parent here; {unshallow}"):
        base_of(clone, "", PULL_REQUEST)
    git(clone, "fetch", "--quiet", "--depth=1", "origin", "main:refs/remotes/origin/main")
    with pytest.raises(UsageError, match=rf"no common ancestor here; {unshallow}"):
        base_of(clone, "origin/main")
    assert commit_here(clone, feature) == feature


def test_no_common_ancestor_says_how_to_compare_all_the_same(forked):
    folder = forked[0]
    git(folder, "switch", "--quiet", "--orphan", "apart")
    commit(folder, {"apart.txt": ""})
    with pytest.raises(UsageError, match=r"no common ancestor here; --llmperf-against=main! compares"):
        base_of(folder, "main")


def test_where_there_is_no_commit_or_repository_or_git_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(UsageError, match=r"no checkout of a git repository \(fatal: not a git repository"):
        base_of(tmp_path, "main")
    assert commit_here(tmp_path, "0" * 40) is None
    git(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError, match="has no commit yet; commit first"):
        base_of(tmp_path, "main")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"^git cannot be run \(No such file or directory\): .*install it$"):
        base_of(tmp_path, "main")
    assert commit_here(tmp_path, "0" * 40) is None


# A recorded commit


def test_a_recorded_commit_is_found_where_the_repository_has_it(forked):
    folder, _, main, _ = forked
    assert commit_here(folder, main) == main
    assert commit_here(folder, main[:8]) == main
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    assert [commit_here(folder, name) for name in ("0" * 40, tree, "", "main", "--all", "abc")] == [None] * 6


def test_a_branch_that_looks_like_a_recorded_commit_is_not_it(forked):
    folder, _, main, _ = forked
    git(folder, "branch", "abcdef0", main)
    assert commit_here(folder, "abcdef0") is None
