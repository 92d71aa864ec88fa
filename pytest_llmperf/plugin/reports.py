"""Files that a run leaves behind for people and programs. Only the process that has the terminal writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.errors import ReportError
from pytest_llmperf.plugin.config import REPORTS, report_file
from pytest_llmperf.units import without_halves

if TYPE_CHECKING:
    from pytest_llmperf.reports.run import Run


def asked_for(config: pytest.Config) -> dict[str, Path]:
    """Option → file of each report that this run is to write; none in a process that another one judges."""
    files = {name: file for name in REPORTS if (file := report_file(config, name)) is not None}
    if not files:
        return {}
    from pytest_llmperf.plugin.child import CHILD
    from pytest_llmperf.reports.writers import all_files

    return {} if CHILD in config.stash else all_files(files)


def write(files: Mapping[str, Path], run: Run) -> tuple[list[Path], str]:
    """Write each of them; what is wrong with one does not cost the others.

    Returns:
        What was written; what could not be, and why.
    """
    from pytest_llmperf.reports.writers import option_of

    written, faults = [], []
    for name, file in files.items():
        try:
            if name != "history":
                _show(name, file, without_halves(_text(name, run, files.get("history"))))
                written.append(file)
            elif _append(file, run):
                written.append(file)
        except (ReportError, OSError) as error:
            fault = f"{file}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            faults.append(f"--llmperf-{option_of(name)} {fault}")
        except Exception as error:  # ours: it must cost neither the other reports nor what the run has to say
            faults.append(f"--llmperf-{option_of(name)} {file}: {type(error).__name__}: {error}")
    return written, "; ".join(faults)


def _append(history: Path, run: Run) -> bool:
    """Whether there was anything to add."""
    from pytest_llmperf.reports.history import append

    return append(run, history)


def _text(name: str, run: Run, history: Path | None) -> str:
    from pytest_llmperf.reports.history import History, earlier
    from pytest_llmperf.reports.writers import text_of

    if name != "html" or history is None:
        return text_of(name, run)

    known = History()
    with contextlib.suppress(ReportError):  # nothing was added to it, and that has been told
        known = earlier(run, history)
    return text_of(name, run, known)


def _show(name: str, file: Path, text: str) -> None:
    _write(file, text)
    if name == "markdown" and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        try:
            with Path(summary).open("a", encoding="utf-8") as page:
                page.write(text)
        except OSError as error:
            raise ReportError(f"GITHUB_STEP_SUMMARY={summary}: {error.strerror or error}") from None


def _write(file: Path, text: str) -> None:
    """Whole or not at all; a link stays one, and so does a device or a pipe, which cannot be written beside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not file.is_file():
        file.write_text(text, encoding="utf-8")
        return
    file = Path(os.path.realpath(file))
    written = file.with_name(f".{os.getpid()}.llmperf")
    try:
        written.write_text(text, encoding="utf-8")
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)
