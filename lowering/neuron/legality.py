"""What Neuron's compiler is documented to reject, node by node, with the codes of its own error messages.

`Rules` judges nodes before anything is emitted. `graphwright.lowering.neuron.verify` judges the emitted HLO.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.node import bound, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.lowering.fold import constant_nodes, evaluate
from graphwright.lowering.neuron.builder import INT32
from graphwright.lowering.support import Support

aten = torch.ops.aten
FIRST, LATER = ("inf2", "trn1", "trn1n"), ("trn2", "trn3")
DEVICES = (*FIRST, *LATER)

_COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
_FNUZ = (torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
_LIMIT = 4 * 2**30
_NOTE = "graphwright.highest"
_PRODUCTS = (
    aten.linear, aten.matmul, aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot, aten.einsum,
)  # fmt: skip
_SCATTERS = (
    aten.scatter, aten.scatter_add, aten.scatter_reduce, aten.index_put, aten.index_add, aten.index_copy,
)  # fmt: skip
_ADDING = (aten.scatter_add, aten.scatter_reduce, aten.index_add)
_ABSENT = (
    "linalg_solve_triangular", "triangular_solve", "cholesky", "linalg_cholesky_ex", "linalg_eigh", "_linalg_eigh",
    "linalg_qr", "_linalg_svd", "_fft_r2c", "_fft_c2c", "_fft_c2r", "linalg_inv_ex", "linalg_lu_factor_ex",
)  # fmt: skip
_DROPS = ("dropout", "native_dropout", "alpha_dropout", "feature_dropout", "scaled_dot_product_attention")
"""Random only in training, which their emitters refuse."""
_SLICES = (aten.slice, aten.slice_scatter)


@dataclass(frozen=True)
class Rules:
    """The rules of one kind of device.

    Args:
        device: One of `DEVICES`.
    """

    device: str = "trn1"

    @property
    def is_later(self) -> bool:
        """Whether the device is a Trainium2 or newer."""
        return self.device in LATER

    def judge(self, node: Node) -> Support:
        """Whether the compiler takes a call; if not, its code and the reason."""
        found = next(self._found(node), None)
        return Support.yes() if found is None else Support.no(f"{found[0]}: {found[1]}", remedy=found[2])

    def _found(self, node: Node) -> Iterator[tuple[str, str, str]]:
        for rule in (_dynamic, self._types, _absent, _too_large, _constants, _out_of_bounds):
            yield from rule(node)
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _PRODUCTS and self.is_later and _is_integer(node):
            yield "NCC_EVRF035", f"a product of integers on {self.device}", "cast the operands to float32"
        if packet in _SCATTERS:
            yield from self._scatter(node, packet)
        if packet in (aten.sort, aten.argsort) or (packet is aten.topk and bound(node)["k"] > UNROLLED):
            few = comparisons(value_of(bound(node)["self"]), bound(node)["dim"]) <= RANKED
            if self.is_later and not few:
                yield "NCC_EVRF029", f"a sort on {self.device}", f"take the {UNROLLED} largest entries, or sort outside"
            elif packet is aten.topk and _is_integer(node) and not few:
                yield "NCC_EVRF013", "the largest entries of integers", "cast them to float32"

    def _types(self, node: Node) -> Iterator[tuple[str, str, str]]:
        for dtype in {leaf.dtype for leaf in _tensors(node)}:
            if dtype in _COMPLEX:
                yield "NCC_EVRF004", f"{dtype} numbers", "compute with real and imaginary parts"
            elif dtype in _FNUZ:
                yield "NCC_EVRF005", f"{dtype} numbers", "use float16 or bfloat16"
            elif dtype is torch.float8_e4m3fn and self.device != "trn3":
                yield "NCC_EVRF051", f"{dtype} numbers on {self.device}", "use float16 or bfloat16"
            elif dtype in (torch.float64, getattr(torch, "float4_e2m1fn_x2", None)):
                yield "NCC_ESPP004", f"{dtype} numbers", "capture the model in float32: model.float()"

    def _scatter(self, node: Node, packet: Any) -> Iterator[tuple[str, str, str]]:
        if not _is_integer(node):
            return
        adds = packet in _ADDING or bool(bound(node).get("accumulate"))
        if adds:
            yield "NCC_EVRF016", "integers or booleans that are scattered and added", "cast them to float32"


UNROLLED = 16
"""Number of largest entries up to which they are found one after another, without a sort."""


RANKED = 1 << 24
"""Number of comparisons up to which elements are put in order by comparing each with each, without a sort."""


def comparisons(fake: torch.Tensor, dim: int) -> int:
    """How many pairs there are of elements that differ in one dimension only."""
    return fake.numel() * int(fake.shape[dim]) if fake.dim() else 1


def _tensors(node: Node) -> list[torch.Tensor]:
    values = [value_of(source) for source in (node, *node.all_input_nodes)]
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _is_integer(node: Node) -> bool:
    """Whether what a call computes with first is no floating-point number."""
    sources = [value_of(source) for source in node.all_input_nodes]
    first = next((value for value in sources if isinstance(value, torch.Tensor)), None)
    return first is not None and not first.is_floating_point() and not first.is_complex()


def _dynamic(node: Node) -> Iterator[tuple[str, str, str]]:
    values = pytree.tree_leaves(value_of(node))
    sizes = [size for value in values for size in (value.shape if isinstance(value, torch.Tensor) else [value])]
    unknown = next((size for size in sizes if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool))), None)
    if unknown is not None:
        remedy = "give every dimension a size: neuron{sizes=batch:1/sequence:128}"
        yield "NCC_EMOD025", f"the size {unknown} is not known before the model runs", remedy


def _absent(node: Node) -> Iterator[tuple[str, str, str]]:
    name = str(getattr(node.target, "_schema", node.target)).partition("(")[0].partition("::")[2].partition(".")[0]
    if name in _ABSENT:
        yield "NCC_EVRF001", f"the compiler has no operator for {name}", "compute it outside the model"
    elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and name not in _DROPS:
        yield "NCC_EVRF006", f"{name} draws random numbers", "draw them outside, and pass them as an input"


def _too_large(node: Node) -> Iterator[tuple[str, str, str]]:
    for leaf in pytree.tree_leaves(value_of(node)):
        known = isinstance(leaf, torch.Tensor) and all(isinstance(size, int) for size in leaf.shape)
        if known and leaf.numel() * leaf.element_size() > _LIMIT:
            yield "NCC_EVRF024", f"a result of {leaf.numel() * leaf.element_size() >> 30} GiB", "use smaller sizes"


def _constants(node: Node) -> Iterator[tuple[str, str, str]]:
    """Integers of 64 bits become 32: a number that does not fit would be another one."""
    if getattr(node.target, "overloadpacket", None) in _SLICES:
        return  # an end beyond the tensor is cut to its size
    integers = isinstance(value_of(node), torch.Tensor) and value_of(node).dtype is torch.int64
    numbers = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if type(leaf) is int]
    wide = next((number for number in numbers if not INT32.min <= number <= INT32.max), None)
    if integers and wide is not None:
        yield "NCC_ESFH002", f"the integer {wide} has more than 32 bits", "use numbers of 32 bits"


def _out_of_bounds(node: Node) -> Iterator[tuple[str, str, str]]:
    """Known positions beyond a table, such as more tokens than a model has positions."""
    if node.target is not aten.embedding.default:
        return
    indices, rows = bound(node)["indices"], (shape_of(bound(node)["weight"]) or (0,))[0]
    highest = _highest(indices)
    if highest is not None and highest >= rows:
        yield "NCC_EVRF056", f"position {highest} of a table with {rows} rows", "use a shorter sequence"


def note_positions(program: Program) -> None:
    """Note the largest entry of integers that are known before the model runs, for the rules to see."""
    known = constant_nodes(program)
    for node in program.graph.nodes:
        value = value_of(node)
        if not isinstance(value, torch.Tensor) or value.dtype not in (torch.int64, torch.int32) or not value.numel():
            continue
        if node.op == "get_attr" or node in known:
            node.meta[_NOTE] = int(evaluate(program, node).max())


def _highest(node: Node) -> int | None:
    """The largest entry of positions, None where it is not known."""
    relabels = (aten.unsqueeze.default, aten.view.default, aten.reshape.default, aten.expand.default)
    while _NOTE not in node.meta and node.target in relabels:
        node = bound(node)["self"]
    return node.meta.get(_NOTE)
