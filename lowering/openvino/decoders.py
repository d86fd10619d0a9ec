"""A decoder that reads an encoder, as one stateful model: the layout of optimum-intel.

Its first step computes keys and values of the encoder's states, later steps are given them. In the one model they are
variables that start as what the first step computes.

The CPU plugin moves such a computation into the variable. As of 2026.4, what it moves must not begin with an input of
the model (in bfloat16 it goes on reading where the input of an earlier text was), and constants must not be shared with
the rest of the model (the variable is then copied at half the speed in each step).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino as ov

from graphwright.lowering.artifact import Artifact
from graphwright.lowering.openvino.artifact import OpenVINOArtifact, Variables
from graphwright.lowering.openvino.builder import op
from graphwright.lowering.openvino.model import Emitted
from graphwright.lowering.openvino.session import OpenVINOFile
from graphwright.lowering.openvino.stateful import stateful_model

FIRST, LATER, FILE = "decoder_model", "decoder_with_past_model", "openvino_decoder_model.xml"
PAST, PRESENT = "past_key_values.", "present."
LARGE = 16
"""Sizes and axes have fewer items."""


def join_decoders(parts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The parts with both steps of a decoder on one stateful model; as they are where that cannot be done."""
    first, later = parts.get(FIRST), parts.get(LATER)
    if not (isinstance(first, OpenVINOArtifact) and isinstance(later, OpenVINOArtifact) and later.variables):
        return dict(parts)
    crossed = [name for name in later.input_names if name.startswith(PAST) and name not in later.variables.inputs]
    starts = {name: PRESENT + name.removeprefix(PAST) for name in crossed}
    results = {result.get_friendly_name(): result for result in first.model.get_results()}
    if not crossed or not all(output in results for output in starts.values()):
        return dict(parts)
    sources = _parameters(results[output] for output in starts.values())
    if len(sources) != 1:
        return dict(parts)
    (states,) = sources
    model = _joined(later.model, results, starts, states)
    kept = [item for part in (first, later) if part.file.emitted for item in part.file.emitted.kept]
    file = OpenVINOFile(emitted=Emitted(model, later.provenance, kept))
    crossing = {name: f"{name}{output}" for name, output in starts.items()}
    return {
        **parts,
        FIRST: _view(first, file, Variables(outputs=_outputs(first, later.variables, crossing))),
        LATER: _view(later, file, _later_variables(later, crossing, states)),
    }


def _view(part: OpenVINOArtifact, file: OpenVINOFile, variables: Variables) -> OpenVINOArtifact:
    return OpenVINOArtifact(part.target, part.interface, part.provenance, file=file, name=FILE, variables=variables)


def _outputs(part: OpenVINOArtifact, own: Variables, crossing: Mapping[str, str]) -> dict[str, str]:
    """Output -> variable, of the part's own cache and of the encoder's."""
    known = own.outputs | {PRESENT + name.removeprefix(PAST): variable for name, variable in crossing.items()}
    return {name: known[name] for name in part.output_names if name in known}


def _later_variables(later: OpenVINOArtifact, crossing: dict[str, str], states: Any) -> Variables:
    assert later.variables is not None
    shape = [0, 1, *(size.get_length() for size in list(states.get_partial_shape())[2:])]
    dtype = states.get_element_type().to_dtype().name
    name = states.get_friendly_name()
    unread = {} if name in later.input_names else {name: (shape, dtype)}
    return Variables(later.variables.inputs | crossing, _outputs(later, later.variables, crossing), unread)


def _parameters(results: Any) -> set[Any]:
    """The parameters that results depend on."""
    seen: dict[str, Any] = {}
    stack = list(results)
    while stack:
        node = stack.pop()
        if node.get_name() not in seen:
            seen[node.get_name()] = node
            stack.extend(value.get_node() for value in node.input_values())
    return {node for node in seen.values() if node.get_type_name() == "Parameter"}


def _joined(later: Any, results: Mapping[str, Any], starts: Mapping[str, str], states: Any) -> Any:
    """The model of the later steps with variables in place of what the first step computes."""
    parameters = {p.get_friendly_name(): p for p in later.get_parameters()}
    sinks, cache = list(later.get_sinks()), next(n for n in later.get_ordered_ops() if n.get_type_name() == "ReadValue")
    for output in starts.values():
        _own_constants(results[output])
    given = parameters.setdefault(states.get_friendly_name(), states)  # the later steps may read the states too
    readers = list(states.output(0).get_target_inputs())
    begun = _while_empty(cache, given)
    for reader in readers:
        reader.replace_source_output(begun)
    for name, output in starts.items():
        parameter, variable = parameters.pop(name), f"{name}{output}"
        read = _started(results[output].input_value(0), variable, parameter)
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(read.output(0))
        sinks.append(op.assign(read, variable))
    kept = [result for result in later.get_results() if result.get_friendly_name() not in starts.values()]
    return stateful_model(kept, sinks, list(parameters.values()), later.get_friendly_name())


def _started(value: Any, variable: str, parameter: Any) -> Any:
    """A variable of the type of a parameter that starts as a value."""
    shape, kind = parameter.get_partial_shape(), parameter.get_element_type()
    sizes = ov.PartialShape([ov.Dimension(-1) if d.is_dynamic else d for d in shape])
    return op.read_value(value, variable, kind, sizes)


def _while_empty(cache: Any, states: Any) -> Any:
    """The states of the encoder in the first step, when the cache is empty, and none of them later on."""
    held = op.reduce_prod(op.shape_of(cache, "i64"), op.constant([0]), True)
    length = op.gather(op.shape_of(states, "i64"), op.constant([1]), op.constant(0))
    stop = op.select(op.equal(held, op.constant([0])), length, op.constant([0]))
    begun = op.slice(states, op.constant([0]), stop, op.constant([1]), op.constant([1]))
    begun.get_rt_info()["precise_0"] = ""  # otherwise all states are converted to bfloat16 in each step
    return begun.output(0)


def _own_constants(result: Any) -> None:
    """Give what a result is computed from copies of the sizes and axes that it shares with others."""
    stack = [result]
    while stack:
        for port in stack.pop().inputs():
            source = port.get_source_output().get_node()
            if source.get_type_name() != "Constant":
                stack.append(source)
            elif source.get_output_element_type(0).is_integral() and source.data.size < LARGE:
                port.replace_source_output(op.constant(source.data.copy()).output(0))
