"""Tests that ask a server, as a user has them."""

from __future__ import annotations

import json

import pytest

from pytest_llmperf.cli import main
from pytest_llmperf.session import Llm
from tests.models import Model, serving
from tests.servers import answers

HEAD = """
from pytest_llmperf import *

SERVER = endpoint({url!r})

"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is folded."""
    monkeypatch.setenv("COLUMNS", "250")


def _suite(suite: pytest.Pytester, url: str, body: str) -> None:
    suite.makepyfile(test_served=HEAD.format(url=url) + body)


TWO_AT_ONCE = """
@llm_perf(ttft_ms < 5000, goodput_per_s > 0, model=SERVER, concurrency=2, prompt_tokens=8, output_tokens=4)
def test_two(llm):
    m = llm.measure()
    assert {len(taken.traces) for taken in m.rounds} == {8}
    assert all(trace.output_tokens == 4 for trace in m.traces)
"""


def test_a_load_is_measured_and_judged(suite: pytest.Pytester) -> None:
    model = Model()
    with serving(model) as url:
        _suite(suite, url, TWO_AT_ONCE)
        result = suite.runpytest("-v", "--llmperf-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*endpoint:localhost/tiny*8 → 4 tokens*2 at once*", "*goodput_per_s*> 0*OK*"])
    prompts = [tuple(asked["prompt"]) for asked in model.asked[1:]]  # after the probe
    assert len(set(prompts)) == len(prompts)
    (stored,) = suite.path.glob("baselines/served-*/test_served.json")
    entry = json.loads(stored.read_text())["tests"]["test_two"]
    assert entry["workload"] == {"prompt_tokens": 8, "output_tokens": 4, "batch_size": 1, "concurrency": 2}
    assert {"ttft_ms", "tpot_ms"} <= set(entry["sessions"][0]["metrics"])


class Failing(Model):
    """Answers with an error from one request on to another."""

    failing = range(0)

    def __call__(self, received):
        number = sum("max_tokens" in asked for asked in self.asked)
        answer = super().__call__(received)
        error = {"error": {"message": "out of blocks"}}
        return answers(error, 500) if received.method == "POST" and number in self.failing else answer


def test_requests_that_fail_fail_the_test_and_are_named(suite: pytest.Pytester) -> None:
    model = Failing()
    model.failing = range(20, 100_000, 9)
    with serving(model) as url:
        _suite(suite, url, TWO_AT_ONCE.partition("    assert")[0])
        result = suite.runpytest("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*failed_share*<= 0*BROKEN*", "*[0-9] × server error (*out of blocks*)*"])


def test_a_server_that_answers_nothing_any_more_is_an_error(suite: pytest.Pytester) -> None:
    model = Failing()
    model.failing = range(8, 10_000)  # the probe has been answered
    with serving(model) as url:
        _suite(suite, url, TWO_AT_ONCE)
        result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*localhost/tiny: * of * requests failed: * × server error (*out of blocks*)"])


def test_the_batch_is_the_servers_affair(suite: pytest.Pytester) -> None:
    with serving(Model()) as url:
        _suite(suite, url, "@llm_perf(model=SERVER, batch_size=4)\ndef test_four(llm): llm.measure()\n")
        result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*batch_size=4*use concurrency=4*"])


def test_a_price_gives_the_cost_of_tokens(suite: pytest.Pytester) -> None:
    with serving(Model()) as url:
        _suite(suite, url, TWO_AT_ONCE + "    assert m.cost_per_million_tokens > 0\n")
        suite.runpytest("-o", "llmperf_price_per_hour=3.6").assert_outcomes(passed=1)


# llmperf measure and llmperf sweep


def test_a_server_is_measured_without_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Model()) as url:
        sizes = ["--prompt-tokens", "8", "--output-tokens", "3", "--rounds", "3", "--concurrency", "1,2"]
        assert main(["measure", f"{url}?model=tiny", *sizes]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "8→3" in line]
    assert [line[0] for line in lines] == ["8→3", "8→3"]
    assert "at once" in " ".join(lines[1])


def _sweep(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["sweep", *arguments, "--prompt-tokens", "8", "--output-tokens", "3", "--rounds", "3"])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_sweep_finds_the_most_that_is_borne(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    file = tmp_path / "sweep.json"
    with serving(Model()) as url:
        status, out, err = _sweep(capsys, url, "--limit", "ttft_ms < 60000", "--most", "4", "--json", str(file))
    assert status == 0
    assert "the most that keeps the limits: concurrency 4" in out
    assert "no higher one was tried" in out
    assert err.count("OK") == 3
    record = json.loads(file.read_text())
    assert (record["by"], record["most"]) == ("concurrency", 4)
    assert [step["concurrency"] for step in record["loads"]] == [1, 2, 4]
    assert all(step["borne"] and step["measurement"]["metrics"]["ttft_ms"] for step in record["loads"])


def test_a_sweep_says_what_breaks_and_fails_where_nothing_is_borne(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Model()) as url:
        status, out, _ = _sweep(capsys, url, "--limit", "ttft_ms < 0.000001", "--most", "8")
    assert status == 1
    assert "no load was borne; at 1: BROKEN ttft_ms" in " ".join(out.split())


def test_a_sweep_that_is_interrupted_shows_what_it_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Llm.measure

    def interrupted(self: Llm, label: str, **asked: int) -> object:
        if asked["concurrency"] > 2:
            raise KeyboardInterrupt
        return measured(self, label, **asked)

    monkeypatch.setattr(Llm, "measure", interrupted)
    with serving(Model()) as url:
        status, out, err = _sweep(capsys, url, "--limit", "ttft_ms < 60000")
    assert status == 0
    assert "interrupted" in err
    assert "the most that keeps the limits: concurrency 2" in out


def test_a_sweep_without_limits_only_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Model()) as url:
        status, out, _ = _sweep(capsys, url, "--concurrency", "2,1")
    assert status == 0
    assert "limits" not in out


def test_a_server_that_works_beside_the_client_is_no_foreign_load(suite: pytest.Pytester) -> None:
    with serving(Model()) as url:
        _suite(suite, url, TWO_AT_ONCE + "    assert m.conditions.foreign.reason\n")
        suite.runpytest().assert_outcomes(passed=1)


def test_what_is_noted_of_several_tests_is_said_once(suite: pytest.Pytester) -> None:
    with serving(Model(refused=["ignore_eos"])) as url:
        _suite(suite, url, TWO_AT_ONCE + TWO_AT_ONCE.replace("test_two", "test_again"))
        result = suite.runpytest()
    result.stdout.fnmatch_lines(["2 tests: the server refuses ignore_eos*"])


def test_a_sweep_measures_the_rates_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Model()) as url:
        status, out, _ = _sweep(capsys, url, "--rate", "40,20", "--arrivals", "constant", "--requests", "4")
    assert status in (0, 1)  # a machine that is busy may not keep up
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:2].isdigit()] == ["20", "40"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9/v1"], "without a --limit there is nothing to search for"),
        (["http://127.0.0.1:9/v1", "--limit", "ttft_ms.within(3%)"], "a sweep has no baseline; write a bound"),
        (["http://127.0.0.1:9/v1", "--concurrency", "1,2", "--most", "4"], "--most 4 is for a search"),
        (["http://127.0.0.1:9/v1", "--concurrency", "1,2,1"], "a load is named twice; write --concurrency 1,2"),
        (["http://127.0.0.1:9/v1", "--rate", "0.5,1000,1.0,0.5"], "a load is named twice; write --rate 0.5,1000,1"),
        (["random:gpt2", "--concurrency", "1"], "random:gpt2: a sweep needs a server"),
        (["http://127.0.0.1:9/v1", "--limit", "ttft_ms < 5"], "127.0.0.1:9"),
        (["http://127.0.0.1:9/v1", "--concurrency", "1", "--json", "nowhere/x.json"], "no folder nowhere"),
    ],
)
def test_a_sweep_that_cannot_be_says_why(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    status, _, err = _sweep(capsys, *arguments)
    assert status in (1, 4)
    assert said in err
