"""Loads a Hub id or a local folder, and says in one sentence why it could not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pytest_llmperf.errors import LlmperfError, TargetError, UsageError, did_you_mean
from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import device_of
from pytest_llmperf.targets.huggingface import GenerateTarget, out_of_memory_as
from pytest_llmperf.targets.protocol import LoadOptions
from pytest_llmperf.targets.spread import check_spread, placement

_FIXED = {
    *("do_sample", "num_beams", "num_return_sequences", "return_dict_in_generate", "eos_token_id", "pad_token_id"),
    *("max_new_tokens", "max_length", "min_new_tokens", "min_length", "max_time", "stop_strings"),
}
"""Fields of the generation config that the measured call decides."""
_PARALLEL = {"tp_plan", "tp_size", "distributed_config"}
"""Keywords by which each rank loads its part of a model, onto a device of its own."""
_SPREAD = {"device_map", "quantization_config", *_PARALLEL}
_PROBE_TIMEOUT_S = 5.0  # the hub's own client retries for 23 s per file where nothing answers


def load(name: str, options: LoadOptions) -> GenerateTarget:
    """The model and its tokenizer, by `from_pretrained`.

    Raises:
        TargetError: naming the target, what is wrong with it and what to do.
    """
    device = device_of(options.device, options.gpus)
    local_only = _check_reachable(name)
    keywords, generation = split_generation_options(options.load)
    keywords = {"dtype": options.dtype or default_dtype(device.name) or "auto", **keywords}
    placed_by_us = not {"device_map", *_PARALLEL} & keywords.keys()
    if placed_by_us:
        keywords = {**placement(device), **keywords}
    if local_only:
        keywords["local_files_only"] = True
    with quiet_transformers(), _explained(name, keywords):
        if keywords.get("device_map") == "cpu":  # the default place: needs no accelerate
            del keywords["device_map"]
        model = AutoModelForCausalLM.from_pretrained(name, **keywords)
        model.eval()
        set_generation_options(model, name, generation)
        target = GenerateTarget(name, model, _tokenizer(name, local_only), device)
        if placed_by_us:
            check_spread(name, target.device, options.gpus)
        return target


def weights_estimate(name: str, options: LoadOptions) -> int | Unknown:
    """Bytes of the weight files in a local folder, where nothing says that they are loaded as anything else."""
    if options.dtype is not None or _SPREAD & options.load.keys():
        return Unknown("the files do not say what their weights take once converted or spread")
    sizes = [file.stat().st_size for file in Path(name).glob("*.safetensors")] if Path(name).is_dir() else []
    return sum(sizes) if sizes else Unknown("the size of a Hub model is known once it is loaded")


def default_dtype(device: str) -> str | None:
    """float32 on CPU, where bfloat16 can be forty times slower; elsewhere the checkpoint's own."""
    return "float32" if device == "cpu" else None


def split_generation_options(load: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords for `from_pretrained`, and fields of the generation config (`cache_implementation="static"`)."""
    fields = GenerationConfig().to_dict().keys() - {"transformers_version", "_from_model_config"}
    generation = {name: value for name, value in load.items() if name in fields}
    return {name: value for name, value in load.items() if name not in fields}, generation


def set_generation_options(model: Any, name: str, options: Mapping[str, Any]) -> None:
    """Sets fields of the model's generation config.

    Raises:
        UsageError: a value that the generation config does not allow.
    """
    for field, value in options.items():
        if field in _FIXED:
            raise UsageError(f"load={{{field!r}: …}}: the measured call decides it, being greedy and of exact length")
        setattr(model.generation_config, field, value)
    try:
        model.generation_config.validate()
    except ValueError as error:
        raise UsageError(f"load={dict(options)!r} for {name}: {error}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No advice and no progress bars of transformers on a test's stderr; its errors still come."""
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _tokenizer(name: str, local_only: bool) -> Any:
    """The tokenizer, or None where the folder or repository has none: then prompts are token ids."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local_only)
    except (OSError, ValueError, ImportError, KeyError, TypeError):
        return None
    # Where only the config is there, some model types give a tokenizer that knows nothing but special tokens.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def _check_reachable(name: str) -> bool:
    """Whether to load from the cache only; raises at once where there is nothing to load from."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise TargetError(
                f"model={name!r}: the folder has no config.json; save a model there with model.save_pretrained()"
            )
        return True
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        there = "is no folder" if path.exists() else "does not exist"
        raise TargetError(f"model={name!r}: this path {there}; paths are relative to {Path.cwd()}")
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except errors.HFValidationError as error:
        raise TargetError(f"model={name!r}: neither a folder nor a valid Hub id ({error})") from error
    if constants.HF_HUB_OFFLINE:
        if not cached:
            raise TargetError(
                f"model={name!r}: not in the Hub's cache, and HF_HUB_OFFLINE is set; download it first, or use "
                f"random_weights(…)"
            )
        return True
    return _ask_hub(name, cached)


def _ask_hub(name: str, cached: bool) -> bool:
    try:
        HfApi().model_info(name, timeout=_PROBE_TIMEOUT_S)
    except errors.GatedRepoError as error:
        raise TargetError(f"model={name!r}: gated on the Hub; ask for access there, then set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise TargetError(
            f"model={name!r}: neither a local folder nor a model on the Hub (a private one needs HF_TOKEN)"
        ) from error
    except Exception as error:  # whatever the HTTP client raises where nothing answers
        if not cached:
            raise TargetError(
                f"model={name!r}: not in the Hub's cache, and the Hub cannot be reached ({type(error).__name__}); "
                f"check the network, or use random_weights(…)"
            ) from error
        return True
    return False


@contextmanager
def _explained(name: str, keywords: Mapping[str, Any]) -> Iterator[None]:
    """Turns transformers' errors on loading into one sentence that names the target."""
    try:
        with out_of_memory_as(f"model={name!r}: out of memory while loading; use a smaller dtype or model"):
            yield
    except LlmperfError:
        raise
    except Exception as error:  # transformers, its hub client and safetensors each raise classes of their own
        unknown = next((keyword for keyword in keywords if f"argument '{keyword}'" in str(error)), None)
        if unknown is None:
            raise TargetError(f"model={name!r}: {_reason(error)}") from error
        known = ("attn_implementation", "device_map", "dtype", "quantization_config", "revision", "tp_plan")
        raise UsageError(
            f"load={{{unknown!r}: …}}: not a keyword of from_pretrained{did_you_mean(unknown, known)}"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "does not recognize this architecture" in text:
        return f"transformers {transformers.__version__} does not know its architecture ({text.split('.')[0]})"
    if "Should have a `model_type`" in text or "Unrecognized model" in text:
        return "its config.json names no model_type that transformers knows"
    if "Unrecognized configuration class" in text:
        return "it is no causal language model"
    if "ignore_mismatched_sizes" in text:
        return "its weights have other shapes than its config says"
    return text if len(text) <= 300 else text[:297] + "…"
