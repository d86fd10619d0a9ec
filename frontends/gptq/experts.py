"""Experts in GPTQ files: one linear each, as `experts.3.gate_proj`, where transformers has one tensor for all of them.

| transformers | in the file |
|---|---|
| `experts.gate_up_proj` [E, 2 N, K] | `experts.{e}.gate_proj`, `experts.{e}.up_proj` (or `w1`, `w3`) |
| `experts.down_proj` [E, N, K] | `experts.{e}.down_proj` (or `w2`) |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graphwright.frontends.gptq.module import PackedLinear
from graphwright.ir.errors import FileFormatError
from graphwright.ir.packed import PackedWeight

PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_OTHER_NAMES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_STORED = re.compile(r"(.+\.experts)\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)")


class PackedExperts(PackedLinear):
    """The packed weights of all experts of a layer, one below the other.

    Args:
        packed: [E * N, K].
        experts: E.
        dtype: Of the weights that are computed; it changes with the model's.
    """

    like: Tensor

    def __init__(self, packed: PackedWeight, experts: int, dtype: torch.dtype) -> None:
        super().__init__(packed)
        self.experts = experts
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weights [E, N, K], computed at each access."""
        return self.packed.dequantize().to(self.like.dtype).unflatten(0, (self.experts, -1))


def are_storable(model: nn.Module) -> bool:
    """Whether all experts of a model have the form of the table above."""
    modules = [module for name, module in model.named_modules() if name.endswith(".experts")]
    plain = {"has_gate": True, "is_transposed": False, "has_bias": False, "is_concatenated": True}
    return all(getattr(module, name, value) is value for module in modules for name, value in plain.items())


def split_experts(model: nn.Module, weights: Mapping[str, PackedWeight]) -> dict[str, PackedWeight]:
    """Weights by the names of the file, given those by the names of the model.

    Raises:
        FileFormatError: The experts of the model have another form.
    """
    found: dict[str, PackedWeight] = {}
    for path, packed in weights.items():
        parent, _, name = path.rpartition(".")
        if name not in PARTS or not parent.endswith(".experts"):
            found[path] = packed
            continue
        if not are_storable(model):
            raise FileFormatError("a checkpoint cannot hold these experts", at=path, remedies=["save the program"])
        parts = PARTS[name]
        for i, rows in enumerate(_chunks(packed, len(parts) * _experts(model, path))):
            found[f"{parent}.{i // len(parts)}.{parts[i % len(parts)]}"] = rows
    return found


def join_experts(model: nn.Module, weights: Mapping[str, PackedWeight]) -> dict[str, PackedWeight]:
    """Weights by the names of the model; experts that are modules of it, and all other linears, are left as they are.

    Raises:
        FileFormatError: An expert is missing, or they do not fit each other.
    """
    found: dict[str, PackedWeight] = {}
    experts: dict[str, dict[tuple[int, str], PackedWeight]] = {}
    for path, packed in weights.items():
        path, stored = model_name(model, path), _STORED.fullmatch(path)
        if stored is None or _has(model, path):
            found[path] = packed
        else:
            part = _OTHER_NAMES.get(stored[3], stored[3])
            experts.setdefault(model_name(model, stored[1]), {})[int(stored[2]), part] = packed
    for parent, parts in experts.items():
        for name, members in PARTS.items():
            order = [(e, part) for e in range(_experts(model, f"{parent}.{name}")) for part in members]
            missing = [f"{parent}.{e}.{part}" for e, part in order if (e, part) not in parts]
            if missing:
                raise FileFormatError(f"{len(missing)} quantized experts are missing", at=missing[0])
            found[f"{parent}.{name}"] = _joined([parts[key] for key in order], f"{parent}.{name}")
    return found


def model_name(model: nn.Module, name: str) -> str:
    """The name in the model of a tensor or module: earlier versions had another one for the block of experts."""
    block, mark, rest = name.partition(".block_sparse_moe.")
    return f"{block}.mlp.{rest}" if mark and not _has(model, f"{block}.block_sparse_moe") else name


def place_experts(model: nn.Module, path: str, packed: PackedWeight) -> str:
    """Let the experts read packed weights in the place of a parameter; the path of the module that holds them.

    Raises:
        FileFormatError: The parameter has another size.
    """
    parent, _, name = path.rpartition(".")
    module, experts = model.get_submodule(parent), _experts(model, path)
    old: Any = getattr(module, name)
    if (experts * old.shape[1], old.shape[2]) != (packed.scales.shape[0], packed.inputs):
        raise FileFormatError(f"the experts '{path}' have another size", why=f"they are {tuple(old.shape)}")
    delattr(module, name)
    module.add_module(f"packed_{name}", PackedExperts(packed, experts, old.dtype))
    read = property(lambda self: getattr(self, f"packed_{name}").weight)
    module.__class__ = type(type(module).__name__, (type(module),), {name: read})
    return f"{parent}.packed_{name}"


def is_experts(model: nn.Module, path: str) -> bool:
    """Whether the experts of a layer have their weights at a path."""
    parent, _, name = path.rpartition(".")
    return name in PARTS and parent.endswith(".experts") and not _has(model, path)


def _experts(model: nn.Module, path: str) -> int:
    """How many there are."""
    parent, _, name = path.rpartition(".")
    value = getattr(model.get_submodule(parent), name, None) if _has(model, parent) else None
    if not isinstance(value, Tensor) or value.dim() != 3:
        raise FileFormatError("the model has no experts of this name in one tensor", at=path)
    return len(value)


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _chunks(packed: PackedWeight, count: int) -> list[PackedWeight]:
    """The outputs in so many parts."""
    zeros = [None] * count if packed.zeros is None else packed.zeros.chunk(count)
    parts = zip(packed.weight.chunk(count), packed.scales.chunk(count), zeros, strict=True)
    return [replace(packed, weight=weight, scales=scales, zeros=zero) for weight, scales, zero in parts]


def _joined(parts: Sequence[PackedWeight], path: str) -> PackedWeight:
    """Weights one below the other."""
    first = parts[0]
    forms = {(part.bits, part.group_size, part.inputs, part.scales.shape) for part in parts}
    if len(forms) > 1 or any(part.group_index is not None for part in parts):
        raise FileFormatError("experts differ in bits or sizes, or have scattered groups", at=path)
    middle = torch.full(first.scales.shape, 2 ** (first.bits - 1), dtype=torch.uint8)
    zeros = [middle if part.zeros is None else part.zeros for part in parts]
    return replace(
        first,
        weight=torch.cat([part.weight for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=None if all(part.zeros is None for part in parts) else torch.cat(zeros),
    )
