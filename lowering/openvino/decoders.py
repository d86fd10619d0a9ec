"""A decoder that reads an encoder, as one stateful model: the layout of optimum-intel.

Its first step computes keys and values of the encoder's states, later steps are given them. In the one model they are
variables that start as what the first step computes.
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

FIRST, LATER, FILE = "decoder_model", "decoder_with_past_model", "openvino_decoder_model.xml"
PAST, PRESENT = "past_key_values.", "present."


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
        FIRST: _view(first, file, Variables(outputs=_outputs(first, later.variables, crossing), computed=True)),
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
    return Variables(later.variables.inputs | crossing, _outputs(later, later.variables, crossing), unread, True)


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
    sinks = list(later.get_sinks())
    for name, output in starts.items():
        parameter = parameters.pop(name)
        shape, kind = parameter.get_partial_shape(), parameter.get_element_type()
        sizes = ov.PartialShape([ov.Dimension(-1) if d.is_dynamic else d for d in shape])
        variable = f"{name}{output}"
        read = op.read_value(results[output].input_value(0), variable, kind, sizes)
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(read.output(0))
        sinks.append(op.assign(read, variable))
    own = states.get_friendly_name()
    if own in parameters:  # the later steps read the encoder's states too
        for target in list(states.output(0).get_target_inputs()):
            target.replace_source_output(parameters[own].output(0))
    else:
        parameters[own] = states
    kept = [result for result in later.get_results() if result.get_friendly_name() not in starts.values()]
    return ov.Model(kept, sinks, list(parameters.values()), later.get_friendly_name())
