"""A run in Markdown: what fails comes first, whatever a test is called nothing breaks, and a comment can hold it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pytest_llmperf.model import Workload
from pytest_llmperf.reports.markdown import MOST, written
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Comparison, Explanation, Grown, Result, Row, Verdict

BEGAN = "2026-11-22T10:00:00+00:00"
SLOWER = Comparison(Verdict.REGRESSED, 8.12, 0.1, 0.011, "tolerance 5 %; 3 pairs")
REGRESSED = Row("tpot_ms", "median", "ms", 8.93, 8.9, 9.0, None, Verdict.REGRESSED, comparison=SLOWER)
OK = Row("ttft_ms", "median", "ms", 12.1, limit="< 50", verdict=Verdict.OK)
BROKEN = Row("ttft_ms", "median", "ms", 61.2, limit="< 50", verdict=Verdict.BROKEN)


def result(*rows: Row, key: str = "tests/test_chat.py::test_turn", **fields: Any) -> Result:
    given = {"target": "gpt2", "device": "cuda NVIDIA H200", "rounds": 12, **fields}
    return Result(key, workload=Workload(512, 128), rows=rows or (OK,), **given)


def page(*results: Result, **fields: Any) -> str:
    return written(Run(BEGAN, results=results, **fields))


def shown(text: str) -> str:
    """The text that a reader sees, by a renderer of GitHub's tables."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return "\n".join(
        "".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"
    )


def test_what_fails_comes_first_and_the_worst_of_it_before() -> None:
    regressed, broken = result(REGRESSED, key="a.py::test_a"), result(BROKEN, key="b.py::test_b")
    text = page(
        result(), regressed, broken, failures={"c.py::test_c": "OSError: gone"}, commit="abcdef0123456", dirty=True
    )
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "### ❌ llmperf: 3 measured: 1 broken, 1 regressed, 1 ok"
    assert lines[1] == "head `abcdef012` with changes · cuda NVIDIA H200"
    places = [
        text.index(part) for part in ("**Failed, and not", "#### BROKEN `b.py", "#### REGRESSED `a.py", "<details>")
    ]
    assert places == sorted(places)
    assert "| tpot\\_ms | 8.12 | 8.93 | ms | +10.0 % ± 1.1 | **REGRESSED** | tolerance 5 %; 3 pairs |" in lines


def test_columns_that_say_nothing_are_left_out() -> None:
    text = page(result(BROKEN))
    [head, *_] = [line for line in text.splitlines() if line.startswith("| metric")]
    assert head == "| metric | measured | unit | limit | verdict |"
    [head] = [line for line in text.splitlines() if line.startswith("| test |")]
    assert "tokens/s" not in head
    assert "cold" not in head


def test_what_passes_is_short_and_folded() -> None:
    text = page(result())
    assert text.startswith("### ✅ llmperf: 1 measured: 1 ok\n")
    assert "<details><summary>All that was measured (1)</summary>\n\n**tests/test\\_chat.py**" in text
    assert text.endswith("\n\n</details>\n")


def test_a_failure_that_is_expected_is_none() -> None:
    text = page(result(BROKEN, expected_to_fail=True))
    assert text.startswith("### ✅ llmperf: 1 measured: 1 broken (1 expected)\n")
    assert "####" not in text
    assert "**BROKEN**" not in text


def test_why_it_grew_is_told_as_a_list() -> None:
    told = Explanation({"decode": (Grown("aten::copy_", (24, 48), (0.1, 0.71)),)}, ("a `cast` per token",))
    text = page(result(REGRESSED, explanation=told, since=("torch 2.12 → 2.13",)))
    assert "- where the time went, decode, ms per token\n  - `aten::copy_` 0.100 → 0.710 · 24 → 48 calls\n" in text
    assert "- hint: a \\`cast\\` per token\n- since the baseline: torch 2.12 → 2.13\n" in text
    assert "- to accept this: pytest tests/test\\_chat.py::test\\_turn --llmperf-update" in text


def test_lists_have_no_blank_line_between_their_points() -> None:
    told = Explanation({"decode": (Grown("aten::copy_", (24, 48), (0.1, 0.71)),)}, ("a cast per token",))
    gone = Comparison(Verdict.REGRESSED, 1.0, None, None, "no longer measured: generate() returned no cache")
    lost = Row("kv_cache_mib", "median", "MiB", None, verdict=Verdict.REGRESSED, comparison=gone)
    text = page(
        result(REGRESSED, lost, explanation=told),
        result(key="a.py::test_a", new="no baseline"),
        result(key="b.py::test_b", notes=("one chunk held several tokens",)),
    )
    assert text.count("\n- ") > 4
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    points = [after for token, after in pairwise(tokens) if token.type == "list_item_open"]
    assert points
    assert all(point.hidden for point in points)


HOSTILE = [
    "a|b",
    "`code`",
    "<img src=x onerror=alert(1)>",
    "</details>",
    "@everyone",
    "[link](http://example.com)",
    "*bold* _it_ ~~no~~ #1",
    "back\\slash\\|",
    "two\nlines",
    "-->",
    "![picture](x)",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_test_may_be_called_anything(name: str) -> None:
    key = f"tests/test_chat.py::test_turn[{name}]"
    text = page(result(BROKEN, key=key, target=name, notes=(name,)), failures={key + "x": name}, fault=name)
    seen = shown(text).replace("\u200b", "").splitlines()
    flat = " ".join(name.split())
    assert flat in seen[1]
    assert f"test_turn[{flat}]" in seen
    assert [line for line in text.splitlines() if line == "</details>"] == ["</details>"]
    assert "@everyone" not in text.replace(f"`{key}", "").replace(f"{key}", "")
    assert not [
        token for token in MarkdownIt().parse(text) for child in token.children or () if child.type == "link_open"
    ]
    tables = [token for token in MarkdownIt("commonmark").enable("table").parse(text) if token.type == "tr_open"]
    assert len(tables) == 4
    html = [token.content for token in MarkdownIt().parse(text) if token.type == "html_block"]
    assert not html or all(block.strip().startswith(("<details>", "</details>")) for block in html)


def test_a_comment_holds_what_500_tests_come_to() -> None:
    names = "a_test_with_quite_a_long_name_as_people_write_them_to_say_what_they_are_about"
    results = [result(OK, key=f"tests/test_{i // 50}.py::test_{names}[{i}]") for i in range(488)]
    failing = [result(REGRESSED, key=f"tests/test_bad.py::test_{names}[{i}]") for i in range(12)]
    failures = {f"tests/test_red.py::test_{i}": "x" * 1_000 for i in range(30)}
    text = page(*results, *failing, failures=failures)
    assert len(text) <= MOST
    assert text.count("#### REGRESSED") == 10
    assert "and 2 more that fail, in the table of all" in text
    assert "- and 20 more\n" in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert "… cut here, as a comment holds no more" in text
    [*rows] = [line for line in text.splitlines() if line.startswith("| test\\_")]
    assert len(rows) > 100
    assert all(line.endswith(" |") for line in rows)


def test_failures_that_fill_a_comment_leave_the_rest_out() -> None:
    notes = tuple(f"{'word ' * 1_500}{number}" for number in range(12))
    text = page(*(result(REGRESSED, key=f"a.py::test_{i}", since=notes[i : i + 1]) for i in range(12)))
    assert len(text) <= MOST
    assert text.endswith("the other reports have all of it\n")
    assert text.count("<details>") == text.count("</details>")


def test_a_fault_and_nothing_measured_are_told() -> None:
    assert page(fault="nothing was measured") == "### ❌ llmperf: 0 measured\n\n**nothing was measured**\n"
    assert page() == "### ⚠️ llmperf: 0 measured\n"
