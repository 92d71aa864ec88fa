"""References: a name, an architecture with random weights, the user's own module, and what else `resolve` knows.

Text forms, the same everywhere a target is named:

    gpt2  ·  org/model  ·  ./folder                a Hub id or a local folder
    random:gpt2?n_layer=2&dtype=bfloat16           `random_weights("gpt2", n_layer=2, dtype="bfloat16")`
    http://host:8000/v1?model=gpt2&api=chat        `endpoint("http://host:8000/v1", model="gpt2", api="chat")`
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Unknown
from pytest_llmperf.names import dtype_name
from pytest_llmperf.targets.endpoint import from_text
from pytest_llmperf.targets.plain import frozen, text_of, value_of
from pytest_llmperf.targets.protocol import LoadOptions, Reference, Target

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pretrained:
    """A Hub id or a local folder, with its tokenizer."""

    name: str
    cacheable = True
    in_process = True

    @property
    def id(self) -> str:
        return self.name

    def weights_estimate(self, options: LoadOptions) -> int | Unknown:
        from pytest_llmperf.targets import pretrained

        return pretrained.weights_estimate(self.name, options)

    def load(self, options: LoadOptions) -> Target:
        from pytest_llmperf.targets import pretrained

        return pretrained.load(self.name, options)


@dataclass(frozen=True)
class RandomWeights:
    """An architecture of transformers with seeded random weights; see `random_weights`."""

    model_type: str
    dtype: str | None = None
    attn_implementation: str | None = None
    overrides: tuple[tuple[str, Any], ...] = field(default=())
    cacheable = True
    in_process = True

    @property
    def id(self) -> str:
        named = {"dtype": self.dtype, "attn_implementation": self.attn_implementation}
        options = {name: value for name, value in named.items() if value is not None} | dict(self.overrides)
        query = "&".join(f"{name}={text_of(value)}" for name, value in options.items())
        return f"random:{self.model_type}" + (f"?{query}" if query else "")

    def weights_estimate(self, options: LoadOptions) -> int | Unknown:
        from pytest_llmperf.targets import random_init

        return random_init.weights_estimate(self, options)

    def load(self, options: LoadOptions) -> Target:
        from pytest_llmperf.targets import random_init

        return random_init.load(self, options)


@dataclass(frozen=True, eq=False)
class Module:
    """The user's own `torch.nn.Module`, measured as it is."""

    module: Any
    cacheable = False
    in_process = True

    @property
    def id(self) -> str:
        return type(self.module).__name__

    def weights_estimate(self, options: LoadOptions) -> int:
        return 0  # it is in memory already

    def load(self, options: LoadOptions) -> Target:
        from pytest_llmperf.targets import huggingface

        return huggingface.adopt(self.module, self.id, options)


def random_weights(
    model_type: str,
    *,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> RandomWeights:
    """A causal language model of transformers, built from its config with seeded random weights.

    Nothing is downloaded. Speed and memory do not depend on what the weights say. Its size is estimated
    first, and refused when it cannot fit.

    Args:
        model_type: any causal `model_type` of transformers: `gpt2`, `llama`, `qwen3`, `mixtral`, …
        dtype: overrides the mark's; `"bfloat16"`, `"bf16"` or `torch.bfloat16`.
        attn_implementation: `eager`, `sdpa`, `flash_attention_2`, …
        overrides: fields of the architecture's config, such as `n_layer=2`; checked when it is loaded.
    """
    if not isinstance(model_type, str) or not model_type:
        raise UsageError(f"random_weights({model_type!r}): expected a model type of transformers, like 'gpt2'")
    if not isinstance(attn_implementation, (str, type(None))):
        raise UsageError(f"attn_implementation={attn_implementation!r}: expected a name, like 'sdpa' or 'eager'")
    for name, value in overrides.items():
        try:
            json.dumps(value)
        except TypeError:
            raise UsageError(f"random_weights({model_type!r}, {name}={value!r}): expected plain data") from None
    return RandomWeights(
        model_type,
        None if dtype is None else dtype_name(dtype),
        attn_implementation,
        tuple((name, frozen(value)) for name, value in sorted(overrides.items())),
    )


def resolve(target: object) -> Reference:
    """What a mark, a call or a command line names as its target.

    Raises:
        UsageError: it is neither a name nor a target.
    """
    if isinstance(target, Reference) and not isinstance(target, type):
        return target
    if isinstance(target, str):
        return _from_text(target)
    if hasattr(target, "__fspath__"):
        return Pretrained(target.__fspath__())
    if isinstance(target, type):
        raise UsageError(f"model={target.__name__} is a class; pass an instance of it")
    if callable(getattr(target, "parameters", None)):
        return _module(target)
    hint = "; wrap a function as stream(fn)" if callable(target) else ""
    raise UsageError(
        f"model={target!r} is no target: expected a Hub id, a local folder, random_weights(…), "
        f"stream(…), endpoint(…) or a torch.nn.Module{hint}"
    )


def _module(module: object) -> Module:
    if not callable(getattr(module, "generate", None)):
        raise UsageError(
            f"model={type(module).__name__}(…) has no generate(); wrap the loop that makes its tokens as stream(fn)"
        )
    return Module(module)


def _from_text(text: str) -> Reference:
    if not text.strip():
        raise UsageError(f"model={text!r} is empty: expected a Hub id, a local folder, random:TYPE or a url")
    scheme, _, rest = text.partition(":")
    if rest.startswith("//"):
        return from_text(text)
    if scheme != "random":
        return Pretrained(text)
    model_type, _, query = rest.partition("?")
    options: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r}: {pair!r} is no option; write random:gpt2?n_layer=2&dtype=bfloat16")
        if name in options:
            raise UsageError(f"{text!r}: {name} is given twice")
        options[name] = value_of(unquote(value))
    if "model_type" in options:
        raise UsageError(f"{text!r}: model_type is what stands after 'random:', and no option")
    return random_weights(model_type, **options)
