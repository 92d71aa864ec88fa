"""What does `--llmperf-against` make of a change, and how long does it take?

Makes a git repository of `duet_project`, edits its model in the work tree, and runs its tests against `main` as a user
would. Cases:

    a  unchanged code, and how the differences of its pairs are distributed
    b  a busy-wait of 5 % and 10 % of a step's own time, in prefill, in decode, in both
    c  all of these beside a bursty neighbour
    d  structural changes: no KV cache, an upcast, eager attention, a scalar read per layer, a tensor leak
    e  all of a, b and d through pytest-benchmark and through stored baselines
    f  the standard error of whole rounds by turns, over that of turns inside them

    python benchmarks/duet.py [--cases a,b,c,d,e,f] [--tests 5] [--runs 2] [--calibrate PAIRS] [--json FILE]
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pytest_llmperf.baselines.environment import cpu_model, versions
from pytest_llmperf.cli.calibrate import TARGET
from pytest_llmperf.duet.channel import Process, own_channel
from pytest_llmperf.duet.pairs import PairedRound, differences
from pytest_llmperf.duet.script import Pace, scripts
from pytest_llmperf.duet.sides import Lead, follow
from pytest_llmperf.duet.turns import Player
from pytest_llmperf.measure import Effort, Serving, measure
from pytest_llmperf.model import Round, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from pytest_llmperf.verdict.comparison import pair_of

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "benchmarks" / "duet_project"
AUTHOR = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgSign=false")
TIMED = ("ttft_ms", "tpot_ms")
FAIL_AT, FAILED = "--benchmark-compare-fail=median:5%", "has failed PercentageRegressionCheck"
SHOWN = ("REGRESSED", "INCONCLUSIVE", "quiet", "OK", "IMPROVED")  # quiet: INCONCLUSIVE, and not told at length
ALTERNATED = 40

Edits = Mapping[str, str]  # of the model's code: what its text is replaced by
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """What head does differently.

    Args:
        base: edits that base and head have in common.
    """

    name: str
    head: Edits = field(default_factory=dict)
    base: Edits = field(default_factory=dict)


def held_up(place: str, share: float) -> Change:
    prefill, decode = (share if place in (phase, "both") else 0.0 for phase in ("prefill", "decode"))
    new = f"PREFILL, DECODE = {prefill}, {decode}"
    return Change(f"{100 * share:g} % in {place}", {"PREFILL, DECODE = 0.0, 0.0": new})


UNCHANGED = Change("unchanged")
BUSY = [held_up(place, share) for place in ("prefill", "decode", "both") for share in (0.05, 0.10)]
STRUCTURAL = [
    Change("KV cache off", {"USE_CACHE = True": "USE_CACHE = False"}),
    Change("bfloat16 to float32", {"torch.bfloat16": "torch.float32"}, base={"torch.float32": "torch.bfloat16"}),
    Change("eager attention", {'"sdpa"': '"eager"'}),
    Change("a scalar read per layer", {"READS = False": "READS = True"}),
    Change("a tensor leak", {"KEEPS = False": "KEEPS = True"}),
]
CASES: Mapping[str, Sequence[Change]] = {"a": [UNCHANGED], "b": BUSY, "c": [UNCHANGED, *BUSY], "d": STRUCTURAL}
BY_GATE = [UNCHANGED, *BUSY, *STRUCTURAL]


@dataclass(frozen=True)
class Ran:
    """What came of a command; `tests` as the project's conftest tells them."""

    status: int
    output: str
    seconds: float
    tests: Records


class Repository:
    """The user's: base is committed on `main`, head stands in the work tree."""

    def __init__(self, folder: Path, tests: int) -> None:
        self._folder = folder
        self._told = folder.with_name("told")
        self._told.mkdir()
        self._tests = tests
        shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *AUTHOR, *arguments], cwd=self._folder, check=True)

    def stand(self, base: Edits, head: Edits) -> None:
        code = edited((PROJECT / "model.py").read_text(), base)
        (self._folder / "model.py").write_text(code)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=base")
        changed = edited(code, head)
        assert not head or changed != code, head
        (self._folder / "model.py").write_text(changed)

    def forget(self) -> None:
        """What was recorded by either kind of gate; not how noisy the machine is."""
        for path in (*self._folder.glob("baselines/*/test_*.json"), *self._folder.glob(".benchmarks/*/*.json")):
            path.unlink()

    def run(self, *command: str) -> Ran:
        """A Python command, as its user would call it there."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "DUET_TOLD": str(self._told), "DUET_TESTS": str(self._tests)}
        began = time.monotonic()
        how: dict[str, Any] = {"cwd": self._folder, "env": {**os.environ, **own}, "text": True}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([sys.executable, "-m", *command], **how, **pipes) as process:
            output, _ = process.communicate()
        told = self._told / f"{process.pid}.jsonl"
        tests = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        return Ran(process.returncode, output, time.monotonic() - began, tests)


def edited(code: str, edits: Edits) -> str:
    return functools.reduce(lambda text, edit: text.replace(*edit), edits.items(), code)


class Kept:
    """All that was found, in a file that is whole at any time; what it holds already stays."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.content: dict[str, Any] = {"machine": "", "runs": [], "alternated": {}}
        if file is not None and file.exists():
            self.content = json.loads(file.read_text())

    def add(self, case: str, how: str, change: Change, ran: Ran, tests: int) -> None:
        run = {"case": case, "how": how, "change": change.name, "count": tests, **dataclasses.asdict(ran)}
        self.content["runs"].append(run)
        self.write()
        said = ran.output.rstrip() if ran.status not in (0, 1) else ran.output.rstrip().rpartition("\n")[2].strip("= ")
        say(f"{case}: {how}, {change.name}: {ran.seconds:.0f} s, {said}")

    def write(self) -> None:
        if self._file is not None:
            new = self._file.with_name(f"{self._file.name}.new")
            new.write_text(json.dumps(self.content) + "\n")
            new.replace(self._file)

    def runs(self, cases: str = "abcdef", how: str = "duet", change: str | None = None) -> Records:
        runs = [run for run in self.content["runs"] if run["case"] in cases and run["how"] == how]
        return [run for run in runs if change in (None, run["change"])]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run_duets(repository: Repository, case: str, options: argparse.Namespace, kept: Kept) -> None:
    """Every change in turn, so that all share what the machine does meanwhile."""
    for _, change in itertools.product(range(options.runs), CASES[case]):
        repository.stand(change.base, change.head)
        with neighbour() if case == "c" else nullcontext():
            ran = repository.run("pytest", "test_model.py", "--llmperf-against=main", options.time)
        kept.add(case, "duet", change, ran, options.tests)


@contextmanager
def neighbour() -> Iterator[None]:
    with subprocess.Popen([sys.executable, PROJECT / "neighbour.py"]) as process:
        try:
            yield
        finally:
            process.kill()


def run_others(repository: Repository, options: argparse.Namespace, kept: Kept) -> None:
    """Base is recorded right before head is compared with it, which is the best that can happen to these gates."""
    peer = ("pytest", "test_peer.py")
    ours = ("pytest", "test_model.py", "--llmperf-confirm=never", options.time)
    gates = {
        "pytest-benchmark": ((*peer, "--benchmark-autosave"), (*peer, "--benchmark-compare", FAIL_AT)),
        "stored baseline": ((*ours, "--llmperf-update", "--llmperf-force"), ours),
    }
    for _ in range(options.runs):
        for change in BY_GATE:
            for how, (at_base, at_head) in gates.items():
                repository.forget()
                repository.stand(change.base, {})
                recorded = repository.run(*at_base)
                if recorded.status:
                    raise SystemExit(f"{how}: could not record\n{recorded.output}")
                repository.stand(change.base, change.head)
                kept.add("e", how, change, repository.run(*at_head), options.tests)


def run_alternated(kept: Kept) -> None:
    """Two processes that take both kinds of rounds, in random order."""
    for output_tokens in (32, 128):
        command = [sys.executable, __file__, "--follow", str(output_tokens)]
        found: dict[str, list[PairedRound]] = {"turns": [], "whole rounds": []}
        with Process(command, "follower", environ={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as base:
            pace = Pace(**base.hear("ready", patience=300)["pace"])
            measured(output_tokens, both_ways(base, pace, found))
        kept.content["alternated"][str(output_tokens)] = {
            name: {how: pair_of(differences(rounds, name)).error for how, rounds in found.items()} for name in TIMED
        }
        kept.write()
        say(f"f: {output_tokens} tokens: {kept.content['alternated'][str(output_tokens)]}")


def measured(output_tokens: int, taken: Callable[[Serving], list[Round]]) -> None:
    measure(resolve(TARGET).load(LoadOptions(device="cpu")), Workload(32, output_tokens), Effort(), taken=taken)


def both_ways(base: Process, pace: Pace, found: Mapping[str, list[PairedRound]]) -> Callable[[Serving], list[Round]]:
    def taken(serving: Serving) -> list[Round]:
        player = Player(serving, "head")
        lead = Lead(base, pace, precise=lambda name, pair: False)
        paces = {"turns": pace, "whole rounds": dataclasses.replace(pace, rests=False)}
        tokens = serving.workload.output_tokens
        whole = {how: scripts((each, player.pace), tokens, seed=0).whole for how, each in paces.items()}
        for _ in range(ALTERNATED):
            for how in random.sample(list(whole), 2):
                found[how].append(lead._round(player, next(whole[how]), serving))
        base.tell("end")
        return lead.own

    return taken


def results_of(runs: Records) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Each measurement's result, with the seconds of its test."""
    return ((test["seconds"], result) for run in runs for test in run["tests"] for result in test["results"])


def verdicts_table(title: str, runs: Records) -> Table:
    columns = ("change", "metric", "compared", *SHOWN, "median change", "pairs", "s per test: mean, most")
    table = Table(*columns, title=title)
    for change in dict.fromkeys(run["change"] for run in runs):
        found = list(results_of([run for run in runs if run["change"] == change]))
        seconds, pairs = [each for each, _ in found], [len(result["pairs"]) for _, result in found]
        for name in TIMED:
            rows = [row for _, result in found for row in result["rows"] if row["metric"] == name]
            seen = [row["comparison"] for row in rows if row["comparison"]]
            verdicts = collections.Counter("quiet" if each["quiet"] else each["verdict"] for each in seen)
            shares = [share(verdicts[verdict], len(seen)) for verdict in SHOWN]
            median = f"{statistics.median([each['change'] for each in seen] or [math.nan]):+.1%}"
            cost = [f"{statistics.fmean(pairs):.1f}", f"{statistics.fmean(seconds):.0f}, {max(seconds):.0f}"]
            table.add_row(change, name, str(len(seen)), *shares, median, *cost)
        for why in {result["new"] for _, result in found if result["new"]}:
            table.add_row(change, f"not compared: {why}")
    return table


def share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})" if count else "–"


def centring_table(runs: Records) -> Table:
    """Of unchanged code: the run's own process and base's, and fresh ones."""
    title = "ln(head/base) of pairs of unchanged code, in %"
    table = Table("metric", "pairs", "count", "mean ± error", "spread", "error within", "farthest", title=title)
    for name in TIMED:
        pairs = [[each["differences"].get(name) for each in result["pairs"]] for _, result in results_of(runs)]
        kinds = {"first": [each[0] for each in pairs if each], "fresh": [one for each in pairs for one in each[1:]]}
        for kind, taken in kinds.items():
            seen = [100 * one[0] for one in taken if one]
            if len(seen) < 2:
                continue
            spread, within = statistics.stdev(seen), 100 * statistics.median(one[1] for one in taken if one)
            mean = f"{statistics.fmean(seen):+.2f} ± {spread / math.sqrt(len(seen)):.2f}"
            farthest = f"{max(seen, key=abs):+.1f}"
            table.add_row(name, kind, str(len(seen)), mean, f"{spread:.2f}", f"{within:.2f}", farthest)
    return table


def structural_table(runs: Records) -> Table:
    """Which metrics caught what, with the median of the changes that they saw."""
    table = Table("change", "tests", "caught", "by", title="(d) structural changes", show_lines=True)
    for change in dict.fromkeys(run["change"] for run in runs):
        results = [result for _, result in results_of([run for run in runs if run["change"] == change])]
        worse = [[row for row in result["rows"] if row["verdict"] == "REGRESSED"] for result in results]
        by: dict[str, list[float]] = collections.defaultdict(list)
        for row in itertools.chain(*worse):
            by[row["metric"]].append(row["comparison"]["change"] or math.nan)
        told = [
            f"{name} in {len(seen)}, {statistics.median(seen):+.0%}".replace(", +nan%", "") for name, seen in by.items()
        ]
        table.add_row(change, str(len(results)), share(sum(map(bool, worse)), len(results)), "\n".join(told))
    return table


def gates_table(kept: Kept) -> Table:
    """A gate fails a test; one failed test fails a run."""
    table = Table(
        "gate", "change", "tests", "failed", "runs failed", "s per test", title="(e) the same change, by gate"
    )
    for how in ("pytest-benchmark", "stored baseline", "duet"):
        for change in BY_GATE:
            runs = kept.runs("abde", how, change.name)
            if not runs:
                continue
            tests = sum(run["count"] for run in runs)
            failed = sum(run["output"].count(FAILED) for run in runs) + sum(
                any(row["verdict"] == "REGRESSED" for row in result["rows"]) for _, result in results_of(runs)
            )
            builds = share(sum(run["status"] != 0 for run in runs), len(runs))
            seconds = sum(run["seconds"] for run in runs) / tests
            table.add_row(how, change.name, str(tests), share(failed, tests), builds, f"{seconds:.0f}")
    return table


def alternated_table(alternated: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    title = f"(f) standard error of a pair after {ALTERNATED} rounds of each kind, in %"
    table = Table("output tokens", "metric", "turns", "whole rounds", "whole rounds / turns", title=title)
    for tokens, errors in alternated.items():
        for name, by_kind in errors.items():
            turns, whole = 100 * by_kind["turns"], 100 * by_kind["whole rounds"]
            table.add_row(tokens, name, f"{turns:.2f}", f"{whole:.2f}", f"{whole / turns:.2f}")
    return table


def tables(case: str, kept: Kept) -> Iterator[Table]:
    if case in CASES and case != "d":
        yield verdicts_table(f"({case}) verdicts of timed metrics", kept.runs(case))
        if case != "b":
            yield centring_table(kept.runs(case, change=UNCHANGED.name))
    elif case == "d":
        yield structural_table(kept.runs("ad"))
    elif case == "e":
        yield gates_table(kept)
    elif case == "f":
        yield alternated_table(kept.content["alternated"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="a,b,c,d,e,f")
    parser.add_argument("--tests", type=int, default=5, help="of a run, each with two timed comparisons")
    parser.add_argument("--runs", type=int, default=2, help="of each change; 0 shows what the JSON file holds")
    parser.add_argument("--calibrate", type=int, metavar="PAIRS", help="first; else the verdict has its priors")
    parser.add_argument(
        "--max-time",
        dest="time",
        type="--llmperf-max-time={}".format,
        default="10",
        help="seconds for the timed rounds of one measurement",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="to keep all that is found in, run by run")
    parser.add_argument("--follow", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        return measured(options.follow, follow(own_channel()))
    kept, console = Kept(options.json), Console(width=None if sys.stdout.isatty() else 160)
    software = [f"{name} {version}" for name, version in (("python", platform.python_version()), *versions().items())]
    kept.content["machine"] = ", ".join([cpu_model(), f"{os.cpu_count()} cores", *software])
    with tempfile.TemporaryDirectory(prefix="duet-") as name:
        repository = Repository(Path(name) / "project", options.tests)
        if options.calibrate:
            command = ("pytest_llmperf.cli", "calibrate", f"--pairs={options.calibrate}", "--baselines=baselines")
            say(repository.run(*command).output)
        for case in options.cases.split(","):
            if case in CASES:
                run_duets(repository, case, options, kept)
            elif case == "e":
                run_others(repository, options, kept)
            elif case == "f" and options.runs:
                run_alternated(kept)
            for table in tables(case, kept):
                console.print(table)
    console.print(kept.content["machine"])


if __name__ == "__main__":
    main()
