"""A model with transformers' `generate()`, measured through it.

The measured call, fixed because any change would invalidate stored baselines: greedy, `max_new_tokens=N`
with `eos_token_id=None` (asking for `min_new_tokens` instead adds 14 % to the TPOT of a 2 ms model),
attention mask and pad id given, the model's own choice of cache.

Arrivals come from a streamer: `generate()` copies every token to the host for it, and waits there for
each step in any case to learn whether to stop. Prefill begins when `prepare_inputs_for_generation` first
returns and ends when `_prefill` does, or where a transformers without it first calls a logits processor.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from pytest_llmperf.errors import MeasurementError, OutOfMemoryTargetError, UsageError
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets.device import Device, device_of, devices_of_model, place_of
from pytest_llmperf.targets.protocol import Clock, LoadOptions, Request, Rest, no_rest
from pytest_llmperf.targets.recorder import Recorder, StampingProcessor
from pytest_llmperf.targets.tensors import packed_bytes, storage_bytes, tensors_in
from pytest_llmperf.workloads import prompt_ids

_CALL: Mapping[str, Any] = {
    "input_ids": None,
    "attention_mask": None,
    "max_new_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""The measured call; what is None here is filled in per request, except `eos_token_id`, which stays None."""


class GenerateTarget:
    """A causal language model with `generate()`, and its tokenizer where it has one."""

    def __init__(self, name: str, model: Any, tokenizer: Any, device: Device) -> None:
        self.id = name
        self.model = model
        self.tokenizer = tokenizer
        self.device = devices_of_model(model, device)
        parameter = next(iter(model.parameters()), None)
        self.dtype = "unknown" if parameter is None else str(parameter.dtype).removeprefix("torch.")
        self._input_device = "cpu" if parameter is None else _input_device(model)
        self._special = _special_ids(model, tokenizer)
        self.positions = _learned_positions(model)

    def begin(self) -> None:
        # transformers sizes every static cache like the largest one this model ever had.
        vars(self.model).pop("_previous_max_cache_length", None)

    def request(self, workload: Workload, seed: int) -> Request:
        self._refuse_max_time()
        if refusal := self._refusal(streamer=None, logits_processor=None):
            raise UsageError(
                f"{self.id}: its generate() does not take what transformers' own does ({refusal}); wrap it as "
                f"stream(fn)"
            )
        if workload.prompt is not None:
            if self.tokenizer is None:
                raise UsageError(f"prompt=: {self.id} has no tokenizer; set prompt_tokens= for random token ids")
            self._check_length(len(self.tokenizer(workload.prompt)["input_ids"]), workload)
            return Request(workload, [workload.prompt] * workload.batch_size)
        self._check_length(workload.prompt_tokens, workload)
        try:
            ids = prompt_ids(workload, self._vocabulary(), self._special, seed)
        except UsageError as error:
            raise UsageError(f"{self.id}: {error}; give it a larger vocab_size, or other special ones") from None
        return Request(workload, self._on_device({"input_ids": torch.tensor(ids)}))

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        tokenize: float | Unknown = Trace.tokenize
        inputs = request.prompt
        if request.workload.prompt is not None:
            started = clock()
            inputs = self._tokenized(request)
            tokenize = clock() - started
        recorder = Recorder(clock, self.device, rest)
        with (
            self._out_of_memory(request.workload),
            self._beyond_positions(inputs, request.workload),
            recorder.watching(self.model) as processors,
        ):
            generate = self._call(inputs, request.workload, streamer=recorder, logits_processor=processors)
            sent = clock()
            output = generate()
        output = getattr(output, "sequences", output)  # a generation config may ask for a dictionary
        self._check_tokens(recorder, inputs, output, request.workload)
        detokenize: float | Unknown = Trace.detokenize
        if self.tokenizer is not None:
            started = clock()
            self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
            detokenize = clock() - started
        return Trace(
            sent,
            tuple(recorder.arrivals),
            prompt_tokens=inputs["input_ids"].shape[1],
            counts=() if set(recorder.counts) == {1} else tuple(recorder.counts),
            sequences=request.workload.batch_size,
            prefill=recorder.prefill_seconds(),
            tokenize=tokenize,
            detokenize=detokenize,
            device_arrivals=recorder.device_arrivals(),
            drafted=recorder.drafted,
        )

    def step_through(self, request: Request, mark: Callable[[], object]) -> None:
        inputs = self._inputs(request)
        with self._out_of_memory(request.workload), self._beyond_positions(inputs, request.workload):
            self._call(inputs, request.workload, logits_processor=[StampingProcessor(mark)])()

    def weights_bytes(self) -> int:
        return storage_bytes([*self.model.parameters(), *self.model.buffers()]) + packed_bytes(self.model)

    def kv_cache_bytes(self, request: Request) -> int | Unknown:
        if refusal := self._refusal(return_dict_in_generate=True):
            return Unknown(f"generate() of {self.id} returns no cache: {refusal}")
        inputs = self._inputs(request)
        with self._out_of_memory(request.workload):
            output = self._call(inputs, request.workload, return_dict_in_generate=True)()
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            cache = getattr(output, "cache_params", None)
        if cache is None:
            return Unknown(f"generate() of {self.id} returned no cache")
        return storage_bytes(tensors_in(cache))

    def _call(self, inputs: Mapping[str, torch.Tensor], workload: Workload, **extra: Any) -> Callable[[], Any]:
        """The measured call, with nothing left to work out when it is made."""
        own = {"max_new_tokens": workload.output_tokens, "pad_token_id": self._pad_token_id()}
        return functools.partial(self.model.generate, **{**_CALL, **inputs, **own, **self._no_minimum(), **extra})

    def _no_minimum(self) -> dict[str, None]:
        """A minimum in the model's own generation config would warn at every call, and decides nothing here."""
        config = getattr(self.model, "generation_config", None)
        return {name: None for name in ("min_new_tokens", "min_length") if getattr(config, name, None)}

    def _out_of_memory(self, workload: Workload) -> AbstractContextManager[None]:
        return out_of_memory_as(
            f"{self.id} ran out of memory on {self.device.name} serving {workload.batch_size} × "
            f"({workload.prompt_tokens} + {workload.output_tokens}) tokens; use a smaller batch_size or shorter "
            f"prompts and outputs"
        )

    def _check_tokens(
        self, recorder: Recorder, inputs: Mapping[str, torch.Tensor], output: torch.Tensor, workload: Workload
    ) -> None:
        made = output.shape[1] - inputs["input_ids"].shape[1]
        if made != workload.output_tokens or sum(recorder.counts) != workload.output_tokens:
            raise MeasurementError(
                f"{self.id} generated {made} tokens and streamed {sum(recorder.counts)}, where output_tokens="
                f"{workload.output_tokens} were asked for; a model that stops early is no fast model (does its "
                f"generate() heed max_new_tokens, eos_token_id=None and streamer?)"
            )

    @contextmanager
    def _beyond_positions(self, inputs: Mapping[str, torch.Tensor], workload: Workload) -> Iterator[None]:
        """An index beyond the model's positions is told as what it is; every other exception passes."""
        try:
            yield
        except (IndexError, RuntimeError) as error:
            most = getattr(_text_config(self.model), "max_position_embeddings", None)
            prompt_tokens = inputs["input_ids"].shape[1]
            if not isinstance(most, int) or prompt_tokens + workload.output_tokens - 1 <= most:
                raise
            if not re.search(r"out of (range|bounds)", str(error)):
                raise
            raise self._too_long(prompt_tokens, workload, most) from error

    def _refusal(self, **arguments: object) -> str | None:
        """Why `generate()` does not take these arguments beside those of the measured call; None if it does."""
        try:
            inspect.signature(self.model.generate).bind(**_CALL, **arguments)
        except TypeError as error:
            return str(error)
        except ValueError:  # no signature to be had
            return None
        return None

    def _check_length(self, prompt_tokens: int, workload: Workload) -> None:
        """Learned positions end somewhere, and on CUDA an index beyond them kills the process's context."""
        most = self.positions
        if most is not None and prompt_tokens + workload.output_tokens - 1 > most:  # the last token is not fed back
            raise self._too_long(prompt_tokens, workload, most)

    def _too_long(self, prompt_tokens: int, workload: Workload, most: int) -> UsageError:
        asked = f"prompt_tokens={prompt_tokens} + output_tokens={workload.output_tokens}"
        total = prompt_tokens + workload.output_tokens
        return UsageError(f"{asked} = {total}: {self.id} has positions for {most} tokens")

    def _refuse_max_time(self) -> None:
        if getattr(getattr(self.model, "generation_config", None), "max_time", None) is not None:
            raise UsageError(
                f"{self.id}: generation_config.max_time is set, which ends generation early and silently; "
                f"set it to None"
            )

    def _vocabulary(self) -> int:
        size = getattr(_text_config(self.model), "vocab_size", None)
        if size is None and hasattr(self.model, "get_input_embeddings"):
            size = self.model.get_input_embeddings().num_embeddings
        if size is None:
            raise UsageError(f"{self.id} does not say its vocabulary: give it a config.vocab_size, or use stream(fn)")
        return min(size, len(self.tokenizer)) if self.tokenizer is not None else int(size)

    def _pad_token_id(self) -> int:
        pad = getattr(_text_config(self.model), "pad_token_id", None)
        return pad if isinstance(pad, int) and 0 <= pad < self._vocabulary() else 0

    def _inputs(self, request: Request) -> Mapping[str, torch.Tensor]:
        ids: Mapping[str, torch.Tensor] = request.prompt
        return ids if request.workload.prompt is None else self._tokenized(request)

    def _tokenized(self, request: Request) -> dict[str, torch.Tensor]:
        return self._on_device(self.tokenizer(request.prompt, return_tensors="pt"))

    def _on_device(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = encoded["input_ids"].to(self._input_device)
        mask = encoded.get("attention_mask")
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids) if mask is None else mask.to(self._input_device),
        }


def adopt(module: Any, name: str, options: LoadOptions) -> GenerateTarget:
    """The user's module as a target, where it is and as it is.

    Raises:
        UsageError: options ask for another device, dtype or number of GPUs than it has, or for load options.
        DeviceMissingError: they ask for more GPUs than there are.
    """
    parameter = next(iter(module.parameters()), None)
    place = "cpu" if parameter is None else place_of(parameter)
    if place == "meta":
        raise UsageError(
            f"{name} is on the meta device, where weights hold nothing: load them, or use random_weights(…)"
        )
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        raise UsageError(f"{name} is an encoder-decoder model, which is not supported; wrap its loop as stream(fn)")
    if options.load:
        raise UsageError(f"load={dict(options.load)!r}: {name} is loaded already; build it as you want it measured")
    if options.device not in ("auto", place, place.partition(":")[0]):
        raise UsageError(f"device={options.device!r}: {name} is on {place}; move it before measuring")
    if options.dtype is not None and parameter is not None and f"torch.{options.dtype}" != str(parameter.dtype):
        raise UsageError(f"dtype={options.dtype!r}: {name} is in {parameter.dtype}; convert it before measuring")
    target = GenerateTarget(name, module, None, device_of(place))
    if options.gpus is not None:
        device_of("cuda", options.gpus)  # where there are fewer, that is the reason
        if sum(each.startswith("cuda") for each in target.device.names) != options.gpus:
            raise UsageError(f"gpus={options.gpus}: {name} lies on {target.device.name}; spread it before measuring")
    return target


_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
"""Of the CPU's allocator; of a driver (`CUDA error: out of memory`) and of mps; of cuBLAS and its like."""


@contextmanager
def out_of_memory_as(message: str) -> Iterator[None]:
    """Running out of memory inside raises an OutOfMemoryTargetError with this message instead."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryTargetError(message) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _SHORT_OF_MEMORY):
            raise
        raise OutOfMemoryTargetError(message) from error


def _text_config(model: Any) -> Any:
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", None)
    return text_config() if text_config is not None else config


def _learned_positions(model: Any) -> int | None:
    """How many positions the model has embeddings for, where they are learned and so end."""
    most = getattr(_text_config(model), "max_position_embeddings", None)
    if not isinstance(most, int):
        return None
    # OPT and its like keep two rows more than they have positions.
    words = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) and module is not words]
    sizes = {table.num_embeddings for table in tables}
    return most if sizes & {most, most + 1, most + 2} else None


def _input_device(model: Any) -> str:
    if hasattr(model, "get_input_embeddings"):
        try:
            return str(next(model.get_input_embeddings().parameters()).device)
        except (StopIteration, NotImplementedError, AttributeError):
            pass
    return str(next(model.parameters()).device)


def _special_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids = set(getattr(tokenizer, "all_special_ids", ()))
    config = _text_config(model)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        ids.update(value if isinstance(value, (list, tuple)) else [value])
    return frozenset(value for value in ids if isinstance(value, int))
