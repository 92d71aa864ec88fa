"""Storages are sized once each, wherever their tensors hide."""

from __future__ import annotations

import torch

from pytest_llmperf.targets.tensors import storage_bytes, tensors_in


def test_storages_are_counted_once_and_whole():
    base = torch.zeros(100)
    assert storage_bytes([base, base[:10], base.view(10, 10)]) == 400
    assert storage_bytes([base[:10]]) == 400, "a view holds all of its storage"
    assert storage_bytes([torch.zeros(5, device="meta")]) == 0


def test_of_a_tensor_spread_over_processes_only_what_lies_here_is_sized():
    class Spread:
        """As a DTensor is: without a storage of its own."""

        device = torch.device("cpu")

        def to_local(self):
            return torch.zeros(7)

    assert storage_bytes([Spread()]) == 28


def test_tensors_are_found_however_nested_and_cycles_end():
    class Layer:
        def __init__(self, tensor):
            self.keys, self.other = tensor, {"a": [torch.ones(1), None], 3: (torch.ones(2), "text")}
            self.module = torch.nn.Linear(3, 3)

    layer = Layer(torch.ones(3))
    layer.itself = layer
    assert sorted(tensor.numel() for tensor in tensors_in([layer, {0: layer}])) == [1, 2, 3]
