"""Base's code: a commit checked out beside the work tree of head, for as long as this process lives.

    <temporary folder>/llmperf-base-…/.lock            held while its process lives
    <temporary folder>/llmperf-base-…/<repository>/    the worktree

A process that is killed leaves both behind; the next one that needs a worktree of the same repository finds them in
git's own list, takes the lock, which it could not if that process lived, and removes them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_llmperf.duet.repository import toplevel
from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.git import ask, git, outside_hooks

_PREFIX = "llmperf-base-"
_LOCK = ".lock"
_LINES_SHOWN = 5
_ADD = ("-c", f"core.hooksPath={os.devnull}", "-c", "submodule.recurse=false", "worktree", "add", "--detach")


@dataclass(frozen=True)
class Worktree:
    """Two checkouts of one repository, and which path of one is which of the other.

    Args:
        commit: checked out in `root`.
        head: the top of head's checkout.
        root: the top of base's.
    """

    commit: str
    head: Path
    root: Path

    def counterpart(self, path: Path) -> Path:
        """In base, of a path in head; a path elsewhere stays what it is."""
        if self.in_head(path) is not None:  # base may lie in head, where that holds the temporary folder
            return path
        inside = within(path, self.head)
        return path if inside is None else self.root / inside

    def in_head(self, path: Path) -> Path | None:
        """In head, of a path in base; None of a path elsewhere."""
        inside = within(path, self.root)
        return None if inside is None else self.head / inside


@dataclass(frozen=True)
class CheckedOut(Worktree):
    """A worktree that this process made, and removes."""

    _lock: FileLock = field(repr=False, compare=False)
    _process: int = field(repr=False, compare=False, default_factory=os.getpid)

    def remove(self) -> None:
        """Remove what was checked out, and git's record of it; also when this process exits."""
        if os.getpid() != self._process:  # a fork, whose exit is not ours
            return
        atexit.unregister(self.remove)
        _remove(self.head, self.root)
        self._lock.release()
        _delete(self.root.parent)


def check_out(folder: Path, commit: str, tell: Callable[[str], None] = lambda stage: None) -> CheckedOut:
    """Check a commit of the repository around `folder` out beside it, with its submodules.

    Args:
        tell: what is being done, for people who wait.

    Raises:
        UsageError: no repository, or a submodule that cannot be had.
        LlmperfError: git could not do it.
    """
    head = toplevel(folder)
    _remove_leftovers(head, tell)
    try:
        private = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    except OSError as error:
        raise LlmperfError(f"no folder for base could be made: {error}; TMPDIR can name another place") from None
    lock = FileLock(private / _LOCK, thread_local=False)
    worktree = CheckedOut(commit, head, private / (head.name or "repository"), lock)
    atexit.register(worktree.remove)
    try:
        lock.acquire(timeout=0)
        tell(f"checking out {commit[:10]}")
        git(head, *_ADD, "--", str(worktree.root), commit)
        _check_out_submodules(head, worktree.root, tell)
    except BaseException as error:
        worktree.remove()
        if type(error) is LlmperfError:
            raise LlmperfError(f"base, {commit[:10]}, could not be checked out in {private}: {error}") from None
        raise
    return worktree


def set_up(worktree: Worktree, command: str, folder: Path) -> None:
    """Run ini `llmperf_base_setup`, a line for the shell, in a folder of base's.

    Raises:
        UsageError: it failed.
    """
    environ = {**outside_hooks(), "LLMPERF_HEAD": str(worktree.head), "LLMPERF_BASE": str(worktree.root)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all it starts can be ended
        )
        try:
            status = process.wait()
        except BaseException:
            _kill(process)
            raise
        output.seek(0)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    if status:
        said = "\n".join(["", *lines[-_LINES_SHOWN:]])
        raise UsageError(f"llmperf_base_setup = {command}: ended with status {status} in {folder}{said}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def within(path: Path, folder: Path) -> Path | None:
    """A path relative to the folder that holds it, if that does; a link in it stays a link."""
    for way in (path.parent.resolve() / path.name, path.resolve()):
        if way.is_relative_to(folder):
            return way.relative_to(folder)
    return None


def _remove_leftovers(head: Path, tell: Callable[[str], None]) -> None:
    """Remove worktrees of this repository whose process was killed."""
    for line in git(head, "worktree", "list", "--porcelain").splitlines():
        root = Path(line.removeprefix("worktree "))
        private = root.parent
        if not line.startswith("worktree ") or not private.name.startswith(_PREFIX):
            continue
        if not private.exists():  # the machine emptied its temporary folder
            _remove(head, root)
        elif (private / _LOCK).exists():
            with contextlib.suppress(Timeout, OSError):  # its process lives, or is another user's
                with FileLock(private / _LOCK, timeout=0):
                    tell(f"removing {private}, left by a run that was killed")
                    _remove(head, root)
                _delete(private)


def _remove(head: Path, root: Path) -> None:
    """Delete the files, then have git forget them: it does so also where there are none, and half-made ones."""
    _delete(root)
    ask(head, "worktree", "remove", "--force", "--force", "--", str(root))


def _delete(folder: Path) -> None:
    """Remove a folder with all it holds, what is read-only too."""
    _unlock(folder)
    for parent, folders, files in os.walk(folder):
        # A file's mode hinders nobody but Windows, and may be shared: uv links an environment to its cache.
        for name in (*folders, *(files if sys.platform == "win32" else ())):
            _unlock(Path(parent, name))
    shutil.rmtree(folder, ignore_errors=True)


def _unlock(path: Path) -> None:
    if not path.is_symlink():  # its mode is that of what it leads to
        with contextlib.suppress(OSError):
            path.chmod(path.stat().st_mode | stat.S_IRWXU)


def _check_out_submodules(head: Path, base: Path, tell: Callable[[str], None]) -> None:
    """Those of base, from head's own checkout of them where that has the commit: no network is needed then.

    What head declares and has not checked out, it does without; so does base.
    """
    declared = {path for _, path in _submodules(head)}
    for name, path in _submodules(base):
        entry = re.match(r"160000 commit (\w+)", ask(base, "ls-tree", "HEAD", "--", path))
        own = (head / path / ".git").exists()
        if not entry or (path in declared and not own):
            continue
        commit = entry[1]
        tell(f"checking out submodule {path}")
        near = (
            ("-c", f"submodule.{name}.url={head / path}", "-c", "protocol.file.allow=always")
            if own and ask(head / path, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
            else ()
        )
        try:
            git(base, *near, "submodule", "update", "--init", "--checkout", "--", path)
        except LlmperfError as error:
            raise UsageError(
                f"base needs submodule {path} at {commit[:10]}, which could not be had: {error}; "
                f"fetch it in head: git -C {path} fetch origin {commit}"
            ) from None
        _check_out_submodules(head / path, base / path, tell)


def _submodules(folder: Path) -> Iterator[tuple[str, str]]:
    """The name and path of each that `.gitmodules` declares."""
    found = ask(folder, "config", "--file", ".gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$")
    for entry in found.split("\0"):
        key, _, path = entry.partition("\n")
        if path:
            yield key.removeprefix("submodule.").removesuffix(".path"), path
