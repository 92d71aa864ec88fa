"""What `benchmarks/gpu.sh` shows, from figures made up here, and how its scripts tell time: without a GPU."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.fakes import FakeClock

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODELS = ["gpt2", "llama-8b"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("gpu", "device_time", "held_up"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import device_time
    import gpu
    import held_up

    return SimpleNamespace(gpu=gpu, device_time=device_time, held_up=held_up)


def found(scripts: Any) -> dict[str, Any]:
    """As all parts keep it, with every bar met."""
    targets = [scripts.gpu.MODELS[name].target for name in MODELS]
    ratio = {"pairs": 100, "ratio": 1.0, "low": 0.998, "high": 1.002}
    verdicts = {0.0: "OK", 0.02: "INCONCLUSIVE", 0.05: "INCONCLUSIVE", 0.10: "REGRESSED"}
    shares = [
        {"share": share, "change": share, "spread": 0.01, "pairs": 2, "verdict": said}
        for share, said in verdicts.items()
    ]
    noise = {"process": 0.004, "df": 2.5, "pairs": 3}
    both = {"noise": noise, "shares": shares}
    structure = {"runs": 8, "caught": 8, "missed": [], "unchanged": 1, "false": 0}
    figures: dict[str, Any] = {
        "roofline": {
            "ttft_ms": 12.3,
            "tpot_ms": 6.78,
            "mbu": 0.5,
            "mfu": None,
            "energy_j_per_token": 0.1,
            "disturbed": "",
        },
        "device_time": {"host": 1.0001, "prefill": 0.998, "decode": 1.0},
        "overhead": {"ttft_ms": ratio, "tpot_ms": ratio},
        "held_up": {"ttft_ms": both, "tpot_ms": both},
    }
    by_target = {name: {target: json.loads(json.dumps(each)) for target in targets} for name, each in figures.items()}
    kept = {**by_target, "structural": {"gpt2": structure, "llama": dict(structure)}}
    parts = {name: {"seconds": 42.0, "why": "", "figures": each} for name, each in kept.items()}
    return {"machine": "a machine", "command": "a command", "models": MODELS, "parts": parts}


def shown(scripts: Any, content: dict[str, Any], width: int = 120) -> tuple[list[str], bool]:
    text = io.StringIO()
    met = scripts.gpu.show(content, Console(file=text, width=width))
    return text.getvalue().splitlines(), met


def row(lines: list[str], title: str) -> list[str]:
    line = next(line for line in lines if line.startswith(f"| {title} "))
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def test_the_table_has_a_line_for_each_figure_and_a_column_for_each_model(scripts):
    lines, met = shown(scripts, found(scripts))
    assert met
    assert row(lines, "`tpot_ms`") == ["6.78", "6.78"]
    assert row(lines, "`mfu`") == ["unknown", "unknown"]
    assert row(lines, "decode, events / host") == ["1.0001", "1.0001"]
    assert row(lines, "`ttft_ms`, reported / bare") == ["1.000 (0.998–1.002)"] * 2
    assert row(lines, "`tpot_ms`, σ_p of A/A") == ["0.4 %, worth 2.5"] * 2
    assert row(lines, "`tpot_ms`, 10 % slower") == ["REGRESSED, +10.0 %"] * 2
    assert row(lines, "structural: caught") == ["8 of 8"] * 2
    assert lines[-2] == "a machine; `a command`"
    assert len([line for line in lines if line.startswith("|")]) == len(scripts.gpu.ROWS) + 2, "a line was wrapped"


@pytest.mark.parametrize(
    ("part", "path", "value", "title", "cell"),
    [
        ("roofline", ["disturbed"], "it was hot", "disturbed meanwhile", "**it was hot**"),
        ("device_time", ["host"], 1.02, "decode, events / host", "**1.0200**"),
        ("overhead", ["tpot_ms", "high"], 1.02, "`tpot_ms`, reported / bare", "**1.000 (0.998–1.020)**"),
        ("held_up", ["ttft_ms", "shares", 0, "verdict"], "REGRESSED", "`ttft_ms`, unchanged", "**REGRESSED, +0.0 %**"),
        ("held_up", ["ttft_ms", "shares", 2, "verdict"], "OK", "`ttft_ms`, 5 % slower", "**OK, +5.0 %**"),
        ("held_up", ["tpot_ms", "shares", 3, "verdict"], "OK", "`tpot_ms`, 10 % slower", "**OK, +10.0 %**"),
    ],
)
def test_a_figure_that_misses_its_bar_is_told(scripts, part, path, value, title, cell):
    content = found(scripts)
    place = content["parts"][part]["figures"][scripts.gpu.MODELS["llama-8b"].target]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    lines, met = shown(scripts, content)
    assert not met
    assert row(lines, title)[1] == cell
    assert "**" not in row(lines, title)[0]


def test_a_missed_structural_change_is_named(scripts):
    content = found(scripts)
    content["parts"]["structural"]["figures"]["llama"] |= {"caught": 7, "missed": ["cache off"], "false": 1}
    lines, met = shown(scripts, content)
    assert not met
    assert row(lines, "structural: caught") == ["8 of 8", "**7 of 8, not cache off**"]
    assert row(lines, "structural: false alarms") == ["0 of 1", "**1 of 1**"]


def test_what_did_not_end_in_its_time_is_missing_and_says_why(scripts):
    content = found(scripts)
    part = content["parts"]["held_up"]
    del part["figures"][scripts.gpu.MODELS["llama-8b"].target]
    part["why"] = "not within 195 s"
    del content["parts"]["overhead"]
    lines, met = shown(scripts, content)
    assert not met
    assert row(lines, "`ttft_ms`, unchanged") == ["OK, +0.0 %", "**missing**"]
    assert row(lines, "`ttft_ms`, reported / bare") == ["**missing**"] * 2
    assert "held_up 42 s (**not within 195 s**)" in "\n".join(lines)


def test_what_takes_a_gpu_is_no_failure_without_one(scripts):
    content = found(scripts)
    for figures in content["parts"]["device_time"]["figures"].values():
        figures |= {"host": None, "decode": None}
    lines, met = shown(scripts, content)
    assert met
    assert row(lines, "decode, events / host") == ["needs a GPU"] * 2


def test_time_that_a_part_leaves_goes_to_those_after_it(scripts):
    clock = FakeClock()
    given = {}
    for part, seconds, most in scripts.gpu.boxes(450, clock):
        given[part.script] = seconds, most
        clock.advance(10)
    assert given["roofline"] == pytest.approx((60, 90))
    assert given["device_time"] == pytest.approx((440 * 45 / 390, 440 * 45 / 390 * 1.5))
    assert given["held_up"] == pytest.approx((410, 410))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("keep('gpt2', 'llama')", ""),
        ("keep('gpt2'); raise SystemExit('no room')", "no room"),
        ("keep('gpt2'); import time; time.sleep(600)", "not within 1 s"),
        ("print('half', file=open(file, 'w'))", "ended with 0"),
    ],
)
def test_a_part_keeps_what_it_found_however_it_ends(scripts, tmp_path, monkeypatch, script, why):
    code = f"""
import json, sys
file = sys.argv[1].removeprefix("--json=")
def keep(*names):
    open(file, "w").write(json.dumps(dict.fromkeys(names, 1)))
{script}
"""
    (tmp_path / "part.py").write_text(code)
    monkeypatch.setattr(scripts.gpu, "HERE", tmp_path)
    part = scripts.gpu.Part("part", 1, lambda options, seconds: [], by=lambda model: model.kind)
    content = scripts.gpu.run(part, argparse.Namespace(models=MODELS), 1.0, 1.0 if "sleep" in script else 60.0)
    assert content["why"] == why
    if "sleep" not in script:  # a busy machine may not come so far
        assert ("gpt2" in content["figures"]) == ("keep" in script)


def test_a_stamp_is_passed_when_it_was_asked_for_and_all_launched_before_has_ended(scripts):
    mark = {"cat": "user_annotation", "name": scripts.device_time.MARK, "dur": 1.0}

    def launched(at: float, number: int, cat: str = "cuda_runtime") -> dict[str, Any]:
        return {"cat": cat, "name": "launch", "ts": at, "dur": 2.0, "args": {"correlation": number}}

    def ran(at: float, dur: float, number: int, cat: str = "kernel") -> dict[str, Any]:
        return {"cat": cat, "name": "work", "ts": at, "dur": dur, "args": {"correlation": number}}

    events = [
        {**mark, "ts": 9.0},  # nothing was launched before it
        launched(20.0, 1),
        ran(25.0, 5.0, 1),
        {**mark, "ts": 49.0},  # the device had long ended
        launched(60.0, 2, "cuda_driver"),
        ran(65.0, 100.0, 2),
        launched(62.0, 3),
        ran(165.0, 10.0, 3, "gpu_memcpy"),
        {**mark, "ts": 69.0},  # the device is behind
        launched(71.0, 4),
        ran(175.0, 50.0, 4),
        {"cat": "gpu_user_annotation", "name": scripts.device_time.MARK, "ts": 1.0, "dur": 1.0},
        {"ph": "M", "name": "process_name", "args": {"name": "python"}},
    ]
    assert scripts.device_time.moments(events) == [pytest.approx(moment / 1e6) for moment in (10.0, 50.0, 175.0)]


def test_a_step_is_held_up_once_the_device_has_done_its_work(scripts, monkeypatch):
    clock = FakeClock(0.0)
    calls = []

    class Event:
        def record(self) -> None:
            calls.append("record")
            self.looks = 3

        def query(self) -> bool:
            calls.append("query")
            clock.advance(1.0)
            self.looks -= 1
            return self.looks == 0

    def thread_time() -> float:
        clock.advance(1e-3)
        return clock()

    def forward() -> str:
        calls.append("forward")
        clock.advance(7.0)
        return "output"

    monkeypatch.setattr(scripts.held_up.torch.cuda, "Event", Event)
    monkeypatch.setattr(scripts.held_up.time, "thread_time", thread_time)
    model = SimpleNamespace(generate=lambda: model.forward(), forward=forward)
    held = scripts.held_up.HeldUp(SimpleNamespace(model=model, device=SimpleNamespace(name="cuda:0")))
    held.share = 0.1
    assert model.generate() == "output"
    assert calls == ["forward", "record", "query", "query", "query"]
    assert clock() == pytest.approx(10.0 * 1.1, abs=1e-2)
    model.forward()
    assert clock() == pytest.approx(20.0 * 1.1, abs=1e-2), "the wait of a step counts in the next"


def test_the_first_pair_that_decides_gives_the_verdict(scripts):
    alike, slower = scripts.held_up.Pair(0.0, 0.001), scripts.held_up.Pair(0.095, 0.001)
    assert scripts.held_up.judged([alike] * 4, "cuda") == (2, scripts.held_up.Verdict.OK)
    assert scripts.held_up.judged([slower] * 4, "cuda") == (2, scripts.held_up.Verdict.REGRESSED)
    assert scripts.held_up.judged([slower], "cuda") == (1, scripts.held_up.Verdict.INCONCLUSIVE)
