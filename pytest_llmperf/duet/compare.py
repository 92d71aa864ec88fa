"""Head against base, metric by metric: from pairs of processes to the numbers that are judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.baselines.compare import Baseline, Rules, compare
from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.metrics import Kind, Metric
from pytest_llmperf.model import Unknown
from pytest_llmperf.results import Comparison, Verdict
from pytest_llmperf.verdict.comparison import (
    Pair,
    most_pairs,
    pairs_estimate,
    pairs_verdict,
    worth_more,
)
from pytest_llmperf.verdict.rule import told_timed, worse


@dataclass(frozen=True)
class PairTaken:
    """What one base process and one head process measured of the same.

    Args:
        base: what base's process measured, by itself.
        head: what head's did.
        differences: ln(head/base) of timed metrics, over the rounds they took in turns.
        rounds: how many those were.
        turns: False where the processes ran one after the other, since both had no room at once.
    """

    base: Session
    head: Session
    differences: Mapping[str, Pair]
    rounds: int = 0
    turns: bool = True

    def to_plain(self) -> dict[str, Any]:
        return {
            "base": self.base.model_dump(),
            "head": self.head.model_dump(),
            "differences": {name: [pair.difference, pair.error] for name, pair in self.differences.items()},
            "rounds": self.rounds,
            "turns": self.turns,
        }

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> PairTaken:
        return cls(
            Session(**record["base"]),
            Session(**record["head"]),
            {name: Pair(*found) for name, found in record["differences"].items()},
            record["rounds"],
            record["turns"],
        )


def one_after_the_other(base: Session, head: Session) -> PairTaken:
    """A pair of processes that did not run at the same time: only their medians can be compared."""
    differences = {}
    for name in base.metrics:
        then, now = base.metrics[name], head.metrics.get(name)
        if now is not None and then.median > 0 and now.median > 0:
            error = math.hypot(then.error / then.median, now.error / now.median)
            differences[name] = Pair(math.log(now.median / then.median), error)
    return PairTaken(base, head, differences, turns=False)


def compare_pairs(
    metric: Metric, pairs: Sequence[PairTaken], rules: Rules, missing: Unknown | None = None
) -> Comparison | None:
    """One metric of head against base; None where neither has it.

    What might yet be REGRESSED if there were more pairs is a `suspect`.

    Args:
        missing: why head does not have it.
    """
    bases = [pair.base for pair in pairs]
    heads = [pair.head for pair in pairs]
    found = [pair.differences[metric.name] for pair in pairs if metric.name in pair.differences]
    if metric.kind is not Kind.TIMED or not found:
        return compare(metric, Baseline(sessions=bases, exact=bases), heads, rules, missing)
    tolerance = rules.tolerances.get(metric.name, rules.tolerance)
    noise = rules.noise_of(metric.name)
    if not all(pair.turns for pair in pairs):  # then drift between sittings is between them, too
        noise = dataclasses.replace(noise, process=math.hypot(noise.process, noise.session))
    most = most_pairs(rules.device_type)
    seen = [Pair(worse(metric) * pair.difference, pair.error) for pair in found]
    verdict = pairs_verdict(seen, noise, tolerance, alpha=rules.alpha, most=most)
    estimate = pairs_estimate(seen, noise)
    shown = next(base.metrics[metric.name].median for base in bases if metric.name in base.metrics)
    told = told_timed(shown, estimate, metric, tolerance, verdict)
    unfinished = verdict is Verdict.INCONCLUSIVE and len(pairs) < most  # also of those that lack the metric
    suspect = unfinished and worth_more(estimate, tolerance)
    count = f"{len(seen)} pair{'s' * (len(seen) != 1)}"
    if verdict is Verdict.INCONCLUSIVE and not told.quiet and len(seen) < noise.fewest:
        told = dataclasses.replace(told, note="too few for a verdict")
    return told.with_note("" if told.quiet else count, suspect=suspect, unfinished=unfinished)
