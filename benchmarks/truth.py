"""Are the times true that the client of this project reports of a server?

A server in a process of its own paces its tokens on a known schedule and logs when it sent each, by the clock that the
processes of a machine share. What the client reports of those requests is held against that log: TTFT, TPOT and the
percentiles of the gaps, each within 1 % or 0.3 ms, at 1 to 512 streams at once; other load generators likewise. Then
how many chunks per second one client process takes before it is late itself, and whether its memory grows.

    python benchmarks/truth.py [--only truth,rate,memory,peers] [--cores SERVER,CLIENT] [--json FILE]
                               [--peers aiperf=PATH,guidellm=PATH]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from paced_server import MODEL, Answer, Schedule
from peers import PEERS, PERCENTILES, Load
from rich.console import Console
from rich.table import Table

from pytest_llmperf import endpoint
from pytest_llmperf.measure import collector_quiet
from pytest_llmperf.metrics import summarize
from pytest_llmperf.model import Measurement, Round, Workload
from pytest_llmperf.targets import LoadOptions

SCHEDULES = {
    "steady": Schedule(),
    "jitter": Schedule(jitter=0.5),
    "stalls": Schedule(jitter=0.1, stalls=0.02),
    "chunks": Schedule(jitter=0.5, per_chunk=4),
}
GAPS = {1: 0.01, 16: 0.01, 128: 0.02, 512: 0.05}
"""Seconds between chunks, by streams at once: a server under load is slower too."""
PEERS_SCHEDULES = ("jitter", "chunks")
PROMPT, OUTPUT = 32, 64
RELATIVE_BAR, ABSOLUTE_BAR_MS = 0.01, 0.3
FIGURES = ("ttft_ms", "tpot_ms", *(f"itl_ms.{name}" for name in PERCENTILES))

RATE_STREAMS = 256
RATES = (4_000, 8_000, 16_000, 24_000, 32_000, 40_000, 48_000, 56_000)
RATE_SECONDS = 1.5
LAG_BAR_MS = 1.0
"""From a chunk sent to it seen, in 99 of 100: the client's own lag is a part of it."""

MEMORY_STEPS, MEMORY_ROUNDS, MEMORY_REQUESTS = 10, 10, 1_000
MEMORY_BAR = 0.02

Figures = Mapping[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Paced:
    """A paced server that runs."""

    url: str

    def log(self) -> list[Answer]:
        """Of all answers since it was last asked for it, as the requests came."""
        with urllib.request.urlopen(f"{self.url}/log") as page:
            answers = [Answer(**record) for record in json.load(page)]
        return sorted(answers, key=lambda answer: answer.received)


@contextmanager
def paced(schedule: Schedule, core: int | None) -> Iterator[Paced]:
    script = str(Path(__file__).with_name("paced_server.py"))
    pinned = [] if core is None else [f"--core={core}"]
    server = subprocess.Popen([sys.executable, script, *schedule.arguments, *pinned], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield Paced(f"http://127.0.0.1:{int(server.stdout.readline())}")
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def served_rounds(server: Paced, workload: Workload, rounds: int = 1) -> Iterator[Round]:
    """What the client sees of each, after one to warm up; the server's log begins anew before it."""
    target = endpoint(f"{server.url}/v1", model=MODEL).load(LoadOptions())
    seeds = itertools.count()
    warm_up = dataclasses.replace(workload, requests=workload.concurrency)
    target.begin()
    try:
        for number, asked in enumerate([warm_up, *[workload] * rounds]):
            upcoming = [
                target.request(asked, next(seeds)) for _ in range(4 * asked.concurrency + (asked.requests or 0))
            ]
            server.log()
            with collector_quiet():
                seen = target.serve(asked, iter(upcoming), time.perf_counter)
            if seen.failures:
                raise RuntimeError(f"{len(seen.failures)} requests failed: {seen.failures[0]}")
            if number:
                yield seen
    finally:
        target.close()


# What is true, and what is said


def true_figures(answers: Sequence[Answer]) -> Figures:
    """By the definitions, from the times at which the server sent."""
    gaps = np.concatenate([np.diff(answer.sent) for answer in answers])
    tpot = [(answer.sent[-1] - answer.sent[0]) / (sum(answer.counts) - 1) for answer in answers]
    return {
        "ttft_ms": 1e3 * float(np.median([answer.sent[0] - answer.received for answer in answers])),
        "tpot_ms": 1e3 * float(np.median(tpot)),
        **{f"itl_ms.{name}": 1e3 * float(np.percentile(gaps, int(name[1:]))) for name in PERCENTILES},
    }


def said_figures(workload: Workload, seen: Round) -> Figures:
    """As the catalogue has them."""
    measured = summarize(Measurement("", workload, (seen,)))
    assert measured.ttft_ms is not None
    assert measured.tpot_ms is not None
    assert measured.itl_ms is not None
    gaps = {f"itl_ms.{name}": float(getattr(measured.itl_ms, name)) for name in PERCENTILES}
    return {"ttft_ms": measured.ttft_ms.median, "tpot_ms": measured.tpot_ms.median, **gaps}


def counted_of(seen: Round, log: Sequence[Answer]) -> list[Answer]:
    """The answers to the requests that count: requests come in the order in which they are sent."""
    sent = sorted([*seen.traces, *seen.beside], key=lambda trace: trace.sent)
    counted = set(map(id, seen.traces))
    return [answer for trace, answer in zip(sent, log, strict=True) if id(trace) in counted]


def within(said: float, true: float) -> bool:
    return abs(said - true) <= max(ABSOLUTE_BAR_MS, RELATIVE_BAR * true)


def delays_ms(seen: Round, log: Sequence[Answer]) -> dict[str, float]:
    """From a chunk sent to a chunk seen: they are seen in the order in which they are sent."""
    arrivals = np.sort(np.concatenate([trace.arrivals for trace in (*seen.traces, *seen.beside)]))
    delays = 1e3 * (arrivals - np.sort(np.concatenate([answer.sent for answer in log])))
    return {name: float(np.percentile(delays, int(name[1:]))) for name in ("p50", "p99")}


def lateness_ms(answers: Sequence[Answer]) -> float:
    """Of the server, by its own schedule: 99 of 100 chunks were not later."""
    late = np.concatenate([np.subtract(answer.sent, answer.due) for answer in answers])
    return 1e3 * float(np.percentile(late, 99))


def at(schedule: Schedule, streams: int) -> Schedule:
    return dataclasses.replace(schedule, gap=GAPS[streams], ttft=5 * GAPS[streams])


def requests_at(streams: int) -> int:
    return max(16, 2 * streams)


def workload_at(streams: int) -> Workload:
    return Workload(PROMPT, OUTPUT, concurrency=streams, requests=requests_at(streams))


# The four parts


def truth(streams: Sequence[int], schedules: Sequence[str], core: int | None) -> Iterator[Row]:
    for name, many in itertools.product(schedules, streams):
        workload = workload_at(many)
        with paced(at(SCHEDULES[name], many), core) as server:
            for seen in served_rounds(server, workload):
                log = server.log()
                yield {
                    "who": "llmperf",
                    "schedule": name,
                    "streams": many,
                    "true": true_figures(counted_of(seen, log)),
                    "said": said_figures(workload, seen),
                    "delay_ms": delays_ms(seen, log),
                    "client_lag_ms": 1e3 * seen.client_lag,
                }


def peers(tools: Mapping[str, str], streams: Sequence[int], core: int | None) -> Iterator[Row]:
    for name, many, (tool, executable) in itertools.product(PEERS_SCHEDULES, streams, tools.items()):
        with paced(at(SCHEDULES[name], many), core) as server, tempfile.TemporaryDirectory() as folder:
            load = Load(server.url, MODEL, many, requests_at(many), PROMPT, OUTPUT, Path(folder))
            try:
                said = PEERS[tool](executable, load)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                continue
            log = server.log()
        answers = [answer for answer in log if answer.id in said.answers] if said.answers else log[many:]
        yield {
            "who": tool,
            "schedule": name,
            "streams": many,
            "true": true_figures(answers),
            "said": dict(said.figures),
        }


def rates(core: int | None) -> Iterator[Row]:
    """Ever more chunks per second; the last are more than the server sends in time."""
    for rate in RATES:
        gap = RATE_STREAMS / rate
        tokens = round(RATE_SECONDS / gap)
        workload = Workload(PROMPT, tokens, concurrency=RATE_STREAMS, requests=RATE_STREAMS)
        with paced(Schedule(ttft=gap, gap=gap, jitter=0.5), core) as server:
            [(seen, log)] = [(seen, server.log()) for seen in served_rounds(server, workload)]
        sent = np.sort(np.concatenate([answer.sent for answer in log]))
        early, late = np.percentile(sent, [25, 75])
        answers = counted_of(seen, log)
        yield {
            "asked_per_s": rate,
            "sent_per_s": len(sent) / 2 / (late - early),
            "server_late_ms": lateness_ms(answers),
            "delay_ms": delays_ms(seen, log),
            "client_lag_ms": 1e3 * seen.client_lag,
            "true": true_figures(answers),
            "said": said_figures(workload, seen),
        }


def memory(core: int | None) -> Iterator[Row]:
    """The resident set of this process, after every tenth of the requests."""
    workload = Workload(PROMPT, 4, concurrency=64, requests=MEMORY_REQUESTS - 64)
    process = psutil.Process()
    with paced(Schedule(ttft=0.001, gap=0.001), core) as server:
        answered = 0
        for number, seen in enumerate(served_rounds(server, workload, MEMORY_STEPS * MEMORY_ROUNDS), start=1):
            answered += len(seen.traces) + len(seen.beside)
            if number % MEMORY_ROUNDS == 0:
                del seen
                gc.collect()
                yield {"requests": answered, "rss_mib": process.memory_info().rss / 2**20}


# Tables

LATE = ("seen late, p50", "p99", "client's lag")


def error_cells(row: Row) -> list[str]:
    """The truth, and how far off it is what was said."""
    cells = []
    for figure in FIGURES:
        true, said = row["true"][figure], row["said"].get(figure)
        off = "—" if said is None else f"{said - true:+.2f}"
        cells.append(f"{true:.2f} {off}" + (" !" if said is not None and not within(said, true) else ""))
    return cells


def late_cells(row: Row) -> list[str]:
    """Of the peers it is not known."""
    if "delay_ms" not in row:
        return []
    return [f"{late:.2f}" for late in (row["delay_ms"]["p50"], row["delay_ms"]["p99"], row["client_lag_ms"])]


def missed(row: Row) -> int:
    return sum(not within(said, row["true"][figure]) for figure, said in row["said"].items())


def truth_table(rows: Sequence[Row]) -> Table:
    title = f"truth in ms, and what is said of it less that; ! is not within {RELATIVE_BAR:.0%} or {ABSOLUTE_BAR_MS} ms"
    table = Table("schedule", "streams", "who", *FIGURES, *LATE, title=title)
    for row in rows:
        table.add_row(row["schedule"], str(row["streams"]), row["who"], *error_cells(row), *late_cells(row))
    return table


def rate_table(rows: Sequence[Row]) -> Table:
    columns = ("asked for", "sent", "server late, p99", *LATE, *FIGURES)
    table = Table(*columns, title=f"chunks per second at {RATE_STREAMS} streams; times in ms")
    for row in rows:
        rates = f"{row['asked_per_s']:,}", f"{row['sent_per_s']:,.0f}", f"{row['server_late_ms']:.2f}"
        table.add_row(*rates, *late_cells(row), *error_cells(row))
    return table


def memory_table(rows: Sequence[Row]) -> Table:
    table = Table("requests", "resident set, MiB", title=f"memory of the client; the bar is + {MEMORY_BAR:.0%}")
    for row in rows:
        table.add_row(f"{row['requests']:,}", f"{row['rss_mib']:.1f}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="truth,rate,memory,peers", help="parts, of truth,rate,memory,peers")
    parser.add_argument("--streams", default=",".join(map(str, GAPS)))
    parser.add_argument("--schedules", default=",".join(SCHEDULES))
    parser.add_argument("--peers", default="", help="aiperf=PATH,guidellm=PATH: where their executables are")
    parser.add_argument("--cores", help="SERVER,CLIENT: pin each to a core")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    for clock in ("perf_counter", "monotonic"):
        if "CLOCK_MONOTONIC" not in time.get_clock_info(clock).implementation:
            raise SystemExit(f"time.{clock} is not CLOCK_MONOTONIC here: processes do not share it")
    everywhere = os.sched_getaffinity(0)
    core, own = map(int, parsed.cores.split(",")) if parsed.cores else (None, None)
    if own is not None:
        os.sched_setaffinity(0, [own])
    parts, schedules = parsed.only.split(","), parsed.schedules.split(",")
    streams = [int(many) for many in parsed.streams.split(",")]
    tools = dict(pair.split("=", 1) for pair in parsed.peers.split(",") if pair)
    console = Console(width=200)
    rows: dict[str, list[Row]] = {}
    if "truth" in parts:
        rows["truth"] = list(truth(streams, schedules, core))
        console.print(truth_table(rows["truth"]))
    if "rate" in parts:
        rows["rate"] = list(rates(core))
        console.print(rate_table(rows["rate"]))
    if "memory" in parts:
        rows["memory"] = list(memory(core))
        console.print(memory_table(rows["memory"]))
    if "peers" in parts and tools:
        os.sched_setaffinity(0, everywhere)  # they are made of many processes
        rows["peers"] = list(peers(tools, streams, core))
        ours = [row for row in rows.get("truth", []) if row["schedule"] in PEERS_SCHEDULES]
        together = sorted([*ours, *rows["peers"]], key=lambda row: (row["schedule"], row["streams"], row["who"]))
        console.print(truth_table(together))
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1))
    grown = rows["memory"][-1]["rss_mib"] / rows["memory"][0]["rss_mib"] - 1 if "memory" in rows else 0.0
    return int(sum(map(missed, rows.get("truth", []))) > 0 or grown > MEMORY_BAR)


if __name__ == "__main__":
    raise SystemExit(main())
