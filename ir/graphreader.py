"""A graph from JSON: nothing in the file is executed, and every type is inferred again and checked."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from graphwright.ir.encoding import decode, freeze
from graphwright.ir.errors import FileFormatError
from graphwright.ir.infer import fake_of, inference_scope
from graphwright.ir.memo import TypeMemo
from graphwright.ir.program import module_tree
from graphwright.ir.record import NodeRecord
from graphwright.ir.symbols import parse_size, parse_type
from graphwright.ir.targets import resolve_target
from graphwright.ir.typetext import type_text

_PATH = re.compile(r"[\w\-]+(\.[\w\-]+)*")
_DATA_SIZE = re.compile(r"\bu\d+\b")
_OPS = ("placeholder", "get_attr", "call_function", "output")


class GraphReader:
    """Builds graphs from what `GraphWriter` wrote.

    Args:
        mode: Mode for the types; its symbols are those in `sizes`.
        sizes: Dimension and symbol names -> symbolic sizes.
        names: Symbol -> name of the dimensions, for the types as text.
        tensors: The tensors that the graphs read.
        stacks: The module stacks that nodes refer to by number.
    """

    def __init__(
        self,
        mode: FakeTensorMode,
        sizes: Mapping[str, torch.SymInt],
        names: Mapping[str, str],
        tensors: Mapping[str, torch.Tensor],
        stacks: Sequence[Any],
    ) -> None:
        self.mode, self.sizes, self.names, self.tensors = mode, sizes, names, tensors
        self.memo = TypeMemo(mode)
        self.stacks = [_stack(entries) for entries in stacks]

    def graph(self, fields: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
        """A graph and its state.

        Raises:
            FileFormatError: A node is malformed, or its type is not the recorded one; names the node.
        """
        state = {name: self._state(entry) for name, entry in fields["state"].items()}
        graph = Graph()
        nodes: dict[str, Node] = {}
        values: dict[Node, Any] = {}
        for entry in fields["nodes"]:
            record = NodeRecord.from_json(entry["record"])
            try:
                node = _create(graph, record, nodes)
                value = self._value(node, record, entry, state, values)
                self._check(value, record)
            except FileFormatError as error:
                at = error.at or f"%{record.name}"
                raise FileFormatError(error.what, at=at, why=error.why, remedies=error.remedies) from error
            nodes[record.name], values[node] = node, value
            self._describe(node, record, entry, value)
        return graph, state

    def _state(self, entry: Mapping[str, Any]) -> Any:
        if "tensor" in entry:
            return self.tensors[entry["tensor"]]
        graph, state = self.graph(entry["graph"])
        return GraphModule(module_tree(state, graph), graph)

    def _value(
        self,
        node: Node,
        record: NodeRecord,
        entry: Mapping[str, Any],
        state: Mapping[str, Any],
        values: Mapping[Node, Any],
    ) -> Any:
        """The fake value of a node; a nested graph stands for itself."""
        if node.op == "placeholder":
            return self._input(record, entry)
        if node.op == "get_attr":
            if record.target not in state:
                raise FileFormatError(f"the node reads '{record.target}', which is not in the state")
            value = state[record.target]
            return fake_of(self.mode, value) if isinstance(value, torch.Tensor) else value
        if node.op == "output":
            return None
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        try:
            return self.memo.infer(node.target, args, kwargs)
        except Exception as error:
            raise FileFormatError(
                f"{record.target} does not accept its arguments", why=f"{type(error).__name__}: {error}"
            ) from error

    def _input(self, record: NodeRecord, entry: Mapping[str, Any]) -> Any:
        if "constant" in entry:
            return decode(freeze(entry["constant"]), {})
        if not record.type:
            return None
        with inference_scope(self.mode):
            value = parse_type(record.type, self.sizes)
            if "stride" not in entry:
                return value
            stride = [parse_size(step, self.sizes) for step in entry["stride"]]
            return torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device)

    def _check(self, value: Any, record: NodeRecord) -> None:
        """Compare the value's type with the recorded text."""
        found = "" if isinstance(value, GraphModule) else type_text(value, self.names)
        same = _without_numbers(found) == _without_numbers(record.type)
        if record.type and not same and not self._same_in_example(value, record.type):
            raise FileFormatError(
                f"the value has the type {found}, recorded is {record.type}",
                remedies=["capture the model again: the file was changed, or another version of torch wrote it"],
            )

    def _same_in_example(self, value: Any, text: str) -> bool:
        """Whether a type is the recorded one for the example's sizes; torch may write equal sizes in other ways."""
        with inference_scope(self.mode):
            recorded = parse_type(text, self.sizes)
        return type(recorded) is type(value) and type_text(_at_example(recorded), {}) == type_text(
            _at_example(value), {}
        )

    def _describe(self, node: Node, record: NodeRecord, entry: Mapping[str, Any], value: Any) -> None:
        if not isinstance(value, GraphModule) and (record.type or "constant" in entry or node.op == "call_function"):
            node.meta["val"] = value
        if "stack" in entry:
            node.meta["nn_module_stack"] = dict(self.stacks[entry["stack"]])
        if "frame" in entry:
            file, line, function = entry["frame"]
            text = f'File "{file}", line {int(line)}, in {function}'
            if not text.isprintable():
                raise FileFormatError("the source line of a node has control characters in it", at=f"%{record.name}")
            node.meta["stack_trace"] = f"{text}\n    \n"


def _without_numbers(text: str) -> str:
    """A type without the numbers of sizes that depend on data: torch counts them anew."""
    return _DATA_SIZE.sub("u", text)


def _at_example(value: Any) -> Any:
    """A value with the sizes of the example in place of symbols."""
    if isinstance(value, torch.SymInt):
        return int(value.node.hint)
    if isinstance(value, torch.Tensor):
        sizes = [_at_example(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    return value


def _create(graph: Graph, record: NodeRecord, nodes: Mapping[str, Node]) -> Node:
    """A node, after checking everything that fx writes into Python source."""
    names = [record.name, *(key for key, _ in record.kwargs)]
    if record.op == "placeholder":
        names.append(record.target)
    if record.op not in _OPS or not all(is_name(name) for name in names):
        raise FileFormatError("the node's kind, name or keywords are not valid")
    if record.op == "get_attr" and not _PATH.fullmatch(record.target):
        raise FileFormatError(f"'{record.target[:80]}' is not the name of a state")
    target = resolve_target(record.target) if record.op == "call_function" else record.target
    args = tuple(decode(value, nodes) for value in record.args)
    kwargs = {key: decode(value, nodes) for key, value in record.kwargs}
    node = graph.create_node(record.op, target, args, kwargs, name=record.name)
    if node.name != record.name:
        raise FileFormatError(f"two nodes are called '{record.name}', or the name is reserved")
    return node


def is_name(text: Any) -> bool:
    """Whether a text may be written into Python source as a name."""
    return isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text)


def _stack(entries: Any) -> dict[str, tuple[str, str]]:
    return {str(key): (str(path), str(cls)) for key, path, cls in entries}
