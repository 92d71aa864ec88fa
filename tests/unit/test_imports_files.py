"""Files of other tools: which is whose, and what is no file of results at all."""

from __future__ import annotations

import json

import pytest

from pytest_llmperf.cli import _parser
from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports import FORMATS, read
from pytest_llmperf.imports.measurement import measurement_of
from pytest_llmperf.model import Environment
from tests.foreign import AIPERF, GUIDELLM, vllm


@pytest.fixture
def files(tmp_path):
    return {"vllm": vllm(tmp_path / "run.json"), "aiperf": AIPERF, "guidellm": GUIDELLM}


def test_the_command_knows_every_format():
    (form,) = [action for action in _parser()._actions[-1].choices["import"]._actions if action.dest == "format"]
    assert tuple(form.choices) == tuple(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_recognised_by_what_is_in_it(files, name, tmp_path):
    other = tmp_path / "results"
    other.write_bytes(files[name].read_bytes())
    (run,) = read(other)
    assert run.traces
    assert (len(run.traces), run.traces) == (len(read(other, name)[0].traces), read(other, name)[0].traces)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("of", FORMATS)
def test_a_file_of_another_tool_than_was_named_is_refused(files, name, of):
    if name != of:
        with pytest.raises(ForeignError, match=r"is not what it has to be: expected .*"):
            read(files[of], name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty"),
        (b" \n ", " is empty"),
        (b"null", "holds other than JSON objects"),
        (b"[]", "holds other than JSON objects"),
        (b'[{"ttft": 1}]', "holds other than JSON objects"),
        (b'{"ttft": 1}\n7', "holds other than JSON objects"),
        (
            b"{}",
            "is not what it has to be: expected the JSON file of vllm bench serve --save-result --save-detailed, or",
        ),
        (b'{"benchmarks": []}', "is not what it has to be"),
        (b"ttft,tpot\n1,2\n", "line 1: Expecting value"),
        (b'{"metadata": {}, "metr', "line 1: the file ends too early"),
        (b'{"metadata": {"a": 1},\n', "line 2: the file ends too early"),
        (b'{"metadata": {}, "metrics": {}}\n{"metadata"', "line 2: the file ends too early"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"[" * 200_000, "no file of results: "),
        (b'{"a": ' + b"9" * 5000 + b"}", "no file of results: "),
    ],
)
def test_what_is_no_file_of_results_is_told(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ForeignError) as raised:
        read(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_cut_short_anywhere_is_refused(files, name, tmp_path):
    whole = files[name].read_bytes().rstrip()
    path = tmp_path / "cut.json"
    for part in range(1, 20):
        path.write_bytes(whole[: len(whole) * part // 20])
        if path.read_bytes().endswith(b"}\n"):
            continue
        with pytest.raises(ForeignError, match="line "):
            read(path)


def test_a_file_that_is_not_there_and_a_folder_are_told(tmp_path):
    with pytest.raises(ForeignError, match=r"missing\.json: No such file"):
        read(tmp_path / "missing.json")
    with pytest.raises(ForeignError, match="Is a directory"):
        read(tmp_path)


def test_nothing_but_the_values_read_has_to_be_right(tmp_path):
    (run,) = read(vllm(tmp_path / "run.json", mean_tpot_ms=float("nan"), label={"any": "thing"}))
    assert len(run.traces) == 12


def places(value):
    """Everything that holds a value, and where."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def told(path):
    """The message that refuses a file; its name where it is measured after all."""
    try:
        for run in read(path):
            if run.traces:
                measurement_of(run, Environment())
    except ForeignError as error:
        return str(error)
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_no_value_can_be_anything_without_being_told(tmp_path, name):
    """Whatever stands in place of a value, the file is measured, or refused in a message that names it."""
    source = {"vllm": vllm(tmp_path / "run.json", 2), "aiperf": AIPERF, "guidellm": GUIDELLM}[name]
    record = json.loads(source.read_text().splitlines()[0] if name == "aiperf" else source.read_text())
    if name == "guidellm":
        del record["benchmarks"][0]["requests"]["successful"][2:]
    path = tmp_path / "changed.json"
    for holder, key in list(places(record)):
        kept = holder[key]
        for other in (None, "x", "", -1, 0, 1e308, 10**30, float("nan"), True, [], {}, [{}]):
            holder[key] = other
            path.write_text(json.dumps(record))
            assert str(path) in told(path), (key, other)
        holder[key] = kept
