"""What Gaudi cannot run: the vendor's rules, as questions about one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from graphwright.ir.node import OpOverload, bound, value_of
from graphwright.lowering.hpu.hpu_kernels import ACTIVATIONS, SCHEMAS
from graphwright.lowering.hpu.hpu_ops import SchemaError, unfitted
from graphwright.lowering.support import Support

NAMESPACES = ("aten", "hpu", "prims")
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
PRODUCTS = (torch.float32, torch.bfloat16, torch.float16)

Arguments = dict[str, Any]


def legality(node: Node) -> Support:
    """Whether Gaudi's PyTorch bridge can run a call, by the rules that its vendor has published."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return Support.no("hpu_backend takes flat graphs, without branches and loops", remedy="capture one branch")
    if isinstance(node.target, OpOverload) and node.target.namespace not in NAMESPACES:
        return Support.no(f"the bridge has no operators of '{node.target.namespace}'", remedy="decompose it into ATen")
    answer = _types(node)
    if not answer.ok or not isinstance(node.target, OpOverload) or node.target.namespace != "hpu":
        return answer
    return _operator(node)


def _types(node: Node) -> Support:
    for value in pytree.tree_leaves(value_of(node)):
        if not isinstance(value, torch.Tensor):
            continue
        if value.dtype.is_complex or value.dtype == torch.float64:
            return Support.no(f"Gaudi has no {value.dtype}", remedy="compute in float32 or bfloat16")
        if value.dtype.itemsize == 1 and value.dtype.is_floating_point and value.dtype not in EIGHT_BITS:
            return Support.no(f"Gaudi has no {value.dtype}", remedy="use float8_e4m3fn or float8_e5m2")
        if free_unbacked_symbols(value):
            return Support.no(
                "its size depends on values: graphs of the HPU have fixed sizes", remedy="use a mask instead"
            )
    return Support.yes()


def _operator(node: Node) -> Support:
    """The rules of the vendor's own operators, by the names of the published arguments."""
    target: Any = node.target
    kind = "" if target._overloadname == "default" else f".{target._overloadname}"
    name = str(target._schema.name).partition("::")[2] + kind
    if name not in SCHEMAS:
        return Support.no(f"hpu::{name} is not among the published operators", remedy="decompose it into ATen")
    try:
        values, _ = unfitted(name, list(bound(node).values()))
    except SchemaError as error:
        return Support.no(str(error), remedy="use a release of the bridge whose operator is known")
    published = torch._C.parse_schema(f"hpu::{SCHEMAS[name]}").arguments
    check = CHECKS.get(name.partition(".")[0])
    reason = check({one.name: value for one, value in zip(published, values, strict=True)}) if check else ""
    return Support.no(f"hpu::{name}: {reason}") if reason else Support.yes()


def _attention(given: Arguments) -> str:
    if given["is_causal"] and given["attention_mask"] is not None:
        return "attention_mask and is_causal together are not supported"
    if given["valid_seq_len"] is not None and (not given["is_causal"] or given["attention_mask"] is not None):
        return "valid_seq_len goes with is_causal and without attention_mask only"
    if given["softmax_mode"] not in ("None", "fast", "fp32"):
        return f"there is no softmax_mode '{given['softmax_mode']}'"
    if given["seq_padding_type"] not in ("left", "right"):
        return f"there is no seq_padding_type '{given['seq_padding_type']}'"
    if given["requires_backward"] is False and given["p"]:
        return "dropout without a backward pass"
    return ""


def _rotary(given: Arguments) -> str:
    if given["mode"] not in (0, 1):
        return f"mode is 0 (halves) or 1 (neighbours), not {given['mode']}"
    width = value_of(given["input"]).shape[-1]
    return f"{width} features are no pairs" if width % 2 else ""


def _experts(given: Arguments) -> str:
    if given["activation"] not in ACTIVATIONS:
        return f"the activation is one of {', '.join(ACTIVATIONS)}, not '{given['activation']}'"
    count = given["experts_max"] - given["experts_min"] + 1
    lists = [name for name in ("w1", "w2", "w3", "w12") if name in given and len(given[name]) != count]
    return f"{lists[0]} has {len(given[lists[0]])} matrices for {count} experts" if lists else ""


def _unpacked(given: Arguments) -> str:
    if value_of(given["input"]).dtype != torch.int32:
        return "the codes must be packed into int32"
    return "" if given["out_dtype"] in PRODUCTS else f"it does not give {given['out_dtype']}"


def _product(given: Arguments) -> str:
    wrong = [name for name in ("A", "B") if value_of(given[name]).dtype not in EIGHT_BITS]
    return f"{wrong[0]} must be in 8 bits" if wrong else ""


CHECKS: dict[str, Callable[[Arguments], str]] = {
    "sdpa_recomp_fwd": _attention,
    "rotary_pos_embedding": _rotary,
    "mixture_of_experts": _experts,
    "convert_from_uint4": _unpacked,
    "fp8_gemm_v2": _product,
}
