"""Stored files: what is read, what is refused and how that is told, and what the schema is."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_llmperf.baselines import schema
from pytest_llmperf.baselines.schema import (
    MOST_SAMPLES,
    MOST_SESSIONS,
    Calibration,
    Entry,
    File,
    Learned,
    NoiseFile,
    Pairs,
    Reading,
    Session,
    json_schema,
    load,
    read,
    written,
)
from pytest_llmperf.errors import BaselineError

ROOT = Path(__file__).parents[2]
FIRST = ROOT / "tests" / "data" / "baseline-schema-1.json"
"""As the first schema was. It is never changed: it must be readable for ever."""

SESSION = Session(
    recorded="2026-11-21T09:30:00+00:00",
    commit="c0ffee",
    target="gpt2",
    options={"dtype": "float32", "threads": 1},
    versions={"torch": "2.13.0"},
    metrics={"tpot_ms": Reading(median=8.1, error=0.1, samples=[8.0, 8.1, 8.2]), "flops_per_token": Reading(median=7)},
)
FILE = File(
    tests={
        "test_chat_turn": Entry(
            workload={"prompt_tokens": 128},
            learned={"tpot_ms": Learned(deviation=0.02, df=3)},
            sessions=[SESSION, SESSION],
        ),
        "test_long": Entry(workload={"prompt_tokens": 4096}, sessions=[SESSION]),
    }
)
NOISE = NoiseFile(
    calibrations=[
        Calibration(
            recorded="2026-11-21",
            target="gpt2",
            threads=None,
            metrics={"tpot_ms": Pairs(differences=[0.01], errors=[0.002], levels=[2.1], rounds=0.03)},
        )
    ]
)
WHERE = "baselines/cpu-x/test_chat.json"


def refusal(text, form=File):
    with pytest.raises(BaselineError) as refused:
        read(text, form, WHERE)
    message = str(refused.value)
    assert message.startswith(f"{WHERE}: ")
    return message


def changed(*place, to, of=FILE):
    """The text of a file in which one place holds something else."""
    content = json.loads(written(of))
    part = content
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = to
    return json.dumps(content)


@pytest.mark.parametrize("content", [FILE, NOISE, File(tests={})], ids=["file", "noise", "empty"])
def test_what_is_written_reads_as_the_same(content):
    text = written(content)
    assert read(text, type(content), WHERE) == content
    assert written(read(text, type(content), WHERE)) == text


def test_a_file_is_laid_out_for_review_with_one_line_for_each_reading():
    assert written(File(tests={"test_b": FILE.tests["test_long"], "test_a": FILE.tests["test_long"]})).startswith(
        """\
{
 "schema": 1,
 "tests": {
  "test_a": {
   "sessions": [
    {
     "commit": "c0ffee",
     "metrics": {
      "flops_per_token": {"median": 7.0},
      "tpot_ms": {"error": 0.1, "median": 8.1, "samples": [8.0, 8.1, 8.2]}
     },
     "options": {"dtype": "float32", "threads": 1},
     "recorded": "2026-11-21T09:30:00+00:00",
     "target": "gpt2",
     "versions": {"torch": "2.13.0"}
    }
   ],
   "workload": {"prompt_tokens": 4096}
  },
  "test_b": {
"""
    )


def test_a_file_of_the_first_schema_is_read_whole():
    content = read(FIRST.read_text(), File, "first.json")
    turn = content.tests["TestChat::test_turn[float32-gpt2]"]
    assert turn.workload == {
        "prompt_tokens": 128,
        "output_tokens": 32,
        "batch_size": 1,
        "concurrency": 1,
        "prompt": "sha256:2cf24dba5fb0a30e",
    }
    assert turn.learned == {"tpot_ms": Learned(deviation=0.0213, df=4), "ttft_ms": Learned(deviation=0.0331, df=19)}
    full, least = turn.sessions
    assert full == Session(
        recorded="2026-11-20T09:30:00+00:00",
        commit="9c1185a5c5e9fc54612808977ee8f548b2258d31",
        dirty=True,
        target="random:gpt2?n_layer=2",
        options={
            "dtype": "float32",
            "threads": 1,
            "load.attn_implementation": "eager",
            "load.cache": None,
            "load.ratio": 0.5,
            "load.trust_remote_code": False,
        },
        versions={"python": "3.11.7", "torch": "2.12.0", "transformers": "5.0.0"},
        machine={"power limit": "700 W"},
        metrics={
            "tpot_ms": Reading(median=8.12345, error=0.012, samples=[8.101, 8.123, 8.15]),
            "ttft_ms": Reading(median=12.1, error=0.2, samples=[]),
            "peak_memory_mib": Reading(median=512.25, error=0.0, samples=[]),
        },
    )
    assert (least.commit, least.dirty, least.options, least.versions, least.machine) == ("", False, {}, {}, {})
    assert content.tests["test_least"].learned == {}


def test_a_file_of_the_first_schema_is_written_as_it_was():
    if schema.schema_of(File) == 1:
        assert written(read(FIRST.read_text(), File, "first.json")) == FIRST.read_text()


# Older and newer schemas


@pytest.fixture
def third_schema(monkeypatch):
    """Two fictional schemas after the first, which both rename the tests."""

    def rename(old, new):
        return lambda content: {"tests": {name.replace(old, new): entry for name, entry in content["tests"].items()}}

    steps = (rename("test_chat_turn", "test_second"), rename("test_second", "test_third"))
    monkeypatch.setitem(schema.MIGRATIONS, File, steps)


@pytest.mark.parametrize(("version", "name"), [(1, "test_chat_turn"), (2, "test_second"), (3, "test_third")])
def test_older_schemas_are_migrated_step_by_step(third_schema, version, name):
    text = changed("tests", to={name: json.loads(written(FILE))["tests"]["test_long"]})
    content = read(text.replace('"schema": 3', f'"schema": {version}'), File, WHERE)
    assert list(content.tests) == ["test_third"]
    assert json.loads(written(content))["schema"] == 3


def test_a_migration_of_one_form_leaves_the_other_alone(third_schema):
    assert json.loads(written(NOISE))["schema"] == 1
    assert read(written(NOISE), NoiseFile, WHERE) == NOISE


def test_a_file_that_is_not_what_its_older_schema_was_is_refused(third_schema):
    assert "not what schema 1 was (KeyError: 'tests'); restore" in refusal('{"schema": 1}')
    assert "not what schema 2 was (AttributeError" in refusal('{"schema": 2, "tests": []}')


def test_a_file_of_a_newer_schema_says_to_upgrade():
    message = refusal(changed("schema", to=2))
    assert message == (
        f"{WHERE}: schema 2 is of a newer pytest-llmperf, and this one reads up to 1; "
        "upgrade it (pip install --upgrade pytest-llmperf)"
    )


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, []])
def test_a_schema_is_a_whole_number(version):
    assert ": schema: expected a whole number from 1 to 1, not " in refusal(changed("schema", to=version))


# Errors: file, place, expectation, what stands there, what to do

RESTORE = "; restore the file (git checkout), or delete it and record it anew with --llmperf-update"
CHAT = ("tests", "test_chat_turn")
TPOT = (*CHAT, "sessions", 0, "metrics", "tpot_ms")


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ((*TPOT, "samples"), 3, "samples: expected a list of numbers, not 3"),
        ((*TPOT, "samples"), "8.1", 'samples: expected a list of numbers, not "8.1"'),
        ((*TPOT, "samples"), [8.1, "x"], 'samples.1: expected a number, not "x"'),
        ((*TPOT, "samples"), [8.1] * 21, "samples: expected at most 20 of them, not a list of 21"),
        ((*TPOT, "median"), None, "median: expected a number, not null"),
        ((*TPOT, "median"), True, "median: expected a number, not true"),
        ((*TPOT, "error"), -0.5, "error: expected greater than or equal to 0, not -0.5"),
        ((*TPOT, "mean"), 1, "mean is nothing that belongs there"),
        (TPOT, {}, "median is missing"),
        (TPOT, [], "expected an object, not a list of 0"),
    ],
)
def test_a_fault_is_told_with_file_place_and_expectation(place, value, told):
    where = 'tests."test_chat_turn".sessions.0.metrics.tpot_ms'
    message = refusal(changed(*place, to=value))
    assert message.startswith(f"{WHERE}: {where}")
    assert message.endswith(told + RESTORE)


SESSION_PLACE = (*CHAT, "sessions", 0)
HUGE = 10**400


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("times", {"aten::add": {"decode": []}}, 'times."aten::add".decode: expected at least 1 of them, not a list'),
        ("times", {"aten::add": {"decode": [1, 2, 3]}}, '."aten::add".decode: expected at most 2 of them, not a list'),
        ("times", {"aten::add": {"decode": [-1]}}, "decode.0: expected greater than or equal to 0, not -1"),
        ("times", {"aten::add": {"decode": [1e300]}}, "decode.0: expected less than or equal to 1000000000000, not 1e"),
        ("times", {"aten::add": {"decoding": [1]}}, 'decoding: expected prefill or decode, not "decoding"'),
        ("calls", {"aten::add": {"decode": "2"}}, '."aten::add".decode: expected a number of 0 to 1e+12, not "2"'),
        ("calls", {"aten::add": {"decode": True}}, '."aten::add".decode: expected a number of 0 to 1e+12, not true'),
        ("calls", {"aten::add": {"decode": -5}}, "decode: expected a number of 0 to 1e+12, not -5"),
        ("calls", {"aten::add": {"decode": -HUGE}}, "decode: expected a number of 0 to 1e+12, not -1000"),
        ("calls", {"aten::add": {"decode": HUGE}}, "decode: expected a number of 0 to 1e+12, not 1000"),
        ("decode_flops", [-1, 5], "decode_flops.0: expected greater than or equal to 0, not -1"),
        ("decode_flops", [5, HUGE], "decode_flops.1: expected less than or equal to 1000"),
        ("metrics", {"tpot_ms": {"median": -3}}, "metrics.tpot_ms.median: expected at least 0, not -3"),
        ("metrics", {"tpot_ms": {"median": 5e-324}}, "expected 0, or a number of 1e-09 to 1e+24 in size, not 5e-324"),
        ("metrics", {"flops_per_token": {"median": 1e300}}, "expected 0, or a number of 1e-09 to 1e+24 in size, not 1"),
    ],
)
def test_figures_that_nothing_can_have_are_refused_at_their_place(part, value, told):
    message = refusal(changed(*SESSION_PLACE, part, to=value))
    assert message.startswith(f'{WHERE}: tests."test_chat_turn".sessions.0.{part}')
    assert told in message


@pytest.mark.parametrize("metric", ["leak_mib", "activations_mib", "kv_bytes_per_token"])
def test_differences_may_be_less_than_zero(metric):
    text = changed(*SESSION_PLACE, "metrics", to={metric: {"median": -0.5}})
    assert read(text, File, WHERE).tests["test_chat_turn"].sessions[0].metrics[metric].median == -0.5


def test_calls_stay_whole_where_they_are():
    text = changed(*SESSION_PLACE, "calls", to={"aten::add": {"prefill": 2, "decode": 2.5}})
    assert '"aten::add": {"decode": 2.5, "prefill": 2}' in written(read(text, File, WHERE))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ((*CHAT, "sessions"), {}, 'tests."test_chat_turn".sessions: expected a list of sessions, not an object of 0'),
        ((*CHAT, "sessions"), [], 'tests."test_chat_turn".sessions: expected at least 1 of them, not a list of 0'),
        (
            (*CHAT, "learned"),
            {"tpot_ms": {"deviation": 0.1, "df": 0}},
            "df: expected greater than or equal to 1, not 0",
        ),
        ((*CHAT, "sessions", 0, "dirty"), 1, "dirty: expected true or false, not 1"),
        ((*CHAT, "sessions", 0, "commit"), 1, "commit: expected a text, not 1"),
        ((*CHAT, "sessions", 0, "commit"), "\ud800", r'"\ud800" is half a character'),
        ((*CHAT, "workload", "prompt"), [1], "prompt: expected a text, a number, true, false or null, not a list of 1"),
        ((*CHAT, "workload", "prompt"), "\udfff", r'"\udfff" is half a character'),
        (("tests", 'odd"\n::[é-1]\x1b'), 1, r'tests."odd\"\n::[é-1]\u001b": expected an object, not 1'),
        (("tests", "x" * 1000), 1, f'tests."{"x" * 199}…: expected an object, not 1'),
        (("tests", "tests"), 1, 'tests."tests": expected an object, not 1'),
        (("tests", "\ud800"), {}, r'"\ud800" is half a character'),
        (("tests",), None, "tests: expected an object, not null"),
    ],
)
def test_the_place_of_a_fault_is_readable_whatever_it_is_called(place, value, told):
    message = refusal(changed(*place, to=value))
    assert told in message
    message.encode()  # can be shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1, column 1: the file ends too early"),
        (written(FILE)[:-3], "the file ends too early"),
        (written(FILE)[:200], "the file ends too early"),
        ('{"schema": 1, "te', "the file ends too early"),
        ("{'schema': 1}", "line 1, column 2: Expecting property name"),
        ("[]", "expected an object with schema and so on, not a list of 0"),
        ("3", "not 3"),
        ("{}", "schema: expected a whole number from 1 to 1, not null"),
        ('{"schema": 1}', "tests is missing"),
        ('{"schema": 1, "schema": 1, "tests": {}}', '"schema" stands there twice'),
        ('{"schema": 1, "tests": {"test_a": 1, "test_b": 1, "test_a": 2}}', '"test_a" stands there twice'),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5000, "integer string conversion"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_with_its_fault(text, told):
    message = refusal(text)
    assert told in message
    assert message.endswith(RESTORE)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400])
@pytest.mark.parametrize("place", [(*TPOT, "median"), (*TPOT, "samples", 0), (*CHAT, "workload", "prompt_tokens")])
def test_a_number_is_finite_and_what_is_not_is_never_written(place, number):
    text = changed(*place, to="HERE").replace('"HERE"', number)
    if number.startswith("10") and "workload" in place:
        assert written(read(text, File, WHERE))  # a whole number, however large
    else:
        assert number[:50] in (message := refusal(text)) or "finite" in message


def test_of_a_noise_file_the_command_that_makes_it_is_named():
    message = refusal(changed("calibrations", 0, "metrics", "tpot_ms", "levels", to=[], of=NOISE), NoiseFile)
    assert "calibrations.0.metrics.tpot_ms.levels: expected at least 1 of them" in message
    assert message.endswith("delete it and record it anew with llmperf calibrate")


def test_calibrations_hold_only_numbers_that_can_be_squared():
    text = changed("calibrations", 0, "metrics", "tpot_ms", "differences", to=[1e200], of=NOISE)
    assert "differences.0: expected less than or equal to 1000, not 1e+200" in refusal(text, NoiseFile)


@pytest.mark.parametrize("mark", ["<<<<<<< HEAD", ">>>>>>> origin/main", "<<<<<<<"])
def test_a_merge_conflict_is_named_with_its_line_and_the_way_out(mark):
    lines = written(FILE).split("\n")
    message = refusal("\n".join([*lines[:4], mark, *lines[4:]]))
    assert f"{WHERE}: line 5: a merge conflict; take one side whole (git checkout --ours or --theirs)" in message


def test_what_only_looks_like_a_conflict_within_a_text_is_none():
    entry = FILE.tests["test_long"]
    content = File(tests={"test_a[\u2028<<<<<<< HEAD\x85>>>>>>> x\r<<<<<<< y]": entry})
    assert read(written(content), File, WHERE) == content
    assert "the file ends too early" in refusal(written(content)[:-5])


def test_keys_may_hold_any_character():
    entry = FILE.tests["test_long"]
    odd = ["é", "'", '"', "\\", "\n", "\r\n", "\0", "\u2028", "[a::b]", "::", "", "😀", "x" * 100_000, "#", "\x7f"]
    content = File(tests=dict.fromkeys(odd, entry))
    assert read(written(content), File, WHERE) == content


def test_reading_leaves_garbage_collection_as_it_was():
    read(written(FILE), File, WHERE)
    assert gc.isenabled()
    refusal("")
    assert gc.isenabled()
    gc.disable()
    try:
        read(written(FILE), File, WHERE)
        assert not gc.isenabled()
    finally:
        gc.enable()


# Files


def test_where_there_is_no_file_there_is_nothing(tmp_path):
    assert load(tmp_path / "none.json", File, WHERE) is None
    assert load(tmp_path / "nowhere" / "none.json", File, WHERE) is None


def test_a_file_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "test_chat.json"
    path.write_bytes(b'{"schema": 1,\n "tests": {"caf\xe9": {}}}')
    with pytest.raises(BaselineError, match=r"^baselines/cpu-x/test_chat.json: line 2: not UTF-8; .*save it as UTF-8"):
        load(path, File, WHERE)


def test_a_character_escaped_as_two_halves_is_one():
    text = written(File(tests={"test_😀": FILE.tests["test_long"]}))
    assert read(text.replace("😀", r"\ud83d\uDE00"), File, WHERE) == read(text, File, WHERE)


def test_line_ends_of_another_system_do_not_matter(tmp_path):
    path = tmp_path / "test_chat.json"
    path.write_bytes(written(FILE).replace("\n", "\r\n").encode())
    assert load(path, File, WHERE) == FILE


def test_a_folder_where_a_file_is_expected_is_an_error(tmp_path):
    with pytest.raises(BaselineError, match="is no file: move what stands there out of the folder of baselines"):
        load(tmp_path, File, WHERE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_where_a_file_is_expected_is_an_error_and_not_a_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BaselineError, match="is no file"):
        load(tmp_path / "pipe.json", File, WHERE)


def test_a_file_where_a_folder_is_expected_is_an_error(tmp_path):
    (tmp_path / "cpu-x").write_text("")
    with pytest.raises(BaselineError, match="Not a directory; make it readable, or name another folder"):
        load(tmp_path / "cpu-x" / "test_chat.json", File, WHERE)


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    def denied(self, *arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.json").write_text(written(FILE))
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(BaselineError, match=r"test_chat\.json: Permission denied; make it readable"):
        load(tmp_path / "a.json", File, WHERE)


# The published schema


def bare(node):
    """A schema without what is only for reading, and what versions of pydantic order otherwise."""
    if isinstance(node, dict):
        left = {name: bare(part) for name, part in node.items() if name not in ("title", "description")}
        return {**left, "required": sorted(left["required"])} if isinstance(left.get("required"), list) else left
    return [bare(part) for part in node] if isinstance(node, list) else node


PUBLISHED = [(File, ROOT / "docs" / "baseline.schema.json"), (NoiseFile, ROOT / "docs" / "noise.schema.json")]


@pytest.mark.parametrize(("form", "path"), PUBLISHED, ids=["file", "noise"])
def test_the_published_schema_is_that_of_the_code(form, path):
    code = f"Path('{path.relative_to(ROOT)}').write_text(schema.json_schema(schema.{form.__name__}))"
    assert bare(json.loads(path.read_text())) == bare(json.loads(json_schema(form))), f"write it anew: {code}"


@pytest.mark.parametrize(
    ("content", "path"),
    [(written(FILE), PUBLISHED[0][1]), (FIRST.read_text(), PUBLISHED[0][1]), (written(NOISE), PUBLISHED[1][1])],
    ids=["file", "first", "noise"],
)
def test_stored_files_are_valid_by_the_published_schema(content, path):
    published = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(json.loads(content), published)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), 2),
        ((*TPOT, "samples"), 3),
        ((*TPOT, "samples"), [8.1] * 21),
        ((*TPOT, "mean"), 1),
        ((*CHAT, "sessions"), []),
        ((*CHAT, "workload", "prompt"), [1]),
        (("extra",), 1),
    ],
)
def test_what_the_code_refuses_is_not_valid_by_the_published_schema(place, value):
    text = changed(*place, to=value)
    refusal(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(text), json.loads(PUBLISHED[0][1].read_text()))


# Fuzz: either a file or our error; and what is read and written once stays as it is


def survives(text, form=File):
    try:
        content = read(text, form, WHERE)
    except BaselineError as error:
        str(error).encode()
        return
    again = written(content)
    assert read(again, form, WHERE) == content
    assert written(read(again, form, WHERE)) == again
    again.encode()


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from([10**400, 1e308, -0.0, "\ud800"])
)
words = st.one_of(
    st.text(), st.sampled_from(["schema", "tests", "sessions", "median", "workload", "metrics", "\ud800"])
)
anything = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4))
)


@given(st.text())
def test_any_text_is_a_file_or_refused(text):
    survives(text)


@given(anything, st.sampled_from([File, NoiseFile]))
def test_any_json_is_a_file_or_refused(content, form):
    survives(json.dumps(content), form)
    survives(json.dumps({"schema": 1, "tests": content, "calibrations": content}), form)
    survives(json.dumps({"schema": 1, "tests": content}), form)
    survives(json.dumps({"schema": 1, "calibrations": content}), form)


@given(st.binary())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_file_or_refused(tmp_path, content):
    path = tmp_path / "any.json"
    path.write_bytes(content)
    with pytest.raises(BaselineError):
        load(path, File, WHERE)


def places(node, place=()):
    """Every place of a JSON value."""
    yield place
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, part in parts:
        yield from places(part, (*place, step))


@pytest.mark.parametrize("valid", [FILE, NOISE], ids=["file", "noise"])
@given(data=st.data())
def test_a_valid_file_with_something_else_in_one_place_is_a_file_or_refused(valid, data):
    every = [place for place in places(json.loads(written(valid))) if place]
    place = data.draw(st.sampled_from(every))
    survives(changed(*place, to=data.draw(anything), of=valid), type(valid))


@given(data=st.data())
def test_a_valid_file_with_some_bytes_changed_is_a_file_or_refused(data):
    text = written(FILE)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    survives(text[:start] + data.draw(st.text(max_size=5)) + text[end:])


def test_limits_of_length_are_those_of_the_schema():
    most = Reading(median=1.0, samples=[1.0] * MOST_SAMPLES)
    session = SESSION.model_copy(update={"metrics": {"tpot_ms": most}})
    content = File(tests={"test": Entry(workload={}, sessions=[session] * MOST_SESSIONS)})
    assert read(written(content), File, WHERE) == content
    refusal(changed("tests", "test", "sessions", to=[json.loads(SESSION.model_dump_json())] * 21, of=content))
