"""References: what a mark may name as its target, and the text form of each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import UsageError
from pytest_llmperf.names import dtype_name
from pytest_llmperf.targets import LoadOptions, Module, Pretrained, RandomWeights, random_weights, resolve, stream
from pytest_llmperf.targets.plain import thawed
from tests.fakes import TINY

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True).filter(
    lambda name: name not in ("dtype", "attn_implementation", "model_type")
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
WORDS = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True).filter(lambda word: word not in ("true", "false", "null"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=10)


def plain(leaves):
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
    )


class WithGenerate(torch.nn.Module):
    def generate(self, **arguments):
        raise NotImplementedError


def test_importing_targets_imports_neither_torch_nor_transformers_nor_numpy():
    code = (
        "import sys, pytest_llmperf.targets; print([m for m in ('torch','transformers','numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@given(
    model_type=st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True),
    dtype=st.sampled_from([None, "float32", "bfloat16", "auto"]),
    attention=st.sampled_from([None, "eager", "sdpa", "flash_attention_2"]),
    overrides=st.dictionaries(NAMES, plain(NUMBERS | WORDS), max_size=4),
)
def test_the_text_form_of_random_weights_names_the_same_reference(model_type, dtype, attention, overrides):
    reference = random_weights(model_type, dtype=dtype, attn_implementation=attention, **overrides)
    again = resolve(reference.id)
    assert again == reference
    assert again.id == reference.id
    assert hash(again) == hash(reference)


@given(overrides=st.dictionaries(NAMES, plain(NUMBERS | TEXTS | st.none()), max_size=3))
def test_the_text_form_keeps_any_plain_data(overrides):
    reference = random_weights("gpt2", **overrides)
    assert resolve(reference.id) == reference


@pytest.mark.parametrize("value", [None, "true", "8", "null", "a&b", ["a&b"], "a=b", "50%", ""])
def test_values_that_look_like_another_in_text_keep_what_they_are(value):
    reference = random_weights("gpt2", field=value)
    assert resolve(reference.id) == reference


def test_a_field_set_to_none_is_another_target_than_the_field_left_out():
    assert random_weights("mistral", sliding_window=None).id != random_weights("mistral").id


@given(
    st.dictionaries(
        NAMES, plain(NUMBERS | TEXTS | st.none()).filter(lambda value: not isinstance(value, tuple)), max_size=3
    )
)
def test_overrides_come_back_as_the_plain_data_they_were(overrides):
    reference = random_weights("gpt2", **overrides)
    assert {name: thawed(value) for name, value in reference.overrides} == overrides


def test_the_order_of_keywords_does_not_matter():
    one = random_weights("gpt2", n_layer=2, n_head=4)
    other = random_weights("gpt2", n_head=4, n_layer=2)
    assert one == other
    assert one.id == other.id == "random:gpt2?n_head=4&n_layer=2"


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (random_weights("gpt2"), "random:gpt2"),
        (random_weights("gpt2", n_layer=2), "random:gpt2?n_layer=2"),
        (random_weights("llama", dtype=torch.bfloat16, attn_implementation="eager"), None),
        (Pretrained("org/model"), "org/model"),
        (Module(WithGenerate()), "WithGenerate"),
    ],
)
def test_ids_are_short_and_readable(reference, shown):
    assert reference.id == (shown or "random:llama?dtype=bfloat16&attn_implementation=eager")


@pytest.mark.parametrize("spelling", ["bfloat16", "bf16", torch.bfloat16, "torch.bfloat16"])
def test_every_spelling_of_a_dtype_names_the_same_reference(spelling):
    assert random_weights("gpt2", dtype=spelling) == random_weights("gpt2", dtype="bfloat16")


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("fp32", "float32"), ("float", "float32"), ("half", "float16"), ("fp16", "float16"), ("auto", "auto")],
)
def test_short_dtypes_are_spelled_out(given_name, name):
    assert dtype_name(given_name) == name


@pytest.mark.parametrize(("wrong", "near"), [("bfloat17", "'bfloat16'"), ("flaot32", "'float32'"), ("int8", "known:")])
def test_an_unknown_dtype_is_refused_with_the_nearest(wrong, near):
    with pytest.raises(UsageError, match=f"dtype='{wrong}' is no dtype.*{near}"):
        random_weights("gpt2", dtype=wrong)


def test_a_name_resolves_to_a_pretrained_model():
    assert resolve("gpt2") == Pretrained("gpt2")
    assert resolve("org/model").id == "org/model"


def test_a_path_object_resolves_to_its_folder():
    assert resolve(Path("models/chat")) == Pretrained(str(Path("models/chat")))


@pytest.mark.parametrize("reference", [Pretrained("gpt2"), random_weights("gpt2"), stream(lambda ids, n: ids)])
def test_a_reference_resolves_to_itself(reference):
    assert resolve(reference) is reference


def test_a_module_with_generate_resolves_to_a_module_that_is_never_shared():
    module = WithGenerate()
    reference = resolve(module)
    assert isinstance(reference, Module)
    assert reference.module is module
    assert not reference.cacheable
    assert resolve(module) != reference, "each test brings its own"


@pytest.mark.parametrize("text", [TINY, "random:gpt2", "random:gpt2?n_layer=2&dtype=bf16"])
def test_text_that_begins_with_random_names_random_weights(text):
    assert isinstance(resolve(text), RandomWeights)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "model='' is empty"),
        ("  ", "is empty"),
        (3, "model=3 is no target"),
        (None, "model=None is no target"),
        (lambda ids, n: ids, r"wrap a function as stream\(fn\)"),
        (torch.nn.Linear(1, 1), r"Linear\(…\) has no generate\(\)"),
        ("random:", "expected a model type"),
        ("random:?n_layer=2", "expected a model type"),
        ("random:gpt2?n_layer", "'n_layer' is no option"),
        ("random:gpt2?=2", "'=2' is no option"),
        ("random:gpt2?dtype=bfloat17", "did you mean 'bfloat16'"),
        ("random:gpt2?model_type=llama", "model_type"),
        ("random:gpt2?attn_implementation=1", "attn_implementation"),
    ],
)
def test_what_is_no_target_is_refused_by_name(target, message):
    with pytest.raises(UsageError, match=message) as caught:
        _use(target)
    assert "\n" not in str(caught.value)


def _use(target):
    """Some values are judged only where the reference is used."""
    return resolve(target).weights_estimate(LoadOptions(device="cpu"))


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.float32])
def test_an_override_that_is_no_plain_data_is_refused_by_name(value):
    with pytest.raises(UsageError, match=r"random_weights\('gpt2', hidden=.*expected plain data"):
        random_weights("gpt2", hidden=value)


@pytest.mark.parametrize("model_type", ["", None, 3])
def test_a_model_type_that_is_no_name_is_refused(model_type):
    with pytest.raises(UsageError, match="expected a model type of transformers"):
        random_weights(model_type)


def test_any_object_of_the_form_of_a_reference_is_one() -> None:
    class Own:
        id, cacheable, in_process = "own", True, True

        def weights_estimate(self, options: LoadOptions) -> int:
            return 0

        def load(self, options: LoadOptions) -> object:
            return self

    own = Own()
    assert resolve(own) is own
    with pytest.raises(UsageError, match="Own is a class; pass an instance"):
        resolve(Own)
