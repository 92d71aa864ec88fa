"""One model over several GPUs, each of which holds a part of it."""

from __future__ import annotations

from typing import Any

from pytest_llmperf.errors import OutOfMemoryTargetError, TargetError
from pytest_llmperf.targets.device import Cuda, Device


def placement(device: Device) -> dict[str, Any]:
    """Keywords with which `from_pretrained` puts a model there, and nowhere else."""
    if isinstance(device, Cuda) and len(device.names) > 1:
        return {"device_map": "auto", "max_memory": device.max_memory()}
    return {"device_map": device.name}


def dispatch(model: Any, name: str, device: Cuda) -> None:
    """Moves a whole model from the CPU onto GPUs, in equal parts.

    A model on `meta` would not do: its buffers, such as the frequencies of rotary embeddings, have no values to move.

    Raises:
        TargetError: accelerate is not installed, or the model does not fit.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise TargetError(f"{name}: several GPUs need accelerate: pip install accelerate") from error
    undivided = list(model._no_split_modules or ())
    room = get_balanced_memory(model, device.max_memory(), no_split_module_classes=undivided)
    places = infer_auto_device_map(model, room, no_split_module_classes=undivided)
    if "disk" in places.values():
        raise OutOfMemoryTargetError(f"{name}: does not fit onto {device.name}; use a smaller dtype or more GPUs")
    dispatch_model(model, places, skip_keys=model._skip_keys_device_placement)


def check_spread(name: str, device: Device, gpus: int | None) -> None:
    """Whether as many GPUs hold the model as the test asked for, where it did.

    Raises:
        TargetError: fewer do.
    """
    if gpus is not None and len(device.names) < gpus:
        raise TargetError(f"gpus={gpus}: {name} came to lie on {device.name} alone, with too few layers to spread")
