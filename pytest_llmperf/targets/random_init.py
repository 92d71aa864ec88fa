"""Builds an architecture of transformers with random weights, fast, on its device, in its dtype.

Initialisation as transformers does it takes 3.5 s for GPT-2 small; one seeded block of a million numbers,
copied over every parameter, 0.24 s. Every page is touched: weights never written would be unmapped memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from pytest_llmperf.errors import TargetError, UsageError, did_you_mean
from pytest_llmperf.targets.device import Cuda, device_of
from pytest_llmperf.targets.huggingface import GenerateTarget, out_of_memory_as
from pytest_llmperf.targets.plain import thawed
from pytest_llmperf.targets.pretrained import (
    default_dtype,
    quiet_transformers,
    set_generation_options,
    split_generation_options,
)
from pytest_llmperf.targets.protocol import LoadOptions
from pytest_llmperf.targets.spread import check_spread, dispatch

if TYPE_CHECKING:
    from pytest_llmperf.targets.references import RandomWeights

_BLOCK = 1_000_000
_SEED = 20_240_607
_SPREAD = 0.02  # the initializer_range of GPT-2 and most since


def weights_estimate(reference: RandomWeights, options: LoadOptions) -> int:
    """Bytes of the tied weights, from a model built without memory."""
    with torch.device("meta"):
        model = _empty(reference, options, "cpu")
    model.tie_weights()
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def load(reference: RandomWeights, options: LoadOptions) -> GenerateTarget:
    device = device_of(options.device, options.gpus)
    several = device if isinstance(device, Cuda) and len(device.names) > 1 else None
    with out_of_memory_as(f"{reference.id}: out of memory while building it; use a smaller dtype or fewer layers"):
        with torch.device("cpu" if several else device.name):
            model = _empty(reference, options, device.name)
        model.tie_weights()
        _fill(model)
        if several:
            dispatch(model, reference.id, several)
    model.eval()
    set_generation_options(model, reference.id, split_generation_options(options.load)[1])
    target = GenerateTarget(reference.id, model, None, device)
    check_spread(reference.id, target.device, options.gpus)
    return target


def _empty(reference: RandomWeights, options: LoadOptions, device: str) -> Any:
    from_config = dict(split_generation_options(options.load)[0])
    of_mark = from_config.pop("attn_implementation", None)
    attention = reference.attn_implementation or of_mark
    if from_config:
        raise UsageError(
            f"load={from_config!r}: {reference.id} has nothing to load; only attn_implementation and fields of the "
            f"generation config apply, and config fields go to random_weights({reference.model_type!r}, …)"
        )
    dtype = reference.dtype or options.dtype or default_dtype(device) or "bfloat16"
    if dtype == "auto":
        raise UsageError(f"dtype='auto': {reference.id} has no checkpoint to take its dtype from; name one")
    with quiet_transformers(), no_init_weights():
        config = _config(reference)
        try:
            return AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), **({"attn_implementation": attention} if attention else {})
            )
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise TargetError(f"{reference.id}: it cannot be built: {error}") from error
            raise TargetError(f"{reference.id}: {reference.model_type!r} is no causal language model") from error
        except (ImportError, TypeError) as error:
            raise TargetError(f"{reference.id}: it cannot be built: {error}") from error


def _config(reference: RandomWeights) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if reference.model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"{reference.id}: transformers knows no model type {reference.model_type!r}"
            f"{did_you_mean(reference.model_type, CONFIG_MAPPING.keys())}"
        )
    default = AutoConfig.for_model(reference.model_type)
    known = {*default.to_dict(), *default.attribute_map, *vars(default)} - {"model_type", "architectures"}
    for name, value in reference.overrides:
        if name not in known:
            raise UsageError(
                f"{reference.id}: the config of {reference.model_type!r} has no {name!r}{did_you_mean(name, known)}"
            )
        usual = getattr(default, name, None)
        if type(usual) is int and usual > 0 and type(value) is int and value < 1:
            raise UsageError(f"{reference.id}: {name}={value}: expected at least 1")
    overrides = {name: thawed(value) for name, value in reference.overrides}
    # Ids of special tokens beyond a smaller vocabulary would be refused or warned about.
    vocabulary = overrides.get("vocab_size", getattr(default, "vocab_size", None))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(default, name, None)
        if name not in overrides and isinstance(value, int) and vocabulary is not None and value >= vocabulary:
            overrides[name] = None
    try:
        return AutoConfig.for_model(reference.model_type, **overrides)
    except Exception as error:  # transformers validates with several error classes of its own
        raise UsageError(f"{reference.id}: {_first_line(error)}") from error


@torch.no_grad()
def _fill(model: Any) -> None:
    """Random weights, ones for what norms multiply by."""
    block: torch.Tensor | None = None
    norms = {id(p) for m in model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)}
    for parameter in model.parameters():
        if id(parameter) in norms:
            parameter.fill_(1.0)
            continue
        if block is None or block.device != parameter.device or block.dtype != parameter.dtype:
            block = _block(parameter)
        flat = parameter.view(-1)
        for piece in flat.split(_BLOCK):
            piece.copy_(block[: piece.numel()])


def _block(like: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return (torch.randn(_BLOCK, generator=generator) * _SPREAD).to(device=like.device, dtype=like.dtype)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3])
