"""The Program: a captured graph together with the state, the signature and the facts that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from graphwright.ir.guards import Guard
from graphwright.ir.inputs import bind_arguments, check_leaves
from graphwright.ir.signature import Example, Signature

State = dict[str, Any]


@dataclass(frozen=True)
class Dim:
    """A named dynamic dimension.

    Args:
        name: What users call it: `batch`, `sequence`, `past_sequence`.
        symbol: The symbol that stands for it in fake tensors, such as `s53`.
        min: Smallest size the program is valid for.
        max: Largest size, None where unbounded.
    """

    name: str
    symbol: str
    min: int = 0
    max: int | None = None


@dataclass(eq=False, repr=False)
class Program:
    """A model as one flat graph; see docs/design.md for the meaning of the fields."""

    graph: Graph
    state: State
    signature: Signature
    example: Example
    dims: tuple[Dim, ...] = ()
    guards: tuple[Guard, ...] = ()
    invariants: frozenset[str] = frozenset()
    name: str = "program"
    revision: int = 0
    training: bool = False
    _module: tuple[int, GraphModule] | None = field(default=None, repr=False)

    # ---- reading -----------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All nodes in execution order."""
        return list(self.graph.nodes)

    @property
    def placeholders(self) -> list[Node]:
        """Input nodes, one per pytree leaf of the arguments."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def output_node(self) -> Node:
        """The single `output` node; its argument is the flat tuple of results."""
        return next(iter(reversed(self.graph.nodes)))

    @property
    def results(self) -> tuple[Any, ...]:
        """Flat results: nodes, numbers or None, one per pytree leaf of what `run` returns."""
        return tuple(pytree.tree_leaves(self.output_node.args[0], is_leaf=lambda x: x is None))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of the state by name; tied weights appear under each of their names."""
        return {name: value for name, value in self.state.items() if isinstance(value, torch.Tensor)}

    def state_bytes(self) -> int:
        """Bytes of the state, tied and overlapping storages counted once."""
        parts = [part for tensor in self.tensors().values() for part in strided_parts(tensor)]
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in parts}.values())

    def dim_names(self) -> dict[str, str]:
        """Symbol -> name of the dynamic dimensions."""
        return {dim.symbol: dim.name for dim in self.dims}

    def __str__(self) -> str:
        from graphwright.ir.format import format_program
        from graphwright.ir.snapshot import Snapshot

        return format_program(Snapshot.of(self))

    def __repr__(self) -> str:
        return f"<Program {self.name}: {len(self.graph.nodes)} nodes, dims {[dim.name for dim in self.dims]}>"

    # ---- running -----------------------------------------------------------------------------

    @property
    def module(self) -> GraphModule:
        """The runnable GraphModule of the current revision; call it as the original `forward`."""
        if self._module is None or self._module[0] != self.revision:
            module = GraphModule(module_tree(self.state, self.graph), self.graph, class_name=self.name)
            module.train(self.training)
            self._module = (self.revision, module)
        return self._module[1]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program on the arguments that the original `forward` took.

        Arguments captured as constants (flags, None) may be left out.

        Returns:
            What the original `forward` returned, in the same classes.

        Raises:
            InputError: An argument is missing, unknown, or has a size or dtype the program was not captured for.
        """
        leaves = self.flatten(*args, **kwargs)
        return pytree.tree_unflatten(self.run_flat(leaves), self.signature.out_spec)

    def flatten(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Arguments as checked flat leaves, in placeholder order."""
        leaves = bind_arguments(self.signature, self.example, args, kwargs)
        check_leaves(self.placeholders, leaves, self.dims, self.guards)
        return leaves

    def run_flat(self, leaves: Iterable[Any]) -> list[Any]:
        """Run on flat leaves and return the flat results, without checks."""
        leaves = list(leaves)
        args, kwargs = pytree.tree_unflatten(leaves, self.signature.in_spec)
        result = self.module(*args, **kwargs)
        return pytree.tree_leaves(result, is_leaf=lambda x: x is None)

    # ---- changing ----------------------------------------------------------------------------

    def clone(self) -> Program:
        """A copy with its own graph and the same weights; editing one leaves the other as it is."""
        graph = Graph()
        mapping: dict[Node, Node] = {}
        outputs = graph.graph_copy(self.graph, mapping)
        last = graph.output(outputs)
        last.meta = copy.copy(self.output_node.meta)
        graph._codegen = copy.copy(self.graph._codegen)
        return replace(self, graph=graph, state=dict(self.state), _module=None)

    def touch(self) -> None:
        """Mark the graph as changed, so that `module` is rebuilt."""
        self.revision += 1

    # ---- files and torch.export --------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write `program.json` and `weights.safetensors` into `folder`; see `graphwright.ir.storage`."""
        from graphwright.ir.storage import save_program

        return save_program(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Program:
        """Read what `save` wrote.

        Raises:
            FileFormatError: A file is missing, truncated, or not consistent with the other.
        """
        from graphwright.ir.storage import load_program

        return load_program(Path(folder))

    def to_exported(self, *, strict: bool = False) -> ExportedProgram:
        """Re-export as a torch ExportedProgram with the same inputs and dynamic dimensions."""
        from graphwright.ir.exported import to_exported

        return to_exported(self, strict=strict)

    @staticmethod
    def from_exported(
        exported: ExportedProgram, *, example: Example, names: Mapping[str, str] | None = None, name: str = "program"
    ) -> Program:
        """Unlift an ExportedProgram; `names` maps symbols to dimension names."""
        from graphwright.ir.exported import from_exported

        return from_exported(exported, example=example, names=names or {}, name=name)


def strided_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors with a storage that make up a tensor: itself, or indices and values of a sparse one.

    Layouts that show nothing of their storage have no parts.
    """
    tensor = tensor.detach()
    if tensor.layout is torch.strided:
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


def module_tree(state: State, graph: Graph) -> torch.nn.Module:
    """A module tree that holds just the state that the graph reads.

    Plain tensors become buffers; a parameter keeps its identity, so that gradients reach the model's own weights.
    """
    root = torch.nn.Module()
    for target in {node.target for node in graph.nodes if node.op == "get_attr"}:
        holder = root
        *path, leaf = str(target).split(".")
        for part in path:
            if not hasattr(holder, part):
                holder.add_module(part, torch.nn.Module())
            holder = getattr(holder, part)
        value = state[str(target)]
        if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
            holder.register_buffer(leaf, value)
        else:
            setattr(holder, leaf, value)
    return root
