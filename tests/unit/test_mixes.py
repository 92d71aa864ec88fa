"""Requests of different lengths."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.mixes import Shape, identity, mix_of


def _drawn(text: str, count: int = 4000) -> list[Shape]:
    mix = mix_of(text)
    assert mix.timed is None
    return [mix.shape(seed) for seed in range(1, count + 1)]


def test_even_lengths_fill_their_ranges() -> None:
    drawn = _drawn("uniform:32-512,16-18")
    assert {shape.output_tokens for shape in drawn} == {16, 17, 18}
    prompts = [shape.prompt_tokens for shape in drawn]
    assert (min(prompts), max(prompts)) == pytest.approx((32, 512), abs=2)
    assert statistics.fmean(prompts) == pytest.approx(272, rel=0.03)


def test_lognormal_lengths_have_their_median_and_spread_and_stay_below_the_most() -> None:
    drawn = _drawn("lognormal:500~0.6<1000,100~0.25")
    prompts = [shape.prompt_tokens for shape in drawn]
    assert statistics.median(prompts) == pytest.approx(500, rel=0.05)
    assert max(prompts) == 1000
    logs = [math.log(shape.output_tokens) for shape in drawn]
    assert statistics.stdev(logs) == pytest.approx(0.25, rel=0.05)


def test_one_number_is_always_that_length() -> None:
    assert set(_drawn("uniform:64,8", 50)) == {Shape(64, 8)}
    assert set(_drawn("lognormal:64,8", 50)) == {Shape(64, 8)}


def test_the_same_requests_come_in_every_run() -> None:
    assert _drawn("uniform:1-999,1-999", 20) == _drawn("uniform:1-999,1-999", 20)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(*lines: object, name: str = "chat.jsonl") -> str:
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        Path(name).write_text("\n".join(texts) + "\n")
        return f"replay:{name}"

    return write


def test_a_replay_has_the_lengths_and_times_of_its_file_over_and_over(recorded) -> None:
    mix = mix_of(
        recorded(
            {"prompt_tokens": 9, "output_tokens": 2, "arrival": 4.5},
            "",
            {"prompt_tokens": 7, "output_tokens": 1, "arrival": 4},
        )
    )
    assert mix.timed == 2
    assert [mix.shape(seed) for seed in (1, 2, 3)] == [Shape(7, 1, 4.0), Shape(9, 2, 4.5), Shape(7, 1, 4.0)]


def test_a_replay_reads_the_fields_of_public_traces(recorded) -> None:
    mix = mix_of(recorded({"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}))
    assert mix.shape(1) == Shape(6955, 52, 27.482)


def test_a_replay_without_times_is_only_lengths(recorded) -> None:
    mix = mix_of(recorded({"prompt_tokens": 9, "output_tokens": 2}))
    assert (mix.timed, mix.shape(1)) == (None, Shape(9, 2))


def test_a_replay_is_known_by_its_content_and_a_drawn_mix_by_its_text(recorded) -> None:
    line = {"prompt_tokens": 9, "output_tokens": 2}
    first, moved = recorded(line), recorded(line, name="other.jsonl")
    assert identity(first) == identity(moved) != identity(recorded({**line, "output_tokens": 3}))
    assert identity("uniform:1,2") == "uniform:1,2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unifrom:1,2", "'unifrom' is no mix; did you mean 'uniform'?"),
        ("uniform:5", "expected the lengths of prompts and of answers"),
        ("uniform:9-5,1", "'9-5' is no length"),
        ("uniform:0-5,1", "'0-5' is no length"),
        ("uniform:a,1", "'a' is no length"),
        ("lognormal:9<5,1", "'9<5' is no length"),
        ("lognormal:9~x,1", "'9~x' is no length"),
        (
            "uniform:1-10000001,1",
            "'1-10000001' is no length; expected tokens such as 128, or a range such as 32-512, up",
        ),
        ("lognormal:512~128,128~32", "'512~128': the spread is that of the logarithm, at most 3, such as 512~0.6"),
        ("lognormal:9<10000001,1", "'9<10000001' is no length"),
        ("uniform:٣-٤,2", "'٣-٤' is no length"),
        ("replay:a\0b", "cannot be read: "),
        ("replay:nowhere.jsonl", "nowhere.jsonl cannot be read: No such file"),
    ],
)
def test_what_is_no_mix_is_said_to_be_none(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        mix_of(text)
    assert said in str(error.value)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("length", ["9" * 5000, f"1-{'9' * 5000}", f"512~{'9' * 400}", f"512<{'9' * 5000}"])
def test_a_number_without_end_is_no_length(length: str) -> None:
    for kind in ("uniform", "lognormal"):
        with pytest.raises(UsageError) as error:
            mix_of(f"{kind}:{length},2")
        assert len(str(error.value)) < 500


def test_the_widest_spread_stays_below_the_most_tokens() -> None:
    assert max(shape.prompt_tokens for shape in _drawn("lognormal:9999999~3,1")) == 10_000_000


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "the file holds no request"),
        (["{"], "line 1: no JSON"),
        (["[1]"], "line 1: expected an object with prompt_tokens and output_tokens, not [1]"),
        ([{"prompt_tokens": 1}], "line 1: output_tokens is missing (it has: prompt_tokens)"),
        ([{"prompt_tokens": 1, "output_tokens": 0}], "line 1: output_tokens=0: expected a whole number"),
        ([{"prompt_tokens": True, "output_tokens": 1}], "line 1: prompt_tokens=True: expected a whole number"),
        ([{"prompt_tokens": 10**400, "output_tokens": 1}], "line 1: prompt_tokens=1000"),
        ([{"prompt_tokens": 1, "output_tokens": 1, "timestamp": 10**401}], "line 1: timestamp=1000"),
        (["[" * 200_000], "line 1: no request: it is nested too deeply"),
        ([{"prompt_tokens": 1, "output_tokens": 1, "arrival": -1}], "line 1: arrival=-1: expected a time"),
        ([{"prompt_tokens": 1, "output_tokens": 1, "arrival": "now"}], "line 1: arrival='now': expected a time"),
        (
            [{"prompt_tokens": 1, "output_tokens": 1, "arrival": 1}, {"prompt_tokens": 1, "output_tokens": 1}],
            "line 2: either every line has an arrival, or none has",
        ),
    ],
)
def test_a_faulty_line_of_a_replay_is_named(recorded, lines: list[object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        mix_of(recorded(*lines))
    assert said in str(error.value)
