"""Head's tests upon base's code: what comes along, what of base's stays, and that nothing is written elsewhere."""

from __future__ import annotations

import os

import pytest

from pytest_llmperf.duet.overlay import overlay
from pytest_llmperf.duet.worktree import Worktree
from pytest_llmperf.errors import LlmperfError
from tests.repositories import commit, git, repository, write

pytestmark = pytest.mark.usefixtures("git_settings")

needs_links = pytest.mark.skipif(os.name != "posix", reason="links need rights there")


@pytest.fixture
def made(tmp_path):
    """Makes head and base of what each has committed."""

    def made(base, head):
        folder = repository(tmp_path / "head", base)
        first = git(folder, "rev-parse", "HEAD")
        git(folder, "rm", "--quiet", "-r", ".")
        commit(folder, head)
        git(folder, "worktree", "add", "--quiet", "--detach", str(tmp_path / "base"), first)
        return Worktree(first, folder, tmp_path / "base")

    return made


def laid(worktree, *modules, ini=None, test_folders=()):
    """What was written, relative to base's top."""
    top = worktree.head
    written = overlay(
        worktree, [top / each for each in modules], ini and top / ini, [top / each for each in test_folders]
    )
    return [path.relative_to(worktree.root).as_posix() for path in written]


def files(folder):
    """The text of every file but git's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def test_a_module_brings_the_folder_of_tests_around_it_and_no_code(made):
    worktree = made(
        {"pkg/code.py": "old", "tests/unit/test_a.py": "old", "tests/gone.py": "old", "tests/same.py": "same"},
        {"pkg/code.py": "new", "tests/unit/test_a.py": "new", "tests/data/x.txt": "new", "tests/same.py": "same"},
    )
    write(worktree.head, {"tests/untracked.py": "new", "tests/.gitignore": "ignored\n", "tests/ignored": "new"})
    write(worktree.root, {"tests/built.so": "by base's setup"})
    written = laid(worktree, "tests/unit/test_a.py")
    tests = ["tests/.gitignore", "tests/data/x.txt", "tests/same.py", "tests/unit/test_a.py", "tests/untracked.py"]
    assert written == tests
    assert files(worktree.root) == {
        "pkg/code.py": "old",
        "tests/.gitignore": "ignored\n",
        "tests/built.so": "by base's setup",
        "tests/data/x.txt": "new",
        "tests/same.py": "same",
        "tests/unit/test_a.py": "new",
        "tests/untracked.py": "new",
    }


def test_a_file_deleted_in_head_and_not_committed_is_deleted(made):
    worktree = made({"tests/a.py": "x", "tests/b.py": "x"}, {"tests/a.py": "x", "tests/b.py": "x"})
    (worktree.head / "tests" / "b.py").unlink()
    assert laid(worktree, "tests/a.py") == ["tests/a.py"]
    assert files(worktree.root) == {"tests/a.py": "x"}


@pytest.mark.parametrize("name", ["tests", "test", "testing"])
def test_of_folders_of_tests_in_one_another_the_topmost_counts(made, name):
    worktree = made(
        {"code.py": "x"}, {f"one/{name}/tests/test_a.py": "new", f"one/{name}/x.txt": "new", "one/y.txt": "x"}
    )
    assert laid(worktree, f"one/{name}/tests/test_a.py") == [f"one/{name}/tests/test_a.py", f"one/{name}/x.txt"]


def test_testpaths_are_folders_of_tests_whatever_their_names_but_never_the_whole_checkout(made):
    head = {"code.py": "new", "[p]erf/test_a.py": "new", "[p]erf/x.txt": "new", "perf": "new"}
    worktree = made({"code.py": "old"}, head)
    elsewhere = worktree.head.parent / "elsewhere"
    assert laid(worktree, "[p]erf/test_a.py", test_folders=["[p]erf", ".", elsewhere]) == [
        "[p]erf/test_a.py",
        "[p]erf/x.txt",
    ]
    assert files(worktree.root)["code.py"] == "old"


def test_a_module_beside_code_comes_alone_with_each_conftest_on_its_way(made):
    worktree = made(
        {"pkg/__init__.py": "old", "pkg/code.py": "old"},
        {
            "conftest.py": "new",
            "pkg/__init__.py": "new",
            "pkg/code.py": "new",
            "pkg/conftest.py": "new",
            "pkg/perf/__init__.py": "new",
            "pkg/perf/test_a.py": "new",
            "pkg/perf/helper.py": "new",
            "other/conftest.py": "new",
        },
    )
    along = ["conftest.py", "pkg/conftest.py", "pkg/perf/__init__.py", "pkg/perf/test_a.py"]
    assert laid(worktree, "pkg/perf/test_a.py") == along
    assert files(worktree.root) == {"pkg/__init__.py": "old", "pkg/code.py": "old", **dict.fromkeys(along, "new")}


def test_the_conftest_above_a_folder_of_tests_and_the_settings_of_pytest_come_along(made):
    worktree = made({"pytest.ini": "old"}, {"pytest.ini": "new", "conftest.py": "new", "tests/test_a.py": "new"})
    assert laid(worktree, "tests/test_a.py", ini="pytest.ini") == ["conftest.py", "pytest.ini", "tests/test_a.py"]
    assert (worktree.root / "pytest.ini").read_text() == "new"


def test_settings_and_modules_elsewhere_are_passed_over(made, tmp_path):
    worktree = made({"code.py": "x"}, {"code.py": "x"})
    write(tmp_path, {"pytest.ini": "x", "tests/test_a.py": "x"})
    assert overlay(worktree, [tmp_path / "tests" / "test_a.py"], tmp_path / "pytest.ini") == []
    assert files(worktree.root) == {"code.py": "x"}


def test_an_ignored_module_comes_all_the_same(made):
    worktree = made({"code.py": "x"}, {".gitignore": "tests\n"})
    write(worktree.head, {"tests/test_a.py": "new", "tests/x.txt": "new"})
    assert laid(worktree, "tests/test_a.py") == ["tests/test_a.py"]


def test_a_folder_in_the_place_of_a_file_and_the_other_way_round(made):
    worktree = made(
        {"tests/a": "old", "tests/b/x": "old"}, {"tests/a/x": "new", "tests/b": "new", "tests/test_a.py": ""}
    )
    laid(worktree, "tests/test_a.py")
    assert files(worktree.root) == {"tests/a/x": "new", "tests/b": "new", "tests/test_a.py": ""}


@needs_links
def test_a_link_is_copied_as_one(made, tmp_path):
    worktree = made({"code.py": "x"}, {"tests/test_a.py": "new"})
    (worktree.head / "tests" / "models").symlink_to(tmp_path / "models")
    assert laid(worktree, "tests/test_a.py") == ["tests/models", "tests/test_a.py"]
    assert (worktree.root / "tests" / "models").readlink() == tmp_path / "models"


@needs_links
@pytest.mark.parametrize("place", ["tests", "tests/deep", "tests/deep/test_a.py"])
def test_nothing_is_written_through_a_link_of_bases(made, tmp_path, place):
    worktree = made({"code.py": "x"}, {"tests/deep/test_a.py": "new"})
    theirs = tmp_path / "theirs"
    write(theirs, {"deep/test_a.py": "theirs", "test_a.py": "theirs"})
    link = worktree.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(theirs / "test_a.py" if place.endswith(".py") else theirs)
    laid(worktree, "tests/deep/test_a.py")
    assert files(theirs) == {"deep/test_a.py": "theirs", "test_a.py": "theirs"}
    assert (worktree.root / "tests" / "deep" / "test_a.py").read_text() == "new"
    assert not link.is_symlink()


def test_a_disk_that_is_full_is_an_error_that_names_the_file(made, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    worktree = made({"code.py": "x"}, {"tests/test_a.py": "new"})
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(
        LlmperfError, match=r"^head's tests.test_a.py could not be put upon base's code: .*No space left"
    ):
        laid(worktree, "tests/test_a.py")
