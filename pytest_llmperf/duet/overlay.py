"""Head's tests put upon base's code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from pytest_llmperf.duet.worktree import Worktree, within
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.git import git

_OF_TESTS = ("tests", "test", "testing")


def overlay(
    worktree: Worktree, modules: Sequence[Path], ini: Path | None, test_folders: Sequence[Path] = ()
) -> list[Path]:
    """Copy head's test modules to base, with what they need of head's; what was written.

    A module brings the whole folder of tests around it, as git sees it, deletions too; else only itself. On its way
    from the top every conftest.py comes along, and an `__init__.py` only where base has none: another could be the
    project's own.

    Args:
        ini: pytest's settings, copied if they are the checkout's.
        test_folders: of tests, whatever their names; what is not below the top of head's checkout is passed over.

    Raises:
        LlmperfError: the disk is full, or the like.
    """
    known = {within(folder, worktree.head) for folder in test_folders}
    wanted: set[Path] = set()
    folders: set[Path] = set()
    for module in (*modules, *([ini] if ini else [])):
        if (inside := within(module, worktree.head)) is None:
            continue
        wanted.add(inside)
        if module != ini:
            folders |= {folder} if (folder := _folder_of_tests(inside, known)) else set()
            wanted |= set(_on_the_way(worktree, inside))
    for folder in folders:
        kept = set(_files(worktree.head, folder, "--cached", "--others", "--exclude-standard"))
        for gone in set(_files(worktree.root, folder, "--cached")) - kept:
            _clear(worktree.root / gone)
        wanted |= kept
    return [_copy(worktree, path) for path in sorted(wanted) if _is_file(worktree.head / path)]


def _folder_of_tests(module: Path, known: Set[Path | None]) -> Path | None:
    """The topmost."""
    above = [folder for folder in reversed(module.parents) if folder != Path()]
    return next((folder for folder in above if folder in known or folder.name in _OF_TESTS), None)


def _on_the_way(worktree: Worktree, module: Path) -> Iterator[Path]:
    for folder in module.parents:
        yield folder / "conftest.py"
        if not (worktree.root / folder / "__init__.py").exists():
            yield folder / "__init__.py"


def _files(top: Path, folder: Path, *which: str) -> Iterator[Path]:
    listed = git(top, "--literal-pathspecs", "ls-files", "-z", *which, "--", folder.as_posix())
    return (Path(name) for name in listed.split("\0") if name and _is_file(top / name))


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _copy(worktree: Worktree, inside: Path) -> Path:
    """A file or link, never written through a link that stands in its place or on its way."""
    target = worktree.root / inside
    try:
        for folder in reversed(inside.parents):
            if _is_file(worktree.root / folder):
                _clear(worktree.root / folder)
        _clear(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(worktree.head / inside, target, follow_symlinks=False)
    except OSError as error:
        raise LlmperfError(f"head's {inside} could not be put upon base's code: {error}") from None
    return target


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
