"""The command `llmperf sweep`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from pytest_llmperf.cli import check_folder, show
from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.model import check_asked
from pytest_llmperf.reports.sweep import Step, sweep_record, sweep_tables
from pytest_llmperf.reports.terminal import tables_text
from pytest_llmperf.results import Verdict
from pytest_llmperf.session import Defaults, Llm, Session
from pytest_llmperf.settings import check
from pytest_llmperf.sweep import most_borne, search
from pytest_llmperf.units import short_number

MOST_CONCURRENT = 512
MOST_RATE = 1024.0


def sweep(parsed: argparse.Namespace) -> int:
    check_folder("--json", parsed.json)
    by = "concurrency" if parsed.rate is None else "request_rate"
    asked = parsed.concurrency if parsed.rate is None else parsed.rate
    sizes = {name: getattr(parsed, name) for name in ("prompt_tokens", "output_tokens", "requests", "mix")}
    optional = {"shared_prefix_tokens": parsed.shared_prefix_tokens, "arrivals": parsed.arrivals}
    level = check(parsed.limit, {"model": parsed.target, **sizes, **optional})
    reference = level.keywords["model"]
    if reference.in_process:
        raise UsageError(f"{parsed.target}: a sweep needs a server, as in http://127.0.0.1:8000/v1")
    _check_loads(by, asked or [], parsed.most)
    if level.tolerances:
        metric = level.tolerances[0].metric
        raise UsageError(
            f"--limit '{metric}.within(…)': a sweep has no baseline; write a bound, as in '{metric} < 500'"
        )
    if not parsed.limit and not asked:
        raise UsageError("without a --limit there is nothing to search for; name one, or the loads to measure")
    console = Console(stderr=True)
    with console.status("starting") as status:
        defaults = Defaults(rounds=parsed.rounds, max_time=parsed.max_time)
        session = Session(defaults, lambda stage: status.update(stage or "…"))
        llm = Llm(session, reference.id, [level])
        steps: list[Step] = []
        bears = _measuring(llm, by, steps)
        try:
            if asked:
                for load in asked:
                    bears(load)
            else:
                most = float(parsed.most or (MOST_CONCURRENT if by == "concurrency" else MOST_RATE))
                search(bears, most, whole=by == "concurrency")
        except KeyboardInterrupt:  # what was measured stands
            if not steps:
                raise
            print("llmperf: interrupted; what was measured until then:", file=sys.stderr)
        session.targets.clear()
    tables = sweep_tables(steps, by, reference.id)
    show(lambda width, colour: tables_text(tables, (), width, colour), lambda: sweep_record(steps, by), parsed.json)
    return _status(steps)


def _check_loads(by: str, asked: Sequence[float], most: int | None) -> None:
    option = f"--{by.removeprefix('request_')}"
    for load in [*asked, *([most] if most is not None else [])]:
        check_asked(by, load)
    if asked and most is not None:
        raise UsageError(f"--most {most} is for a search; leave it out, or write {option} without loads")
    if len(set(asked)) < len(asked):
        once = ",".join(str(load).removesuffix(".0") for load in dict.fromkeys(asked))
        raise UsageError(f"{option}: a load is named twice; write {option} {once}")


def _measuring(llm: Llm, by: str, steps: list[Step]) -> Callable[[float], bool]:
    def bears(load: float) -> bool:
        asked: dict[str, Any] = {by: int(load) if by == "concurrency" else load}
        label = f"{by}={short_number(load)}"
        try:
            measurement = llm.measure(label, **asked)
        except MeasurementError as error:  # a load under which every request fails
            steps.append(Step(load, missing=str(error)))
        else:
            (result,) = [result for result in llm.results() if result.label == label]
            steps.append(Step(load, measurement, result))
        print(f"llmperf: {by} {short_number(load)}: {_verdict(steps[-1])}", file=sys.stderr)
        return steps[-1].borne

    return bears


def _verdict(step: Step) -> str:
    verdict = step.result.verdict if step.result is not None else Verdict.BROKEN
    return ", but ".join(filter(None, [verdict.value if verdict is not None else "measured", step.behind]))


def _status(steps: list[Step]) -> int:
    """1 where not one load was borne."""
    return int(most_borne({step.load: step.borne for step in steps}) is None)
