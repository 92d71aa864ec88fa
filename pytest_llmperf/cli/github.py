"""What the action `gate` runs in a job of GitHub Actions: the gate itself, and a comment on the pull request.

    python -m pytest_llmperf.cli.github gate
    python -m pytest_llmperf.cli.github comment

Both are told by their environment alone: `GATE_…` by the action, `GITHUB_…` and `RUNNER_TEMP` by the runner.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.options import OPTIONS
from pytest_llmperf.reports import document
from pytest_llmperf.reports.annotations import command
from pytest_llmperf.reports.annotations import written as annotated
from pytest_llmperf.reports.extra import INSTALL, missing_for_html

_REPORTS = {"json": "llmperf.json", "markdown": "llmperf.md", "html": "llmperf.html"}
"""Option → the file it writes."""
_PAGE = 100
"""Comments that GitHub tells at once, at most."""


def gate(environ: Mapping[str, str]) -> int:
    """Run pytest as it is asked for; its exit status. The plugin itself writes the step's summary."""
    folder = Path(tempfile.mkdtemp(prefix="llmperf-", dir=environ.get("RUNNER_TEMP")))
    files = {name: folder / file for name, file in _REPORTS.items()}
    if missing := missing_for_html():
        print(f"llmperf: no page among the reports, which needs {' and '.join(missing)}: {INSTALL}", flush=True)
        del files["html"]
    reports = [f"{OPTIONS[name].flag}={file}" for name, file in files.items()]
    status = subprocess.run([sys.executable, "-m", "pytest", *_arguments(environ), *reports]).returncode
    with Path(_needed(environ, "GITHUB_OUTPUT")).open("a", encoding="utf-8") as outputs:
        outputs.write(f"reports={folder}\nstatus={status}\n")
    told = annotated(document.read(files["json"])) if files["json"].exists() else ""
    if status and not told:
        told = f"{command(f'pytest ended with status {status}; the log of this step says why', 'llmperf')}\n"
    print(told, end="", flush=True)
    return status


def _arguments(environ: Mapping[str, str]) -> list[str]:
    """Those for pytest.

    Raises:
        UsageError: an input of the action makes no sense.
    """
    mode, base, strict = (environ.get(f"GATE_{name}", "").strip() for name in ("MODE", "BASE", "STRICT"))
    if mode not in ("baseline", "against"):
        raise UsageError(f"mode: {mode}: expected baseline, or against")
    if base and mode == "baseline":
        raise UsageError(f"base: {base}: only mode: against has a base")
    try:
        given = shlex.split(environ.get("GATE_ARGS", ""))
    except ValueError as error:
        raise UsageError(f"args: {environ['GATE_ARGS']}: {error}") from None
    asked = [f"--llmperf-against={base}"] if mode == "against" else []
    return [*given, *asked, *([f"--llmperf-strict={strict}"] if strict else [])]


def _needed(environ: Mapping[str, str], name: str) -> str:
    """A variable that the runner or the action sets.

    Raises:
        UsageError: it is not set.
    """
    if name not in environ:
        raise UsageError(f"{name} is not set: expected to be called by the action, in a job of GitHub Actions")
    return environ[name]


def comment(environ: Mapping[str, str]) -> int:
    """Have one comment on the pull request that says how it stands; where that cannot be, say so and no more."""
    report = Path(_needed(environ, "GATE_REPORTS"), _REPORTS["markdown"])
    api, repository = _needed(environ, "GITHUB_API_URL"), _needed(environ, "GITHUB_REPOSITORY")
    event, token = Path(_needed(environ, "GITHUB_EVENT_PATH")), _needed(environ, "GATE_TOKEN")
    mark = f"<!-- llmperf: {environ.get('GATE_NAME', '')} -->"
    try:
        number = _number(json.loads(event.read_text(encoding="utf-8")))
        if number is None or not report.exists():
            print(command("no comment: there is no pull request, or no report", "llmperf", kind="notice"))
            return 0
        comments = f"{api}/repos/{repository}/issues/{number}/comments"
        known = _known(comments, mark, token)
        method, url = ("PATCH", known) if known else ("POST", comments)
        _call(url, token, method, {"body": f"{mark}\n{report.read_text(encoding='utf-8')}"})
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403, 404)
        why = "its token may not, as that of a fork, or one without `pull-requests: write`" if refused else str(error)
        told = f"no comment from this job: {why}; the summary of the step has the report"
        print(command(told, "llmperf", kind="notice" if refused else "warning"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(command(f"no comment from this job: {error}", "llmperf", kind="warning"))
    return 0


def _number(event: Any) -> Any:
    """Of the pull request that an event is about; None where there is none."""
    pull = event.get("pull_request") if isinstance(event, dict) else None
    return pull.get("number") if isinstance(pull, dict) else None


def _known(comments: str, mark: str, token: str) -> str:
    """The url of the comment that an earlier run has made."""
    page = 1
    while found := _call(f"{comments}?per_page={_PAGE}&page={page}", token):
        if not isinstance(found, list):
            raise ValueError(f"{comments} does not answer with a list")
        for each in found:
            if (each.get("body") or "").startswith(mark):
                return str(each["url"])
        if len(found) < _PAGE:
            return ""
        page += 1
    return ""


def _call(url: str, token: str, method: str = "GET", content: Mapping[str, str] | None = None) -> Any:
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {token}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    data = json.dumps(content).encode() if content else None
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


_COMMANDS = {"gate": gate, "comment": comment}


def main() -> int:
    """Exit status: pytest's of the gate, 4 where an input makes no sense; a comment that cannot be made fails none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # which the runner reads, whatever its machine writes
    try:
        return _COMMANDS[sys.argv[1]](os.environ)
    except (LlmperfError, OSError) as error:
        print(command(str(error), "llmperf"))
        return 4


if __name__ == "__main__":
    sys.exit(main())
