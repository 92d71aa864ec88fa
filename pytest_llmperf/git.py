"""Git, asked about the folder that is meant, whatever a hook that we are run from would have it look at."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_llmperf.errors import LlmperfError, UsageError

_OF_A_HOOK = re.compile(
    r"GIT_(DIR|WORK_TREE|IMPLICIT_WORK_TREE|INDEX_FILE|PREFIX|COMMON_DIR|OBJECT_DIRECTORY|QUARANTINE_PATH|NAMESPACE"
    r"|ALTERNATE_OBJECT_DIRECTORIES|INTERNAL_SUPER_PREFIX|GRAFT_FILE|SHALLOW_FILE|CONFIG)"
)
"""What git tells its hooks, and what would tie our calls to their repository (`git rev-parse --local-env-vars`).

The settings in GIT_CONFIG_COUNT and after stay: a container may need `safe.directory` from there.
"""


def outside_hooks(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what a git hook finds there: whoever calls git from it means the folder they are in."""
    return {name: value for name, value in environ.items() if not _OF_A_HOOK.fullmatch(name)}


def git(folder: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        UsageError: git is not installed.
        LlmperfError: git failed; its own line.
    """
    done = _run(folder, arguments)
    if done.returncode:
        raise LlmperfError(_line(done.stderr) or f"git {arguments[0]} ended with status {done.returncode}")
    return done.stdout


def ask(folder: Path, *arguments: str) -> str:
    """The line that git answers; empty where it fails."""
    done = _run(folder, arguments)
    return "" if done.returncode else done.stdout.strip()


def _run(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Git in a folder, in English, asking nobody anything."""
    environ = {**outside_hooks(), "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environ,
        )
    except OSError as error:
        raise UsageError(f"git cannot be run ({error.strerror}): base is checked out by it; install it") from None


def _line(said: str) -> str:
    """The line of git's that says why: the first that calls itself an error, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    faults = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    return (faults[:1] or lines[-1:] or [""])[0]
