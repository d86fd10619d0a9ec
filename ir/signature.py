"""How a program is called: parameter names, pytree layouts, and the example it was captured with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Example:
    """The call that a program was captured with: positional and keyword arguments."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def leaves(self) -> list[Any]:
        """Flat leaves in placeholder order (None and flags included)."""
        return pytree.tree_leaves((self.args, self.kwargs), is_leaf=lambda x: x is None)


@dataclass(frozen=True)
class Signature:
    """Names and pytree layouts of a program's inputs and outputs.

    Args:
        parameters: Names of the arguments in the order of the original `forward`; the first
            `len(example.args)` were captured as positional arguments, the rest as keywords.
        in_spec: Layout of `(args, kwargs)`.
        out_spec: Layout of the result.
    """

    parameters: tuple[str, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
