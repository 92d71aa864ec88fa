"""The page that --llmperf-html writes, in a real browser: its size, when it answers, what it asks the network for.

Takes a report of --llmperf-json, or makes one of a small suite whose code becomes worse; repeats its measurements until
there are as many as asked for, gives them a history, opens the page in headless Chromium, and clicks: search, verdicts,
theme, a test, a link. Prints what the console says, requests, and what axe-core objects to.

    python benchmarks/report.py [report.json] [--axe node_modules/axe-core/axe.min.js] [--screenshots folder]
    python benchmarks/report.py --tests 0 --picture docs/report.png

Needs: pip install 'pytest-llmperf[html,benchmarks]', a Chromium, and axe-core from npm.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from pytest_llmperf.reports import document, html
from pytest_llmperf.reports.history import Entry, History, Point, entries_of
from pytest_llmperf.reports.run import Run

READY = "() => document.documentElement.dataset.ready !== undefined"
SUITE = {
    "model.py": """
import os
from transformers import GPT2Config, GPT2LMHeadModel


class Chat(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        if os.environ.get("WORSE"):
            for _ in range(20):
                out.logits = out.logits.clone()
            out.logits.max().item()
        return out


def chat():
    return Chat(GPT2Config(n_layer=4, n_embd=256, n_head=8, vocab_size=8_000)).eval()
""",
    "test_chat.py": """
import pytest
from model import chat
from pytest_llmperf import llm_perf, random_weights, tpot_ms, ttft_ms, variants

GPT2 = random_weights("gpt2", n_layer=4, n_embd=256, n_head=8, vocab_size=8_000)


@llm_perf(ttft_ms < 500, tpot_ms.p90 < 500, prompt_tokens=64, output_tokens=32)
def test_chat_turn(llm):
    llm.load(chat())
    llm.measure()


@pytest.mark.parametrize("answer", [8, 32])
@pytest.mark.parametrize("prompt", [32, 128, 512])
@llm_perf(model=GPT2)
def test_sizes(llm, prompt, answer):
    llm.measure(prompt_tokens=prompt, output_tokens=answer)


@variants(sdpa={}, eager={"load": {"attn_implementation": "eager"}})
@llm_perf(model=GPT2, prompt_tokens=64, output_tokens=16)
def test_attention(llm, variant):
    llm.measure()
""",
}
ACROSS = "section[aria-labelledby=across]"
SIZES = {"wide": (1440, 900), "narrow": (400, 800)}


def main() -> int:
    asked = arguments()
    run = document.read(asked.report) if asked.report else made()
    run = many(run, asked.tests) if asked.tests else run
    history = course(run, asked.runs)
    began = time.perf_counter()
    text = html.written(run, history)
    print(f"{len(run.results)} tests, {asked.runs} runs: written in {time.perf_counter() - began:.1f} s")
    print(f"size: {len(text.encode()) / 1e6:.2f} MB (bar: 8)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        file = Path(folder, "report.html")
        file.write_text(text, encoding="utf-8")
        browser = play.chromium.launch(executable_path=asked.chromium, args=["--no-sandbox"])
        faults = [*opened(browser, file, asked.axe), *clicked(browser, file), *unscripted(browser, file, run)]
        if asked.screenshots:
            photographed(browser, file, asked.screenshots)
        if asked.picture:
            pictured(browser, file, asked.picture)
    for fault in faults:
        print(f"FAULT {fault}")
    print("no fault" if not faults else f"{len(faults)} faults")
    return int(bool(faults))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--tests", type=int, default=200, help="0: those that the report has")
    parser.add_argument("--runs", type=int, default=100, help="of the history")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="of the first regression, for the docs")
    return parser.parse_args()


def made() -> Run:
    """What pytest reports of the suite, after its code has become worse."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in SUITE.items():
            Path(folder, name).write_text(text)
        for environment, options in (
            ({}, ["--llmperf-update", "--llmperf-force"]),
            ({"WORSE": "1"}, ["--llmperf-json=report.json"]),
        ):
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--llmperf-max-time=1", *options],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                check=False,  # it fails
            )
        return document.read(Path(folder, "report.json"))


def many(run: Run, number: int) -> Run:
    """As many measurements, under names of their own."""
    results, bases = [], {}
    for place in range(number):
        result = run.results[place % len(run.results)]
        module, _, name = result.key.partition("::")
        key = f"tests/part_{place // len(run.results)}/{module}::{name}"
        results.append(dataclasses.replace(result, key=key))
        if result.key in run.bases:
            bases[key] = run.bases[result.key]
    return dataclasses.replace(run, results=tuple(results), bases=bases)


def course(run: Run, number: int) -> History:
    """Runs before this one: noise of 1 %, and a step of 10 % in the middle."""
    chance = random.Random(0)
    entries = []
    for place in range(number):
        for entry in entries_of(run):
            points = {
                key: Point(_noisy(point.medians, chance, place >= number / 2), point.verdict)
                for key, point in entry.results.items()
            }
            began = f"2026-{1 + place // 28 % 12:02}-{1 + place % 28:02}T12:00:00+00:00"
            code = f"{chance.getrandbits(160):040x}"
            entries.append(Entry(began, entry.hardware, points, code))
    return History(tuple(entries))


def _noisy(medians: Any, chance: random.Random, later: bool) -> dict[str, float]:
    return {
        name: value * chance.gauss(1, 0.01) * (1 + 0.1 * later) if name.endswith("_ms") else value
        for name, value in medians.items()
    }


@contextmanager
def page_of(browser: Browser, faults: list[str], **context: Any) -> Iterator[Page]:
    """A page, whose console and requests are faults."""
    with browser.new_context(**context) as made:
        page = made.new_page()
        page.on(
            "console",
            lambda said: faults.append(f"console: {said.text}") if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith(("file:", "blob:", "data:")) else faults.append(f"request: {asked.url}")
            ),
        )
        yield page


def opened(browser: Browser, file: Path, axe: Path | None) -> list[str]:
    """How long it takes to answer, and what axe-core finds, in both themes."""
    faults: list[str] = []
    times, processor = [], []
    for _ in range(5):
        with page_of(browser, faults) as page:
            watch = page.context.new_cdp_session(page)
            watch.send("Performance.enable")
            before = processor_time(watch)
            began = time.perf_counter()
            page.goto(file.as_uri())
            page.wait_for_function(READY)
            page.fill("#search", "zzz")
            page.wait_for_function("() => document.getElementById('shown').textContent.startsWith('0 of')")
            times.append(time.perf_counter() - began)
            processor.append(processor_time(watch) - before)
    wall, busy = statistics.median(times), statistics.median(processor)
    print(f"interactive after {wall:.2f} s, the median of 5 (bar: 2), of which the page kept a core busy {busy:.2f} s")
    for theme in ("light", "dark") if axe else ():
        with page_of(browser, faults, color_scheme=theme, bypass_csp=True) as page:
            page.goto(file.as_uri())
            page.wait_for_function(READY)
            for test in page.query_selector_all("details.test")[:3]:
                test.query_selector("summary").click()  # type: ignore[union-attr]  # each has one
            all_drawn(page, "details.test[open]")
            page.add_script_tag(path=str(axe))
            found = page.evaluate("async () => (await axe.run()).violations")
            for each in found:
                faults.append(
                    f"axe, {theme}, {each['impact']}: {each['id']} × {len(each['nodes'])}: "
                    f"{each['nodes'][0]['html'][:200]} {json.dumps(each['nodes'][0]['any'][:1])[:300]}"
                )
            print(f"axe-core, {theme}: {len(found)} violations")
    return faults


def processor_time(watch: CDPSession) -> float:
    """Seconds of the process that renders the page."""
    metrics = watch.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "ProcessTime"))


def all_drawn(page: Page, where: str) -> None:
    """Come by every chart."""
    for figure in page.query_selector_all(f"{where} figure"):
        figure.scroll_into_view_if_needed()
        page.wait_for_function("figure => figure.querySelector('.main-svg')", arg=figure, timeout=20_000)


def clicked(browser: Browser, file: Path) -> list[str]:
    """Whether it does what its controls say."""
    faults: list[str] = []

    def expect(what: str, holds: object) -> None:
        if not holds:
            faults.append(f"click: {what}")

    with page_of(browser, faults, viewport={"width": 1200, "height": 900}) as page:
        page.goto(file.as_uri())
        page.wait_for_function(READY)
        every = page.locator("details.test").count()
        key = page.locator("details.test h3").first.inner_text()
        page.fill("#search", key)
        expect(
            "a search by its whole name finds a test",
            0 < page.locator("details.test:visible").count() < every or every == 1,
        )
        page.fill("#search", "")
        expect("an empty search shows all", page.locator("details.test:visible").count() == every)
        box = page.locator(".tools input[type=checkbox]").first
        verdict = box.get_attribute("value")
        box.uncheck()
        left = page.locator(f"details.test[data-verdict='{verdict}']:visible").count()
        expect("a verdict that is not asked for is not shown", left == 0)
        box.check()
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        expect("the theme changes", before != page.evaluate("getComputedStyle(document.body).backgroundColor"))
        expect("and says so", page.get_attribute("#theme", "aria-pressed") == "true")
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        expect("Enter opens a test", page.locator("details.test").first.get_attribute("open") is not None)
        all_drawn(page, "details.test[open]")
        link = page.locator("[data-of] a").last
        target = link.get_attribute("href") or ""
        link.click()
        expect("a link opens its test", page.locator(target).get_attribute("open") is not None)
        page.click("#close")
        expect("all are closed", page.locator("details.test[open]").count() == 0)
        print(f"clicked through {every} tests")
    return faults


def unscripted(browser: Browser, file: Path, run: Run) -> list[str]:
    """Whether the tables are there without JavaScript."""
    faults: list[str] = []
    with page_of(browser, faults, java_script_enabled=False) as page:
        page.goto(file.as_uri())
        page.locator("summary").first.click()
        if not page.locator("details.test table").first.is_visible():
            faults.append("without JavaScript: a test does not open")
        if (rows := page.locator("[data-of]").count()) != len(run.results):
            faults.append(f"without JavaScript: {rows} rows of {len(run.results)} measurements")
    return faults


def photographed(browser: Browser, file: Path, folder: Path) -> None:
    """Both themes, both sizes, the first test open; and the top of the page, for the docs."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for name, (width, height) in SIZES.items():
            faults: list[str] = []
            viewport = {"width": width, "height": height}
            with page_of(browser, faults, color_scheme=theme, viewport=viewport) as page:
                page.goto(file.as_uri())
                page.wait_for_function(READY)
                page.screenshot(path=folder / f"top-{theme}-{name}.png")
                test = page.locator("details.test").first
                test.locator("> summary").click()
                all_drawn(page, "details.test[open]")
                page.evaluate("document.querySelector('.tools').style.position = 'static'")
                test.screenshot(path=folder / f"test-{theme}-{name}.png")
                test.locator("> summary").click()
                all_drawn(page, ACROSS)
                if page.locator(ACROSS).count():
                    page.locator(ACROSS).screenshot(path=folder / f"across-{theme}-{name}.png")


def pictured(browser: Browser, file: Path, picture: Path) -> None:
    """One regression, as far as a screen shows it, small enough for a repository."""
    with page_of(browser, [], color_scheme="light", viewport={"width": 1100, "height": 1500}) as page:
        page.goto(file.as_uri())
        page.wait_for_function(READY)
        test = page.locator("details.test:has(.reasons table)").first
        test.locator("> summary").click()
        all_drawn(page, "details.test[open]")
        page.evaluate("document.querySelector('.tools').style.position = 'static'")
        page.evaluate("document.querySelectorAll('section:not(:has(details))').forEach((each) => each.remove())")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=picture)
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
