"""Which dimensions of which inputs are dynamic, and what they are called.

An *axis* is one dimension of one input leaf. Axes with the same name become one symbol; a name such as
`past_sequence+sequence` stands for the sum of two others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphwright.ir.errors import InputError

Leaves = list["dict[int, Axis]"]

_TOKENS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "inputs_embeds",
    "bbox",
    "global_attention_mask",
)
_SCALAR_TYPES = (type(...), tuple, torch.export.Dim, int, type(None))


@dataclass(frozen=True)
class Axis:
    """A dynamic dimension as it is wanted.

    Args:
        name: Name of the dimension.
        min: Smallest size wanted, None for whatever the model allows.
        max: Largest size wanted, None for whatever the model allows.
        shared: Whether axes of this name must have one size; otherwise the name is a suggestion.
        required: Whether it is an error when the model fixes the size.
    """

    name: str
    min: int | None = None
    max: int | None = None
    shared: bool = False
    required: bool = False


def parameter_leaves(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(parameter, leaf) in placeholder order."""
    values = [*zip(names, args, strict=False), *kwargs.items()]
    return [(name, leaf) for name, value in values for leaf in pytree.tree_leaves(value)]


def automatic(leaves: Iterable[tuple[str, Any]]) -> Leaves:
    """Every dimension dynamic as far as the model allows, named by convention."""
    leaves = list(leaves)
    sizes: dict[str, int] = {}
    axes = [_conventional(name, leaf, sizes) if isinstance(leaf, torch.Tensor) else {} for name, leaf in leaves]
    total = sizes.get("past_sequence", 0) + sizes.get("sequence", 0)
    for (name, leaf), found in zip(leaves, axes, strict=True):
        if name == "attention_mask" and "past_sequence" in sizes and leaf.dim() == 2 and leaf.shape[1] == total:
            found[1] = Axis("past_sequence+sequence", shared=True)
    return axes


def _conventional(parameter: str, leaf: torch.Tensor, sizes: dict[str, int]) -> dict[int, Axis]:
    """Names by convention; those of token and cache inputs are shared where the example's sizes agree."""
    axes = {}
    for i, size in enumerate(leaf.shape):
        name = conventional_name(parameter, leaf, i)
        known = (i < 2 and _known(parameter)) or is_cache(parameter, leaf)
        if not is_cache(parameter, leaf) or i in (0, 2):
            axes[i] = Axis(name, shared=known and sizes.setdefault(name, size) == size)
    return axes


def is_cache(parameter: str, leaf: torch.Tensor) -> bool:
    """Whether an input is a key or value of shape (batch, heads, sequence, head size)."""
    return parameter == "past_key_values" and leaf.dim() == 4


def _known(parameter: str) -> bool:
    return parameter.removeprefix("decoder_") in _TOKENS


def conventional_name(parameter: str, leaf: torch.Tensor, dim: int) -> str:
    """The usual name of a dimension: `batch`, `sequence`, `height`, ...; else parameter and number."""
    if dim == 0:
        return "batch"
    if is_cache(parameter, leaf) and dim == 2:
        return "past_sequence"
    if _known(parameter) and dim == 1:
        return "decoder_sequence" if parameter.startswith("decoder_") else "sequence"
    if parameter.startswith("pixel_values") and leaf.dim() >= 4 and dim >= leaf.dim() - 3:
        return ("channels", "height", "width")[dim - leaf.dim()]
    return f"{parameter}_{dim}"


def parse(dynamic: Any, leaves: Sequence[tuple[str, Any]], suggested: Leaves | None = None) -> Leaves:
    """The axes that a `dynamic` argument asks for, one mapping for each leaf.

    Args:
        dynamic: `"auto"`; None for static; `{parameter: {dimension: name}}`; or `{name: ...}`, which picks from the
            suggested names. A name may be `(name, min, max)` or a `torch.export.Dim`, and in the second form a value
            may be `...`, `(min, max)` or a `Dim`.
        leaves: (parameter, leaf) in placeholder order.
        suggested: What `"auto"` stands for.

    Raises:
        InputError: A parameter, dimension or name does not exist.
    """
    suggested = automatic(leaves) if suggested is None else suggested
    if dynamic is None:
        return [{} for _ in leaves]
    if isinstance(dynamic, str):
        if dynamic != "auto":
            raise InputError(f"dynamic='{dynamic}' is not known", remedies=["'auto', None, or a mapping of names"])
        return suggested
    if all(isinstance(value, _SCALAR_TYPES) for value in dynamic.values()) and not _names_tensor(dynamic, leaves):
        return _pick(dynamic, suggested)
    return _unshare(_by_parameter(dynamic, leaves), leaves)


def _unshare(axes: Leaves, leaves: Sequence[tuple[str, Any]]) -> Leaves:
    """Let go of equalities that nobody asked for and that the example does not keep."""
    sizes: dict[str, int] = {}
    return [
        {
            i: axis if axis.required else replace(axis, shared=sizes.setdefault(axis.name, size) == size)
            for i, axis in wanted.items()
            for size in [leaf.shape[i]]
        }
        for (_, leaf), wanted in zip(leaves, axes, strict=True)
    ]


def _names_tensor(dynamic: Mapping[str, Any], leaves: Sequence[tuple[str, Any]]) -> bool:
    """Whether the keys are parameters: `{"x": ("batch", None)}`."""
    return bool(dynamic) and {*dynamic} <= {name for name, _ in leaves}


def _pick(dynamic: Mapping[str, Any], suggested: Leaves) -> Leaves:
    wanted = {name: _axis(name, value) for name, value in dynamic.items()}
    available = {part for axes in suggested for axis in axes.values() for part in axis.name.split("+")}
    for name in wanted:
        if name not in available:
            raise InputError(
                f"no input has a dimension called '{name}'",
                why=f"the dimensions are {', '.join(sorted(available))}",
                remedies=["name it by input: dynamic={'" + "x': {0: '" + name + "'}}"],
            )
    return [{i: _picked(axis, wanted) for i, axis in axes.items() if _is_wanted(axis, wanted)} for axes in suggested]


def _is_wanted(axis: Axis, wanted: Mapping[str, Axis]) -> bool:
    return any(part in wanted for part in axis.name.split("+"))


def _picked(axis: Axis, wanted: Mapping[str, Axis]) -> Axis:
    return wanted.get(axis.name, axis)


def _axis(name: str, value: Any) -> Axis:
    """An axis from `...`, `(min, max)`, `(name, min, max)`, a `Dim`, or another name."""
    if value is ... or value is torch.export.Dim.AUTO or value is torch.export.Dim.DYNAMIC:
        return Axis(name, shared=True, required=value is not torch.export.Dim.AUTO)
    if isinstance(value, str):
        return Axis(value, shared=True, required=True)
    if isinstance(value, torch.export.Dim):
        high = int(value.max) if str(value.max).isdigit() else None
        return Axis(value.__name__, int(value.min) or None, high, shared=True, required=True)
    if isinstance(value, tuple) and len(value) in (2, 3):
        if len(value) == 3:
            name, *value = value
        if isinstance(name, str) and all(bound is None or isinstance(bound, int) for bound in value):
            return Axis(name, value[0], value[1], shared=True, required=True)
    raise InputError(
        f"{value!r} does not describe a dynamic dimension",
        remedies=["'name', ('name', min, max), a torch.export.Dim, or ..."],
    )


def _by_parameter(dynamic: Mapping[str, Any], leaves: Sequence[tuple[str, Any]]) -> Leaves:
    parameters = {name for name, _ in leaves}
    for name in dynamic:
        if name not in parameters:
            raise InputError(
                f"dynamic names the input '{name}', which the call does not have",
                why=f"the inputs are {', '.join(sorted(parameters))}",
            )
    return [_of_leaf(name, dynamic.get(name), leaf) for name, leaf in leaves]


def _of_leaf(parameter: str, spec: Any, leaf: Any) -> dict[int, Axis]:
    if spec is None or not isinstance(leaf, torch.Tensor):
        return {}
    items = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    axes = {}
    for dim, value in items:
        if value is None or value is torch.export.Dim.STATIC:
            continue
        if not isinstance(dim, int) or not -leaf.dim() <= dim < leaf.dim():
            raise InputError(f"input '{parameter}' has {leaf.dim()} dimensions, dynamic names dimension {dim!r}")
        position = dim % leaf.dim()
        axes[position] = _axis(conventional_name(parameter, leaf, position), value)
    return axes


def only(axes: Leaves, names: Iterable[str]) -> Leaves:
    """The axes with one of these names."""
    kept = set(names)
    return [{i: axis for i, axis in leaf.items() if axis.name in kept} for leaf in axes]
