"""From stored sessions to what is judged: which of them count, and as what."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.baselines.compare import Baseline, Rules, compare, is_exact, learned, levels, since
from pytest_llmperf.baselines.schema import Entry, Learned, Reading, Session
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Unknown
from pytest_llmperf.results import Comparison, Verdict
from pytest_llmperf.verdict.comparison import Noise

TPOT, RATE = CATALOGUE["tpot_ms"], CATALOGUE["output_tokens_per_s"]
WEIGHTS, PEAK, LEAK = CATALOGUE["weights_mib"], CATALOGUE["peak_memory_mib"], CATALOGUE["leak_mib"]
VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.0"}
STEADY = Noise(0.002, 0.002, df=20, session_df=20, calibrated=True)
RULES = Rules(noise={"tpot_ms": STEADY, "output_tokens_per_s": STEADY})


def session(day: int = 1, error: float = 0.0, commit: str = "c0ffee", dirty: bool = False, **values: float) -> Session:
    readings = {name: Reading(median=float(value), error=error) for name, value in values.items()}
    return Session(
        recorded=f"2026-11-{day:02}T00:00:00+00:00",
        commit=commit,
        dirty=dirty,
        target="gpt2",
        versions=VERSIONS,
        metrics=readings,
    )


def on(versions: dict[str, str], **values: float) -> Session:
    return session(**values).model_copy(update={"versions": {**VERSIONS, **versions}})


def timed(base: list[Session], head: list[Session], rules: Rules = RULES) -> Comparison:
    found = compare(TPOT, Baseline(sessions=base), head, rules)
    assert found is not None
    return found


def counted(base: list[Session], head: list[Session]) -> Comparison:
    found = compare(WEIGHTS, Baseline(exact=base), head, RULES)
    assert found is not None
    return found


def memory(base: list[Session], head: list[Session], metric: str = "peak_memory_mib", **rules: object) -> Comparison:
    found = compare(CATALOGUE[metric], Baseline(sessions=base), head, Rules(**rules))
    assert found is not None
    return found


# Which metrics, and against what


def test_what_neither_side_has_is_not_compared() -> None:
    assert compare(TPOT, Baseline(sessions=[session(ttft_ms=1)]), [session(ttft_ms=1)], RULES) is None


def test_what_the_baseline_lacks_is_new() -> None:
    found = compare(TPOT, Baseline(sessions=[session(ttft_ms=1)]), [session(tpot_ms=1)], RULES)
    assert found == Comparison(Verdict.NEW, note="not in the baseline")


def test_counted_metrics_are_found_apart_from_those_of_this_hardware() -> None:
    assert {name for name in CATALOGUE if is_exact(name)} == {
        "weights_mib",
        "kv_cache_mib",
        "flops_per_token",
        "prefill_flops",
        "ops_per_token",
        "syncs_per_token",
        "kv_bytes_per_token",
        "compiles",
    }
    assert not is_exact("kernels_per_token"), "counted, and yet another GPU launches others"
    assert not is_exact("no_such_metric")
    assert compare(WEIGHTS, Baseline(sessions=[session(weights_mib=1)]), [session(weights_mib=1)], RULES) == Comparison(
        Verdict.NEW, note="not in the baseline"
    )
    assert counted([session(weights_mib=1)], [session(weights_mib=1)]).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("metric", "by_chance", "verdict"),
    [
        (TPOT, False, Verdict.INCONCLUSIVE),
        (WEIGHTS, False, Verdict.REGRESSED),
        (PEAK, False, Verdict.REGRESSED),
        (LEAK, True, Verdict.INCONCLUSIVE),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_is_no_longer_measured_is_said_with_the_reason(metric, by_chance: bool, verdict: Verdict) -> None:
    stored = [session(**{metric.name: 3})]
    found = compare(metric, Baseline(stored, stored), [session(ttft_ms=1)], RULES, Unknown("out of sight", by_chance))
    assert found == Comparison(verdict, 3.0, note="no longer measured: out of sight")


def test_a_count_that_other_versions_do_not_show_gates_nothing() -> None:
    stored = [session(weights_mib=3)]
    found = compare(WEIGHTS, Baseline(exact=stored), [on({"torch": "2.14.0"}, ttft_ms=1)], RULES, Unknown("gone"))
    assert found == Comparison(
        Verdict.INCONCLUSIVE, 3.0, note="no longer measured: gone; counted with torch 2.13.0", cause="versions"
    )


@pytest.mark.parametrize(
    ("name", "rules", "gates"),
    [
        ("tpot_ms", Rules(), True),
        ("leak_mib", Rules(), True),
        ("itl_ms", Rules(), False),
        ("itl_ms", Rules(gate=frozenset({"itl_ms"})), True),
        ("itl_ms", Rules(tolerances={"itl_ms": 0.1}), True),
        ("load_s", Rules(gate=frozenset({"load_s"}), tolerances={"load_s": 0.1}), False),
    ],
)
def test_what_gates_is_what_the_catalogue_says_and_what_was_asked_for(name: str, rules: Rules, gates: bool) -> None:
    assert rules.gates(CATALOGUE[name]) is gates


# Time


def test_one_slow_process_is_a_suspect_and_two_are_a_regression() -> None:
    base = [session(day, tpot_ms=10) for day in range(1, 11)]
    first = timed(base, [session(20, tpot_ms=11)])
    assert (first.verdict, first.suspect) == (Verdict.INCONCLUSIVE, True)
    second = timed(base, [session(20, tpot_ms=11), session(20, tpot_ms=11)])
    assert (second.verdict, second.suspect, second.note) == (Verdict.REGRESSED, False, "tolerance 5 %; 2 processes")
    assert second.change == pytest.approx(0.1)
    assert second.base == pytest.approx(10)


def test_where_processes_are_of_two_kinds_it_takes_three() -> None:
    rules = dataclasses.replace(RULES, noise={"tpot_ms": dataclasses.replace(STEADY, bimodal=True)})
    base = [session(day, tpot_ms=10) for day in range(1, 11)]
    verdicts = [timed(base, [session(20, tpot_ms=20)] * count, rules).verdict for count in (1, 2, 3)]
    assert verdicts == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.REGRESSED]


def test_where_higher_is_better_a_smaller_number_is_the_regression() -> None:
    base = [session(day, output_tokens_per_s=100) for day in range(1, 11)]
    verdicts = [
        compare(RATE, Baseline(base), [session(20, output_tokens_per_s=rate)] * 2, RULES).verdict
        for rate in (80, 100, 125)
    ]
    assert verdicts == [Verdict.REGRESSED, Verdict.OK, Verdict.IMPROVED]


@given(st.lists(st.floats(1, 100), min_size=1, max_size=5), st.floats(1, 100))
def test_milliseconds_and_rates_of_the_same_runs_have_one_verdict(base: list[float], head: float) -> None:
    slow = timed([session(d, tpot_ms=v) for d, v in enumerate(base, 1)], [session(20, tpot_ms=head)] * 2)
    fast = compare(
        RATE,
        Baseline([session(d, output_tokens_per_s=1000 / v) for d, v in enumerate(base, 1)]),
        [session(20, output_tokens_per_s=1000 / head)] * 2,
        RULES,
    )
    assert (slow.verdict, slow.quiet) == (fast.verdict, fast.quiet)


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=20))
def test_sessions_compared_with_their_own_mean_are_never_regressed(values: list[float]) -> None:
    base = [session(day, tpot_ms=value) for day, value in enumerate(values, 1)]
    mean = math.exp(sum(map(math.log, values)) / len(values))
    assert timed(base, [session(30, tpot_ms=mean)] * 2).verdict is not Verdict.REGRESSED


def test_a_time_of_nothing_has_no_ratio() -> None:
    note = "a time of 0 has no ratio to another"
    for base, head in ((0, 5), (5, 0), (0, 0)):
        found = timed([session(tpot_ms=base)], [session(2, tpot_ms=head)])
        assert found == Comparison(Verdict.INCONCLUSIVE, float(base), note=note)


def test_processes_of_one_sitting_are_one_session() -> None:
    sitting = [session(3, tpot_ms=2), session(1, tpot_ms=5), session(3, tpot_ms=8)]
    first, second = levels(sitting, "tpot_ms")
    assert (first.processes, second.processes) == (1, 2)
    assert first.mean == pytest.approx(math.log(5))
    assert second.mean == pytest.approx(math.log(4))


def test_ten_processes_of_one_day_prove_less_than_one_on_each_of_ten_days() -> None:
    one_day = timed([session(1, tpot_ms=10)] * 10, [session(20, tpot_ms=10.7)] * 2, Rules())
    ten_days = timed([session(day, tpot_ms=10) for day in range(1, 11)], [session(20, tpot_ms=10.7)] * 2, Rules())
    assert one_day.spread > 1.5 * ten_days.spread


def test_what_was_learned_before_an_update_still_counts() -> None:
    base, head = [session(1, tpot_ms=10)], [session(20, tpot_ms=13)] * 2
    wild = Baseline(base, learned={"tpot_ms": Learned(deviation=0.2, df=19)})
    calm = Baseline(base, learned={"tpot_ms": Learned(deviation=0.004, df=19)})
    found = [compare(TPOT, baseline, head, Rules()).verdict for baseline in (wild, calm)]
    assert found == [Verdict.INCONCLUSIVE, Verdict.REGRESSED]


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        (RULES, Verdict.REGRESSED),
        (dataclasses.replace(RULES, tolerance=0.2), Verdict.OK),
        (dataclasses.replace(RULES, tolerances={"tpot_ms": 0.2}), Verdict.OK),
        (dataclasses.replace(RULES, tolerance=0.2, tolerances={"tpot_ms": 0.05}), Verdict.REGRESSED),
    ],
)
def test_a_metrics_own_tolerance_goes_before_that_of_all(rules: Rules, verdict: Verdict) -> None:
    base = [session(day, tpot_ms=10) for day in range(1, 11)]
    assert timed(base, [session(20, tpot_ms=11)] * 2, rules).verdict is verdict


def test_sessions_about_to_be_replaced_teach_their_spread() -> None:
    sessions = [session(day, tpot_ms=10 + day % 2, weights_mib=3, no_such=1) for day in range(1, 11)]
    taught = learned(Entry(workload={}, sessions=sessions))
    assert taught.keys() == {"tpot_ms"}
    assert taught["tpot_ms"].df == 9
    assert taught["tpot_ms"].deviation == pytest.approx(math.log(11 / 10) / 2 * math.sqrt(10 / 9), rel=0.01)


def test_a_time_of_nothing_teaches_nothing() -> None:
    assert learned(Entry(workload={}, sessions=[session(day, tpot_ms=day % 2) for day in range(4)])) == {}


# Counts


def test_one_other_count_is_a_suspect_and_two_are_a_regression() -> None:
    base = [session(weights_mib=3)]
    assert counted(base, [session(2, weights_mib=4)]).suspect
    assert counted(base, [session(2, weights_mib=4)] * 2).verdict is Verdict.REGRESSED
    disagreeing = counted(base, [session(2, weights_mib=4), session(2, weights_mib=3)])
    assert (disagreeing.verdict, disagreeing.suspect) == (Verdict.INCONCLUSIVE, False)


def test_a_count_is_compared_with_sessions_of_the_same_versions() -> None:
    base = [on({"torch": "2.12.0"}, weights_mib=9), session(weights_mib=3)]
    assert counted(base, [session(2, weights_mib=3)]).verdict is Verdict.OK
    assert counted(base[::-1], [session(2, weights_mib=3)]).verdict is Verdict.OK


def test_a_count_on_other_versions_is_shown_only_and_numpy_is_not_among_them() -> None:
    base = [on({"torch": "2.12.0", "transformers": "5.0.0"}, weights_mib=3)]
    found = counted(base, [session(2, weights_mib=4)])
    assert (found.verdict, found.cause) == (Verdict.INCONCLUSIVE, "versions")
    assert found.note == "counted with torch 2.12.0, transformers 5.0.0"
    assert counted([on({"numpy": "1.26"}, weights_mib=3)], [session(2, weights_mib=4)]).suspect


@pytest.mark.parametrize(
    ("earlier", "latest", "verdict"),
    [
        ({"commit": "c0ffee"}, {"commit": "c0ffee"}, Verdict.INCONCLUSIVE),
        ({"commit": "0ff1ce"}, {"commit": "c0ffee"}, Verdict.OK),
        ({"commit": "c0ffee", "dirty": True}, {"commit": "c0ffee"}, Verdict.OK),
        ({"commit": "c0ffee", "dirty": True}, {"commit": "c0ffee", "dirty": True}, Verdict.OK),
        ({"commit": ""}, {"commit": ""}, Verdict.OK),
    ],
)
@pytest.mark.parametrize("judged", [counted, memory])
def test_only_sessions_of_the_same_code_have_to_agree(judged, earlier: dict, latest: dict, verdict: Verdict) -> None:
    base = [
        session(1, weights_mib=30, peak_memory_mib=30, **earlier),
        session(2, weights_mib=40, peak_memory_mib=40, **latest),
    ]
    assert judged(base, [session(3, weights_mib=40, peak_memory_mib=40)]).verdict is verdict


def test_processes_of_one_sitting_have_to_agree() -> None:
    base = [session(1, commit="", weights_mib=30), session(1, commit="", weights_mib=40)]
    assert counted(base, [session(2, weights_mib=40)]).note == "unstable: 30 and 40 in the baseline"


# Memory


@pytest.mark.parametrize(
    ("device_type", "metric", "base", "beyond", "within"),
    [
        ("cpu", "peak_memory_mib", 1000, 1010.1, 1010),
        ("cpu", "peak_memory_mib", 1, 1.07, 1.06),
        ("cuda", "peak_memory_mib", 1, 3.1, 3),
        ("mps", "peak_memory_mib", 1, 1.07, 1.06),
        ("cpu", "leak_mib", 0, 8 / 1024, 4 / 1024),
        ("cuda", "leak_mib", 0, 2.1, 2),
    ],
)
def test_memory_has_the_tolerance_of_its_kind(device_type: str, metric: str, base, beyond, within) -> None:
    def judged(head: float) -> Comparison:
        return memory([session(**{metric: base})], [session(2, **{metric: head})] * 2, metric, device_type=device_type)

    assert judged(beyond).verdict is Verdict.REGRESSED
    assert judged(within).verdict is Verdict.OK


def test_memory_may_be_given_another_tolerance() -> None:
    base, head = [session(peak_memory_mib=1000)], [session(2, peak_memory_mib=1040)] * 2
    assert memory(base, head, tolerances={"peak_memory_mib": 0.05}).verdict is Verdict.OK
    assert memory(base, head, tolerance=0.05).verdict is Verdict.REGRESSED


def test_memory_of_one_process_is_a_suspect() -> None:
    found = memory([session(peak_memory_mib=100)], [session(2, peak_memory_mib=103)])
    assert (found.verdict, found.suspect) == (Verdict.INCONCLUSIVE, True)


# What else changed


def test_what_changed_around_the_code_is_named() -> None:
    base = session(tpot_ms=1).model_copy(update={"options": {"dtype": "float32"}, "machine": {"power": "300 W"}})
    head = on({"torch": "2.14.0"}, tpot_ms=1).model_copy(
        update={
            "target": "opt",
            "options": {"dtype": "bfloat16", "threads": 2},
            "machine": {"power": "250 W"},
            "commit": "0ff1ce",
            "dirty": True,
        }
    )
    assert since(Baseline([base]), head) == [
        "target gpt2 → opt",
        "dtype float32 → bfloat16",
        "threads none → 2",
        "torch 2.13.0 → 2.14.0",
        "power 300 W → 250 W",
        "commit c0ffee → 0ff1ce with changes",
    ]
    assert since(Baseline([base]), base) == []
    assert since(Baseline(), head) == []


@pytest.mark.parametrize("known", [{}, {"power": "300 W"}])
def test_what_only_one_side_knows_of_the_machine_has_not_changed(known: dict[str, str]) -> None:
    less = session(tpot_ms=1).model_copy(update={"machine": known})
    more = less.model_copy(update={"machine": {"power": "300 W", "ECC": "on"}})
    assert since(Baseline([less]), more) == since(Baseline([more]), less) == []


def test_another_build_of_the_same_version_counts_the_same() -> None:
    base = session(weights_mib=50.0).model_copy(update={"versions": {"torch": "2.13.0+cpu", "transformers": "5.0.0"}})
    head = session(2, weights_mib=51.0).model_copy(update={"versions": {"torch": "2.13.0", "transformers": "5.0.0"}})
    found = compare(CATALOGUE["weights_mib"], Baseline(exact=[base]), [head, head], Rules())
    assert found is not None
    assert found.verdict is Verdict.REGRESSED
