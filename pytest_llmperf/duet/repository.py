"""What git knows of the commits that head is compared with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.errors import LlmperfError, UsageError, did_you_mean
from pytest_llmperf.git import ask, git

_OPTION = "--llmperf-against"
_PULL_REQUEST = ("pull_request", "pull_request_target")


@dataclass(frozen=True)
class Base:
    """What head is compared with.

    Args:
        commit: its full name.
        said: how it was found, for people.
    """

    commit: str
    said: str


def toplevel(folder: Path) -> Path:
    """The top of the checkout that holds a folder.

    Raises:
        UsageError: there is none.
    """
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()
    except UsageError:
        raise
    except LlmperfError as error:
        raise UsageError(
            f"{_OPTION}: {folder} is no checkout of a git repository ({error}); run it in one, without {_OPTION}, "
            f"or mend what git says"
        ) from None


def base_of(folder: Path, against: str, environ: Mapping[str, str] = os.environ) -> Base:
    """The commit that `--llmperf-against` means.

    Args:
        against: `REF` for the merge base of HEAD and REF, `REF!` for REF itself; empty, in GitHub Actions, for what
            the pull request is to be merged into.

    Raises:
        UsageError: there is no such commit here, or nothing says which.
    """
    toplevel(folder)
    head = _commit(folder, "HEAD")
    if not head:
        raise UsageError(f"{_OPTION}: HEAD of {folder} has no commit yet; commit first")
    if not against:
        return _of_pull_request(folder, head, environ)
    ref = against.removesuffix("!")
    commit = _commit(folder, ref)
    if not commit:
        raise UsageError(_unknown(folder, ref))
    if against != ref:
        return Base(commit, ref)
    merge_base = ask(folder, "merge-base", head, commit)
    if not merge_base:
        fix = _unshallow(folder) or f"; {_OPTION}={ref}! compares with {ref} itself"
        raise UsageError(f"{_OPTION}={ref}: HEAD and {ref} have no common ancestor here{fix}")
    return Base(merge_base, f"merge base with {ref}")


def commit_here(folder: Path, commit: str) -> str | None:
    """The full name of a commit, if this repository has it."""
    if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return None
    try:
        found = _commit(folder, commit)
    except UsageError:  # no git
        return None
    return found if found.startswith(commit) else None


def _of_pull_request(folder: Path, head: str, environ: Mapping[str, str]) -> Base:
    """The first parent of the merge commit that GitHub makes; where another commit is checked out, the merge base."""
    event, into = environ.get("GITHUB_EVENT_NAME"), environ.get("GITHUB_BASE_REF")
    if event not in _PULL_REQUEST:
        raise UsageError(
            f"{_OPTION}= names no ref, which only a pull request in GitHub Actions need not: write "
            f"{_OPTION}=origin/main"
        )
    merged = event == "pull_request" and environ.get("GITHUB_SHA", head) == head
    if into and not merged:
        return base_of(folder, f"origin/{into}", environ)
    commit = _commit(folder, "HEAD^1")
    if not commit:
        fix = _unshallow(folder) or f"; name a ref, such as {_OPTION}=origin/main"
        raise UsageError(f"{_OPTION}=: HEAD has no parent here{fix}")
    return Base(commit, "first parent of HEAD")


def _commit(folder: Path, ref: str) -> str:
    """The full name of the commit that a ref means, else nothing. No ref begins with a dash: that were an option."""
    found = "" if ref.startswith("-") else ask(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    return found if re.fullmatch(r"[0-9a-f]{40,}", found) else ""


def _unknown(folder: Path, ref: str) -> str:
    refs = ask(folder, "for-each-ref", "--format=%(refname:short)").splitlines()
    near = did_you_mean(ref, refs)
    remote, _, branch = ref.partition("/")
    if remote not in ("origin", *ask(folder, "remote").split()):
        remote, branch = "origin", ref
    fetch = f"; if it is a branch elsewhere: git fetch {remote} {branch}" if re.match(r"\w", ref) else ""
    return f"{_OPTION}={ref}: no commit here has that name{near}{_unshallow(folder) or fetch}"


def _unshallow(folder: Path) -> str:
    """What to do where history is cut off; empty where it is not."""
    if ask(folder, "rev-parse", "--is-shallow-repository") != "true":
        return ""
    return "; this clone is shallow: give actions/checkout `fetch-depth: 0`, or run git fetch --unshallow"
