"""The page, as a parser and a browser without JavaScript see it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.baselines.compare import Rules
from pytest_llmperf.metrics import summarize
from pytest_llmperf.model import Counts, Environment, Measurement, Memory, Operator, Phase, Round, Trace, Workload
from pytest_llmperf.reports import html
from pytest_llmperf.reports.history import Entry, History, Point
from pytest_llmperf.reports.html import across, chart, single
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Comparison, Explanation, Grown, Result, Row, Verdict
from pytest_llmperf.units import MIB

HOSTILE = "tests/test_<b>.py::test_x[</script><script>alert(1)</script>-\"'&amp;-中文-{{ 7 * 7 }}]"
CALM = "tests/test_chat.py::test_turn"
VOID = {"meta", "input", "br", "link", "img"}


def measured(
    prompt_tokens: int = 8, output_tokens: int = 4, *, gap: float = 0.002, rounds: int = 3, **load: Any
) -> Measurement:
    arrivals = tuple(0.010 + gap * place for place in range(output_tokens))
    seen = Phase(ops=2, syncs=0, kernels=0, seconds=0.004, operators=(Operator("aten::addmm", 2, 0.003),), steps=3)
    return summarize(
        Measurement(
            "gpt2",
            Workload(prompt_tokens, output_tokens, **load),
            tuple(Round((Trace(0.0, arrivals, prompt_tokens),)) for _ in range(rounds)),
            memory=Memory(weights=6 * MIB, kv_cache=2 * MIB, peak_growth=3 * MIB),
            counts=Counts(prefill=seen, decode=seen),
            environment=Environment("cpu", "a processor", hardware="cpu-here"),
        )
    )


def result(key: str = CALM, measurement: Measurement | None = None, *rows: Row, **fields: Any) -> Result:
    measurement = measurement or measured()
    ttft, tpot = (float(getattr(measurement, name)) for name in ("ttft_ms", "tpot_ms"))
    known = (Row("ttft_ms", "median", "ms", ttft, ttft, ttft), Row("tpot_ms", "median", "ms", tpot))
    return Result(key, "gpt2", measurement.workload, "cpu a processor", 3, rows or known, **fields)


def regressed(key: str = HOSTILE) -> Result:
    compared = Comparison(Verdict.REGRESSED, base=8.0, change=0.1, spread=0.01)
    row = Row("tpot_ms", "median", "ms", 8.8, verdict=Verdict.REGRESSED, comparison=compared)
    grown = {"decode": (Grown("aten::<i>copy_", (1, 2), (0.1, 0.7)),)}
    return result(key, None, row, explanation=Explanation(grown, ("<img src=x onerror=alert(1)>",)))


def run_of(*results: Result, measurements: dict[str, Measurement] | None = None, **fields: Any) -> Run:
    bases = {
        each.key: Basis(each.test, (measurements or {}).get(each.key) or measured(), rules=Rules()) for each in results
    }
    return Run("2026-01-02T03:04:05+00:00", results=results, bases=bases, **fields)


def grid(*shapes: tuple[int, int], **load: Any) -> Run:
    """One test, with each of these prompt and output lengths."""
    made = {f"test_g.py::test_grid[{place}]": measured(*sizes, **load) for place, sizes in enumerate(shapes)}
    return run_of(*(result(key, measurement) for key, measurement in made.items()), measurements=made)


class Page(HTMLParser):
    """What is open, and what was seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        """Each with the tag that it stands in."""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    earlier = [Entry(f"2026-01-0{day}", "cpu-here", {CALM: Point({"tpot_ms": 2.0})}) for day in range(1, 8)]
    run = run_of(
        result(), regressed(), failures={"test_b.py::<u>": "<img src=x>"}, commit="0123456789abcdef", fault="<s>fault"
    )
    return html.written(run, History(tuple(earlier), unread=2))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_all_that_opens_closes_in_order(page: Page) -> None:
    assert page.open == []


def test_every_measurement_has_a_row_and_a_section_that_it_links_to(page: Page) -> None:
    anchors = {attributes["id"] for attributes in page.all("details")}
    assert anchors == {f"test-{number}" for number in (1, 2)}
    assert {f"#{anchor}" for anchor in anchors} == {a["href"] for a in page.all("a") if a["href"] != "#tests"}
    assert [heading for heading in page.said("h3") if "::" in heading] == [HOSTILE, CALM]


def test_what_fails_comes_first(page: Page) -> None:
    assert [attributes["data-verdict"] for attributes in page.all("details")] == ["REGRESSED", "not judged"]


def test_whatever_a_test_is_called_stays_text(text: str, page: Page) -> None:
    assert HOSTILE in page.said("h3")
    assert not {"b", "i", "u", "s", "img"} & {tag for tag, _ in page.tags}
    assert "<script>alert" not in text
    assert any("<img src=x onerror=alert(1)>" in said for said in page.said("li"))


def test_only_our_own_two_scripts_may_run(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    (script,) = [said for said in page.said("script") if said.lstrip().startswith('"use strict"')]
    allowed = re.findall(r"'sha256-([^']+)'", policy or "")
    assert len(allowed) == 2
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    assert "default-src 'none'" in (policy or "")
    assert "'unsafe-inline'" not in (policy or "").partition("script-src")[2]


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    loading = {"src", "srcset", "data", "action", "poster"}
    assert not [attributes for _, attributes in page.tags if loading & set(attributes)]
    assert not [attributes for attributes in page.all("a") if not (attributes["href"] or "").startswith("#")]
    assert page.all("link") == []
    assert "url(" not in "".join(page.said("style"))


def test_headings_leave_out_no_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_every_control_says_what_it_is(page: Page) -> None:
    assert [said.strip() for said in page.said("button")] == ["Open all", "Close all", "Dark"]
    assert all(attributes["type"] == "button" for attributes in page.all("button"))
    assert len(page.all("label")) == len(page.all("input")) == 3  # the search, and a box for each verdict


def test_every_chart_is_json_with_a_title_and_a_sentence(page: Page) -> None:
    packed = page.said("script")[1]
    figures = [json.loads(each) for each in json.loads(gzip.decompress(base64.b64decode(packed)))]
    assert len(figures) == len(page.all("figure")) == len(page.said("figcaption")) > 8
    assert all(figure["data"] and figure["layout"]["height"] for figure in figures)
    assert all(said.endswith(".") for said in page.said("figcaption"))


def test_what_else_failed_and_what_could_not_be_read_is_told(page: Page) -> None:
    assert "<s>fault" in page.said("p")
    assert "<img src=x>" in page.said("dd")
    assert any("2 lines of the history" in said for said in page.said("p"))


def test_a_run_that_measured_nothing_is_a_page() -> None:
    page = Page(html.written(Run("2026-01-02T03:04:05+00:00", failures={"test_a.py": "SyntaxError"})))
    assert "Nothing was measured." in page.said("p")
    assert page.open == []


def test_a_result_whose_measurement_is_not_known_has_its_tables() -> None:
    page = Page(html.written(Run("2026-01-02T03:04:05+00:00", results=(result(),))))
    assert page.all("figure") == []
    assert "ttft_ms" in page.said("th")


@pytest.mark.parametrize(
    ("runs", "title", "told"),
    [
        (1, "Through 1 run", "Change points can be seen from 6 runs on."),
        (5, "Through 5 runs", "Change points can be seen from 6 runs on."),
        (6, "Through 6 runs", "No metric has a change point."),
    ],
)
def test_of_few_runs_it_is_not_said_that_nothing_changed(runs: int, title: str, told: str) -> None:
    entry = Entry("2026-01-02T03:04:05+00:00", "cpu-x", {CALM: Point({"ttft_ms": 1.0})})
    page = Page(html.written(run_of(result()), History((entry,) * runs)))
    assert title in page.said("h2")
    assert told in page.said("p")


def test_a_remark_is_folded_where_it_has_no_room() -> None:
    compared = Comparison(Verdict.REGRESSED, 1.0, 0.5, note="tolerance 1 %; 2 processes")
    row = Row("peak_memory_mib", "median", "MiB", 1.5, verdict=Verdict.REGRESSED, comparison=compared)
    text = html.written(run_of(result(CALM, None, row)))
    assert '<td class="dim spare remark">' in text
    assert "td.remark { white-space: normal; }" in text


# Charts of one measurement


def titles(charts: list[chart.Chart]) -> list[str]:
    return [each.title for each in charts]


def test_a_measurement_has_a_chart_of_all_that_is_known_of_it() -> None:
    known = ["Token timeline", "Gaps between tokens", "Base against head", "Memory", "Where the time went", "What grew"]
    assert titles(single.charts(regressed(), measured())) == known


def test_what_is_not_known_is_not_drawn() -> None:
    bare = summarize(Measurement("gpt2", Workload(8, 1), (Round((Trace(0.0, (0.01,), 8),)),)))
    assert titles(single.charts(result(), bare)) == ["Token timeline"]


def test_a_timeline_is_of_the_middle_round() -> None:
    rounds = tuple(Round((Trace(5.0, (5.0 + wall / 2, 5.0 + wall), 8),)) for wall in (0.4, 0.1, 0.2))
    drawn = single.timeline(dataclasses.replace(measured(), rounds=rounds))
    assert drawn is not None
    assert drawn.data[0]["x"] == [0, 100, 200]
    assert drawn.data[0]["y"] == [0, 1, 2]


def test_chunks_of_several_tokens_are_steps_as_high() -> None:
    taken = Round((Trace(0.0, (0.1, 0.2, 0.3), 8, counts=(1, 4, 2)),))
    drawn = single.timeline(dataclasses.replace(measured(), rounds=(taken,)))
    assert drawn is not None
    assert drawn.data[0]["y"] == [0, 1, 5, 7]


def test_long_timelines_are_thinned_and_say_so() -> None:
    many = Round(tuple(Trace(0.0, tuple(0.001 * k for k in range(1, 1001)), 8) for _ in range(50)))
    drawn = single.timeline(dataclasses.replace(measured(), rounds=(many,)))
    assert drawn is not None
    assert len(drawn.data) == 12
    assert all(len(line["x"]) == 200 and line["y"][-1] == 1000 for line in drawn.data)
    assert "12 of 50 requests are drawn. 200 points of each are drawn." in drawn.told


def test_gaps_far_beyond_the_rest_are_told_and_not_drawn() -> None:
    arrivals = [0.001 * place for place in range(1, 400)]
    arrivals.append(arrivals[-1] + 5.0)
    drawn = single.gaps(summarize(dataclasses.replace(measured(), rounds=(Round((Trace(0.0, tuple(arrivals), 8),)),))))
    assert drawn is not None
    assert sum(drawn.data[0]["y"]) == 398
    assert "399 gaps: half are within 1 ms" in drawn.told.replace("1.00", "1")
    assert "1 more, up to 5,000 ms, lie beyond" in drawn.told


def test_parts_of_memory_add_up_to_the_peak() -> None:
    drawn = single.memory(measured())
    assert drawn is not None
    assert {bar["name"]: bar["x"] for bar in drawn.data} == {"weights": [6], "KV cache": [2], "activations": [1]}


def test_markup_in_a_name_is_no_markup_to_plotly() -> None:
    assert chart.label("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"
    assert chart.label("a" * 50 + "b" * 50) == "a" * 30 + "…" + "b" * 30


# Charts of several


def test_prompts_and_answers_of_several_lengths_are_a_map() -> None:
    drawn = across.heat_maps(grid((8, 4), (16, 4), (8, 6)), "ttft_ms")
    assert [(each.data[0]["x"], each.data[0]["y"]) for each in drawn] == [(["8", "16"], ["4", "6"])]
    assert drawn[0].data[0]["z"][1][1] is None
    assert re.fullmatch(r"8 → 4: \S+ ms, 8 → 6: \S+ ms, 16 → 4: \S+ ms\.", drawn[0].told)


def test_one_length_alone_is_no_map() -> None:
    assert across.heat_maps(grid((8, 4), (16, 4)), "ttft_ms") == []


def test_prompts_of_several_lengths_are_a_line_for_each_other_size() -> None:
    drawn = across.over(grid((16, 4), (8, 4), (8, 6), (16, 6)), "prompt_tokens", "ttft_ms")
    assert drawn is not None
    assert [line["x"] for line in drawn.data] == [[8, 16], [8, 16]]
    assert [line["name"].rpartition(" · ")[2] for line in drawn.data] == ["4 output tokens", "6 output tokens"]


def test_loads_are_drawn_whatever_else_they_may_not_be_combined_with() -> None:
    loads = {f"test_l.py::test_load::request_rate={rate}": measured(request_rate=rate) for rate in (1.0, 4.0)}
    run = run_of(*(result(key, seen, label=key.rpartition("::")[2]) for key, seen in loads.items()), measurements=loads)
    drawn = across.over(run, "request_rate", "ttft_ms")
    assert drawn is not None
    assert drawn.data[0]["x"] == [1, 4]
    assert across.over(run, "concurrency", "ttft_ms") is None


def test_what_differs_in_nothing_is_not_drawn_as_a_line() -> None:
    assert across.over(grid((8, 4), (8, 4)), "prompt_tokens", "ttft_ms") is None
