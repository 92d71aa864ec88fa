"""The command `llmperf report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_llmperf.cli import check_folder, write_file
from pytest_llmperf.errors import UsageError
from pytest_llmperf.rejudge import differences
from pytest_llmperf.reports import document
from pytest_llmperf.reports.annotations import written as annotated
from pytest_llmperf.reports.extra import check_html
from pytest_llmperf.reports.history import earlier
from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import counts
from pytest_llmperf.reports.terminal import failure_text, standard_output, summary
from pytest_llmperf.reports.writers import NAMES, all_files, option_of, text_of


def report(parsed: argparse.Namespace) -> int:
    """Show reports again; exit status 1 if what they tell of failed."""
    files = _asked(parsed)
    if parsed.recompute and (files or parsed.annotations):
        raise UsageError("--recompute tells where verdicts differ, and writes nothing: ask for reports in another call")
    run = document.merged([document.read(file) for file in parsed.files])
    if parsed.recompute:
        return _recomputed(run)
    if parsed.annotations:
        print(annotated(run), end="")
    elif not any(map(_is_standard_output, files.values())):
        _show(run, parsed.verbose)
    history = None if parsed.history is None else earlier(run, parsed.history)
    for name, file in files.items():
        text = text_of(name, run, history)
        if _is_standard_output(file):
            print(text, end="")
        else:
            write_file(f"--{option_of(name)}", file, text)
    return int(run.fails)


def _asked(parsed: argparse.Namespace) -> dict[str, Path]:
    """The reports that are to be written, and what lies beside one."""
    if parsed.history is not None and parsed.html is None:
        raise UsageError(f"--history {parsed.history}: it is shown by --html; name a file for the page")
    if parsed.html is not None:
        check_html(f"--html {parsed.html}")
    files = {name: file for name in NAMES if (file := getattr(parsed, name)) is not None}
    for name, file in files.items():
        check_folder(f"--{option_of(name)}", file)
    if sum(map(_is_standard_output, files.values())) > 1:
        raise UsageError("only one report can go to standard output")
    return {**files, **all_files({name: file for name, file in files.items() if not _is_standard_output(file)})}


def _is_standard_output(file: Path) -> bool:
    return str(file) == "-"


def _show(run: Run, verbosity: int) -> None:
    """As at the end of the run itself."""
    colour, width = standard_output()
    for result in run.failing:
        print(f"{failure_text(result, width)}\n")
    print(summary(run.results, width, colour, verbosity, run.recorded) if run.results else counts([]), flush=True)
    for test, why in run.failures.items():
        print(f"failed, and not by a verdict: {test}: {why}")
    if run.fault:
        print(run.fault)


def _recomputed(run: Run) -> int:
    """Whether all verdicts follow from what the report holds; exit status 1 if one does not."""
    found = [line for result in run.results for line in differences(result, run.bases.get(result.key))]
    for line in found:
        print(line)
    print(f"{len(run.results)} recomputed: {f'{len(found)} differ' if found else 'every verdict is as reported'}")
    return int(bool(found))
