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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_llmperf.errors import MeasurementError, TargetError, UsageError
from pytest_llmperf.model import Trace, Unknown, Workload
from pytest_llmperf.targets.device import Device, Stamp, device_of, devices_of_model
from pytest_llmperf.targets.protocol import Clock, LoadOptions, Request
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
        ids = prompt_ids(workload, self._vocabulary(), self._special, seed)
        return Request(workload, self._on_device({"input_ids": torch.tensor(ids)}))

    def run(self, request: Request, clock: Clock) -> Trace:
        tokenize: float | Unknown = Trace.tokenize
        inputs = request.prompt
        if request.workload.prompt is not None:
            started = clock()
            inputs = self._on_device(self.tokenizer(request.prompt, return_tensors="pt"))
            tokenize = clock() - started
        recorder = _Recorder(clock, self.device)
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
        )

    def weights_bytes(self) -> int:
        return storage_bytes([*self.model.parameters(), *self.model.buffers()])

    def kv_cache_bytes(self, request: Request) -> int | Unknown:
        if refusal := self._refusal(return_dict_in_generate=True):
            return Unknown(f"generate() of {self.id} returns no cache: {refusal}")
        inputs = request.prompt
        if request.workload.prompt is not None:
            inputs = self._on_device(self.tokenizer(request.prompt, return_tensors="pt"))
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
        self, recorder: _Recorder, inputs: Mapping[str, torch.Tensor], output: torch.Tensor, workload: Workload
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
        most = _learned_positions(self.model)
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

    def _on_device(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = encoded["input_ids"].to(self._input_device)
        mask = encoded.get("attention_mask")
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids) if mask is None else mask.to(self._input_device),
        }


class _StepSignature:
    """Stands for a bound `__call__(input_ids, scores)`, its signature ready."""

    __signature__ = inspect.signature(lambda input_ids, scores: scores)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


class _StampingProcessor:
    """A logits processor that changes nothing and stamps every step.

    transformers asks for `inspect.signature(processor.__call__)` at every step: computed, it adds 30 % to the
    TPOT of a 1 ms model; ready-made, 0.8 %.
    """

    def __init__(self, stamp: Callable[[], None]) -> None:
        self._stamp = stamp
        self.__call__ = _StepSignature()  # type: ignore[method-assign]  # what transformers looks at, not what it calls

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._stamp()
        return scores


@dataclass
class _Recorder:
    """Watches one generation: a streamer for the host's view, stamps for the device's."""

    clock: Clock
    device: Device
    arrivals: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    _began: list[Stamp] = field(default_factory=list)
    _ended: list[Stamp] = field(default_factory=list)
    _steps: list[Stamp] = field(default_factory=list)
    _prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate()`: once with the prompt (B, P), then per step with tokens (B,) or (1, k)."""
        if not self._prompt_seen and value.ndim == 2:
            self._prompt_seen = True
            return
        self.arrivals.append(self.clock())
        self.counts.append(value.shape[1] if value.ndim == 2 else 1)

    def end(self) -> None:
        """No token: nothing to record."""

    @contextmanager
    def watching(self, model: Any) -> Iterator[list[_StampingProcessor]]:
        """Stamps where the prompt's forward pass begins and ends; gives the logits processors this takes.

        Only where the device has a clock of its own is every step worth a stamp.
        """
        stamp = functools.partial(self.device.stamp, self.clock)
        with (
            _stamped_once(model, "prepare_inputs_for_generation", self._began, stamp),
            _stamped_once(model, "_prefill", self._ended, stamp) as shows_prefill,
        ):
            each_step = _StampingProcessor(lambda: self._steps.append(stamp()))
            yield [] if shows_prefill and not self.device.has_own_clock else [each_step]

    def prefill_seconds(self) -> float | Unknown:
        ended = self._ended or self._steps
        return self.device.seconds(self._began[0], ended[0]) if self._began and ended else Trace.prefill

    def device_arrivals(self) -> tuple[float, ...]:
        if not self.device.has_own_clock or not self._began:
            return ()
        return tuple(self.device.seconds(self._began[0], step) for step in self._steps)


@contextmanager
def _stamped_once(model: Any, method: str, stamps: list[Stamp], stamp: Callable[[], Stamp]) -> Iterator[bool]:
    """Stamps when a method of the model first returns; gives whether it has that method.

    Forward hooks would do the same, but compilation traces them into its graphs.
    """
    original = getattr(model, method, None)
    if original is None:
        yield False
        return

    @functools.wraps(original)  # generate() reads the method's signature
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if not stamps:
            stamps.append(stamp())
        return result

    had = vars(model).get(method)
    setattr(model, method, wrapped)
    try:
        yield True
    finally:
        delattr(model, method)
        if had is not None:
            setattr(model, method, had)


def adopt(module: Any, name: str, options: LoadOptions) -> GenerateTarget:
    """The user's module as a target, where it is and as it is.

    Raises:
        UsageError: options ask for another device or dtype than it has, or for load options.
    """
    parameter = next(iter(module.parameters()), None)
    place = "cpu" if parameter is None else str(parameter.device)
    if options.load:
        raise UsageError(f"load={dict(options.load)!r}: {name} is loaded already; build it as you want it measured")
    if options.device not in ("auto", place, place.partition(":")[0]):
        raise UsageError(f"device={options.device!r}: {name} is on {place}; move it before measuring")
    if options.dtype is not None and parameter is not None and f"torch.{options.dtype}" != str(parameter.dtype):
        raise UsageError(f"dtype={options.dtype!r}: {name} is in {parameter.dtype}; convert it before measuring")
    return GenerateTarget(name, module, None, device_of(place))


@contextmanager
def out_of_memory_as(message: str) -> Iterator[None]:
    """Running out of memory inside raises a TargetError with this message instead."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TargetError(message) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what the CPU allocator raises
            raise
        raise TargetError(message) from error


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind the tensors, each counted once; tensors on `meta` hold none."""
    storages = {}
    for tensor in tensors:
        if tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            storages[(tensor.device, storage.data_ptr())] = storage.nbytes()
    return sum(storages.values())


def tensors_in(value: Any, _seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Every tensor inside a cache: its attributes, dictionaries and lists, however nested."""
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple, set)):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        inner = vars(value).values()
    else:
        return
    for item in inner:
        yield from tensors_in(item, seen)


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
