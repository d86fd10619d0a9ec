"""Recognising the same thing in another place: canonical forms of node groups, repeated layers, collapsed paths."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from graphwright.ir.encoding import Encoded, substitute
from graphwright.ir.record import NodeRecord
from graphwright.ir.snapshot import Snapshot

_INDEX = re.compile(r"(?<![^.])\d+(?![^.])")


def wildcard(path: str) -> str:
    """A dotted path with each index replaced by `#`: `layer.3.attention` -> `layer.#.attention`."""
    return _INDEX.sub("#", path)


def canonical_form(records: Iterable[NodeRecord]) -> Hashable:
    """What a group of nodes does, without their names and layer indices.

    Equal for groups that are isomorphic in this order: nodes inside are numbered, values from outside are numbered by
    first use, and indices in module paths and state names are wildcards.
    """
    numbers: dict[str, str] = {}
    group = list(records)
    inside = {record.name: f"n{i}" for i, record in enumerate(group)}

    def number(name: str) -> Encoded:
        return inside.get(name) or numbers.setdefault(name, f"x{len(numbers)}")

    return tuple(
        (
            record.op,
            wildcard(record.target) if record.op == "get_attr" else record.target,
            tuple([substitute(value, number) for value in record.args]),
            tuple([(key, substitute(value, number)) for key, value in record.kwargs]),
            record.type,
            wildcard(record.path),
        )
        for record in group
    )


def collapse(paths: Sequence[str]) -> list[str]:
    """Paths with varying indices written as one: `layer.{0..11}.attention`.

    Paths that do not fill the whole product of their index ranges are written one by one.
    """
    groups: dict[str, dict[str, None]] = {}
    for path in paths:
        groups.setdefault(wildcard(path), {})[path] = None
    return [text for pattern, group in groups.items() for text in _collapse_group(pattern, list(group))]


def _collapse_group(pattern: str, paths: list[str]) -> list[str]:
    columns = [sorted({int(i) for i in column}) for column in zip(*(_INDEX.findall(p) for p in paths), strict=True)]
    if len(list(product(*columns))) != len(paths):
        return paths
    texts = iter(_braces(column) for column in columns)
    return [re.sub("#", lambda _: next(texts), pattern)]


def _braces(numbers: list[int]) -> str:
    """`3`, `{0..11}`, `{0,2,5}`, `{0..2,7}`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return parts[0] if len(numbers) == 1 else "{" + ",".join(parts) + "}"


@dataclass(frozen=True)
class LayerGroup:
    """Repeated layers that do the same.

    Args:
        paths: Module paths of the layers, in execution order.
        nodes: Number of nodes in each.
    """

    paths: tuple[str, ...]
    nodes: int

    @property
    def pattern(self) -> str:
        """All paths as one: `encoder.layer.{0..11}`."""
        return ", ".join(collapse(self.paths))


def repeated_layers(snapshot: Snapshot) -> list[LayerGroup]:
    """Outermost modules in numbered lists (`encoder.layer.3`) that occur more than once with the same content."""
    layers: dict[str, list[NodeRecord]] = {}
    for record in snapshot.nodes:
        layer = _layer_of(record.path)
        if layer:
            layers.setdefault(layer, []).append(record)
    groups: dict[Hashable, list[str]] = {}
    for path, records in layers.items():
        groups.setdefault((wildcard(path), canonical_form(records)), []).append(path)
    return [LayerGroup(tuple(paths), len(layers[paths[0]])) for paths in groups.values() if len(paths) > 1]


def _layer_of(path: str) -> str:
    """The path up to its first index, `""` if it has none."""
    found = _INDEX.search(path)
    return path[: found.end()] if found else ""
