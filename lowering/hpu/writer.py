"""A flat graph as a Python module that can be read, and that needs torch only."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from graphwright.ir.errors import UnsupportedError
from graphwright.ir.node import OpOverload, module_path, op_name, source_line, where
from graphwright.ir.targets import FUNCTIONS, target_name
from graphwright.lowering.hpu.hpu_ops import unfitted

_HEAD = '''"""{title}, for Intel Gaudi, at {sizes}.

Made by Graphwright; `run.py` in the folder above loads the weights and runs it.
"""

{imports}import torch

import hpu_ops

aten = torch.ops.aten
{operators}
WEIGHTS = {{
{weights}
}}


class Model(torch.nn.Module):
    """Tensors in, a tuple of tensors out; weights are buffers."""

    def __init__(self, tensors, device):
        super().__init__()
        self.place = torch.device(device)
        for name, key in WEIGHTS.items():
            self.register_buffer(name, tensors[key].to(device))

    def forward(self, {inputs}):
'''


def module_text(graph: Graph, title: str, sizes: str, weights: Mapping[str, str]) -> str:
    """The source of the module.

    Args:
        graph: From `flat_graph`.
        title: Name of the model.
        sizes: Its sizes, for the docstring.
        weights: Identifier -> name of the tensor in the file of weights.

    Raises:
        UnsupportedError: An argument has no form as source.
    """
    writer = _Writer()
    lines = [writer.line(node) for node in graph.nodes if node.op in ("call_function", "output")]
    head = _HEAD.format(
        title=title,
        imports="".join(f"import {name}\n" for name in sorted(writer.imports)) + ("\n" if writer.imports else ""),
        sizes=sizes or "the captured sizes",
        operators="".join(f'{local} = hpu_ops.find("{name}")\n' for name, local in writer.operators.items()),
        weights="\n".join(f"    {json.dumps(name)}: {json.dumps(key)}," for name, key in weights.items()),
        inputs=", ".join(node.name for node in graph.nodes if node.op == "placeholder"),
    )
    return head + "".join(f"        {line}\n" for line in lines)


class _Writer:
    """Source of nodes; remembers which of the vendor's operators are called."""

    def __init__(self) -> None:
        self.operators: dict[str, str] = {}
        self.imports: set[str] = set()
        self._path = ""

    def line(self, node: Node) -> str:
        if node.op == "output":
            values = ", ".join(self.text(value, node) for value in node.args[0])  # type: ignore[union-attr]
            return f"return ({values},)"
        text = f"{node.name} = {self._call(node)}"
        place = ", ".join(part for part in (module_path(node), source_line(node)) if part)
        note, self._path = (f"  # {place}" if place and place != self._path else ""), place
        return text + note

    def _call(self, node: Node) -> str:
        if node.target is operator.getitem:
            return f"{self.text(node.args[0], node)}[{self.text(node.args[1], node)}]"
        target: Any = node.target
        args, kwargs = list(node.args), dict(node.kwargs)
        if isinstance(target, OpOverload) and target.namespace == "hpu":
            args, added = unfitted(op_name(node).removeprefix("hpu."), args)
            kwargs |= added
        values = [self.text(value, node) for value in args]
        values += [f"{name}={self.text(value, node)}" for name, value in kwargs.items()]
        return f"{self._function(node)}({', '.join(values)})"

    def _function(self, node: Node) -> str:
        target: Any = node.target
        if not isinstance(target, OpOverload):
            name = target_name(target)
            if name not in FUNCTIONS:
                raise UnsupportedError(f"'{name}' has no form as source", at=where(node))
            name = name.replace("_operator.", "operator.").removeprefix("builtins.")
            self.imports |= {name.partition(".")[0]} & {"operator", "math"}
            return name
        if target.namespace == "hpu":
            name = op_name(node).removeprefix("hpu.")
            return self.operators.setdefault(name, "hpu_" + name.replace(".", "_"))
        text = str(target)
        return text if target.namespace == "aten" else f"torch.ops.{text}"

    def text(self, value: Any, node: Node) -> str:
        """An argument as source."""
        if isinstance(value, Node):
            return f"self.{value.target}" if value.op == "get_attr" else value.name
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self.text(item, node) for item in value)}]"
        if isinstance(value, torch.device):
            return "self.place"
        if isinstance(value, float) and value - value != 0:
            return f'float("{value}")'
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.layout, torch.memory_format)):
            return repr(value)
        raise UnsupportedError(f"an argument of type {type(value).__name__} has no form as source", at=where(node))
