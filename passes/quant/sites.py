"""Where a program has linears: found in the graph, grouped by the input that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.passes.quant.experts import is_grouped
from graphwright.passes.quant.options import Options, options_for

aten = torch.ops.aten

_BEFORE_TOPK = (aten.softmax, aten._softmax, aten.sigmoid, aten.to, aten._to_copy, aten.add, aten.view, aten.reshape)
HEADS = ("*lm_head", "*embed_out", "*score", "*classifier", "*qa_outputs", "*predictions.decoder", "*output_projection")


@dataclass(frozen=True, eq=False)
class Site:
    """A linear to be quantized.

    Args:
        node: The call of `aten::linear`.
        path: Name of its weight in the state without `.weight`: the module path of the linear.
        options: How to quantize it.
    """

    node: Node
    path: str
    options: Options

    @property
    def input(self) -> Node:
        """The value that it multiplies."""
        return bound(self.node)["input"]

    @property
    def weight(self) -> Node:
        """The weight `[outputs, inputs]`: a state tensor, or an expression of one."""
        return bound(self.node)["weight"]

    @property
    def residual(self) -> Node | None:
        """What its output is added to, if it is only added to a value of the same shape."""
        users = list(self.node.users)
        if len(users) != 1 or not is_call(users[0], aten.add.Tensor) or bound(users[0])["alpha"] != 1:
            return None
        others = [arg for arg in users[0].args if arg is not self.node]
        same = len(others) == 1 and isinstance(others[0], Node) and shape_of(others[0]) == shape_of(self.node)
        return others[0] if same else None  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class ExpertSite(Site):
    """The experts of a layer, whose weights are one tensor; see `experts`. The node is the product of groups."""

    @property
    def input(self) -> Node:
        """The rows, sorted by expert."""
        return self.node.args[0]  # type: ignore[return-value]

    @property
    def weight(self) -> Node:
        """The weights `[E, K, N]`."""
        return self.node.args[1]  # type: ignore[return-value]

    @property
    def ends(self) -> Node:
        """Where the rows of each expert end, `[E]`."""
        return self.node.args[2]  # type: ignore[return-value]

    @property
    def experts(self) -> int:
        """How many there are."""
        return int((shape_of(self.weight) or (0,))[0])

    @property
    def residual(self) -> None:
        """Outputs are weighted and summed up by token first."""
        return None


@dataclass(frozen=True, eq=False)
class Stage:
    """The linears that read one value, in graph order."""

    input: Node
    sites: tuple[Site, ...]

    @property
    def stop(self) -> Node:
        """The value after which all is known that the solver needs."""
        return max([self.input, *(site.ends for site in self.sites if isinstance(site, ExpertSite))])


def find_sites(
    program: Program,
    default: Options,
    overrides: Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    heads: bool = False,
    experts: bool = False,
) -> list[Site]:
    """The linears of a program whose weight is a matrix of its state, in graph order.

    Args:
        program: The program.
        default: Options of a linear that no override matches.
        overrides: Globs of paths -> options, None to leave out.
        heads: Also those that make the model's predictions, such as `lm_head`.
        experts: Also experts whose weights are one tensor. Linears that choose among them are left as they are.
    """
    sites = []
    for node in program.graph.nodes:
        path = site_path(node)
        if path is None or (is_grouped(node) and not experts) or _is_router(node):
            continue
        if not heads and any(fnmatchcase(path, glob) for glob in HEADS):
            continue
        options = options_for(path, default, overrides or {})
        if options is not None:
            sites.append((ExpertSite if is_grouped(node) else Site)(node, path, options))
    return sites


def site_path(node: Node) -> str | None:
    """Path of the weight of a linear, or of a product of experts; None for any other node."""
    if is_grouped(node):
        return weight_path(node.args[1], axes=3)  # type: ignore[arg-type]
    return weight_path(bound(node)["weight"]) if is_call(node, aten.linear) else None


def _is_router(node: Node) -> bool:
    """Whether the largest of a linear's outputs choose experts."""
    seen, reached = set[Node](), [node]
    while reached:
        users = [user for source in reached for user in source.users if user not in seen]
        if any(is_call(user, aten.topk) for user in users):
            return True
        seen.update(users)
        reached = [user for user in users if is_call(user, *_BEFORE_TOPK)]
    return False


def weight_path(weight: Node | None, axes: int = 2) -> str | None:
    """Path of the module whose weight this is, None unless it is floating, of so many axes, and of the state alone."""
    value = value_of(weight) if isinstance(weight, Node) else None
    if not isinstance(value, torch.Tensor) or value.dim() != axes or not value.is_floating_point():
        return None
    source = weight
    while isinstance(source, Node) and source.op == "call_function" and source.all_input_nodes:
        source = source.all_input_nodes[0]
    is_state = isinstance(source, Node) and source.op == "get_attr" and _is_constant(weight)
    return str(source.target).removesuffix(".weight") if is_state else None  # type: ignore[union-attr]


def _is_constant(node: Node | None) -> bool:
    """Whether a value depends on the state alone."""
    assert node is not None
    if node.op != "call_function":
        return node.op == "get_attr"
    return bool(node.all_input_nodes) and all(map(_is_constant, node.all_input_nodes))


def stages_of(sites: Iterable[Site]) -> list[Stage]:
    """Sites by input, in graph order; a weight that is used again belongs to its first use."""
    stages: dict[Node, list[Site]] = {}
    seen: set[str] = set()
    for site in sites:
        if site.path not in seen:
            stages.setdefault(site.input, []).append(site)
        seen.add(site.path)
    return [Stage(node, tuple(members)) for node, members in sorted(stages.items(), key=lambda item: item[0])]
