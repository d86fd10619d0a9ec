"""Immutable, serialisable pictures of programs, and their structural fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import torch
from torch.fx import GraphModule, Node

from graphwright.ir.encoding import Encoded, encode, substitute
from graphwright.ir.errors import FileFormatError
from graphwright.ir.program import Dim, Program
from graphwright.ir.record import NodeRecord, node_record
from graphwright.ir.targets import resolve_target, target_name
from graphwright.ir.typetext import tensor_text, type_text

Structure = tuple[str, str, str, tuple[Encoded, ...], tuple[tuple[str, Encoded], ...], str]


@dataclass(frozen=True)
class StateRecord:
    """One entry of a program's state: its name, its type as text, and its size in bytes."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """A program at one moment.

    Args:
        name: Name of the program.
        nodes: Its nodes in execution order; the last is the output.
        state: Its state by name, sorted.
        dims: Its dynamic dimensions.
    """

    name: str
    nodes: tuple[NodeRecord, ...]
    state: tuple[StateRecord, ...] = ()
    dims: tuple[Dim, ...] = ()

    @staticmethod
    def of(program: Program) -> Snapshot:
        """Picture of a program; about 10 microseconds a node."""
        names = program.dim_names()
        nodes = tuple(node_record(node, names) for node in program.graph.nodes)
        state = tuple(_state_record(name, program.state[name]) for name in sorted(program.state))
        return Snapshot(program.name, nodes, state, program.dims)

    @cached_property
    def by_name(self) -> Mapping[str, NodeRecord]:
        """The nodes by name."""
        return {record.name: record for record in self.nodes}

    @cached_property
    def fingerprint(self) -> str:
        """The same as `fingerprint(program)` of the pictured program."""
        return _fingerprint((r.name, r.op, r.target, r.args, r.kwargs, r.type) for r in self.nodes)

    @property
    def outputs(self) -> list[str]:
        """Names of the nodes that are results."""
        return self.nodes[-1].inputs() if self.nodes else []

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "name": self.name,
            "dims": [asdict(dim) for dim in self.dims],
            "state": [[record.name, record.type, record.bytes] for record in self.state],
            "nodes": [record.to_json() for record in self.nodes],
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Snapshot:
        """Read what `to_json` gave, also after a trip through a JSON file.

        Raises:
            FileFormatError: It is not a snapshot.
        """
        try:
            return Snapshot(
                str(fields["name"]),
                tuple(NodeRecord.from_json(record) for record in fields["nodes"]),
                tuple(StateRecord(str(name), str(type_), int(size)) for name, type_, size in fields["state"]),
                tuple(Dim(**dim) for dim in fields["dims"]),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FileFormatError("not a snapshot of a program", why=f"{type(error).__name__}: {error}") from error


def _state_record(name: str, value: Any) -> StateRecord:
    if isinstance(value, torch.Tensor):
        return StateRecord(name, tensor_text(value, {}), value.numel() * value.element_size())
    if isinstance(value, GraphModule):
        return StateRecord(name, f"graph {_graph_fingerprint(value.graph.nodes, {})[:12]}", 0)
    return StateRecord(name, type(value).__name__, 0)


def fingerprint(program: Program) -> str:
    """Hash of a program's structure.

    Two programs with equal fingerprints do the same operations on the same state and inputs. Names of nodes do not
    count, nor does the order of nodes that do not depend on each other, unless some op writes to memory.

    Returns:
        32 hexadecimal digits, the same in every process.
    """
    graphs = [
        f"{name}:{_graph_fingerprint(value.graph.nodes, program.dim_names())}"
        for name, value in sorted(program.state.items())
        if isinstance(value, GraphModule)
    ]
    nodes = _graph_fingerprint(program.graph.nodes, program.dim_names())
    return _digest("|".join([nodes, *graphs])) if graphs else nodes


def _graph_fingerprint(nodes: Iterable[Node], names: Mapping[str, str]) -> str:
    return _fingerprint(_structure(node, names) for node in nodes)


def _structure(node: Node, names: Mapping[str, str]) -> Structure:
    args = tuple([encode(value) for value in node.args])
    kwargs = tuple([(key, encode(value)) for key, value in node.kwargs.items()])
    return node.name, node.op, target_name(node.target), args, kwargs, type_text(node.meta.get("val"), names)


def _fingerprint(nodes: Iterable[Structure]) -> str:
    """Hash each node with the hashes of what it uses, then all of them, sorted where order is free."""
    digests: dict[str, str] = {}

    def known(name: str) -> str:
        return digests.get(name, name)

    inputs, ordered = 0, False
    for name, op, target, args, kwargs, type_ in nodes:
        if op == "placeholder":
            target, inputs = str(inputs), inputs + 1
        uses = [substitute(value, known) for value in args]
        named = sorted((key, substitute(value, known)) for key, value in kwargs) if kwargs else ()
        digests[name] = _digest(f"{op} {target} {uses} {named} {type_}")
        ordered = ordered or (op == "call_function" and _mutates(target))
    values = digests.values()
    return _digest(" ".join(values if ordered else sorted(values)))


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=4096)
def _mutates(target: str) -> bool:
    try:
        schema = getattr(resolve_target(target), "_schema", None)
    except FileFormatError:
        return False
    return schema is not None and bool(schema.is_mutable)
