"""The commands of `llmperf` about what is stored: `show`, `compare`, `merge` and `accept`."""

from __future__ import annotations

import argparse

from pytest_llmperf.baselines import accept as accepting
from pytest_llmperf.baselines import merge as merging
from pytest_llmperf.baselines.store import Contents, Store
from pytest_llmperf.baselines.stored import read, read_folder
from pytest_llmperf.baselines.versus import versus
from pytest_llmperf.errors import UsageError
from pytest_llmperf.reports import stored as report
from pytest_llmperf.reports.recorded import Recorded, changed, remarks
from pytest_llmperf.reports.terminal import standard_output, tables_text


def show(parsed: argparse.Namespace) -> int:
    colour, width = standard_output()
    for number, path in enumerate(parsed.paths):
        contents = read(path)
        if number:
            print()
        remarks = [report.held(str(path), contents)]
        print(tables_text(report.tables(contents, in_full=parsed.verbose > 0), remarks, width, colour))
    return 0


def compare(parsed: argparse.Namespace) -> int:
    """1 if anything is REGRESSED."""
    names = (str(parsed.base), str(parsed.head))
    found = versus(read(parsed.base), read(parsed.head), names, parsed.tolerance, parsed.hardware)
    colour, width = standard_output()
    in_full = parsed.verbose > 0
    remarks = report.remarks(found, names, in_full=in_full)
    print(tables_text(report.compared(found, in_full=in_full), remarks, width, colour))
    return int(found.fails)


def merge(parsed: argparse.Namespace) -> int:
    into = parsed.into.absolute()
    if parsed.into.exists() and not parsed.into.is_dir():
        raise UsageError(f"--into {parsed.into} is no folder: expected one of baselines, or a new name")
    apart = {path.resolve(): path for path in parsed.shards if path.resolve() != into.resolve()}
    shards = {str(path): read_folder(path) for path in apart.values()}
    merged = merging.merge(shards)  # where the shards alone contradict each other, no folder is made

    def joined(before: Contents) -> Contents:
        nonlocal merged
        merged = merging.merge({**shards, **({str(parsed.into): before} if before.entries or before.noise else {})})
        return merged

    written = Store(into).rewrite(joined)
    print(report.merged(merged, len(shards), str(parsed.into), len(written)))
    return 0


def accept(parsed: argparse.Namespace) -> int:
    changes = accepting.accept(accepting.checked(parsed.folder), parsed.into)
    recorded = Recorded(changes, done=True)
    table = changed(recorded)
    colour, width = standard_output()
    print(tables_text([table] if table.rows else [], remarks(recorded), width, colour))
    return 0
