"""Int8 inputs of linears: Neural Compressor's PT2E static and dynamic quantization, read back from its graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.neural_compressor import require
from graphwright.passes.quant.options import SCALE_DTYPES
from graphwright.passes.quant.pack import pack_linear
from graphwright.passes.quant.sites import Site

aten = torch.ops.aten
_ROUNDED = "rounded"


@dataclass(frozen=True)
class Range:
    """How inputs are rounded: to `(clamp(round(x / scale) + zero, low, high) - zero) * scale`.

    Args:
        scale: Step between codes; None to take it from the smallest and largest input of each call.
        zero: Code of 0.
        low: Smallest code.
        high: Largest code.
    """

    scale: float | None
    zero: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class RoundedLinear(QuantizedLinear):
    """A linear of 8-bit weights whose inputs are rounded to 8 bits.

    Args:
        inputs: How; None where they stay as they are.
    """

    inputs: Range | None = None


@torch.no_grad()
def quantize_int8(
    program: Program, sites: Sequence[Site], calls: Iterable[list[Any]], *, dynamic: bool
) -> dict[str, QuantizedLinear]:
    """Weights per output, and inputs per tensor, in 8 bits.

    Args:
        program: The program; it stays as it is.
        sites: The linears; what Neural Compressor quantizes beside them is left out.
        calls: Flat leaves of the program's arguments, for the ranges of static quantization.
        dynamic: Find the range of inputs at each call.
    """
    require()
    from neural_compressor.torch.algorithms.pt2e_quant.core import W8A8PT2EQuantizer

    class Quantizer(W8A8PT2EQuantizer):
        is_dynamic = dynamic

        @staticmethod
        def update_quantizer_based_on_quant_config(quant_config: Any = None) -> Any:
            return _x86_quantizer(dynamic)

    module: Any = copy.deepcopy(program.module)
    module._exported = True
    _mark_linears(module)
    quantizer = Quantizer(None)
    prepared = quantizer.prepare(module)
    for leaves in calls:
        args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
        prepared(*args, **kwargs)
    converted = quantizer.convert(prepared)
    linears = {node.name: node for node in converted.graph.nodes if is_call(node, aten.linear)}
    return {site.path: _imported(converted, linears[site.node.name], site) for site in sites}


def _mark_linears(module: Any) -> None:
    """Say of every linear that `nn.Linear` made it: that is what the quantizer looks for."""
    for node in module.graph.nodes:
        if is_call(node, aten.linear):
            node.meta["source_fn_stack"] = [(node.name, torch.nn.Linear)]


def _x86_quantizer(dynamic: bool) -> Any:
    from neural_compressor.torch.algorithms.pt2e_quant.pt2e_compat import X86InductorQuantizer
    from neural_compressor.torch.algorithms.pt2e_quant.utility import create_default_xiq_quantizer_config

    return X86InductorQuantizer().set_global(create_default_xiq_quantizer_config(is_dynamic=dynamic))


def _imported(module: Any, linear: Node, site: Site) -> RoundedLinear:
    source, weight = linear.args[:2]
    if not isinstance(weight, Node) or "dequantize_per_channel" not in str(weight.target):
        raise PassError(f"Neural Compressor left '{site.path}' as it is", remedies=["leave it out by an override"])
    quantize, scales = weight.args[:2]
    assert isinstance(quantize, Node) and isinstance(scales, Node)
    stored, scale = _attribute(module, quantize.args[0]), _attribute(module, scales).float()
    codes = (stored.float() / scale[:, None]).round().clamp(-128, 127) + 128
    return RoundedLinear(
        codes=codes.to(torch.uint8),
        scales=scale[:, None].to(SCALE_DTYPES[site.options.scale_dtype]),
        zeros=None,
        group_index=None,
        bits=8,
        group_size=stored.shape[1],
        inputs=_range(source),
    )


def _attribute(module: Any, node: Any) -> torch.Tensor:
    assert isinstance(node, Node) and node.op == "get_attr"
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach()


def _range(source: Any) -> Range | None:
    if not isinstance(source, Node) or "dequantize_per_tensor" not in str(source.target):
        return None
    _, scale, zero, low, high = source.args[:5]
    if isinstance(scale, Node):
        return Range(None, 0, low, high)  # type: ignore[arg-type]
    return Range(scale, zero, low, high)  # type: ignore[arg-type]


def pack_rounded(edit: Edit, node: Node, result: RoundedLinear) -> None:
    """Replace a linear by one packed call on rounded inputs."""
    if result.inputs is not None:
        source, weight, bias = bound(node).values()
        linear = edit.aten.linear(rounded(edit, source, result.inputs), weight, bias)
        edit.replace(node, linear)
        edit.erase(node)
        node = linear
    pack_linear(edit, node, result)


def rounded(edit: Edit, source: Node, inputs: Range) -> Node:
    """A value rounded to codes and back; linears that share it share the rounding."""
    key = (source.name, inputs)
    same = next((node for node in source.graph.nodes if node.meta.get(_ROUNDED) == key), None)
    if same is not None:
        return same
    scale, zero = (inputs.scale, inputs.zero) if inputs.scale is not None else _measured(edit, source, inputs)
    codes = edit.aten.clamp(edit.aten.add(edit.aten.round(edit.aten.div(source, scale)), zero), inputs.low, inputs.high)
    result = edit.aten.mul(edit.aten.sub(codes, zero), scale)
    result.meta[_ROUNDED] = key
    return result


def _measured(edit: Edit, source: Node, inputs: Range) -> tuple[Node, Node]:
    """Scale and zero point for the values of a call, 0 among them."""
    low, high = edit.aten.clamp(edit.aten.amin(source), max=0), edit.aten.clamp(edit.aten.amax(source), min=0)
    span = edit.aten.div(edit.aten.sub(high, low), float(inputs.high - inputs.low))
    scale = edit.aten.clamp(span, min=torch.finfo(torch.float32).eps)
    zero = edit.aten.add(edit.aten.neg(edit.aten.round(edit.aten.div(low, scale))), float(inputs.low))
    return scale, edit.aten.clamp(zero, inputs.low, inputs.high)
