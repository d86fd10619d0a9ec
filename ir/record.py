"""Immutable records: of one node, and of one rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from graphwright.ir.encoding import Encoded, encode, freeze, references
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.node import module_path, source_line, where
from graphwright.ir.targets import target_name
from graphwright.ir.typetext import type_text


@dataclass(frozen=True)
class NodeRecord:
    """One node as data, hashable and free of references to the graph.

    Args:
        name: Name of the node, unique in its program.
        op: fx opcode: `placeholder`, `get_attr`, `call_function`, `output`.
        target: Stable name of the op, the state, or the input.
        args: Encoded positional arguments.
        kwargs: Encoded keyword arguments, as (name, value) pairs.
        type: Type of the value, such as `f32[batch,12,sequence,64]`.
        path: Path of the module it came from, `""` for the model itself.
        source: Source line it came from, such as `modeling_bert.py:192`.
    """

    name: str
    op: str
    target: str
    args: tuple[Encoded, ...]
    kwargs: tuple[tuple[str, Encoded], ...]
    type: str
    path: str
    source: str

    @property
    def operation(self) -> str:
        """Short name of what the node does: `softmax.int`, `linear`, `getitem`, `get_attr`."""
        if self.op != "call_function":
            return self.op
        short = self.target.removeprefix("aten.").removesuffix(".default")
        return short.rpartition(".")[2] if short.startswith(("_operator.", "math.", "higher_order.")) else short

    def inputs(self) -> list[str]:
        """Names of the nodes it uses, in argument order, repeats included."""
        return [name for value in (*self.args, *(v for _, v in self.kwargs)) for name in references(value)]

    def to_json(self) -> list[Any]:
        """The fields as a JSON-able list."""
        return [self.name, self.op, self.target, self.args, self.kwargs, self.type, self.path, self.source]

    @staticmethod
    def from_json(fields: Any) -> NodeRecord:
        """Read what `to_json` gave, also after a trip through a JSON file.

        Raises:
            FileFormatError: It is not a record.
        """
        try:
            name, op, target, args, kwargs, type_, path, source = fields
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"not the record of a node: {str(fields)[:80]}") from error
        texts = (name, op, target, type_, path, source)
        pairs = isinstance(kwargs, (list, tuple)) and all(isinstance(k, (list, tuple)) and len(k) == 2 for k in kwargs)
        if not all(isinstance(text, str) for text in texts) or not isinstance(args, (list, tuple)) or not pairs:
            raise FileFormatError(f"not the record of a node: {str(fields)[:80]}")
        return NodeRecord(name, op, target, freeze(args), freeze(kwargs), type_, path, source)


def node_record(node: Node, dim_names: Mapping[str, str]) -> NodeRecord:
    """Record a node; about 10 microseconds.

    Args:
        node: The node.
        dim_names: Symbol -> name of the dynamic dimensions, for the type.

    Raises:
        GraphwrightError: An argument is of a kind that programs cannot hold; names the node.
    """
    try:
        args = tuple([encode(value) for value in node.args])
        kwargs = tuple([(name, encode(value)) for name, value in node.kwargs.items()])
    except GraphwrightError as error:
        raise GraphwrightError(error.what, at=where(node), why=error.why, remedies=error.remedies) from None
    type_ = type_text(node.meta.get("val"), dim_names)
    return NodeRecord(
        node.name, node.op, target_name(node.target), args, kwargs, type_, module_path(node), source_line(node)
    )


@dataclass(frozen=True)
class Rewrite:
    """One committed site of a rule: what went, what came, and which value stands for which.

    A node that is edited in place is in both `removed` and `added`, under the same name.

    Args:
        pass_name: Name of the pass.
        rule: Name of the rule.
        site: Module path of the site.
        source: Source line of the site.
        removed: Nodes erased, in graph order.
        added: Nodes created, in order of creation.
        replaced: (old value, new value) pairs by node name; a new value may be a number.
    """

    pass_name: str
    rule: str
    site: str
    source: str
    removed: tuple[NodeRecord, ...] = ()
    added: tuple[NodeRecord, ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON-able dictionary."""
        fields = {name: getattr(self, name) for name in ("pass_name", "rule", "site", "source", "replaced")}
        return fields | {
            "removed": [record.to_json() for record in self.removed],
            "added": [record.to_json() for record in self.added],
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Rewrite:
        """Read what `to_json` gave.

        Raises:
            FileFormatError: It is not a rewrite.
        """
        try:
            return Rewrite(
                pass_name=str(fields["pass_name"]),
                rule=str(fields["rule"]),
                site=str(fields["site"]),
                source=str(fields["source"]),
                removed=tuple(NodeRecord.from_json(record) for record in fields["removed"]),
                added=tuple(NodeRecord.from_json(record) for record in fields["added"]),
                replaced=tuple((str(old), str(new)) for old, new in fields["replaced"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"not the record of a rewrite: {str(fields)[:80]}") from error
