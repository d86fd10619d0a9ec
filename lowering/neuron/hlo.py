"""HLO protos: numbering of instructions, and what a module consists of.

jaxlib numbers instructions with 64 bits, where earlier versions of XLA, and what Neuron's compiler is built on, have
32. The schema below names only the fields that are read or written; protobuf keeps all others as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TEXT, _INT, _BYTES, _MESSAGE, _ENUM = (
    _Field.TYPE_STRING, _Field.TYPE_INT64, _Field.TYPE_BYTES, _Field.TYPE_MESSAGE, _Field.TYPE_INT32,
)  # fmt: skip

# message -> field -> (number, type, repeated, message it holds)
_SCHEMA: dict[str, dict[str, tuple[int, Any, bool, str]]] = {
    "Shape": {"element_type": (2, _ENUM, False, ""), "dimensions": (3, _INT, True, "")},
    "Metadata": {"op_name": (2, _TEXT, False, "")},
    "Dimension": {
        "size": (1, _INT, False, ""), "stride": (2, _INT, False, ""), "window_dilation": (5, _INT, False, ""),
        "base_dilation": (6, _INT, False, ""),
    },
    "Window": {"dimensions": (1, _MESSAGE, True, "Dimension")},
    "Instruction": {
        "name": (1, _TEXT, False, ""), "opcode": (2, _TEXT, False, ""), "shape": (3, _MESSAGE, False, "Shape"),
        "metadata": (7, _MESSAGE, False, "Metadata"), "window": (15, _MESSAGE, False, "Window"),
        "custom_call_target": (28, _TEXT, False, ""), "id": (35, _INT, False, ""), "operand_ids": (36, _INT, True, ""),
        "control_predecessor_ids": (37, _INT, True, ""), "called_computation_ids": (38, _INT, True, ""),
    },
    "Computation": {
        "name": (1, _TEXT, False, ""), "instructions": (2, _MESSAGE, True, "Instruction"), "id": (5, _INT, False, ""),
        "root_id": (6, _INT, False, ""),
    },
    "AliasEntry": {
        "output_shape_index": (1, _INT, True, ""), "parameter_number": (2, _INT, False, ""),
        "kind": (4, _ENUM, False, ""),
    },
    "Alias": {"entries": (1, _MESSAGE, True, "AliasEntry")},
    "Module": {
        "computations": (3, _MESSAGE, True, "Computation"), "id": (5, _INT, False, ""),
        "entry_computation_id": (6, _INT, False, ""), "input_output_alias": (8, _MESSAGE, False, "Alias"),
    },
}  # fmt: skip
MUST_ALIAS = 2


@cache
def _module_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="graphwright_hlo.proto", package="graphwright.hlo", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated, held) in fields.items():
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, type=kind, label=label)
            if held:
                made.type_name = f".graphwright.hlo.{held}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("graphwright.hlo.Module"))


def read(proto: bytes) -> Any:
    """A serialized `HloModuleProto` as a message with the fields of the schema."""
    return _module_class().FromString(proto)


def renumbered(proto: bytes) -> bytes:
    """A module whose instructions and computations have the numbers 1, 2, 3, ..., and whose aliases are binding."""
    module = read(proto)
    places = {c.id: place for place, c in enumerate(module.computations, 1)}
    numbers = {i.id: number for number, (_, i) in enumerate(instructions(module), 1)}
    for _, instruction in instructions(module):
        instruction.id = numbers[instruction.id]
        for field, known in (
            (instruction.operand_ids, numbers), (instruction.control_predecessor_ids, numbers),
            (instruction.called_computation_ids, places),
        ):  # fmt: skip
            field[:] = [known[old] for old in field]
    for computation in module.computations:
        computation.root_id = numbers[computation.root_id]
        computation.id = places[computation.id]
    module.entry_computation_id = places[module.entry_computation_id]
    module.id = 1
    for entry in module.input_output_alias.entries:
        entry.kind = MUST_ALIAS
    return module.SerializeToString()


def instructions(module: Any) -> Iterator[tuple[Any, Any]]:
    """Each computation with each of its instructions."""
    for computation in module.computations:
        for instruction in computation.instructions:
            yield computation, instruction


@dataclass(frozen=True)
class Instruction:
    """An instruction of the entry computation.

    Args:
        name: Its name.
        opcode: What it does.
        node: Path and name of the program node that it was emitted for.
    """

    name: str
    opcode: str
    node: str


def entry_instructions(module: Any) -> list[Instruction]:
    """The instructions of the entry computation, in order."""
    entry = next(c for c in module.computations if c.id == module.entry_computation_id)
    return [Instruction(i.name, i.opcode, i.metadata.op_name) for i in entry.instructions]


def provenance(module: Any) -> dict[str, list[str]]:
    """Program node -> the instructions that it became."""
    found: dict[str, list[str]] = {}
    for instruction in entry_instructions(module):
        if instruction.node and instruction.opcode != "parameter":
            found.setdefault(instruction.node.rpartition("/")[2], []).append(instruction.name)
    return found
