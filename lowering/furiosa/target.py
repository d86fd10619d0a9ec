"""The Furiosa target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import OpOverload, bound, is_call, value_of
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.decompose import decompose
from graphwright.lowering.fold import fold
from graphwright.lowering.furiosa.artifact import FuriosaArtifact
from graphwright.lowering.furiosa.decompositions import load_rules
from graphwright.lowering.furiosa.narrow import narrow_integers
from graphwright.lowering.furiosa.ops import FAILING, IMPORTABLE_ONLY, RELEASE, SUPPORTED
from graphwright.lowering.furiosa.packed import dequantize_weights
from graphwright.lowering.furiosa.pad import pad_linears
from graphwright.lowering.static import StaticTarget
from graphwright.lowering.support import Support

aten = torch.ops.aten

CONSTANT_LIMIT = 1 << 28
_TYPES = {torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int32, torch.int8, torch.uint8}

_BLANKS = (aten.empty, aten.empty_like, aten.empty_permuted, aten.empty_strided, aten.new_empty, aten.new_empty_strided)


@dataclass(frozen=True)
class FuriosaTarget(StaticTarget):
    """Static ExportedPrograms of the ATen ops that Furiosa's compiler for RNGD takes, with integers of 32 bits.

    Args:
        pad: `pow2` widens linears to powers of two, which compile much faster; empty leaves them as they are.
    """

    name: ClassVar[str] = "furiosa"

    pad: str = ""

    def __post_init__(self) -> None:
        if self.pad not in ("", "pow2"):
            raise GraphwrightError(f"the Furiosa target has no pad={self.pad}", why="it has pow2")

    def pipeline(self) -> str:
        """Canonical form: functional, without dropout, assertions or casts that do nothing."""
        return "canonicalize"

    def legalize(self, program: Program) -> Program:
        """A copy in ops of the compiler where they can be had; what depends on nothing but sizes becomes a constant."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(program, validate=False).program
        dequantize_weights(legal)
        _fill_blanks(legal)
        legal = fold(legal, CONSTANT_LIMIT)
        if self.pad:
            pad_linears(legal)
        decompose(legal, lambda node: _known(node).ok or _is_constant(node), load_rules())
        return narrow_integers(fold(legal, CONSTANT_LIMIT))

    def supports(self, node: Node) -> Support:
        """Whether the compiler has the op of a call, and the types of its arguments and results."""
        answers = (check(node) for check in (_known, _arguments, _types))
        return next((answer for answer in answers if not answer.ok), Support.yes())

    def emit(self, program: Program) -> Artifact:
        """Export the program; the vendor's compiler takes it from there."""
        return FuriosaArtifact(str(self), program)

    @classmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        """Read one size of an artifact."""
        return FuriosaArtifact(str(entry["target"]), Program.load(folder / "program"))


def _fill_blanks(program: Program) -> None:
    """Put zeros into what is allocated without values: folded, it would be whatever lay in memory."""
    for node in program.graph.nodes:
        if is_call(node, *_BLANKS):
            value = value_of(node)
            node.target, node.args = aten.full.default, (list(value.shape), 0)
            node.kwargs = {"dtype": value.dtype, "device": value.device}
    program.touch()


def _known(node: Node) -> Support:
    """What is known of the op of a call."""
    if not isinstance(node.target, OpOverload):
        return Support.yes()  # getitem: a result of the call before
    name = schema_name(node.target)
    if name in FAILING:
        return Support.no(f"{RELEASE} lists this op, and fails on it")
    if name in SUPPORTED:
        return Support.yes()
    if name in IMPORTABLE_ONLY:
        return Support.no(f"{RELEASE} reads this op, but has no code for it")
    return Support.no(f"{RELEASE} does not know this op")


def _is_constant(node: Node) -> bool:
    """Whether a call depends on no input or weight, so that it will be folded."""
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current.op != "call_function":
            return False
        stack += [source for source in current.all_input_nodes if source not in seen]
        seen.update(stack)
    return True


def schema_name(op: OpOverload) -> str:
    """Name of an ATen op as the compiler has it: `add.Tensor`, `bmm`; with the namespace for other ops."""
    name, overload = op._schema.name.removeprefix("aten::"), op._schema.overload_name
    return f"{name}.{overload}" if overload else name


def _arguments(node: Node) -> Support:
    """What the table does not say: calls of ops it lists on which the compiler was seen to fail."""
    arguments = bound(node)
    cast = node.target is aten._to_copy.default and _is_integer(arguments["dtype"])
    if cast and value_of(arguments["self"]).is_floating_point():
        return Support.no(f"{RELEASE} fails on casts of {value_of(arguments['self']).dtype} to integers")
    if "indices" in arguments and any(_is_mask(index) for index in arguments["indices"]):
        return Support.no("indexing by a boolean mask", remedy="multiply by the mask, or use torch.where")
    return Support.yes()


def _is_integer(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool


def _is_mask(node: Node | None) -> bool:
    return node is not None and value_of(node).dtype == torch.bool


def _types(node: Node) -> Support:
    """Whether the compiler has the types of a call; 64 bits only have positions, which are narrowed at once."""
    values = pytree.tree_leaves([value_of(n) for n in (node, *node.all_input_nodes)])
    found = {value.dtype for value in values if isinstance(value, torch.Tensor)} - _TYPES
    if is_call(node, aten.argmax, aten.max, aten.topk, aten.max_pool2d_with_indices, aten._to_copy, getitem):
        found -= {torch.int64}
    if not found:
        return Support.yes()
    return Support.no(f"the compiler has no {found.pop()}", remedy="capture the model in float32 or bfloat16")
