"""Decoders that keep their cache inside the model: inputs and outputs of the cache become variables.

Which input belongs to which output is found in the graph: the output is a concatenation that starts with the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import openvino as ov
import torch
from openvino import PartialShape, Type
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.lowering.interface import Interface
from graphwright.lowering.openvino.builder import op

aten = torch.ops.aten
BEAM = "beam_idx"


def cache_pairs(program: Program) -> dict[str, str]:
    """Output -> input of each part of a cache that grows: the output is the input followed by something new."""
    interface = Interface.of(program)
    inputs = {program.placeholders[port.leaf]: port for port in interface.inputs}
    pairs: dict[str, str] = {}
    for port in interface.outputs:
        source = _grown(program.results[port.leaf])
        if source in inputs and inputs[source].name not in pairs.values():
            pairs[port.name] = inputs[source].name
    return pairs


def _grown(result: Any) -> Node | None:
    while isinstance(result, Node) and is_call(result, aten.slice):  # a window of the cache
        result = bound(result)["self"]
    if not isinstance(result, Node) or not is_call(result, aten.cat):
        return None
    first = bound(result)["tensors"][0]
    return first if isinstance(first, Node) and first.op == "placeholder" else None


def make_stateful(model: Any, pairs: Mapping[str, str]) -> Any:
    """The model with the inputs and outputs of a cache replaced by variables, whose rows `beam_idx` reorders.

    Args:
        model: The model; it is used up.
        pairs: Output -> input.
    """
    parameters = {p.get_friendly_name(): p for p in model.get_parameters()}
    results = {r.get_friendly_name(): r for r in model.get_results()}
    beam = op.parameter(PartialShape([-1]), Type.i32, name=BEAM)
    beam.output(0).get_tensor().set_names({BEAM})
    batch = _batch(model, pairs)
    sinks = [
        _variable(parameters[source], results[output], f"{source}{output}", beam, batch)
        for output, source in pairs.items()
    ]
    kept_results = [result for name, result in results.items() if name not in pairs]
    kept = [parameter for name, parameter in parameters.items() if name not in pairs.values()]
    return stateful_model(kept_results, sinks, [*kept, beam], model.get_friendly_name())


def stateful_model(results: Sequence[Any], sinks: Sequence[Any], parameters: Sequence[Any], name: str) -> Any:
    """A model whose cache is in 16 bits unless whoever compiles it says otherwise, as in optimum-intel's files.

    The CPU plugin's own choice is 8 bits; as of 2026.4 such a cache may turn into NaN where it grows, if the model held
    a cache of fewer rows before.
    """
    model = ov.Model(results, sinks, parameters, name)
    model.set_rt_info("f16", ["runtime_options", "KV_CACHE_PRECISION"])
    return model


def _batch(model: Any, pairs: Mapping[str, str]) -> Any:
    """The batch size, from an input that is no part of the cache."""
    first = next(p for p in model.get_parameters() if p.get_friendly_name() not in pairs.values())
    shape = op.shape_of(first.output(0), "i64")
    return op.gather(shape, op.constant([0]), op.constant(0))


def _variable(parameter: Any, result: Any, name: str, beam: Any, batch: Any) -> Any:
    """The operator that stores a part of the cache; what read the input reads the variable."""
    shape, kind = parameter.get_partial_shape(), parameter.get_element_type()
    axis = _growing(result)
    sizes = [batch if i == 0 else op.constant([0 if i == axis else d.get_length()]) for i, d in enumerate(shape)]
    empty = op.broadcast(op.constant(0.0, kind), op.concat(sizes, 0))
    variable = PartialShape([ov.Dimension(-1) if i in (0, axis) else d for i, d in enumerate(shape)])
    read = op.read_value(empty, name, kind, variable)
    ordered = op.gather(read, beam, op.constant(0))
    for target in list(parameter.output(0).get_target_inputs()):
        target.replace_source_output(ordered.output(0))
    return op.assign(result.input_value(0).get_node(), name)


def _growing(result: Any) -> int:
    """The dimension that a cache grows along."""
    producer = result.input_value(0).get_node()
    while producer.get_type_name() != "Concat":
        producer = producer.input_value(0).get_node()
    axis = int(producer.get_attributes()["axis"])
    return axis % len(producer.output(0).get_partial_shape())
