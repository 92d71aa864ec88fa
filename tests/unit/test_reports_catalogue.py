"""The catalogue of metrics as people read it."""

from __future__ import annotations

import pytest

from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.reports.catalogue import catalogue_markdown, catalogue_text

HEADER = "| metric | unit | better | kind | sample | gates | definition | source |"


def _rows() -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in catalogue_markdown().splitlines()]


def test_the_markdown_is_a_table_with_a_row_per_metric_in_the_order_of_the_catalogue() -> None:
    assert catalogue_markdown().splitlines()[:2] == [HEADER, "|---|---|---|---|---|---|---|---|"]
    assert [row[0] for row in _rows()[2:]] == [f"`{name}`" for name in CATALOGUE]


def test_no_cell_breaks_the_markdown_table() -> None:
    assert {len(row) for row in _rows()} == {8}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("ttft_ms", ["ms", "lower", "timed", "request", "yes"]),
        ("itl_ms", ["ms", "lower", "timed", "gap", ""]),
        ("output_tokens_per_s", ["tokens/s", "higher", "timed", "round", ""]),
        ("weights_mib", ["MiB", "lower", "counted", "measurement", "yes"]),
        ("load_s", ["s", "lower", "report", "measurement", ""]),
        ("peak_memory_mib", ["MiB", "lower", "memory", "measurement", "yes"]),
    ],
)
def test_a_metric_is_described_by_its_entry(name: str, cells: list[str]) -> None:
    row = next(row for row in _rows() if row[0] == f"`{name}`")
    assert row[1:6] == cells
    assert row[6:] == [CATALOGUE[name].definition, CATALOGUE[name].source]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_fits_the_terminal_and_names_every_metric(width: int) -> None:
    lines = catalogue_text(width, False).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split(" ")[0] for line in lines[2:] if not line.startswith(" ")] == list(CATALOGUE)


@pytest.mark.parametrize(("width", "shown"), [(80, False), (120, True)])
def test_less_important_columns_are_shown_where_there_is_room(width: int, shown: bool) -> None:
    header = catalogue_text(width, False).splitlines()[0].split()
    assert header == (
        ["metric", "unit", "better", "kind", "sample", "gates", "definition"]
        if shown
        else ["metric", "unit", "gates", "definition"]
    )


def test_a_definition_is_told_in_full_however_narrow_the_terminal() -> None:
    words = catalogue_text(80, False).split()
    assert "…" not in words
    assert {"queueing,", "prefill,", "selected"} <= set(words)


def test_escape_codes_come_only_with_colour() -> None:
    assert "\x1b" not in catalogue_text(120, False)
    assert "\x1b[" in catalogue_text(120, True)
