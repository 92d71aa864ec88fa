"""The command `llmperf report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_llmperf.cli import check_folder, write_file
from pytest_llmperf.errors import UsageError
from pytest_llmperf.rejudge import differences
from pytest_llmperf.reports import custom, document, markdown
from pytest_llmperf.reports.annotations import written as annotated
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import counts
from pytest_llmperf.reports.terminal import standard_output, summary

_WRITERS: Mapping[str, Callable[[Run], str]] = {
    "json": document.written,
    "markdown": markdown.written,
    "custom_json": custom.smaller,
    "custom_json_bigger": custom.bigger,
}


def report(parsed: argparse.Namespace) -> int:
    """Show reports again; exit status 1 if what they tell of failed."""
    asked: dict[str, Path] = {name: file for name in _WRITERS if (file := getattr(parsed, name, None)) is not None}
    for name, file in asked.items():
        check_folder(f"--{name.replace('_', '-')}", file)
    if [str(file) for file in asked.values()].count("-") > 1:
        raise UsageError("only one report can go to standard output")
    if (file := asked.get("custom_json")) is not None and str(file) != "-":
        asked["custom_json_bigger"] = custom.beside(file)
    run = document.merged([document.read(file) for file in parsed.files])
    if parsed.recompute:
        return _recomputed(run)
    if parsed.annotations:
        print(annotated(run), end="")
    elif not any(str(file) == "-" for file in asked.values()):
        colour, width = standard_output()
        shown = summary(run.results, width, colour, parsed.verbose, run.recorded) if run.results else counts([])
        print(shown, flush=True)
        for test, why in run.failures.items():
            print(f"failed, and not by a verdict: {test}: {why}")
        if run.fault:
            print(run.fault)
    for name, file in asked.items():
        text = _WRITERS[name](run)
        if str(file) == "-":
            print(text, end="")
        else:
            write_file(f"--{name.replace('_', '-')}", file, text)
    return int(run.fails)


def _recomputed(run: Run) -> int:
    """Whether all verdicts follow from what the report holds; exit status 1 if one does not."""
    found = [line for result in run.results for line in differences(result, run.bases.get(result.key))]
    for line in found:
        print(line)
    print(f"{len(run.results)} recomputed: {f'{len(found)} differ' if found else 'every verdict is as reported'}")
    return int(bool(found))
