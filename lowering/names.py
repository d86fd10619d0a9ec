"""Names of a program's inputs and outputs, as users of exported models know them.

| leaf | name |
|---|---|
| argument `input_ids` | `input_ids` |
| item 1 of the argument `features` | `features.1` |
| key of layer 0 of a cache argument | `past_key_values.0.key` |
| the same in the self / cross attention of an encoder-decoder | `past_key_values.0.decoder.key` / `.encoder.key` |
| key of layer 0 of a returned cache | `present.0.key` |
| field `logits` of a model output | `logits` |
| a bare tensor, item 1 of a bare tuple | `output`, `output_1` |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils import _pytree as pytree

Path = tuple[str | int, ...]

_LISTS = {"key_cache": "key", "value_cache": "value"}
_SIDES = {"self_attention_cache": "decoder", "cross_attention_cache": "encoder"}


def input_names(spec: pytree.TreeSpec, parameters: tuple[str, ...]) -> list[str]:
    """A name for each leaf of `(args, kwargs)`."""
    names = []
    for path in leaf_paths(spec):
        side, key, *rest = path
        first = parameters[int(key)] if side == 0 else key
        names.append(_join((first, *rest)))
    return names


def output_names(spec: pytree.TreeSpec, taken: set[str]) -> list[str]:
    """A name for each leaf of the result, different from the input names in `taken`."""
    names: list[str] = []
    for path in leaf_paths(spec):
        name = _join(path)
        if not path or isinstance(path[0], int):
            name = "_".join(["output", *name.split(".")]).rstrip("_")
        if name.startswith("past_key_values."):
            name = "present." + name.removeprefix("past_key_values.")
        names.append(f"{name}.out" if name in taken else name)
    return names


def leaf_paths(spec: pytree.TreeSpec, path: Path = ()) -> Iterator[Path]:
    """Keys and positions that lead to each leaf, in leaf order."""
    if spec.is_leaf():
        yield path
        return
    for key, child in zip(_keys(spec), spec.children(), strict=True):
        yield from leaf_paths(child, (*path, key))


def _keys(spec: pytree.TreeSpec) -> list[Any]:
    """Keys of a node's children: those of a mapping, a model output or a cache; else positions."""
    count = spec.num_children
    contexts = [spec.context, *(spec.context if isinstance(spec.context, (list, tuple)) else ())]
    for context in contexts:
        if isinstance(context, (list, tuple)) and len(context) == count and all(isinstance(k, str) for k in context):
            return list(context)
    return list(range(count))


def _join(path: tuple[Any, ...]) -> str:
    """Dotted name of a path; caches are named layer first, then key or value."""
    parts = list(path)
    kind = next((part for part in parts if part in _LISTS), None)
    if kind is not None:
        at = parts.index(kind)
        side = [_SIDES[part] for part in parts if part in _SIDES]
        head = [part for part in parts[:at] if part not in _SIDES]
        parts = [*head, *parts[at + 1 :], *side, _LISTS[kind]]
    elif len(parts) == 3 and parts[0] == "past_key_values" and parts[2] in (0, 1):
        parts[2] = ("key", "value")[parts[2]]
    return ".".join(map(str, parts))
