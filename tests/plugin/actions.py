"""A job of GitHub Actions on this machine: the shell steps of an action or a workflow, run as its runner would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


@dataclass
class Job:
    """What a runner gives its steps, and what they left.

    Args:
        temp: the folder of the runner.
        workspace: where the repository is checked out.
        event: what the job was started by.
        environ: what else its steps find.
    """

    temp: Path
    workspace: Path
    event: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    log: str = ""
    status: int = 0
    uploaded: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temp.mkdir()

    def act(self, action: Path, **inputs: str) -> Job:
        """Run a composite action."""
        known = yaml.safe_load(action.read_text())
        given = {name: str(each.get("default", "")) for name, each in known["inputs"].items()}
        assert set(inputs) <= set(given)
        context = {f"inputs.{name}": value for name, value in {**given, **inputs}.items()}
        return self.steps(known["runs"]["steps"], {**context, "github.token": "a token"})

    def steps(self, steps: list[dict[str, Any]], context: dict[str, str]) -> Job:
        """Run steps; after one that failed those alone that say so."""
        for step in steps:
            always = "!cancelled()" in step.get("if", "")
            if (self.status and not always) or not _holds(step.get("if", "true"), context):
                continue
            if "run" in step:
                self._run(step, context)
            elif step["uses"].startswith("actions/upload-artifact@"):
                name, path = (_expanded(step["with"][key], context) for key in ("name", "path"))
                self.uploaded[name] = Path(path)
        return self

    @property
    def summary(self) -> str:
        return self._file("GITHUB_STEP_SUMMARY").read_text()

    @property
    def annotations(self) -> list[str]:
        return re.findall(r"^::(?:error|warning|notice) .*$", self.log, re.MULTILINE)

    def _run(self, step: Mapping[str, Any], context: dict[str, str]) -> None:
        assert "${{" not in step["run"], "whatever an input holds would be run"
        given = {name: _expanded(str(value), context) for name, value in step.get("env", {}).items()}
        script = self.temp / "step.sh"
        script.write_text(step["run"])
        command = ["bash", "--noprofile", "--norc", "-e", *(["-o", "pipefail"] if "shell" in step else []), str(script)]
        folder = self.workspace / _expanded(step.get("working-directory", "."), context)
        done = subprocess.run(
            command, cwd=folder, env={**self._environ(), **given}, text=True, capture_output=True, timeout=300
        )
        self.log += done.stdout + done.stderr
        self.status = self.status or done.returncode
        for line in self._file("GITHUB_OUTPUT").read_text().splitlines():
            name, _, value = line.partition("=")
            context[f"steps.{step.get('id')}.outputs.{name}"] = value

    def _environ(self) -> dict[str, str]:
        """As a runner has it: nothing of the run of pytest that this is part of."""
        event = self._file("event.json")
        event.write_text(json.dumps(self.event))
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GITHUB_", "COV"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])
        runner = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_OUTPUT": str(self._file("GITHUB_OUTPUT")),
            "GITHUB_REPOSITORY": "someone/something",
            "GITHUB_STEP_SUMMARY": str(self._file("GITHUB_STEP_SUMMARY")),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
        }
        python_path = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH", "")]))
        return {**own, "PATH": path, "PYTHONPATH": python_path, **runner, **self.environ}

    def _file(self, name: str) -> Path:
        file = self.temp / name
        file.touch()
        return file


def _expanded(text: str, context: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: context[found[1]], text)


def _holds(condition: str, context: Mapping[str, str]) -> bool:
    """Of conditions the few forms that the action has: comparisons with a text, all of which must hold."""
    checks: dict[str, Callable[[str, str], bool]] = {"==": str.__eq__, "!=": str.__ne__}
    for part in condition.removeprefix("${{").removesuffix("}}").split("&&"):
        words = part.split()
        if words in (["!cancelled()"], ["true"]):
            continue
        name, operator, value = words
        if not checks[operator](context.get(name, ""), value.strip("'")):
            return False
    return True
