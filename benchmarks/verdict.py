"""How often is the verdict right? The operating characteristic of the rules for timed metrics.

Three sources, each with changes of 0 to 10 %:

    duet, replayed     recorded A/A pairs of processes, resampled with their arms in random order
    duet, simulated    three levels of noise, the machine calibrated with twelve pairs of its own
    stored baselines   the same three levels, against 1, 5 and 20 sessions

Fails where unchanged code is REGRESSED by duet more often than the bar allows.

    python benchmarks/verdict.py [--trials N] [--markdown docs/verdict.md] [--plot docs/verdict.svg] [PAIRS …]
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit
from scipy.stats import beta

from pytest_llmperf.baselines.noise import LEAST, is_bimodal, process_noise
from pytest_llmperf.results import Verdict
from pytest_llmperf.units import percent
from pytest_llmperf.verdict.comparison import (
    BETA,
    FLOOR,
    HARMLESS,
    PAIRED_ROUNDS,
    PRIORS,
    Estimate,
    Level,
    Noise,
    Pair,
    alpha,
    decide,
    most_pairs,
    pair_of,
    pairs_verdict,
    stored_estimate,
)

DATA = Path(__file__).parents[1] / "tests" / "data"
CHANGES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.10)
STORED_CHANGES = (*CHANGES, 0.20, 0.50)
PLOTTED = tuple(np.linspace(0, 0.12, 13))
PLOT_TRIALS = 4000
TOLERANCE = 0.05
ALPHA = alpha(2)
"""A run of one test: ttft_ms and tpot_ms."""
BAR = 1e-3
POOL = 1000
"""Pairs simulated; a trial draws from them and adds its own difference between processes."""
CALIBRATED_WITH = 12
SESSIONS = (1, 5, 20)
SESSION_DF = 4.0
"""As of a machine that was calibrated on five days."""
STORED_TRIALS = 1000
ROUNDS = 40
"""Rounds of one process, of which a stored session keeps the median."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """Standard deviations of ln(value) between rounds, processes and sessions, and the share of rounds with a spike."""

    name: str
    rounds: float
    process: float
    session: float
    spikes: float = 0.0


MACHINES = (
    Machine("quiet: 1 % rounds, 0.5 % processes, 2 % sessions", 0.01, 0.005, 0.02),
    Machine("loud: 3 %, 1 %, 5 %", 0.03, 0.01, 0.05),
    Machine("like the development machine: 9 % with spikes, 2 %, 5 %", 0.09, 0.02, 0.05, spikes=0.02),
)


# Pairs, and what is known of their noise


@dataclass(frozen=True)
class Pairs:
    """A/A pairs to draw from: after each number of `PAIRED_ROUNDS` the difference and its error.

    Args:
        between: standard deviation of the difference that a trial adds to the one drawn.
    """

    differences: Array
    errors: Array
    between: float = 0.0


def recorded(record: Mapping[str, Any], metric: str) -> Pairs:
    """The pairs of a trace file."""
    seen = []
    for pair in record["pairs"]:
        having = [taken for taken in pair["rounds"] if metric in taken["head"] and metric in taken["base"]]
        rounds = [math.log(taken["head"][metric]) - math.log(taken["base"][metric]) for taken in having]
        seen.append([pair_of(rounds[:count]) for count in PAIRED_ROUNDS if count <= len(rounds)])
    return _pairs(seen)


def simulated(machine: Machine, draw: np.random.Generator) -> Pairs:
    """Pairs of one machine, but for what lies between processes.

    Its drift over a pair is a random walk, of which half a round's step lies between the two arms of a round.
    """
    shape = (POOL, 2, PAIRED_ROUNDS[-1])
    times = draw.normal(0, machine.rounds, shape)
    times += (draw.random(shape) < machine.spikes) * np.log(draw.uniform(2, 10, shape))
    step = machine.session / math.sqrt(2 * PAIRED_ROUNDS[-1])
    differences = times[:, 0] - times[:, 1] + draw.normal(0, step, (POOL, PAIRED_ROUNDS[-1]))
    seen = [[pair_of(rounds[:count]) for count in PAIRED_ROUNDS] for rounds in differences]
    return dataclasses.replace(_pairs(seen), between=math.sqrt(2) * machine.process)


def _pairs(seen: Sequence[Sequence[Pair]]) -> Pairs:
    return Pairs(
        np.array([[look.difference for look in looks] for looks in seen]),
        np.array([[look.error for look in looks] for looks in seen]),
    )


def calibrated(pairs: Pairs) -> Noise:
    """What these very pairs tell of the machine."""
    differences, errors = pairs.differences[:, -1].tolist(), pairs.errors[:, -1].tolist()
    process, df = process_noise(differences, errors)
    return Noise(process, process, df=df, calibrated=True, bimodal=is_bimodal(differences, errors))


# Trials of the duet


@dataclass(frozen=True)
class Trials:
    """Up to as many pairs as the rule takes, per trial, of unchanged code.

    Args:
        process: σ_p, which a trial may have calibrated for itself.
    """

    differences: Array
    errors: Array
    rounds: Array
    process: Array
    noise: Noise

    @classmethod
    def of(cls, pairs: Pairs, noise: Noise, process: Array, count: int, most: int, draw: np.random.Generator) -> Trials:
        drawn = draw.integers(len(pairs.errors), size=(count, most))
        errors = pairs.errors[drawn]
        precise = errors <= np.maximum(math.sqrt(2) * process, 0.004)[:, None, None]
        looks = np.where(precise.any(axis=2), precise.argmax(axis=2), errors.shape[2] - 1)[..., None]
        swapped = draw.choice([-1.0, 1.0], size=(count, most))
        own = np.take_along_axis(pairs.differences[drawn], looks, 2)[..., 0]
        return cls(
            swapped * own + draw.normal(0, pairs.between, (count, most)),
            np.take_along_axis(errors, looks, 2)[..., 0],
            np.array(PAIRED_ROUNDS)[looks[..., 0]],
            process,
            noise,
        )

    def first(self, count: int) -> Trials:
        """Some of them."""
        arrays = {name: getattr(self, name)[:count] for name in ("differences", "errors", "rounds", "process")}
        return dataclasses.replace(self, **arrays)


@dataclass(frozen=True)
class Outcome:
    """Shares of the verdicts, and the mean cost of one."""

    regressed: float
    ok: float
    pairs: float = 0.0
    rounds: float = 0.0
    trials: int = 0

    @property
    def inconclusive(self) -> float:
        return 1 - self.regressed - self.ok

    @property
    def at_most(self) -> float:
        """The upper 95 % bound of the share that is REGRESSED (Clopper & Pearson)."""
        seen = round(self.regressed * self.trials)
        return float(beta.ppf(0.95, seen + 1, self.trials - seen)) if seen < self.trials else 1.0


def outcome(trials: Trials, change: float) -> Outcome:
    """`pairs_verdict` after each pair until it decides, for all trials at once."""
    ok, regressed = looks(trials, change)
    decided = ok | regressed
    most = decided.shape[1]
    last = np.where(decided.any(axis=1), decided.argmax(axis=1), most - 1)
    ended = np.arange(len(last)), last
    return Outcome(
        float(regressed[ended].mean()),
        float(ok[ended].mean()),
        float((last + 1).mean()),
        float(trials.rounds.cumsum(axis=1)[ended].mean()),
        len(last),
    )


def looks(trials: Trials, change: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each trial would be OK (or IMPROVED), or REGRESSED, after each of its pairs."""
    differences, noise = trials.differences + math.log1p(change), trials.noise
    most = differences.shape[1]
    count = np.arange(1, most + 1)
    mean = differences.cumsum(axis=1) / count
    around = np.maximum(0, (differences**2).cumsum(axis=1) - count * mean**2)
    prior = 2 * trials.process[:, None] ** 2 + (trials.errors**2).cumsum(axis=1) / count
    df = noise.df + count - 1
    error = np.sqrt((noise.df * prior + around) / df / count)
    enough = count >= noise.fewest
    ok = (mean - math.log1p(TOLERANCE)) / error < stdtrit(df, BETA / most)
    ok &= enough | (noise.calibrated and not noise.bimodal)
    worse = (math.log1p(HARMLESS * TOLERANCE) - mean) / error < stdtrit(df, ALPHA / max(1, most - 1))
    return ok, worse & enough & ~ok & (mean >= math.log1p(FLOOR * TOLERANCE))


def same_as_the_plugin(trials: Trials, changes: Sequence[float]) -> None:
    """Hold `looks` to the rule that it repeats for speed."""
    most = trials.errors.shape[1]
    for trial, change in zip(range(100), changes * 100, strict=False):
        ok, regressed = looks(trials, change)
        noise = dataclasses.replace(trials.noise, process=float(trials.process[trial]))
        pairs = [
            Pair(difference + math.log1p(change), error)
            for difference, error in zip(trials.differences[trial].tolist(), trials.errors[trial].tolist(), strict=True)
        ]
        for count in range(1, most + 1):
            verdict = pairs_verdict(pairs[:count], noise, TOLERANCE, alpha=ALPHA, most=most)
            assert (verdict in (Verdict.OK, Verdict.IMPROVED)) == ok[trial, count - 1]
            assert (verdict is Verdict.REGRESSED) == regressed[trial, count - 1]


def replayed(record: Mapping[str, Any], count: int, draw: np.random.Generator) -> dict[str, Trials]:
    """Trials from a trace file, by what is shown of them."""
    device = record["hardware"].partition("-")[0]
    most = most_pairs(device)
    found = {}
    for metric in ("tpot_ms", "ttft_ms"):
        pairs = recorded(record, metric)
        for noise in (calibrated(pairs), PRIORS.get(device, PRIORS["cpu"])):
            process = np.full(count, noise.process)
            known = "calibrated" if noise.calibrated else "not calibrated"
            name = f"`{metric}`, {known}: σ_p {percent(noise.process)}"
            found[name] = Trials.of(pairs, noise, process, count, most, draw)
    return found


def calibrated_by_each(pairs: Pairs, count: int, draw: np.random.Generator) -> Array:
    """σ_p as each of so many trials would have found it from pairs of its own."""
    drawn = draw.integers(len(pairs.errors), size=(count, CALIBRATED_WITH))
    seen = pairs.differences[drawn, -1] + draw.normal(0, pairs.between, drawn.shape)
    squared = (seen**2).mean(axis=1) - (pairs.errors[drawn, -1] ** 2).mean(axis=1)
    return np.maximum(np.sqrt(np.maximum(squared, 0) / 2), LEAST)


def simulated_trials(machine: Machine, count: int, draw: np.random.Generator) -> dict[str, Trials]:
    pairs, most = simulated(machine, draw), most_pairs("cpu")
    known = Noise(0.0, 0.0, df=CALIBRATED_WITH, calibrated=True)
    prior = PRIORS["cpu"]
    return {
        "calibrated": Trials.of(pairs, known, calibrated_by_each(pairs, count, draw), count, most, draw),
        "not calibrated": Trials.of(pairs, prior, np.full(count, prior.process), count, most, draw),
    }


# Stored baselines


def stored(machine: Machine, sessions: int, *, is_calibrated: bool) -> dict[float, Outcome]:
    """By change: one process, a second one if it is a suspect, against so many stored sessions."""
    draw = random.Random(sessions)
    error = math.sqrt(math.pi / 2) * machine.rounds / math.sqrt(ROUNDS)  # of a median, which spikes hardly move

    def process() -> float:
        return draw.gauss(0, math.hypot(machine.process, error))

    counts = {change: [0, 0] for change in STORED_CHANGES}
    for _ in range(STORED_TRIALS):
        noise = PRIORS["cpu"]
        if is_calibrated:
            seen = machine.session * math.sqrt(draw.gammavariate(SESSION_DF / 2, 2) / SESSION_DF)
            noise = Noise(machine.process, max(seen, machine.process), session_df=SESSION_DF, calibrated=True)
        base = [Level(draw.gauss(0, machine.session) + process(), error=error) for _ in range(sessions)]
        shared, first, second = draw.gauss(0, machine.session), process(), process()
        one = stored_estimate(base, [Level(shared + first, error=error)], noise)
        two = stored_estimate(base, [Level(shared + (first + second) / 2, 2, error)], noise)
        for change, count in counts.items():
            verdict = after_change(one, change)
            if verdict is Verdict.REGRESSED:
                verdict = after_change(two, change)
            count[0] += verdict is Verdict.REGRESSED
            count[1] += verdict in (Verdict.OK, Verdict.IMPROVED)
    return {
        change: Outcome(regressed / STORED_TRIALS, ok / STORED_TRIALS, trials=STORED_TRIALS)
        for change, (regressed, ok) in counts.items()
    }


def after_change(estimate: Estimate, change: float) -> Verdict:
    moved = dataclasses.replace(estimate, change=estimate.change + math.log1p(change))
    return decide(moved, TOLERANCE, alpha=ALPHA)


# What is shown


@dataclass(frozen=True)
class Shown:
    """One table, its rows named by what differs between them."""

    title: str
    rows: Mapping[str, Mapping[float, Outcome]]
    of_duets: bool = True

    @property
    def header(self) -> list[str]:
        costs = ["pairs at 0 %", "rounds at 0 %", "false, at most"] if self.of_duets else []
        return ["", *map(percent, next(iter(self.rows.values()))), *costs]

    @property
    def cells(self) -> list[list[str]]:
        return [
            [name, *map(shares, by_change.values()), *self._costs(by_change[0.0])]
            for name, by_change in self.rows.items()
        ]

    def _costs(self, unchanged: Outcome) -> list[str]:
        if not self.of_duets:
            return []
        return [f"{unchanged.pairs:.1f}", f"{unchanged.rounds:.0f}", f"{100 * unchanged.at_most:.2f} %"]

    def rich(self) -> Table:
        table = Table(*self.header, title=self.title, title_justify="left")
        for cells in self.cells:
            table.add_row(*cells)
        return table

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.cells]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def shares(seen: Outcome) -> str:
    """`85 / 0 / 15`: REGRESSED, OK and INCONCLUSIVE, of a hundred."""
    return " / ".join(_share(share) for share in (seen.regressed, seen.ok, seen.inconclusive))


def _share(share: float) -> str:
    """Never 0 where something was seen, never 100 where something was not."""
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


BEGIN, END = "<!-- begin: benchmarks/verdict.py -->", "<!-- end -->"


def write_markdown(page: Path, tables: Sequence[Shown]) -> None:
    """Put the tables where the page has room for them."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{page}: expected {BEGIN} and {END} in it, between which the tables go")
    page.write_text("\n\n".join([before + BEGIN, *(table.markdown() for table in tables), END + after]))


def draw_plot(file: Path, duets: Mapping[str, Mapping[str, Trials]]) -> None:
    """Shares of the verdicts against the true change."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "llmperf", "svg.fonttype": "none", "font.size": 8})
    panels = {
        f"{short_title(title)}, {name.partition(':')[0]}".replace("`", ""): trials.first(PLOT_TRIALS)
        for title, found in duets.items()
        for name, trials in found.items()
    }
    columns = 2
    figure = Figure(figsize=(7.5, 1.7 * math.ceil(len(panels) / columns)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (name, trials) in zip(grid.flat, panels.items(), strict=False):
        seen = [outcome(trials, change) for change in PLOTTED]
        parts = [[100 * getattr(one, part) for one in seen] for part in ("regressed", "inconclusive", "ok")]
        axes.stackplot(
            [100 * change for change in PLOTTED],
            *parts,
            labels=["REGRESSED", "INCONCLUSIVE", "OK"],
            colors=["#d1495b", "#d9d9d9", "#66a182"],
        )
        axes.axvline(100 * TOLERANCE, color="black", linewidth=0.6, linestyle=":")
        axes.set_title(name, fontsize=8)
        axes.margins(0)
    figure.supxlabel("true change, % (dotted: the tolerance)", fontsize=8)
    figure.supylabel("verdicts, %", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def short_title(title: str) -> str:
    """`replayed, cpu-amd-epyc-2c`; `simulated, loud`."""
    _, kind, rest = title.split(maxsplit=2)
    kind = kind.strip(",")
    return f"{kind}, {rest.rpartition(', ')[2] if kind == 'replayed' else rest.partition(':')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="*", default=sorted(DATA.glob("pairs-*.json.gz")))
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help=f"put the tables between {BEGIN} and {END}")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    parsed = parser.parse_args()
    draw = np.random.default_rng(20_261_121)

    duets: dict[str, dict[str, Trials]] = {}
    for file in parsed.traces:
        record = json.loads(gzip.decompress(file.read_bytes()))
        name = file.name.removeprefix("pairs-").removesuffix(".json.gz")
        duets[f"Duet, replayed from {len(record['pairs'])} recorded pairs: {record['target']}, {name}"] = replayed(
            record, parsed.trials, draw
        )
    for machine in MACHINES:
        duets[f"Duet, simulated, {machine.name}"] = simulated_trials(machine, parsed.trials, draw)

    tables = []
    for title, found in duets.items():
        for trials in found.values():
            same_as_the_plugin(trials, CHANGES)
        tables.append(Shown(title, {name: {c: outcome(trials, c) for c in CHANGES} for name, trials in found.items()}))
    false = max(by_change[0.0].at_most for table in tables for by_change in table.rows.values())
    for machine in MACHINES:
        rows = {
            f"{count} session{'s' * (count > 1)}{', calibrated' * known}": stored(machine, count, is_calibrated=known)
            for known in (False, True)
            for count in SESSIONS
        }
        tables.append(Shown(f"Stored baseline, simulated, {machine.name}", rows, of_duets=False))

    console = Console()
    for table in tables:
        console.print(table.rich())
    console.print("Each cell: REGRESSED / OK / INCONCLUSIVE, of a hundred.")
    met = false < BAR
    console.print(f"unchanged and REGRESSED by duet: at most {false:.3%} (bar {BAR:.1%}) {'met' if met else 'MISSED'}")
    if parsed.markdown:
        write_markdown(parsed.markdown, tables)
    if parsed.plot:
        draw_plot(parsed.plot, duets)
    return int(not met)


if __name__ == "__main__":
    raise SystemExit(main())
