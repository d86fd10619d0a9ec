"""Linears in 8 bits: inputs and weights as float8_e4m3fn, products by the vendor's operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from graphwright.ir.edit import Edit
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program, module_tree
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.tensorfile import read_tensors
from graphwright.lowering.hpu.calls import first_result, hpu_call
from graphwright.lowering.interface import Interface
from graphwright.passes.base import Pass

aten = torch.ops.aten

RANGE = 240.0
"""Largest value that the type has on Gaudi 2; on Gaudi 3 it goes further, so that this is safe on both."""

ROWS = 4
"""Rows of the calibration inputs that are run at once."""


@dataclass(frozen=True)
class HpuFp8(Pass):
    """Linears become `hpu::cast_to_fp8_v2` and `hpu::fp8_gemm_v2`; those that give a result of the program stay.

    Weights are stored in 8 bits, with a scale for each output. Scales that are known are powers of two, which add no
    rounding of their own.

    Args:
        scales: Scales of the inputs: `dynamic` are found at each call, `static` by calibration.
        calibration: For `static`, a safetensors file with a tensor for each input, whose rows are the samples.

    Raises:
        GraphwrightError: Only one of `static` and a file is given.
    """

    name = "hpu-fp8"
    requires = frozenset({"functional", "canonical"})
    approximate = True

    scales: Literal["dynamic", "static"] = "dynamic"
    calibration: str = ""

    def __post_init__(self) -> None:
        if (self.scales == "static") != bool(self.calibration):
            raise GraphwrightError("scales=static and calibration=FILE go together", remedies=["use scales=dynamic"])

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Calibrate, then rewrite every linear; what several of them read is cast once."""
        linears = [node for node in program.graph.nodes if _fits(node, program)]
        tops = largest_inputs(program, linears, Path(self.calibration)) if self.calibration else {}
        casts: dict[Node, tuple[Node, Node]] = {}
        for node in linears:
            source = _source(node)
            with rewriter.site("Fp8Linear", (node,)) as edit:
                if source not in casts:
                    casts[source] = _cast(source, tops.get(source), edit)
                edit.replace(node, _product(node, *casts[source], program, edit))
                edit.erase(node)
        return None


def _fits(node: Node, program: Program) -> bool:
    """Whether a linear has a stored weight, a real input, and gives no result of the program."""
    if not is_call(node, aten.linear) or node in program.results:
        return False
    weight = bound(node)["weight"]
    return weight.op == "get_attr" and value_of(weight).dim() == 2 and value_of(weight).dtype.itemsize > 1


def _source(node: Node) -> Node:
    return bound(node)["input"]


def _cast(source: Node, top: float | None, edit: Edit) -> tuple[Node, Node]:
    """A value in 8 bits, and the scale that gives it back."""
    if top is None:
        wide = edit.aten.to.dtype(edit.aten.amax(edit.aten.abs(source)), torch.float32)
        inverse = edit.aten.div(edit.aten.clamp_min(wide, 1e-12), RANGE)
        scale = edit.aten.reciprocal(inverse)
    else:
        step = powers_of_two(torch.tensor(top))
        scale, inverse = (
            edit.get_state(f"{source.name}_{key}", value) for key, value in (("scale", 1 / step), ("step", step))
        )
    call = hpu_call(edit, "cast_to_fp8_v2", source, scale, False, False, torch.float8_e4m3fn, None)
    return first_result(edit, call), inverse


def _product(node: Node, left: Node, inverse: Node, program: Program, edit: Edit) -> Node:
    _, weight, bias = bound(node).values()
    name, state = str(weight.target), program.state
    if f"{name}_fp8" in state:  # several linears have this weight
        right, scale = edit.get_state(f"{name}_fp8"), edit.get_state(f"{name}_fp8_scale")
    else:
        codes, steps = eight_bits(state[name].detach())
        right, scale = edit.get_state(f"{name}_fp8", codes), edit.get_state(f"{name}_fp8_scale", steps)
    dtype = value_of(node).dtype
    return hpu_call(edit, "fp8_gemm_v2", left, False, right, True, None, dtype, inverse, scale, bias, False, None)


def powers_of_two(top: Tensor) -> Tensor:
    """The smallest powers of two that bring largest values into range."""
    return torch.exp2(torch.ceil(torch.log2(top.float().clamp(min=1e-12) / RANGE)))


def eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [outputs, inputs] in 8 bits, and the scale of each output that gives it back."""
    scale = powers_of_two(weight.abs().amax(1))
    return (weight.float() / scale.unsqueeze(1)).to(torch.float8_e4m3fn), scale


# ---- calibration ---------------------------------------------------------------------------------


@torch.no_grad()
def largest_inputs(program: Program, linears: Iterable[Node], path: Path) -> dict[Node, float]:
    """Largest absolute value of what each linear reads, over the calibration inputs.

    Raises:
        FileFormatError: The file cannot be read, or lacks an input.
    """
    interface, tensors = Interface.of(program), read_tensors(path)
    missing = [port.name for port in interface.inputs if port.name not in tensors]
    if missing:
        raise FileFormatError(
            f"the calibration inputs lack '{missing[0]}'", at=str(path), why=f"there are {', '.join(sorted(tensors))}"
        )
    watch = _Watch(program, {_source(node) for node in linears})
    rows = min(len(tensors[port.name]) for port in interface.inputs)
    for start in range(0, rows, ROWS):
        watch.see({p.leaf: tensors[p.name][start : start + ROWS].to(p.torch_dtype()) for p in interface.inputs})
    return watch.found


class _Watch(Interpreter):
    """Runs a program and remembers the largest absolute value of some nodes."""

    def __init__(self, program: Program, watched: set[Node]) -> None:
        super().__init__(GraphModule(module_tree(program.state, program.graph), program.graph))
        self.leaves, self.watched = program.example.leaves(), watched
        self.found: dict[Node, float] = {}

    def see(self, inputs: Mapping[int, Tensor]) -> None:
        leaves = [inputs.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        self.run(*leaves, enable_io_processing=False)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.watched:
            self.found[n] = max(self.found.get(n, 0.0), float(result.abs().max()))
        return result
