"""Repositories whose head is compared with their base, by pytest as its users call it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.repositories import SETTINGS, commit, git, repository

INI = """\
[pytest]
llmperf_rounds = 4
llmperf_tolerance = 50%
filterwarnings = error
"""
"""Few rounds, and a tolerance that no busy machine exceeds: what is to be seen here is three times as much."""
ENGINE = """\
import time


def paced(milliseconds):
    def tokens(prompt_ids, output_tokens):
        for token in range(output_tokens):
            time.sleep(milliseconds / 1000)
            yield token

    return tokens
"""
FAST = f"{ENGINE}\n\nturn = paced(2)\n"
SLOW = f"{ENGINE}\n\nturn = paced(6)\n"
HEAD = """\
import os

import engine
import pytest
from pytest_llmperf import *

SIZES = dict(prompt_tokens=8, output_tokens=10)
TURN = dict(model=stream(engine.turn), **SIZES)

"""
TURN = """
@llm_perf(**TURN)
def test_turn(llm):
    llm.measure()
"""
_QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:benchmark")
"""Plugins that take as long to import as all else."""
_VERDICTS = "BROKEN|REGRESSED|INCONCLUSIVE|NEW|IMPROVED|OK|no change seen"


@dataclass(frozen=True)
class Ran:
    """One run of pytest."""

    status: int
    text: str

    @property
    def verdicts(self) -> dict[str, str]:
        """Test → verdict, as the summary has them."""
        return dict(re.findall(rf"^  (\S+) +\d+→\d+ .*?({_VERDICTS})$", self.text, re.M))

    def has(self, *patterns: str) -> None:
        """Assert that there is a line for each pattern, in any order."""
        print(self.text)
        pytest.LineMatcher(self.text.splitlines()).fnmatch_lines_random(list(patterns))


class Project:
    """A repository with the tag `base`, and a place for temporary files that nobody else uses.

    Args:
        base: its files at the tag.
        head: what the commit after it changes; None where there is none.
    """

    def __init__(self, folder: Path, base: Mapping[str, str], head: Mapping[str, str] | None = None) -> None:
        self.temporary = folder.parent / f"temporary of {folder.name}"
        self.temporary.mkdir()
        own = any(name.endswith("engine.py") for name in base)
        self.folder = repository(folder, {"pytest.ini": INI, **({} if own else {"engine.py": FAST}), **base})
        git(folder, "tag", "base")
        if head is not None:
            self.commit(head)

    def commit(self, files: Mapping[str, str], tag: str = "head") -> None:
        """Commit all there is, and tag it."""
        commit(self.folder, files)
        git(self.folder, "tag", "--force", tag)

    @property
    def environ(self) -> dict[str, str]:
        ours = ("GIT_", "GITHUB_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        chosen = {"TMPDIR": str(self.temporary), "COLUMNS": "2000", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **SETTINGS, **chosen}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest", *_QUICK, *arguments]

    def run(self, *arguments: str, folder: Path | None = None, **environ: str) -> Ran:
        done = subprocess.run(
            self.command(*arguments),
            cwd=folder or self.folder,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=300,
        )
        return Ran(done.returncode, done.stdout)

    def against(self, *arguments: str, ref: str = "base", folder: Path | None = None, **environ: str) -> Ran:
        return self.run(f"--llmperf-against={ref}", *arguments, folder=folder, **environ)

    def short(self, ref: str = "base") -> str:
        """A commit as reports name it."""
        return git(self.folder, "rev-parse", f"{ref}^{{commit}}")[:9]

    def left(self) -> list[str]:
        """What runs have left behind: files, records of git, processes."""
        return [path.name for path in self.temporary.iterdir()] + self.worktrees() + self.processes()

    def worktrees(self) -> list[str]:
        """Those beside the checkout itself."""
        return git(self.folder, "worktree", "list").splitlines()[1:]

    def processes(self) -> list[str]:
        """Those that still run of those which runs have started, and runs themselves."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == str(self.temporary) and process.status() != "zombie":
                    found.append(str(process))
            except psutil.Error:  # another user's, or gone by now
                continue
        return found
