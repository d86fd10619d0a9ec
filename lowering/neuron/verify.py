"""The emitted HLO against what Neuron's compiler is documented to reject: the last look before it leaves the house."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphwright.ir.errors import UnsupportedError
from graphwright.lowering.neuron.calls import BODIES
from graphwright.lowering.neuron.hlo import instructions
from graphwright.lowering.neuron.legality import LATER

_TYPES = {
    1: "pred", 2: "s8", 3: "s16", 4: "s32", 5: "s64", 6: "u8", 7: "u16", 8: "u32", 9: "u64", 10: "f16", 11: "f32",
    12: "f64", 13: "tuple", 15: "c64", 16: "bf16", 18: "c128", 19: "f8e5m2", 20: "f8e4m3fn", 23: "f8e4m3b11fnuz",
    24: "f8e5m2fnuz", 25: "f8e4m3fnuz",
}  # fmt: skip
_WORDS = ("s32", "u32", "f32")
_TYPE_CODES = {
    "c64": "NCC_EVRF004", "c128": "NCC_EVRF004", "f8e4m3b11fnuz": "NCC_EVRF005", "f8e5m2fnuz": "NCC_EVRF005",
    "f8e4m3fnuz": "NCC_EVRF005", "f64": "NCC_ESPP004", "s64": "NCC_EVRF062", "u64": "NCC_ESFH002",
}  # fmt: skip
_UNSUPPORTED = ("triangular-solve", "cholesky", "fft", "infeed", "outfeed")


def check(module: Any, device: str) -> None:
    """Refuse a module that the compiler would refuse.

    Raises:
        UnsupportedError: Names every instruction, the program node that it was emitted for, and the compiler's code.
    """
    found = list(violations(module, device))
    if found:
        lines = "\n".join(f"  {code}: {what} at %{name} ({node})" for code, what, name, node in found)
        raise UnsupportedError(f"neuronx-cc refuses {len(found)} instructions for {device}", why="\n" + lines)


def violations(module: Any, device: str) -> Iterator[tuple[str, str, str, str]]:
    """Code, reason, instruction and program node of everything that the compiler refuses."""
    shapes = {i.id: i.shape for _, i in instructions(module)}
    for _, instruction in instructions(module):
        operands = [_TYPES.get(shapes[number].element_type, "") for number in instruction.operand_ids]
        for code, what in _found(instruction, operands, device):
            yield code, what, instruction.name, instruction.metadata.op_name


def _found(instruction: Any, operands: list[str], device: str) -> Iterator[tuple[str, str]]:
    kind, opcode = _TYPES.get(instruction.shape.element_type, "unknown"), instruction.opcode
    first, later = (operands or [kind])[0], device in LATER
    if kind in _TYPE_CODES:
        yield _TYPE_CODES[kind], f"elements of type {kind}"
    if kind == "f8e4m3fn" and device != "trn3":
        yield "NCC_EVRF051", f"elements of type {kind}"
    if any(size < 0 for size in instruction.shape.dimensions):
        yield "NCC_EMOD025", "a size that is not fixed"
    if opcode == "custom-call" and instruction.custom_call_target not in BODIES:
        yield "NCC_EVRF015", f"the custom call {instruction.custom_call_target}"
    if opcode in _UNSUPPORTED:
        yield "NCC_EVRF001", f"the operator {opcode}"
    if opcode == "sort" and later:
        yield "NCC_EVRF029", "a sort"
    if opcode == "dot" and later and first in ("s32", "s64"):
        yield "NCC_EVRF035", "a product of integers"
    if opcode == "scatter" and later and first in ("s32", "s64"):
        yield "NCC_EVRF060", "a scatter of integers"
    if opcode == "shift-right-arithmetic" and first not in _WORDS:
        yield "NCC_EVRF022", f"a shift of {first}"
    yield from _windows(instruction)


def _windows(instruction: Any) -> Iterator[tuple[str, str]]:
    window = instruction.window.dimensions
    base, kernel = (any(getattr(d, f"{part}_dilation") > 1 for d in window) for part in ("base", "window"))
    if instruction.opcode == "convolution":
        if base and kernel:
            yield "NCC_EVRF010", "a convolution that dilates its input and its kernel"
        if base and any(d.stride > 1 for d in window):
            yield "NCC_EVRF011", "a convolution with steps that dilates its input"
    if instruction.opcode == "reduce-window":
        if base:
            yield "NCC_EVRF017", "windows over a dilated input"
        if kernel:
            yield "NCC_EVRF018", "dilated windows"
        if len(instruction.operand_ids) != 2:
            yield "NCC_EVRF019", "windows over several inputs"
