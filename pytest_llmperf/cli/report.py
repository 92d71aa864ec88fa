"""The command `llmperf report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_llmperf.cli import check_folder, write_file
from pytest_llmperf.errors import UsageError
from pytest_llmperf.rejudge import differences
from pytest_llmperf.reports import document, markdown
from pytest_llmperf.reports.extra import check_html
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.terminal import standard_output, summary

_WRITERS: Mapping[str, Callable[[Run], str]] = {"json": document.written, "markdown": markdown.written}


def report(parsed: argparse.Namespace) -> int:
    """Show reports again; exit status 1 if what they tell of failed."""
    if parsed.history is not None and parsed.html is None:
        raise UsageError(f"--history {parsed.history}: it is shown by --html; name a file for the page")
    if parsed.html is not None:
        check_html(f"--html {parsed.html}")
    asked: dict[str, Path] = {name: file for name in (*_WRITERS, "html") if (file := getattr(parsed, name)) is not None}
    for name, file in asked.items():
        check_folder(f"--{name}", file)
    if [str(file) for file in asked.values()].count("-") > 1:
        raise UsageError("only one report can go to standard output")
    run = document.merged([document.read(file) for file in parsed.files])
    if parsed.recompute:
        return _recomputed(run)
    if not any(str(file) == "-" for file in asked.values()):
        colour, width = standard_output()
        print(summary(run.results, width, colour, parsed.verbose, run.recorded), flush=True)
        for test, why in run.failures.items():
            print(f"failed, and not by a verdict: {test}: {why}")
    for name, file in asked.items():
        text = _page(run, parsed.history) if name == "html" else _WRITERS[name](run)
        if str(file) == "-":
            print(text, end="")
        else:
            write_file(f"--{name}", file, text)
    return int(run.fails)


def _page(run: Run, history: Path | None) -> str:
    from pytest_llmperf.reports import html
    from pytest_llmperf.reports.history import earlier

    return html.written(run) if history is None else html.written(run, earlier(run, history))


def _recomputed(run: Run) -> int:
    """Whether all verdicts follow from what the report holds; exit status 1 if one does not."""
    found = [line for result in run.results for line in differences(result, run.bases.get(result.key))]
    for line in found:
        print(line)
    print(f"{len(run.results)} recomputed: {f'{len(found)} differ' if found else 'every verdict is as reported'}")
    return int(bool(found))
