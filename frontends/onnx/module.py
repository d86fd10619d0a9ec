"""An ONNX graph as a torch module that executes it operator by operator, so that torch.export can capture it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch

from graphwright.frontends.onnx import (  # noqa: F401  (each registers its operators)
    attention,
    elementwise,
    images,
    indexing,
    microsoft,
    normalization,
    products,
    reductions,
    shapes,
)  # fmt: skip
from graphwright.frontends.onnx.inputs import nested
from graphwright.frontends.onnx.known import KNOWN
from graphwright.frontends.onnx.quantization import packed_weight
from graphwright.frontends.onnx.table import TABLE, Call
from graphwright.frontends.onnx.values import Known, number, tensor
from graphwright.frontends.onnx.weights import Transposed, as_known, as_tensor, only_right_operand
from graphwright.ir.errors import CaptureError, GraphwrightError


class OnnxNode(torch.nn.Module):
    """One node. It is a module so that torch.export records which node an operator comes from."""

    def __init__(self, node: ir.Node, opset: int, index: int, source: str) -> None:
        super().__init__()
        self.node, self.index = node, index
        where = f"{source}: node {index} '{node.name or ''}' ({node.op_type})"
        self.call = Call(node, opset, where)
        self.operator = TABLE.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))

    def forward(self, *inputs: Any) -> Any:
        """Execute the node: with known numbers where all inputs are, else with tensors."""
        try:
            if inputs and all(value is None or isinstance(value, Known) for value in inputs):
                rule = KNOWN.get(self.node.op_type)
                result = None if rule is None or self.node.domain else rule(self.call, *inputs)
                if result is not None:
                    return self._checked(result)
            if self.operator is None:
                raise self.call.unsupported("it depends on the values of the inputs")
            return self._checked(self.operator(self.call, *inputs))
        except GraphwrightError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AssertionError) as error:
            raise CaptureError(
                f"cannot execute {self.node.op_type}", at=self.call.where, why=f"{type(error).__name__}: {error}"
            ) from error

    def _checked(self, result: Any) -> Any:
        self.call.check_read()
        return result


class OnnxModule(torch.nn.Module):
    """A whole graph. `forward` takes the inputs and returns the outputs by name, dotted names as nested mappings."""

    def __init__(self, model: ir.Model, source: str, constants: Mapping[str, Any]) -> None:
        super().__init__()
        self._model, self._source = model, source
        self._fixed: dict[str, Any] = {name: Known.of(value, torch.bool) for name, value in constants.items()}
        self.inputs = [value for value in model.graph.inputs if value.name not in constants and not _is_weight(value)]
        self._values: dict[ir.Value, Any] = {}
        self._states: dict[ir.Value, str] = {}
        self._packed: dict[ir.Node, Any] = {}
        self._weights = torch.nn.Module()
        self.nodes = torch.nn.ModuleList()
        self._runs: dict[ir.Node, OnnxNode] = {}
        for index, node in enumerate(model.graph.all_nodes()):
            opset = model.opset_imports.get("" if node.domain == "ai.onnx" else node.domain, 1)
            self._runs[node] = OnnxNode(node, opset, index, source)
            self.nodes.append(self._runs[node])
        self._load()

    # ---- constants ---------------------------------------------------------------------------

    def _load(self) -> None:
        graphs = [self._model.graph, *(graph for graph in self._model.graph.subgraphs())]
        for graph in dict.fromkeys(graphs):
            for value in graph.initializers.values():
                if value.uses() or value.is_graph_output():
                    self._hold(value)
        self._pack()

    def _hold(self, value: ir.Value) -> None:
        data = value.const_value
        assert data is not None
        known = as_known(data)
        if known is not None:
            self._values[value] = known
            return
        array = as_tensor(data)
        if only_right_operand(value) and array.dim() == 2:
            array = array.t()
        self._states[value] = self._register(value.name or "weight", array, trained=not _is_statistic(value))

    def _register(self, name: str, array: torch.Tensor, trained: bool = False) -> str:
        """Put a tensor into the tree of modules that its dotted name says, as a parameter or as a buffer."""
        *path, leaf = [re.sub(r"\W+", "_", part) or "_" for part in name.strip("./").replace("/", ".").split(".")]
        holder, taken = self._weights, ["_weights"]
        for part in path:
            while part not in holder._modules and hasattr(holder, part):
                part += "_"
            if part not in holder._modules:
                holder.add_module(part, torch.nn.Module())
            holder = holder.get_submodule(part)
            taken.append(part)
        while hasattr(holder, leaf):
            leaf += "_"
        if trained and array.is_floating_point():
            holder.register_parameter(leaf, torch.nn.Parameter(array))
        else:
            holder.register_buffer(leaf, array)
        return ".".join([*taken, leaf])

    def _pack(self) -> None:
        """Weights in few bits that are only multiplied stay in few bits."""
        for node in self._model.graph:
            if node.op_type == "DequantizeLinear" and only_right_operand(node.outputs[0]):
                parts = [None if value is None else self._constant(value) for value in node.inputs]
                if all(part is not None or value is None for part, value in zip(parts, node.inputs, strict=True)):
                    codes, scales, zeros = (*parts, None)[:3]
                    assert codes is not None and scales is not None
                    packed = packed_weight(node, codes, scales, zeros)
                    if packed is not None:
                        self._packed[node] = self._keep_packed(node, packed)

    def _constant(self, value: ir.Value) -> torch.Tensor | None:
        if value in self._values:
            return tensor(self._values[value])
        return self._state(self._states[value]).detach() if value in self._states else None

    def _keep_packed(self, node: ir.Node, packed: Any) -> Any:
        source = node.inputs[0]
        name = (source.name if source is not None else None) or node.name or "weight"
        names = {
            part: self._register(f"{name}.{part}", getattr(packed, part))
            for part in ("weight", "scales", "zeros")
            if getattr(packed, part) is not None
        }
        return lambda: replace(packed, **{part: self._state(where) for part, where in names.items()})

    def _state(self, name: str) -> torch.Tensor:
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value

    # ---- execution ---------------------------------------------------------------------------

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Execute the graph on inputs by name."""
        values: dict[ir.Value, Any] = {}
        for value in self._model.graph.inputs:
            name = value.name or ""
            if name in self._fixed:
                values[value] = self._fixed[name]
            elif not _is_weight(value):
                values[value] = _at(inputs, name)
        self._run(self._model.graph, values)
        names = [value.name or "" for value in self._model.graph.outputs]
        return nested(names, [tensor(self._find(value, values)) for value in self._model.graph.outputs])

    def _run(self, graph: ir.Graph, values: dict[ir.Value, Any]) -> None:
        for node in graph:
            if node.op_type == "If":
                results: Sequence[Any] = self._branch(node, values)
            elif node in self._packed:
                results = [self._packed[node]()]
            else:
                result = self._runs[node](*[self._find(value, values) for value in node.inputs])
                results = result if isinstance(result, (tuple, list)) else [result]
            values.update(zip(node.outputs, results, strict=False))

    def _branch(self, node: ir.Node, values: dict[ir.Value, Any]) -> Sequence[Any]:
        condition = self._find(node.inputs[0], values)
        call = self._runs[node].call
        if not isinstance(condition, Known) or not condition.is_constant:
            source = node.inputs[0]
            name = source.name if source is not None else ""
            raise call.unsupported("it branches on data", [f"fix the branch: constants={{'{name}': True}}"])
        branch = call.attr("then_branch" if number(condition) else "else_branch")
        self._run(branch, values)
        return [self._find(value, values) for value in branch.outputs]

    def _find(self, value: ir.Value | None, values: Mapping[ir.Value, Any]) -> Any:
        if value is None:
            return None
        if value in self._states:
            state = self._state(self._states[value])
            return Transposed(state) if only_right_operand(value) and state.dim() == 2 else state
        return self._values[value] if value in self._values else values[value]


def _is_weight(value: ir.Value) -> bool:
    """Whether an input is there only to name an initializer, as older files do."""
    return value.is_initializer()


def _is_statistic(value: ir.Value) -> bool:
    """Whether a weight is the mean or variance of a batch norm, which is not trained."""
    return any(use.node.op_type == "BatchNormalization" and use.idx > 2 for use in value.uses())


def _at(inputs: Mapping[str, Any], name: str) -> Any:
    inner: Any = inputs
    for part in name.split("."):
        inner = inner[part]
    return inner
