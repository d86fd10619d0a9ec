"""One transaction of the Rewriter: create nodes, redirect users, remove nodes; commit or roll back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from graphwright.ir.errors import PassError
from graphwright.ir.infer import fake_of, type_difference
from graphwright.ir.node import op_name, value_of, where
from graphwright.ir.overload import Namespace
from graphwright.ir.provenance import provenance, shared_stack
from graphwright.ir.record import NodeRecord, node_record

if TYPE_CHECKING:
    from graphwright.ir.rewriter import Rewriter


class Edit:
    """Edits of one site; made by `Rewriter.site`.

    Attributes:
        aten: `edit.aten.mul(x, 2)` creates a call; without an overload name the first that binds is taken.
        path: Module path to record instead of the anchor's own.
        source: Source line to record instead of the anchor's own.
    """

    def __init__(self, rewriter: Rewriter, rule: str, matched: Sequence[Node]) -> None:
        self.rewriter, self.rule, self.matched = rewriter, rule, list(matched)
        self.graph = rewriter.program.graph
        self.anchor: Node | None = max(matched) if len(matched) > 1 else (matched[0] if matched else None)
        self.created: list[Node] = []
        self.doomed: dict[Node, None] = {}
        self.replaced: list[tuple[str, str]] = []
        self.edited: dict[Node, NodeRecord] = {}
        self.path = self.source = ""
        self._before: Node | None = self.anchor
        self._undo: list[tuple[Node, tuple[Any, ...], dict[str, Any]]] = []
        self._state_added: list[str] = []
        self._meta: dict[str, Any] | None = None
        self.aten = Namespace("aten", self.call)

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.created or self.replaced or self.doomed or self._undo)

    @property
    def created_set(self) -> set[Node]:
        """The nodes created so far."""
        return set(self.created)

    @property
    def stack(self) -> dict[str, Any]:
        """The module stack that all matched nodes share."""
        return shared_stack(self.matched)

    def ops(self, namespace: str) -> Namespace:
        """Ops of another namespace: `edit.ops("graphwright").packed_linear(...)`."""
        return Namespace(namespace, self.call)

    # ---- creating ----------------------------------------------------------------------------

    def insert_before(self, node: Node) -> None:
        """Put the next new nodes before `node`; the default is the last matched node."""
        self._before = node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Create a call of an op overload or Python function; its type is inferred at once.

        Raises:
            PassError: The op does not accept these arguments.
        """
        plain_args, plain_kwargs = plain(args), plain(kwargs)
        try:
            value = self.rewriter.types.infer(target, plain_args, plain_kwargs)
        except Exception as error:
            raise PassError(
                f"rule {self.rule}: {target} does not accept these arguments",
                at=where(self.anchor) if self.anchor is not None else None,
                why=f"{type(error).__name__}: {error}",
            ) from error
        return self._create("call_function", target, plain_args, plain_kwargs, value)

    def get_state(self, name: str, tensor: torch.Tensor | None = None) -> Node:
        """Read a tensor of the state; with `tensor`, add it to the state first under a free name like `name`."""
        state = self.rewriter.program.state
        if tensor is not None:
            name = free_name(name, state)
            state[name] = tensor
            self._state_added.append(name)
        return self._create("get_attr", name, (), {}, fake_of(self.rewriter.fake_mode, state[name]))

    def copy(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        """Create a copy of `node` with other arguments, keeping its own provenance."""
        plain_args, plain_kwargs = plain(args), plain(kwargs)
        value = self.rewriter.types.infer(node.target, plain_args, plain_kwargs)
        new = self._create("call_function", node.target, plain_args, plain_kwargs, value)
        new.meta = {**node.meta, "val": value}
        return new

    def _create(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Node:
        if self._before is None:
            node = self.graph.create_node(op, target, args, kwargs, name=_name_hint(target))
        else:
            with self.graph.inserting_before(self._before):
                node = self.graph.create_node(op, target, args, kwargs, name=_name_hint(target))
        if self._meta is None:
            self._meta = provenance(self.matched, self.anchor, self.rewriter.pass_name)
        node.meta = {**self._meta, "val": value}
        self.created.append(node)
        return node

    # ---- changing ----------------------------------------------------------------------------

    def replace(self, old: Any, new: Any, *, retype: bool = False, users: Callable[[Node], bool] | None = None) -> None:
        """Redirect the users of `old` to `new`.

        Args:
            old: The node to replace.
            new: A node of the same type, or a number for a symbolic size.
            retype: Allow another type; the caller then keeps the users valid.
            users: Redirect only these; by default all of them.

        Raises:
            PassError: The types differ.
        """
        old, new = plain(old), plain(new)
        if not retype:
            new_value = value_of(new) if isinstance(new, Node) else new
            difference = type_difference(value_of(old), new_value)
            if difference:
                raise PassError(f"rule {self.rule} would change the type of a value", at=where(old), why=difference)
        for user in list(old.users):
            if user is not new and (users is None or users(user)):
                if users is not None and user not in self.created_set:
                    self.edited.setdefault(user, node_record(user, self.rewriter.names))
                self._redirect(user, old, new)
        self.replaced.append((old.name, new.name if isinstance(new, Node) else repr(new)))

    def _redirect(self, user: Node, old: Node, new: Any) -> None:
        self._undo.append((user, user.args, user.kwargs))
        swap = lambda value: new if value is old else value  # noqa: E731
        user.args = map_aggregate(user.args, swap)  # type: ignore[assignment]
        user.kwargs = map_aggregate(user.kwargs, swap)  # type: ignore[assignment]

    def set_arguments(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Give an existing node other arguments; its type must not change."""
        self.edited.setdefault(node, node_record(node, self.rewriter.names))
        self._undo.append((node, node.args, node.kwargs))
        node.args = plain(args)
        if kwargs is not None:
            node.kwargs = plain(kwargs)

    def erase(self, node: Any) -> None:
        """Remove a node when the site commits; it must have lost its users by then."""
        self.doomed[plain(node)] = None

    # ---- ending ------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse to commit when a node to be erased is in use or a value would come after its user.

        Raises:
            PassError: Names both.
        """
        self._check_erased()
        self._check_order()

    def _check_erased(self) -> None:
        for node in self.doomed:
            users = [user for user in node.users if user not in self.doomed]
            if users or node.op in ("placeholder", "output"):
                raise PassError(
                    f"rule {self.rule} erases " + ("a value that is still used" if users else f"the {node.op}"),
                    at=where(node),
                    why=f"used by {where(users[0])}" if users else "the program's signature needs it",
                )

    def _check_order(self) -> None:
        created = (node for node in self.created if node.users)
        for user in dict.fromkeys([*created, *(node for node, _, _ in self._undo)]):
            late = next((node for node in user.all_input_nodes if user < node), None)
            if late is not None:
                raise PassError(
                    f"rule {self.rule} puts {op_name(late)} after its user",
                    at=where(user),
                    why=f"it would use {where(late)}",
                    remedies=["call edit.insert_before(...) with the first node that uses the new value"],
                )

    def roll_back(self) -> None:
        """Restore the graph and the state as they were when the site was opened."""
        for user, args, kwargs in reversed(self._undo):
            user.args, user.kwargs = args, kwargs
        for node in reversed(self.created):
            self.graph.erase_node(node)
        for name in self._state_added:
            del self.rewriter.program.state[name]
        self.created, self.replaced, self.doomed, self._undo = [], [], {}, []


def _name_hint(target: Any) -> str | None:
    """The op's own name without its overload, as torch.export names nodes."""
    packet = getattr(target, "overloadpacket", None)
    return getattr(packet, "__name__", None)


def plain(value: Any) -> Any:
    """Arguments with pattern captures replaced by the nodes or literals they stand for."""
    if isinstance(value, Node):
        return value
    if isinstance(value, (tuple, list, dict, slice)):
        return map_aggregate(value, plain_leaf)
    return plain_leaf(value)


def plain_leaf(value: Any) -> Any:
    """A capture's node or literal; anything else as it is."""
    return value if isinstance(value, Node) else getattr(value, "node", value)


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, or `name_1`, `name_2`, ... if a module tree that holds `taken` has no place for it.

    What would lie inside of a tensor (`bias.more`) goes next to it (`bias_more`); names that modules use themselves
    (`to`, `type`) are taken.
    """
    *path, leaf = name.split(".")
    for depth in range(len(path), 0, -1):
        if ".".join(path[:depth]) in taken:
            path, leaf = path[: depth - 1], "_".join([*path[depth - 1 :], leaf])
    name = ".".join([*path, leaf])
    i, candidate = (1, f"{name}_1") if leaf in _module_names() else (0, name)
    while candidate in taken or any(other.startswith(f"{candidate}.") for other in taken):
        i += 1
        candidate = f"{name}_{i}"
    return candidate


@cache
def _module_names() -> frozenset[str]:
    """Names that every runnable module has already."""
    return frozenset(dir(GraphModule(torch.nn.Module(), Graph())))
