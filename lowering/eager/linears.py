"""Which linears of a program run as a `LinearCall`, and what follows them in it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.views import view_root
from graphwright.lowering.eager.bindings import binding
from graphwright.lowering.eager.linear import Epilogue, LinearCall
from graphwright.passes.linear.bias import is_weight

LinearMode = Literal["auto", "mkl", "onednn", "packed"]

aten = torch.ops.aten
REORDER = torch.ops.mkldnn._reorder_linear_weight.default

_BACKENDS = {"auto": ("mkl", "onednn"), "onednn": ("onednn",), "packed": ("mkl", "onednn", "packed")}

# Below this number of weight elements a call takes longer to dispatch than to compute.
_LEAST_ELEMENTS = 1 << 16
_ACTIVATIONS = {aten.relu: "relu", aten.silu: "swish", aten.tanh: "tanh", aten.sigmoid: "sigmoid", aten.gelu: "gelu"}


def place_linears(program: Program, mode: LinearMode, *, least: int = _LEAST_ELEMENTS) -> Program:
    """A copy of `program` in which linears on a CPU are calls of `LinearCall`, together with what follows them.

    Args:
        program: The program; it stays as it is.
        mode: The forms that each linear chooses from; `mkl` leaves everything to ATen.
        least: Smallest number of weight elements.

    Returns:
        The copy; `program` itself where no linear qualifies.
    """
    if mode == "mkl" or not _has_onednn():
        return program
    copy = program.clone()
    found = [node for node in copy.graph.nodes if is_call(node, aten.linear) and _qualifies(node, least)]
    for node in found:
        _place(node, mode)
    return copy if found else program


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _qualifies(node: Node, least: int) -> bool:
    """Whether a linear is one of matrices on a CPU, with a large enough weight in a dtype that oneDNN is good at."""
    x, weight, bias = bound(node).values()
    value = value_of(node)
    sizes = shape_of(weight) or ()
    known = len(sizes) == 2 and all(isinstance(size, int) for size in sizes) and len(shape_of(x) or ()) > 1
    return (
        known
        and value.device.type == "cpu"
        and value.dtype in _dtypes()
        and all(value_of(source).dtype == value.dtype for source in (x, weight, bias) if source is not None)
        and int(sizes[0]) * int(sizes[1]) >= least
        and is_weight(weight)
    )


def _dtypes() -> tuple[torch.dtype, ...]:
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if half else (torch.float32,)


def _place(node: Node, mode: LinearMode) -> None:
    x, weight, bias = bound(node).values()
    last, epilogue, other = _epilogue(node)
    graph, backends, packed = node.graph, _BACKENDS[mode], weight
    with graph.inserting_before(last):
        if mode == "packed" or _is_own_copy(weight):
            packed = graph.call_function(REORDER, (weight, None))
            packed.meta["val"] = value_of(weight)
        if _is_own_copy(weight):
            backends, weight = ("packed",), packed
        call = graph.call_function(LinearCall(backends, epilogue), (x, weight, packed, bias, other))
    call.meta = dict(last.meta)
    for old in dict.fromkeys((last, node)):
        old.replace_all_uses_with(call)
        graph.erase_node(old)


def _is_own_copy(weight: Node) -> bool:
    """Whether a weight is the program's own, in half precision: then the reordered one can take its place.

    In float32 the form in the model's layout may be the faster one, for few rows above all.
    """
    return view_root(weight).op != "get_attr" and value_of(weight).dtype != torch.float32


def _epilogue(node: Node) -> tuple[Node, Epilogue, Node | None]:
    """The last node of a linear and its epilogue, the epilogue, and the tensor that it adds."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is not None and is_call(user, *_ACTIVATIONS):
        return user, _activation(user), None
    if user is not None and is_call(user, aten.add.Tensor) and bound(user)["alpha"] == 1:
        other = next((value for value in user.args if value is not node), None)
        if isinstance(other, Node) and _is_alike(other, node):
            return user, Epilogue("add", torch.add, "add"), other
    return node, Epilogue(), None


def _activation(user: Node) -> Epilogue:
    attribute = next(name for packet, name in _ACTIVATIONS.items() if is_call(user, packet))
    options: dict[str, Any] = {"approximate": bound(user)["approximate"]} if attribute == "gelu" else {}
    function: Any = binding(user) or user.target
    name = " ".join([attribute, *options.values()])
    apply = function if not options else lambda x: function(x, **options)
    return Epilogue(name, apply, attribute, options.get("approximate", ""))


def _is_alike(other: Node, node: Node) -> bool:
    """Whether a residual has the very type of a linear's result: nothing is broadcast or promoted."""
    want, have = value_of(node), value_of(other)
    is_tensor = isinstance(have, torch.Tensor) and have.dtype == want.dtype and have.device == want.device
    return is_tensor and same_shape(want.shape, have.shape)
