"""The command `llmperf profile`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import textwrap
from collections.abc import Sequence

from rich.console import Console

from pytest_llmperf.cli import check_folder, show
from pytest_llmperf.measure.mission import Mission, fly
from pytest_llmperf.model import Workload
from pytest_llmperf.profiling.traces import check_traces
from pytest_llmperf.reports.findings import findings
from pytest_llmperf.reports.mission import mission_record, mission_tables
from pytest_llmperf.reports.table import shape
from pytest_llmperf.reports.terminal import tables_text
from pytest_llmperf.session import Defaults, Llm, Session
from pytest_llmperf.settings import check

ROUNDS = 5
"""Of which a warm time is the median."""


def profile(parsed: argparse.Namespace) -> int:
    check_folder("--json", parsed.json)
    if parsed.traces is not None:
        check_traces(parsed.traces.absolute(), f"--traces {parsed.traces}")
    with Console(stderr=True).status("starting") as status:
        defaults = Defaults(parsed.device, parsed.dtype, parsed.threads, ROUNDS, traces=parsed.traces)
        session = Session(defaults, lambda stage: status.update(stage or "…"))
        level = check((), {"model": parsed.target})
        llm = Llm(session, level.keywords["model"].id, [level])
        missions, notes = _missions(llm, parsed)
    show(
        lambda width, colour: tables_text(mission_tables(missions, notes), _listed(missions, width), width, colour),
        lambda: json.dumps(mission_record(missions, notes), indent=1) + "\n",
        parsed.json,
    )
    if parsed.traces is not None and str(parsed.json) != "-":
        print(f"llmperf profile: traces are in {parsed.traces}", file=sys.stderr)
    return 0


def _listed(missions: Sequence[Mission], width: int) -> list[str]:
    """What is to be noticed, each with a dot before it."""
    return [textwrap.fill(line, width - 1, initial_indent="• ", subsequent_indent="  ") for line in findings(missions)]


def _missions(llm: Llm, parsed: argparse.Namespace) -> tuple[list[Mission], list[str]]:
    threads = parsed.threads if isinstance(parsed.threads, int) else None
    prompts = sorted(set(parsed.prompt_tokens))
    lengths, notes = fitting(prompts, parsed.output_tokens, llm.target.positions)
    missions: list[Mission] = []
    for prompt_tokens in lengths:
        workload = Workload(prompt_tokens, parsed.output_tokens)
        target = llm.load(parsed.target, fresh=bool(missions))  # the first has only just been loaded
        measured = functools.partial(llm.measure, shape(workload), workload=workload)
        missions.append(fly(target, workload, threads, measured))
    return missions, [*notes, *dict.fromkeys(note for mission in missions for note in mission.measurement.notes)]


def fitting(prompts: Sequence[int], output_tokens: int, positions: int | None) -> tuple[list[int], list[str]]:
    """The lengths of prompt that the model has positions for, and what was made shorter."""
    room = None if positions is None else positions + 1 - output_tokens  # the last token is not fed back
    if room is None or room < 1:  # what fits in no way is told by the target itself
        return list(prompts), []
    long = [prompt for prompt in prompts if prompt > room]
    notes = [f"{', '.join(map(str, long))} clipped to {room}: the model has {positions} positions"] if long else []
    return list(dict.fromkeys(min(prompt, room) for prompt in prompts)), notes
